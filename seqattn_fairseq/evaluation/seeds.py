"""Runs that differ in their seed: mean and standard deviation of their scores."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.generate import read_record
from seqattn_fairseq.evaluation.scores import ScoreTable

# decoding options that evaluate may have chosen on the validation set of every run by itself
_CHOSEN = ("search.length_penalty", "checkpoint.file")


@dataclass(frozen=True)
class Spread:
    """Scores of n runs, their mean and sample standard deviation."""

    name: str
    scores: list[float]

    def mean(self) -> float:
        """Return the mean."""
        return statistics.fmean(self.scores)

    def deviation(self) -> float:
        """Return the sample standard deviation (n - 1)."""
        return statistics.stdev(self.scores)

    def __str__(self) -> str:
        return f"{self.mean():.2f} +- {self.deviation():.2f}  (n = {len(self.scores)})"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        figures = {"mean": self.mean(), "deviation": self.deviation(), "n": len(self.scores)}
        return {"name": self.name, "scores": self.scores, **figures}


def check_same_training(folders: Mapping[str, Path], chosen: bool = False) -> None:
    """Check that translations come from trainings that differ in nothing but their seed.

    Args:
        folders: name of a run -> a test set's translations.
        chosen: length penalty and averaging were chosen for every run on its validation set, so
            they may differ.

    Raises:
        SeqAttnError: two runs differ otherwise, or share their seed.
    """
    (first, base), *others = ((name, _options(folder)) for name, folder in folders.items())
    seeds = {base.pop("seed"): first}
    for name, options in others:
        seed = options.pop("seed")
        for key in sorted({*base, *options}):
            if base.get(key) != options.get(key) and not (chosen and key in _CHOSEN):
                raise SeqAttnError(
                    f"{name}: {key} is {options.get(key)!r}, but {base.get(key)!r} in {first}; "
                    "a mean is taken over runs that differ in their seed alone"
                )
        if seed is not None and seed in seeds:
            raise SeqAttnError(
                f"{name}: has seed {seed}, as {seeds[seed]} has; give runs of different seeds"
            )
        seeds[seed] = name


def _options(folder: Path) -> dict[str, Any]:
    """Return, flat, what runs of a group share, and the seed."""
    record = read_record(folder)
    training = record["training"]
    flat = {f"search.{key}": value for key, value in record["search"].items()}
    flat |= {f"data.{name}": digest for name, digest in record["data"].items()}
    flat["checkpoint.file"] = record["checkpoint"]["file"]
    return {**training["options"], **flat, "seed": training["seed"]}


def spreads(tables: Sequence[ScoreTable]) -> dict[str, Spread]:
    """Return the spread of every score that all tables have, the headline's first.

    Raises:
        SeqAttnError: fewer than two runs.
    """
    if len(tables) < 2:
        raise SeqAttnError("a standard deviation needs two runs or more")
    first = tables[0]
    return {
        key: Spread(first.names[key], [table.scores[key].value for table in tables])
        for key in sorted(first.scores, key=lambda key: key != first.headline)
        if all(key in table.scores for table in tables)
    }
