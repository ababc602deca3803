"""Write the tables of the documents from the CSV of the benchmarks.

    python -m benchmarks.table

docs/performance.md gets the summary and the targets, docs/performance_table.md every row.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import OURS
from benchmarks.scaling import exponent
from benchmarks.targets import verdicts

DOCS = Path(__file__).parents[1] / "docs"
DOCUMENT, ALL_ROWS = DOCS / "performance.md", DOCS / "performance_table.md"
_NOT_SHAPE = {
    *("benchmark", "mechanism", "contender", "seconds", "ratio", "error", "peak_mib", "dtype"),
    *("tokens_per_second", "device", "threads", "torch", "python", "machine", "date"),
}
_SURROUNDINGS = ("machine", "device", "dtype", "threads", "torch", "python", "date")
_HEAD = """# All rows of the benchmarks

Written by `python -m benchmarks.table` from `benchmarks/results/cpu.csv`;
[performance.md](performance.md) says how to read it.

"""
Row = dict[str, str]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(head: list[str], left: int, lines: Iterable[list[str]]) -> str:
    """Return Markdown whose first columns are words and whose others are numbers."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join([_line(head), _line(rule), *map(_line, lines)])


def _number(text: str, scale: float, form: str) -> str:
    return format(scale * float(text), form) if text else ""


def _named(text: str) -> str:
    return text.replace("_", " ")


# ---- every row ---------------------------------------------------------------------------------


def _cells(row: Row) -> list[str]:
    shape = ", ".join(f"{k}={v}" for k, v in row.items() if v and k not in _NOT_SHAPE)
    return [
        _named(row["mechanism"]),
        shape,
        _named(row["contender"]),
        _number(row["seconds"], 1000, ".2f"),
        _number(row["ratio"], 1, ".2f"),
        _number(row["error"], 1, ".0e"),
        _number(row["peak_mib"], 1, ".0f"),
        _number(row["tokens_per_second"], 1, ".0f"),
    ]


def all_rows(rows: list[Row]) -> str:
    """Return the document of all rows, with what they were measured on."""
    places = dict.fromkeys(tuple(row[key] for key in _SURROUNDINGS) for row in rows)
    parts = [
        "; ".join(f"{key} {value}" for key, value in zip(_SURROUNDINGS, place, strict=True)) + "\n"
        for place in places
    ]
    head = ["mechanism", "shape", "contender", "ms", "times ours", "error", "peak MiB", "tokens/s"]
    return "\n".join([_HEAD + "\n".join(parts), _table(head, 3, map(_cells, rows)), ""])


# ---- one row for each rival --------------------------------------------------------------------


def summary(rows: list[Row]) -> str:
    """Return a row for each mechanism and rival: ratios, worst errors, growth with the length."""
    head = ["mechanism", "rival", "shapes", "times ours", "worst error", "its", "T^a", "its a"]
    return _table(head, 2, _summarised(rows))


def _summarised(rows: list[Row]) -> Iterator[list[str]]:
    timed = [row for row in rows if row["ratio"]]
    for (benchmark, mechanism), group in groupby(
        timed, lambda row: (row["benchmark"], row["mechanism"])
    ):
        of_one = list(group)
        corpus = benchmark.partition("training_step_")[2]
        name = _named(mechanism) + (f" ({corpus})" if corpus else "")
        rivals = dict.fromkeys(r["contender"] for r in of_one if r["contender"] != OURS)
        for rival in rivals:
            ratios = [float(r["ratio"]) for r in of_one if r["contender"] == rival]
            yield [
                name,
                _named(rival),
                str(len(ratios)),
                _range(ratios),
                *(_worst(of_one, contender) for contender in (OURS, rival)),
                *(_growth(of_one, contender) for contender in (OURS, rival)),
            ]


def _range(ratios: list[float]) -> str:
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return low if low == high else f"{low} .. {high}"


def _worst(rows: list[Row], contender: str) -> str:
    errors = [float(r["error"]) for r in rows if r["contender"] == contender and r["error"]]
    return f"{max(errors):.0e}" if errors else ""


def _growth(rows: list[Row], contender: str) -> str:
    found = exponent(rows, contender)
    return "" if found is None else f"{found:.2f}"


def targets(rows: list[Row]) -> str:
    """Return a row for each target."""
    lines = (
        [v.text, v.found, "met" if v.met else "**missed**", f"{v.error:.0e}".replace("nan", "")]
        for v in verdicts(rows)
    )
    return _table(["must be", "worst ratio", "", "error"], 2, lines)


def fill(document: str, name: str, text: str) -> str:
    """Return the document with the text between the two markers of a name.

    Raises:
        ValueError: a marker is missing.
    """
    marks = [f"<!-- {name}: {place} -->" for place in ("begin", "end")]
    before, begin, rest = document.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise ValueError(f"no {marks[0]} ... {marks[1]} in the document")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def filled(document: str, rows: list[Row]) -> str:
    """Return docs/performance.md with its tables."""
    return fill(fill(document, "summary", summary(rows)), "targets", targets(rows))


def main() -> None:
    """Fill the documents."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=measure.RESULTS)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    parser.add_argument("--all-rows", type=Path, default=ALL_ROWS)
    args = parser.parse_args()
    rows = measure.read_rows(args.results)
    args.document.write_text(filled(args.document.read_text(), rows))
    args.all_rows.write_text(all_rows(rows))


if __name__ == "__main__":
    main()
