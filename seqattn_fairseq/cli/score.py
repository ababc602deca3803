"""BLEU in the flavours that papers print, chrF, TER and COMET, each with its signature.

  seqattn score RUN                              what seqattn generate translated
  seqattn score RUNS/seed1 RUNS/seed2 ...        each, their mean and standard deviation
  seqattn score gen.log                          output of fairseq-generate, H against T lines
  seqattn score gen.log --compound-split         the same, and with hyphens split (WMT En-De)
  seqattn score gen.log --ref test.de --detokenize de  and sacreBLEU against the raw reference
  seqattn score gen.log --detokenize de          and sacreBLEU with detokenised T lines
  seqattn score --sys hyp.tok --ref ref.tok      tokenised files, as fairseq-score takes them
  seqattn score --sys hyp.txt --ref ref.txt --flavour detokenized     plain text

Sentences of a log are taken by their ids, whatever the order of the lines; a missing one is an
error. A run is scored in the flavour of its recipe first, and scores.json is written beside its
translations. docs/scoring.md tells the flavours apart.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqattn_fairseq.data.files import read_lines, write_atomically
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation import bleu, generate_log
from seqattn_fairseq.evaluation.comet import DEFAULT_MODEL, comet_score
from seqattn_fairseq.evaluation.generate import read_record
from seqattn_fairseq.evaluation.pipeline import (
    has_chosen,
    headline,
    named_system,
    score_folder,
    subset_folder,
)
from seqattn_fairseq.evaluation.references import official_reference
from seqattn_fairseq.evaluation.scores import ScoreOptions, ScoreTable, score_system, with_comet
from seqattn_fairseq.evaluation.seeds import check_same_training, spreads
from seqattn_fairseq.evaluation.settings import load_settings
from seqattn_fairseq.evaluation.system import FLAVOURS, System

# those of sacreBLEU that need no further package
TOKENIZERS = ("13a", "intl", "zh", "char", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``seqattn score``."""
    add = parser.add_argument
    add("what", nargs="*", type=Path, metavar="RUN|LOG", help="runs, or one log")
    add("-s", "--sys", "--hyp", type=Path, metavar="FILE", help="hypotheses (-: standard input)")
    add("-r", "--ref", type=Path, metavar="FILE", help="reference; of a run or log the raw one")
    add("--test-set", metavar="NAME", help="raw reference by sacreBLEU's name, e.g. wmt14/full")
    add("--pair", metavar="SRC-TGT", help="its language pair, where the run does not tell")
    add("--subset", default="test", metavar="NAME", help="test set of runs (default: test)")
    add("--flavour", choices=FLAVOURS, help="flavour of the headline (default: the recipe's)")
    add("--compound-split", action="store_true", help="also print BLEU with hyphens split")
    add(
        "--detokenize",
        metavar="LANG",
        help="detokenise a log or file by Moses' rules of this language (default: use D lines)",
    )
    add("--tokenize", default="13a", choices=TOKENIZERS, help="sacreBLEU's (default: 13a)")
    add("--lowercase", "--ignore-case", action="store_true", help="ignore case")
    add("--comet", metavar="PYTHON", help="interpreter that has unbabel-comet")
    add("--comet-model", default=DEFAULT_MODEL, metavar="NAME", help=f"default: {DEFAULT_MODEL}")
    add("--source", type=Path, metavar="FILE", help="raw source of a log or file, for COMET")
    add("--write-hyp", type=Path, metavar="FILE", help="write the hypotheses in corpus order")
    add("--show", type=int, default=0, metavar="N", help="also print N of the translations")
    add("--json", action="store_true", help="print everything as JSON")


# ---- what is scored ----------------------------------------------------------------------------


def _plain_system(args: argparse.Namespace) -> System:
    """Read hypotheses and reference from files (or standard input), as fairseq-score does."""
    if not (args.ref or args.test_set):
        raise SeqAttnError("nothing to score: give a run, a log, or --sys FILE --ref FILE")
    stdin = args.sys is None or str(args.sys) == "-"
    hypotheses = list(read_lines(Path("/dev/stdin") if stdin else args.sys))
    name = "standard input" if stdin else str(args.sys)
    if args.test_set:
        text = bleu.detokenize(hypotheses, args.detokenize) if args.detokenize else hypotheses
        return _with_reference(System(name, text=text), args)
    references = _lines(args.ref, len(hypotheses), name)
    if args.flavour == "detokenized" and not args.detokenize:
        return System(name, text=hypotheses, references=references)
    system = System(name, hypotheses, references)
    return _detokenized(system, args.detokenize) if args.detokenize else system


def _detokenized(system: System, language: str) -> System:
    """Return the system with plain text made of its tokens, and so its references."""
    text = bleu.detokenize(system.tokens, language)
    references = bleu.detokenize(system.token_references, language)
    return replace(system, text=text, references=references, own_reference=True)


def _log_system(path: Path, args: argparse.Namespace) -> System:
    log = generate_log.parse(read_lines(path), str(path))
    system = System(
        str(path), log.hypotheses, log.targets, log.detokenized, token_sources=log.sources
    )
    if not log.targets and not (args.ref or args.test_set):
        raise SeqAttnError(f"{path}: no T lines; give the reference with --ref FILE")
    return _detokenized(system, args.detokenize) if args.detokenize else system


def _warn_of_tokens(system: System) -> None:
    """Say that a log may hold no plain text to compare with a raw reference."""
    if system.references and not system.own_reference and system.text == system.tokens:
        print(
            f"{system.name}: its D lines are its H lines; if these are tokens, give --detokenize "
            "LANG, for sacreBLEU, chrF and TER compare plain text",
            file=sys.stderr,
        )


def _with_reference(system: System, args: argparse.Namespace, pair: str = "") -> System:
    """Return the system with the raw reference of --ref or --test-set, if there is one."""
    count, lines = len(system.text), []
    if args.test_set:
        if not (args.pair or pair):
            raise SeqAttnError(f"--test-set {args.test_set}: of which languages? give --pair en-de")
        lines = official_reference(args.test_set, args.pair or pair)
        if len(lines) != count:
            raise SeqAttnError(
                f"{args.test_set} has {len(lines)} lines, but {system.name} {count} sentences; "
                "another cut of the test set?"
            )
    elif args.ref:
        lines = _lines(args.ref, count, system.name)
    if not lines:
        return system
    return replace(system, references=lines, own_reference=False, test_set=args.test_set or "")


def _lines(path: Path, count: int, name: str) -> list[str]:
    lines = list(read_lines(path))
    if len(lines) != count:
        raise SeqAttnError(
            f"{path} has {len(lines)} lines, but {name} {count} sentences; "
            "give the file of this test set"
        )
    return lines


# ---- one system --------------------------------------------------------------------------------


def _options(args: argparse.Namespace) -> ScoreOptions:
    return ScoreOptions(args.flavour, args.compound_split, args.tokenize, args.lowercase)


def _score_text(args: argparse.Namespace) -> int:
    """Score a log or files: print one line a score."""
    if args.what:
        system = _with_reference(_log_system(args.what[0], args), args)
        _warn_of_tokens(system)
    else:
        system = _plain_system(args)
    if args.source:
        sources = _lines(args.source, len(system.tokens or system.text), system.name)
        system = replace(system, sources=sources)
    table = score_system(system, _options(args))
    if args.comet:
        table = with_comet(table, comet_score(system, args.comet, args.comet_model))
    return _report(args, system, table, [])


def _score_run(run: Path, args: argparse.Namespace) -> tuple[System, ScoreTable, str]:
    """Score a run; return the system, its scores and the headline."""
    settings = load_settings(run).overridden(subsets=[args.subset], bleu=args.flavour)
    folder = subset_folder(run, args.subset)
    pair = str(read_record(folder)["pair"])
    system = _with_reference(named_system(run, args.subset), args, pair)
    table = score_folder(folder, system, settings, _options(args), args.comet, args.comet_model)
    return system, table, headline(args.subset, table, settings)


def _report(
    args: argparse.Namespace, system: System, table: ScoreTable, more: Sequence[str]
) -> int:
    text = system.text or system.tokens
    if args.write_hyp:
        _write(args.write_hyp, text)
    _show(system, text, args.show)
    print(
        json.dumps(table.to_dict(), indent=2) if args.json else "\n".join([*table.lines(), *more])
    )
    return 0


def _write(path: Path, lines: Sequence[str]) -> None:
    try:
        with write_atomically(path) as stream:
            stream.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise SeqAttnError(f"{path}: cannot be written: {error.strerror}") from error


def _show(system: System, text: Sequence[str], count: int) -> None:
    """Print ``count`` sentences, evenly spread over the test set."""
    step = max(1, len(text) // max(1, count))
    sides = {
        "source": system.token_sources or system.sources,
        "reference": system.token_references or system.references,
        "output": text,
    }
    for ident in range(0, len(text), step)[:count]:
        for name, side in sides.items():
            if side:
                print(f"{name:<10} {side[ident]}")
        print()


# ---- several runs ------------------------------------------------------------------------------


def _score_seeds(args: argparse.Namespace) -> int:
    """Score runs that differ in their seed: each, and mean and standard deviation."""
    folders = {str(run): subset_folder(run, args.subset) for run in args.what}
    if len(folders) < len(args.what):
        raise SeqAttnError("a run is given twice; give every run once")
    check_same_training(folders, chosen=all(map(has_chosen, args.what)))
    tables = {str(run): _score_run(run, args)[1] for run in args.what}
    found = spreads(list(tables.values()))
    if args.json:
        whole: dict[str, Any] = {
            "runs": {name: table.to_dict() for name, table in tables.items()},
            "spread": {key: spread.to_dict() for key, spread in found.items()},
        }
        print(json.dumps(whole, indent=2))
        return 0
    for name, table in tables.items():
        print(f"{name}\n  " + "\n  ".join(table.lines()))
    print(f"mean and standard deviation, {args.subset}")
    for spread in found.values():
        print(f"  {spread.name:<20} {spread}")
    return 0


def run(args: argparse.Namespace) -> int:
    """Print one line per score: value, parts and signature."""
    folders = [path for path in args.what if path.is_dir()]
    if args.what and args.sys:
        raise SeqAttnError("RUN|LOG and --sys exclude each other; give one of them")
    if args.ref and args.test_set:
        raise SeqAttnError("--ref and --test-set exclude each other; give one of them")
    if len(args.what) == 1 and folders:
        system, table, line = _score_run(folders[0], args)
        return _report(args, system, table, [line])
    if len(args.what) > 1:
        for path in args.what:
            if not path.is_dir():
                raise SeqAttnError(f"{path}: not a run; several inputs are runs of one recipe")
        return _score_seeds(args)
    return _score_text(args)
