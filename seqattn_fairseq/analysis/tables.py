"""Results of analyses as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOTHING = "-"
# field of Rates -> heading
_RATES = {
    "sparsity": "sparsity",
    "null": "null",
    "entropy": "entropy",
    "diversity": "diversity",
    "diversity_share": "/ ln H",
    "dense_diversity": "no null",
}
_DOUBT = (
    "{:,} sentence pairs hold unknown pieces, which do not tell where their words begin and end; "
    "give the words with --gold-text"
)
_BY_HEAD = ("sparsity", "null", "entropy")


def figure(value: float | None, digits: int = 3) -> str:
    """Return a number with so many digits, or a dash for what is not defined."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return rows as lines whose columns are aligned: the first to the left, others to the right.

    Rows may be of different lengths.
    """
    rows = [list(row) for row in rows]
    count = max((len(row) for row in rows), default=0)
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(count)]
    lines = []
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=False))
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return lines


# ---- attention ---------------------------------------------------------------------------------


def attention_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the tables of ``attention.json``: of every site by layer, and by layer and head."""
    lines = []
    for site, statistics in result["sites"].items():
        layers = statistics["layers"]
        rows = [[site, *_RATES.values()], _rates("all layers", statistics["all"])]
        rows += [_rates(f"layer {n}", layer["all"]) for n, layer in enumerate(layers, start=1)]
        lines += columns(rows)
        heads = max(len(layer["heads"]) for layer in layers)
        if heads > 1:
            lines += columns(_heads(layers, heads))
        lines.append("")
    return lines[:-1]


def _rates(name: str, rates: Mapping[str, float | None]) -> list[str]:
    return [name, *(figure(rates[field]) for field in _RATES)]


def _heads(layers: Sequence[Mapping[str, Any]], heads: int) -> list[list[str]]:
    rows = [["by head", *(str(head) for head in range(1, heads + 1))]]
    for number, layer in enumerate(layers, start=1):
        for field in _BY_HEAD:
            values = (figure(head[field]) for head in layer["heads"])
            rows.append([f"layer {number} {_RATES[field]}", *values])
    return rows


# ---- alignment ---------------------------------------------------------------------------------


def alignment_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the table of ``alignment.json``: AER of every head, of their mean, and the best."""
    heads = max(len(kind["heads"]) for layer in result["layers"] for kind in layer.values())
    head = [f"head {number}" for number in range(1, heads + 1)]
    rows = [["AER, %", "mean", "best", "", *head]]
    for number, layer in enumerate(result["layers"], start=1):
        for kind, rates in layer.items():
            rows.append([f"layer {number} {kind}", *_error_rates(rates)])
    note = (
        "mean: of the heads' weights; best: chosen on this very gold alignment, so a bound and no "
        "result"
    )
    doubts = [] if not result["uncertain"] else [_DOUBT.format(result["uncertain"])]
    return [*columns(rows), note, *doubts]


def _error_rates(rates: Mapping[str, Any]) -> list[str]:
    by_head = [rate["aer"] for rate in rates["heads"]]
    best = best_head(by_head)
    chosen = ["-", ""] if best is None else [percent(by_head[best]), f"head {best + 1}"]
    return [percent(rates["mean"]["aer"]), *chosen, *map(percent, by_head)]


def best_head(rates: Sequence[float | None]) -> int | None:
    """Return the head (from 0) with the lowest error rate, the first of equal ones."""
    known = [(rate, head) for head, rate in enumerate(rates) if rate is not None]
    return min(known)[1] if known else None


def percent(value: float | None) -> str:
    """Return a share in per cent, or a dash for what is not defined."""
    return NOTHING if value is None else f"{100 * value:.1f}"


def error_rate_line(rate: Mapping[str, Any]) -> str:
    """Return one line for the error rate of a file of links."""
    named = ", ".join(f"{name} {percent(rate[name])} %" for name in ("precision", "recall"))
    return f"AER {percent(rate['aer'])} % ({named}, {rate['links']:,} links)"


# ---- texts -------------------------------------------------------------------------------------


def text_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the tables of ``text.json``: by source length, and repetition."""
    rows = [["source length", "sentences", "BLEU", "length ratio"]]
    rows += [[_span(found), *_quality(found)] for found in result["lengths"]]
    rows.append(["all", *_quality(result)])
    exact = f"lines equal to their reference: {percent(result['exact'])} %"
    return [*columns(rows), exact, *columns(_repetition(result["repetition"])), result["signature"]]


def _span(found: Mapping[str, Any]) -> str:
    return f"{found['from']}+" if found["to"] is None else f"{found['from']}-{found['to']}"


def _quality(found: Mapping[str, Any]) -> list[str]:
    return [f"{found['sentences']:,}", figure(found["bleu"], 2), figure(found["length_ratio"])]


def _repetition(sides: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    names = list(next(iter(sides.values())))
    rows = [[side, *(percent(values[name]) for name in names)] for side, values in sides.items()]
    return [["repeated, %", *names], *rows]


def length_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the table of ``generalisation.json``: a row for each number of sentences in a line."""
    names = ["sentences a line", "lines", "tokens", "BLEU", "ratio", "tokens/s", "MiB", "cut"]
    rows = [[*names, "left out"]]
    rows += [
        [
            str(row["k"]),
            f"{row['lines']:,}",
            figure(row["source_tokens"], 1),
            figure(row["bleu"], 2),
            figure(row["length_ratio"]),
            figure(row["tokens_per_second"], 1),
            figure(row["peak_memory_mib"], 0),
            f"{row['truncated']:,}",
            f"{row['too_long']:,}",
        ]
        for row in result["rows"]
    ]
    return [*columns(rows), f"{result['hardware']}; {result['signature']}"]


def agreement_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the matrices of an agreement between systems, which have numbers there."""
    names = [f"{number}: {name}" for number, name in enumerate(result["names"], start=1)]
    columns_ = [str(number) for number in range(1, len(names) + 1)]
    lines = []
    titles = {"bleu": "BLEU of one against the other", "exact": "equal lines, %"}
    for matrix, title in titles.items():
        write = percent if matrix == "exact" else _two_digits
        values = result["matrices"][matrix]
        rows = [[name, *map(write, row)] for name, row in zip(names, values, strict=True)]
        lines += columns([[title, *columns_], *rows])
    return [*lines, result["signature"]]


def _two_digits(value: float | None) -> str:
    return figure(value, 2)
