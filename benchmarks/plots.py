"""Draw a picture of each mechanism's time over the length, and one of the training steps.

    python -m benchmarks.plots

From the CSV of the benchmarks to docs/images/*.svg. ``pip install 'seqattn_fairseq[benchmark]'``
brings matplotlib. Colours are told apart without red and green, and by the marks as well.
"""

from __future__ import annotations

import argparse
import logging
import re
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.measure import OURS
from benchmarks.table import DOCS

IMAGES = DOCS / "images"
# Okabe and Ito's palette; ours is always the first
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
_MARKS = "osD^v"
_STYLE: Any = {
    "svg.hashsalt": "seqattn",  # the same rows make the same file
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
Row = dict[str, str]


def _series(rows: list[Row]) -> dict[str, list[tuple[int, float]]]:
    """Return contender -> (T, ms) of one shape: the first of those that differ besides the length.

    Empty unless at least two lengths were measured.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        line = found.setdefault(row["contender"], [])
        if int(row["T"]) not in {length for length, _ in line}:
            line.append((int(row["T"]), 1000 * float(row["seconds"])))
    lengths = {length for line in found.values() for length, _ in line}
    return {name: sorted(line) for name, line in found.items()} if len(lengths) > 1 else {}


def _self_attention(row: Row) -> bool:
    timed = row["seconds"] and row.get("T") and not row.get("tokens")
    return bool(timed) and row.get("S") in (None, "", row["T"])


def _saved(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    return path


def _new_figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def draw_mechanism(title: str, rows: list[Row], path: Path) -> Path:
    """Draw milliseconds over the length, both logarithmic; a line for each contender."""
    figure, axes = _new_figure(4.4, 2.9)
    lines = _series(rows)
    for index, name in enumerate(sorted(lines, key=lambda name: name != OURS)):
        lengths, times = zip(*lines[name], strict=True)
        style = {"color": _COLOURS[index % 5], "marker": _MARKS[index % 5], "markersize": 4}
        axes.plot(lengths, times, label=name.replace("_", " "), **style)
    axes.set(xscale="log", yscale="log", title=title.replace("_", " "))
    axes.set(xlabel="length T (tokens), B T constant", ylabel="forward + backward (ms)")
    ticks = sorted({length for line in lines.values() for length, _ in line})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False)
    return _saved(figure, path)


def draw_steps(rows: list[Row], path: Path) -> Path:
    """Draw how many times as long as ours the other training steps take, a bar each."""
    others = [row for row in rows if row["contender"] != OURS]
    figure, axes = _new_figure(4.8, 0.6 + 0.22 * len(others))
    names = [
        f"{row['mechanism'].removeprefix('training step, ')} ({row['contender']})".replace("_", " ")
        for row in others
    ]
    naive = [row["contender"] == "naive" for row in others]
    colours = [_COLOURS[0] if plain else _COLOURS[1] for plain in naive]
    axes.barh(names, [float(row["ratio"]) for row in others], color=colours)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set(xlabel="time of a training step / ours", title=f"{rows[0]['size']}")
    return _saved(figure, path)


def draw(rows: list[Row], folder: Path) -> list[Path]:
    """Draw all pictures of a CSV; return their paths."""
    import matplotlib

    paths = []
    by_benchmark = groupby(rows, lambda row: (row["benchmark"], row["mechanism"]))
    with matplotlib.rc_context(_STYLE):
        for (_, mechanism), group in by_benchmark:
            of_one = [row for row in group if _self_attention(row)]
            if _series(of_one):
                name = re.sub(r"\W+", "_", mechanism.lower())
                paths.append(draw_mechanism(mechanism, of_one, folder / f"{name}.svg"))
        for benchmark, group in groupby(rows, lambda row: row["benchmark"]):
            if benchmark.startswith("training_step_"):
                paths.append(draw_steps(list(group), folder / f"{benchmark}.svg"))
    return paths


def main() -> None:
    """Draw, and say what was drawn."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=measure.RESULTS)
    parser.add_argument("--images", type=Path, default=IMAGES)
    args = parser.parse_args()
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # fairseq lets everything through
    for path in draw(measure.read_rows(args.results), args.images):
        print(path)


if __name__ == "__main__":
    main()
