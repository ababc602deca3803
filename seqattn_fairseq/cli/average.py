"""Average the weights of several checkpoints of one run into one file.

  seqattn average RUN --last 5                      the last 5 epochs
  seqattn average RUN --best 3                      the 3 best on the validation set
  seqattn average --inputs A.pt B.pt --output C.pt  exactly these

The mean is taken in float64. The result has no optimizer state; fairseq-generate and
fairseq-interactive load it like any other checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.checkpoints import average, distinct, save_checkpoint, select

OUTPUT = "checkpoint_average.pt"


def _positive(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count


_positive.__name__ = "whole number above 0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``seqattn average``."""
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="--save-dir of a training")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--last", type=_positive, metavar="N", help="the last N epochs of RUN")
    which.add_argument(
        "--last-updates", type=_positive, metavar="N", help="the last N update checkpoints of RUN"
    )
    which.add_argument("--best", type=_positive, metavar="N", help="the N best checkpoints of RUN")
    which.add_argument("--inputs", nargs="+", type=Path, metavar="FILE", help="these files")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=f"result (default with RUN: RUN/{OUTPUT})"
    )


def _inputs(args: argparse.Namespace) -> list[Path]:
    if args.inputs:
        if args.run:
            raise SeqAttnError("RUN and --inputs exclude each other; give one of them")
        return distinct(args.inputs)
    if not args.run:
        raise SeqAttnError("which run? give its folder: seqattn average RUN --last 5")
    kind = next(kind for kind in ("last", "last-updates", "best") if _count(args, kind))
    return select(args.run, kind, _count(args, kind))


def _count(args: argparse.Namespace, kind: str) -> int:
    return getattr(args, kind.replace("-", "_")) or 0


def _output(args: argparse.Namespace, inputs: list[Path]) -> Path:
    if not args.output and not args.run:
        raise SeqAttnError("where to? --inputs needs --output FILE")
    output: Path = args.output or args.run / OUTPUT
    if output.resolve() in [path.resolve() for path in inputs]:
        raise SeqAttnError(f"{output}: is one of the inputs; choose another --output")
    return output


def run(args: argparse.Namespace) -> int:
    """Average the chosen checkpoints and say which they were."""
    inputs = _inputs(args)
    output = _output(args, inputs)
    state = average(inputs)
    try:
        save_checkpoint(state, output)
    except OSError as error:
        raise SeqAttnError(f"{output}: cannot be written: {error.strerror}") from error
    names = ", ".join(path.name for path in inputs)
    print(f"{output}: mean of {len(inputs)} checkpoints: {names}")
    return 0
