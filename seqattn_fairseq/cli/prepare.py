"""Prepare a public corpus for training: unpack, clean, tokenise, segment and binarise its files.

  seqattn prepare multi30k_en_de --from DIR     the public files are in DIR
  seqattn prepare wmt14_en_de                   they are fetched

The text goes the way of the script that made the corpus known, line for line. The result is
data/CORPUS/data-bin, for fairseq-train and fairseq-generate. Repeating the command does only what
is missing; it can be interrupted at any time.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from seqattn_fairseq.data.prepare import PreparedCorpus, prepare
from seqattn_fairseq.data.recipes import RECIPES, CorpusRecipe, find_recipe
from seqattn_fairseq.data.text_chain import FinalDot
from seqattn_fairseq.errors import SeqAttnError

# Moses' tokeniser before and since November 2018.
FINAL_DOT_RULES: dict[str, FinalDot] = {"old": "keep", "new": "split"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``seqattn prepare``."""
    parser.add_argument("corpus", help=", ".join(RECIPES))
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="DIR",
        help="folder of the public files, at its top or in subfolders like those of their "
        "addresses (default: fetch them to raw/ in the folder of the result)",
    )
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="folder of the result (default: data/CORPUS)"
    )
    add_workers(parser)
    parser.add_argument(
        "--final-dot",
        choices=FINAL_DOT_RULES,
        help="full stop of an abbreviation that ends a line: part of the word, as Moses had it "
        "before November 2018, or a word of its own (default: as the published text)",
    )
    dictionaries = parser.add_mutually_exclusive_group()
    dictionaries.add_argument(
        "--joined-dictionary",
        dest="joined",
        action="store_true",
        default=None,
        help="one dictionary for both languages; where the corpus is usually prepared with two, "
        "the result is data-bin.joined",
    )
    dictionaries.add_argument(
        "--separate-dictionaries",
        dest="joined",
        action="store_false",
        default=None,
        help="one for each; where it is usually prepared with one, the result is data-bin.separate",
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Declare ``--workers``."""
    parser.add_argument(
        "--workers", type=int, default=_cpus(), metavar="N", help="processes (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Prepare the corpus and print where it is and how large."""
    recipe = find_recipe(args.corpus)
    folder = args.to or Path("data") / recipe.name
    rule = args.final_dot and FINAL_DOT_RULES[args.final_dot]
    return prepare_and_show(recipe, folder, args.source, args.workers, rule, args.joined)


def prepare_and_show(
    recipe: CorpusRecipe,
    folder: Path,
    source: Path | None,
    workers: int,
    final_dot: FinalDot | None = None,
    joined: bool | None = None,
) -> int:
    """Prepare a corpus as :func:`prepare` does and print where it is and how large.

    Raises:
        SeqAttnError: as :func:`prepare`, or a worker process was killed.
    """
    if workers < 1:
        raise SeqAttnError(f"--workers {workers}: at least one process is needed")
    try:
        corpus = prepare(recipe, folder, source, workers, final_dot, joined)
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
    else:
        for stage, speed in corpus.speeds.items():
            print(f"{stage:<12}{speed:>12,} lines/s", file=sys.stderr)
    source, target = recipe.langs
    print(f"{recipe.name}: {corpus.data_bin}, {_dictionaries(corpus)}")
    print(f"{'split':<8}{'pairs':>12}{source + ' tokens':>15}{target + ' tokens':>15}")
    for split in dict.fromkeys(split for split, _ in corpus.sizes):
        sizes = [corpus.sizes[split, lang] for lang in recipe.langs]
        columns = (sizes[0].lines, sizes[0].tokens, sizes[1].tokens)
        print("{:<8}{:>12,}{:>15,}{:>15,}".format(split, *columns))


def _dictionaries(corpus: PreparedCorpus) -> str:
    if corpus.joined:
        return f"joined dictionary of {next(iter(corpus.types.values())):,} types"
    sizes = " and ".join(f"{types:,} ({lang})" for lang, types in corpus.types.items())
    return f"dictionaries of {sizes} types"


def _cpus() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
