"""Write one HTML page that compares runs; it needs no network and no other file.

  seqattn report runs/quickstart/softmax runs/quickstart/rela_g -o report.html
  seqattn report RUNS/*/seed1 -o report.html --baseline RUNS/softmax/seed1
  seqattn report RUN RUN -o report.html --analyse --log RUN=train.log

Scores with intervals and p-values, learning curves, speed, memory, attention statistics, BLEU by
length, and the sentences themselves. A run shows what its folder holds; what it lacks is named
with the command that makes it. docs/report.md tells where each figure comes from.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from seqattn_fairseq.errors import SeqAttnError, nearest
from seqattn_fairseq.report.analyses import analyse
from seqattn_fairseq.report.collect import collect
from seqattn_fairseq.report.page import write_page
from seqattn_fairseq.report.runs import Options
from seqattn_fairseq.report.scores import METRICS, SAMPLES

_NO_METRIC = "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``seqattn report``."""
    add = parser.add_argument
    add("runs", nargs="*", type=Path, metavar="RUN", help="folders of runs")
    add("-o", "--output", type=Path, required=True, metavar="FILE", help="the page to write")
    add("--baseline", type=Path, metavar="RUN", help="one of the runs (default: the first)")
    add("--subset", default="test", metavar="NAME", help="test set (default: test)")
    add("--title", default="", help="of the page")
    add(
        "--metrics",
        default="bleu,chrf",
        metavar="NAME,...",
        help=f"what is tested: some of {', '.join(METRICS)}, or {_NO_METRIC} (default: bleu,chrf)",
    )
    add(
        "--samples",
        type=int,
        default=SAMPLES,
        metavar="N",
        help=f"samples of the paired bootstrap (default: {SAMPLES:,})",
    )
    add(
        "--log",
        action="append",
        default=[],
        metavar="RUN=FILE",
        help="log of a run's training, if its folder has none; several in order",
    )
    add("--analyse", action="store_true", help="first run seqattn analyse where it is missing")
    add("--data", type=Path, metavar="DATA_BIN", help="for --analyse (default: the one trained on)")
    add("--cpu", action="store_true", help="for --analyse: stay off the GPU")


def _check_runs(runs: Sequence[Path]) -> None:
    if not runs:
        raise SeqAttnError("nothing to report: give the folders of one run or more")
    known: dict[Path, Path] = {}
    for run in runs:
        if not run.is_dir():
            what = "a file" if run.exists() else "no such folder"
            raise SeqAttnError(f"{run}: {what}; give the folder of a run")
        if first := known.get(run.resolve()):
            raise SeqAttnError(f"{run}: given twice, first as {first}; name every run once")
        known[run.resolve()] = run


def _check_output(path: Path) -> None:
    if path.is_dir():
        raise SeqAttnError(f"{path}: a folder; name a file in it, such as {path / 'report.html'}")
    if not path.parent.is_dir():
        raise SeqAttnError(f"{path}: no such folder {path.parent}; make it first")


def _baseline(runs: Sequence[Path], baseline: Path | None) -> int:
    if baseline is None:
        return 0
    for index, run in enumerate(runs):
        if run.resolve() == baseline.resolve():
            return index
    raise SeqAttnError(f"--baseline {baseline}: not among the runs; name it there, too")


def _metrics(text: str) -> tuple[str, ...]:
    names = () if text == _NO_METRIC else tuple(text.split(","))
    for name in names:
        if name not in METRICS:
            raise SeqAttnError(
                f"--metrics {name}: no such score{nearest(name, METRICS)}; there are "
                f"{', '.join(METRICS)} and {_NO_METRIC}"
            )
    return names


def _logs(runs: Sequence[Path], given: Sequence[str]) -> dict[Path, list[Path]]:
    """Return the run -> log files that ``--log RUN=FILE`` names; both may hold ``=``."""
    logs: dict[Path, list[Path]] = {}
    for text in given:
        places = [place for place, letter in enumerate(text) if letter == "="]
        named = {Path(text[:place]).resolve(): Path(text[place + 1 :]) for place in places}
        run = next((run for run in runs if run.resolve() in named), None)
        if run is None:
            raise SeqAttnError(f"--log {text}: give RUN=FILE with one of the runs")
        path = named[run.resolve()]
        if not path.is_file():
            raise SeqAttnError(f"--log {text}: no such file {path}")
        logs.setdefault(run, []).append(path)
    return logs


def run(args: argparse.Namespace) -> int:
    """Analyse if asked to, gather everything and write the page."""
    _check_runs(args.runs)
    _check_output(args.output)
    if args.samples < 1:
        raise SeqAttnError(f"--samples {args.samples}: must be at least 1")
    options = Options(
        subset=args.subset,
        baseline=_baseline(args.runs, args.baseline),
        title=args.title,
        metrics=_metrics(args.metrics),
        samples=args.samples,
        logs=_logs(args.runs, args.log),
    )
    for name in ("data", "cpu"):
        if getattr(args, name) and not args.analyse:
            raise SeqAttnError(f"--{name} is for --analyse; give that, too, or leave it out")
    if args.analyse:
        for one in args.runs:
            for line in analyse(one, args.subset, args.data, args.cpu):
                print(line, file=sys.stderr)
    report = collect(args.runs, options)
    write_page(report, args.output)
    size = args.output.stat().st_size / 1e6
    runs = f"{len(report.runs)} run{'s' if len(report.runs) > 1 else ''}"
    print(f"{args.output}: {runs}, {len(report.sources):,} sentences, {size:.1f} MB")
    return 0
