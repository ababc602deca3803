"""Is a system better than the baseline? Paired tests on the same test set.

  seqattn compare BASE_RUN RUN [RUN ...]                 translations of seqattn generate
  seqattn compare base.txt other.txt --ref reference.txt plain files, one sentence a line
  seqattn compare RUN1 RUN2 --flavour tokenized --metrics bleu --test bs

Paired bootstrap gives 95 % intervals and p-values, approximate randomisation p-values; both are
sacreBLEU's own. A small p-value says that a difference as large as this one from the first system
would rarely come by chance; it does not cover the chance of training, for which several seeds are
needed (seqattn score RUNS/seed*). SACREBLEU_SEED sets the seed of the samples.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from seqattn_fairseq.data.files import read_lines
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.pipeline import named_system
from seqattn_fairseq.evaluation.scores import METRICS, ScoreOptions
from seqattn_fairseq.evaluation.significance import TESTS, Comparison, compare
from seqattn_fairseq.evaluation.system import FLAVOURS, System


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``seqattn compare``."""
    add = parser.add_argument
    add("systems", nargs="+", type=Path, metavar="SYSTEM", help="runs or files; first: baseline")
    add("--ref", type=Path, metavar="FILE", help="reference of plain files")
    add("--subset", default="test", metavar="NAME", help="test set of the runs (default: test)")
    add(
        "--flavour",
        choices=FLAVOURS,
        help="texts and BLEU to compare (default: detokenized where the systems have plain text)",
    )
    add("--metrics", nargs="+", choices=METRICS, default=METRICS, help="default: all")
    add("--test", nargs="+", choices=tuple(TESTS), default=tuple(TESTS), help="default: both")
    add("--samples", type=int, default=0, metavar="N", help="default: bs 1,000, ar 10,000")
    add("--lowercase", action="store_true", help="ignore case")
    add("--json", action="store_true", help="print everything as JSON")


def _systems(paths: Sequence[Path], args: argparse.Namespace) -> list[System]:
    if not args.ref:
        return [named_system(path, args.subset) for path in paths]
    references = list(read_lines(args.ref))
    systems = []
    for path in paths:
        if path.is_dir():
            raise SeqAttnError(f"{path}: a folder; --ref goes with files, runs bring their own")
        lines = list(read_lines(path))
        systems.append(System(str(path), lines, references, lines, references))
    return systems


def _flavour(systems: Sequence[System]) -> str:
    shared = [name for name in FLAVOURS if all(name in one.flavours() for one in systems)]
    return "detokenized" if "detokenized" in shared else "tokenized"


def _lines(rows: Sequence[Comparison]) -> list[str]:
    width = max(len(row.system) for row in rows)
    lines = []
    for row in rows:
        mean = "" if row.mean is None else f"  {row.mean:.2f} +- {row.interval:.2f} (95 %)"
        chance = "  baseline" if row.p_value is None else f"  p = {row.p_value:.4f}"
        lines.append(f"  {row.system:<{width}}  {row.score:6.2f}{mean}{chance}")
    return lines


def run(args: argparse.Namespace) -> int:
    """Print a table per metric and test, each with its signature."""
    if args.samples < 0:
        raise SeqAttnError(f"--samples {args.samples}: give a number, or 0 for the default")
    systems = _systems(args.systems, args)
    flavour = args.flavour or _flavour(systems)
    options = ScoreOptions(lowercase=args.lowercase)
    rows = compare(systems, flavour, args.metrics, args.test, options, args.samples)
    if args.json:
        print(json.dumps([row.to_dict() for row in rows], indent=2))
        return 0
    for test in args.test:
        for metric in dict.fromkeys(row.metric for row in rows):
            group = [row for row in rows if (row.metric, row.test) == (metric, test)]
            title = systems[0].label(flavour) if metric == "BLEU" else metric
            print(f"{title}, {TESTS[test]}: {group[0].signature}")
            print("\n".join(_lines(group)))
    return 0
