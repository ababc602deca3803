"""How time grows with the length: the slope of log time over log T at constant B T."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Row = dict[str, str]
# shorter ones tell of overheads, not of growth
LEAST_LENGTH = {"cpu": 256, "cuda": 512}


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of log y over log x by least squares."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    over = sum((x - mean_x) * (y - mean_y) for x, y in logs)
    found: float = over / sum((x - mean_x) ** 2 for x, _ in logs)
    return found


def exponent(rows: Iterable[Row], contender: str) -> float | None:
    """Return the growth of a contender's time, the largest of its series; None if there is none.

    Args:
        rows: of one mechanism.
        contender: whose.
    """
    series: dict[tuple[str | None, ...], list[tuple[float, float]]] = {}
    for row in rows:
        if row["contender"] == contender and _counts(row):
            others = tuple(row.get(key) for key in ("H", "K", "causal", "padded", "dtype"))
            point = (float(row["T"]), float(row["seconds"]))
            series.setdefault(others, []).append(point)
    slopes = [slope(points) for points in series.values() if len({x for x, _ in points}) > 1]
    return max(slopes, default=None)


def _counts(row: Row) -> bool:
    if not row.get("T") or not row["seconds"] or row.get("tokens"):
        return False
    least = LEAST_LENGTH[row.get("device") or "cpu"]
    return int(row["T"]) >= least and row.get("S") in (None, "", row["T"])
