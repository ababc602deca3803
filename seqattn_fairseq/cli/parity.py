"""Compare this project with tensors that the official codes produced.

One row a file: arrays checked, largest absolute error of an output and of a gradient, verdict.
Exit status 0 if all agree, 1 if one misses its tolerance, 2 if one cannot be interpreted
or found.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.parity.comparison import Tolerance
from seqattn_fairseq.parity.kinds import KINDS
from seqattn_fairseq.parity.runner import Row, find_files, run_file
from seqattn_fairseq.variants import register


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="golden file or folder")
    parser.add_argument(
        "--atol", type=float, default=Tolerance.output, help="of outputs (default: %(default)s)"
    )
    parser.add_argument(
        "--rtol",
        type=float,
        default=Tolerance.gradient,
        help="of gradients, relative to the tensor's largest entry, a tenth of it relative to the "
        "file's largest added (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the rows and the counts."""
    register()
    for flag, value in (("--atol", args.atol), ("--rtol", args.rtol)):
        if not value >= 0:
            raise SeqAttnError(f"{flag} is {value}, but must be at least 0")
    try:
        files = list(find_files(args.paths))
    except SeqAttnError as error:
        print(f"seqattn parity: error: {error}", file=sys.stderr)
        return 2
    tolerance = Tolerance(output=args.atol, gradient=args.rtol)
    rows = []
    for path in files:
        rows.append(run_file(path, KINDS, tolerance))
        print(_line(rows[-1]), flush=True)
    missed = sum(bool(row.misses) for row in rows)
    unknown = sum(bool(row.reason) for row in rows)
    arrays = sum(row.checked for row in rows)
    passed = len(rows) - missed - unknown
    print(
        f"{len(rows)} files: {passed} passed, {missed} missed, {unknown} not interpreted; "
        f"{arrays} arrays checked"
    )
    return 2 if unknown else int(bool(missed))


def _line(row: Row) -> str:
    if row.reason:
        return f"{row.path}  CANNOT INTERPRET: {row.reason}"
    verdict = "ok" if not row.misses else f"MISS: {'; '.join(row.misses[:3])}"
    return (
        f"{row.path}  {row.kind}  arrays {row.checked}  outputs {row.output_error:.1e}  "
        f"gradients {row.gradient_error:.1e}  {verdict}"
    )
