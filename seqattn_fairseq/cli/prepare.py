"""Prepare a public corpus for training: clean, tokenise, segment and binarise its raw files.

  seqattn prepare multi30k_en_de --from DIR     raw files in DIR (gzipped or plain)
  seqattn prepare multi30k_en_de                raw files are fetched from the public repository

The result is DIR/data-bin, for fairseq-train and fairseq-generate. Repeating the command does
only what is missing; it can be interrupted at any time.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from seqattn_fairseq.data.prepare import PreparedCorpus, prepare
from seqattn_fairseq.data.recipes import RECIPES, CorpusRecipe, find_recipe
from seqattn_fairseq.data.text_chain import FINAL_DOT_RULES
from seqattn_fairseq.errors import SeqAttnError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``seqattn prepare``."""
    parser.add_argument("corpus", help=", ".join(RECIPES))
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="DIR",
        help="folder of the raw files, plain or as in the public repository (default: fetch them)",
    )
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="folder of the result (default: data/CORPUS)"
    )
    parser.add_argument(
        "--workers", type=int, default=_cpus(), metavar="N", help="processes (default: %(default)s)"
    )
    parser.add_argument(
        "--final-dot",
        choices=FINAL_DOT_RULES,
        help="full stop of an abbreviation that ends a line (default: as the published text)",
    )


def run(args: argparse.Namespace) -> int:
    """Prepare the corpus and print where it is and how large."""
    recipe = find_recipe(args.corpus)
    if args.workers < 1:
        raise SeqAttnError(f"--workers {args.workers}: at least one process is needed")
    folder = args.to or Path("data") / recipe.name
    try:
        corpus = prepare(recipe, folder, args.source, args.workers, args.final_dot)
    except BrokenProcessPool:
        raise SeqAttnError(
            f"a worker process was killed (out of memory?) while {folder} was prepared; repeat the "
            "command, with fewer --workers"
        ) from None
    except OSError as error:
        place = error.filename or folder
        raise SeqAttnError(f"{place}: {error.strerror or error}") from error
    _show(recipe, folder, corpus)
    return 0


def _show(recipe: CorpusRecipe, folder: Path, corpus: PreparedCorpus) -> None:
    if corpus.steps_done == 0:
        print(f"{folder} is complete and unchanged ({corpus.steps} steps verified): nothing to do")
    source, target = recipe.langs
    print(f"{recipe.name}: {corpus.data_bin}, joined dictionary of {corpus.types:,} types")
    print(f"{'split':<8}{'pairs':>9}{source + ' tokens':>12}{target + ' tokens':>12}")
    for split in recipe.splits:
        sizes = [corpus.sizes[split.name, lang] for lang in recipe.langs]
        columns = (sizes[0].lines, sizes[0].tokens, sizes[1].tokens)
        print("{:<8}{:>9,}{:>12,}{:>12,}".format(split.name, *columns))


def _cpus() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
