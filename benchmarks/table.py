"""Write the table of docs/performance.md from the CSV of the benchmarks.

python -m benchmarks.table
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from benchmarks import measure

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"
_NOT_SHAPE = {
    *("benchmark", "mechanism", "contender", "seconds", "ratio", "error", "peak_mib", "dtype"),
    *("threads", "torch", "python", "machine", "date"),
}


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(text: str, scale: float, form: str) -> str:
    return format(scale * float(text), form) if text else ""


def _cells(row: dict[str, str]) -> list[str]:
    shape = ", ".join(f"{k}={v}" for k, v in row.items() if v and k not in _NOT_SHAPE)
    return [
        row["mechanism"].replace("_", " "),
        shape,
        row["contender"].replace("_", " "),
        _number(row["seconds"], 1000, ".2f"),
        _number(row["ratio"], 1, ".2f"),
        _number(row["error"], 1, ".0e"),
        _number(row["peak_mib"], 1, ".0f"),
    ]


def table(rows: list[dict[str, str]]) -> str:
    """Return the rows of a CSV as Markdown, with what they were measured on."""
    keys = ("machine", "torch", "python", "date", "dtype", "threads")
    places = dict.fromkeys(tuple(row[key] for key in keys) for row in rows)
    head = ["mechanism", "shape", "contender", "ms", "times ours", "error", "peak MiB"]
    parts = [
        "; ".join(f"{key} {value}" for key, value in zip(keys, place, strict=True)) + "\n"
        for place in places
    ]
    lines = [_line(head), _line(["---"] * 3 + ["---:"] * 4), *(_line(_cells(row)) for row in rows)]
    return "\n".join([*parts, *lines])


def fill(document: str, rows: list[dict[str, str]]) -> str:
    """Return the document with the table between its two markers.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no {BEGIN} ... {END} in the document")
    return f"{before}{begin}\n\n{table(rows)}\n\n{end}{after}"


def main() -> None:
    """Fill the document."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=measure.RESULTS)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    args = parser.parse_args()
    filled = fill(args.document.read_text(), measure.read_rows(args.results))
    args.document.write_text(filled)


if __name__ == "__main__":
    main()
