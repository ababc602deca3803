"""Say which targets the CSV of the benchmarks meets; exit 1 if it misses one.

python -m benchmarks.check
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import measure
from benchmarks.targets import verdicts


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each target; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=measure.RESULTS)
    args = parser.parse_args(arguments)
    found = verdicts(measure.read_rows(args.results))
    for verdict in found:
        print(f"{'met   ' if verdict.met else 'MISSED'}  {verdict.found:>12}  {verdict.text}")
    missed = sum(not verdict.met for verdict in found)
    print(f"{len(found) - missed} of {len(found)} targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
