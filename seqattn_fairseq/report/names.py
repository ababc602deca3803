"""Names of runs that tell them apart, and no longer than that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def short_names(runs: Sequence[Path]) -> list[str]:
    """Return a different name for each of some different folders.

    Where all paths are equally deep, the parts in which they differ make the names
    (``runs/iwslt14/luna/seed1`` and ``runs/iwslt14/mega/seed1``: ``luna`` and ``mega``); otherwise
    common beginnings and ends are left out. A single run is called by its folder, and by the one
    above where that only says the seed.
    """
    parts = [run.resolve().parts for run in runs]
    if len(parts) == 1:
        return [_own_name(parts[0])]
    if len({len(one) for one in parts}) == 1:
        columns = [column for column in zip(*parts, strict=True) if len(set(column)) > 1]
        return [" ".join(words) for words in zip(*columns, strict=True)]
    shortest = min(map(len, parts)) - 1
    first = _common(parts, shortest)
    last = _common([one[::-1] for one in parts], shortest - first)
    return [" ".join(one[first : len(one) - last]) for one in parts]


def _own_name(parts: tuple[str, ...]) -> str:
    return " ".join(parts[-2:] if parts[-1].startswith("seed") else parts[-1:])


def _common(paths: Sequence[tuple[str, ...]], most: int) -> int:
    """Return how many leading parts, at most ``most``, are the same in all paths."""
    for number, column in enumerate(zip(*paths, strict=False)):
        if number == most or len(set(column)) > 1:
            return number
    return most
