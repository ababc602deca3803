"""Average, choose on the validation set, translate and score a run.

  seqattn evaluate RUN                                  as the run's configuration says
  seqattn evaluate RUN --length-penalty 0.4 0.6 0.8     choose one of them on the validation set
  seqattn evaluate RUN --average last best --checkpoints 10

The run's configuration (its section "evaluation") says which checkpoints are averaged, how to
search and which flavour of BLEU the paper prints; options replace single values. A step whose
result is there is skipped. Scores go to RUN/evaluation/SUBSET/scores.json, what was tried on the
validation set to RUN/evaluation/selection.json. No test set has a part in the choice.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from seqattn_fairseq.cli.generate import (
    add_decoding_arguments,
    decoding_means,
    decoding_settings,
)
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.pipeline import FOLDER, SELECTION, VALID, evaluate, has_chosen
from seqattn_fairseq.evaluation.system import FLAVOURS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``seqattn evaluate``."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    add_decoding_arguments(parser)
    parser.add_argument("--flavour", choices=FLAVOURS, help="flavour of BLEU of the headline")
    parser.add_argument("--comet", metavar="PYTHON", help="interpreter that has unbabel-comet")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print a table per test set, the headline at the end."""
    if args.run.is_file():
        raise SeqAttnError(f"{args.run}: a file; give the folder of a run, or use seqattn generate")
    settings = decoding_settings(args).overridden(bleu=args.flavour)
    means = replace(decoding_means(args), comet=args.comet)
    report = evaluate(args.run, settings, means)
    if args.json:
        print(json.dumps(report.to_dict(), indent=2))
        return 0
    chosen = report.candidate
    print(
        f"{report.checkpoint.name}, beam {settings.beam}, length penalty {chosen.length_penalty:g}"
    )
    if has_chosen(args.run):
        print(f"chosen on {VALID}: {args.run / FOLDER / SELECTION}")
    for subset, table in report.tables.items():
        print(f"{subset}: {table.n:,} sentences")
        print("\n".join(f"  {line}" for line in table.lines()))
    print(report.headline())
    return 0
