"""How much systems agree on a test set, whatever the reference says.

Two figures for each pair: the share of lines on which both write the same, and the corpus BLEU of
one against the other, the mean of both directions. Systems that agree much with each other and
little with the reference have the same habits, or the same training.

BLEU is sacreBLEU's, but its n-grams are counted once for each system and not for each pair: 1
where a line holds an n-gram for the i-th time, so that the clipped matches of two systems are a
product of two vectors, and those of all pairs one product of matrices a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from tqdm import tqdm  # type: ignore[import-untyped]

from seqattn_fairseq.analysis.lengths import signature
from seqattn_fairseq.analysis.repetition import ngram_counts
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.scores import ScoreOptions, flavour_metric
from seqattn_fairseq.evaluation.significance import check_same_references
from seqattn_fairseq.evaluation.system import System

Matrix = list[list[float]]


@dataclass(frozen=True)
class Agreement:
    """Symmetric matrices over the systems in ``names``.

    Attributes:
        names: of the systems, in the order of rows and columns.
        exact: share of equal lines, 0 to 1.
        bleu: corpus BLEU of one system against the other, 0 to 100, mean of both directions.
        flavour: which texts were compared.
        signature: of this BLEU.
    """

    names: list[str]
    exact: Matrix
    bleu: Matrix
    flavour: str
    signature: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "names": self.names,
            "flavour": self.flavour,
            "signature": self.signature,
            "matrices": {"exact": self.exact, "bleu": self.bleu},
        }


def agreement(systems: Sequence[System], flavour: str | None = None) -> Agreement:
    """Compare the outputs of systems, each with each.

    Args:
        systems: at least two, of one test set.
        flavour: decides which texts are compared; by default the first that all systems have.

    Raises:
        SeqAttnError: fewer than two systems, no flavour that all have, or different test sets.
    """
    flavour = flavour or _common_flavour(systems)
    check_same_references(systems, flavour)
    metric = flavour_metric(systems[0], flavour, ScoreOptions())
    assert isinstance(metric, BLEU)
    texts = [_prepared(metric, system.pair(flavour)[0]) for system in systems]
    exact = np.zeros((len(texts), len(texts)))
    counts = _NgramCounts(len(texts), metric.max_ngram_order)
    for lines in tqdm(zip(*texts, strict=True), "agreement", len(texts[0]), unit="line"):
        exact += _equal(lines)
        counts.add(lines)
    names = [system.name for system in systems]
    shares = (exact / len(texts[0])).tolist()
    return Agreement(names, shares, counts.bleu(metric), flavour, signature(metric))


def _common_flavour(systems: Sequence[System]) -> str:
    if len(systems) < 2:
        raise SeqAttnError("one system agrees with itself; give two or more")
    common = [
        flavour
        for flavour in systems[0].flavours()
        if all(flavour in system.flavours() for system in systems)
    ]
    if not common:
        raise SeqAttnError(
            f"{', '.join(system.name for system in systems)}: no form of the text that all have; "
            "translate them with seqattn evaluate"
        )
    return common[0]


def _prepared(metric: BLEU, lines: Sequence[str]) -> list[str]:
    """Return the lines as the metric reads them: words separated by blanks."""
    lowered = (line.lower() if metric.lowercase else line for line in lines)
    return [metric.tokenizer(line.rstrip()) for line in lowered]


def _equal(lines: Sequence[str]) -> NDArray[np.bool_]:
    """Return a symmetric (S, S) of which of S lines are the same."""
    numbers = {line: number for number, line in enumerate(dict.fromkeys(lines))}
    own = np.array([numbers[line] for line in lines])
    same: NDArray[np.bool_] = own[:, None] == own[None, :]
    return same


class _NgramCounts:
    """Sums over lines of what BLEU needs, for all pairs of S systems and N orders of n-grams."""

    def __init__(self, systems: int, orders: int) -> None:
        self.orders = orders
        self.matches_NSS = np.zeros((orders, systems, systems))
        self.totals_NS = np.zeros((orders, systems))
        self.lengths_S = np.zeros(systems)

    def add(self, lines: Sequence[str]) -> None:
        """Add one line of every system."""
        words = [line.split() for line in lines]
        for index in range(self.orders):
            found_SF = _indicators(words, index + 1)
            self.matches_NSS[index] += found_SF @ found_SF.T
            self.totals_NS[index] += found_SF.sum(axis=1)
        self.lengths_S += [len(line) for line in words]

    def bleu(self, metric: BLEU) -> Matrix:
        """Return the mean of both directions' BLEU for all pairs."""
        numbers = range(len(self.lengths_S))
        one_way = np.array([[self._score(metric, i, j) for j in numbers] for i in numbers])
        means: Matrix = ((one_way + one_way.T) / 2).tolist()
        return means

    def _score(self, metric: BLEU, system: int, other: int) -> float:
        matches = self.matches_NSS[:, system, other].astype(int).tolist()
        score = BLEU.compute_bleu(
            matches,
            self.totals_NS[:, system].astype(int).tolist(),
            int(self.lengths_S[system]),
            int(self.lengths_S[other]),
            metric.smooth_method,
            metric.smooth_value,
            metric.effective_order,
            metric.max_ngram_order,
        )
        return float(score.score)


def _indicators(lines: Sequence[list[str]], order: int) -> NDArray[np.float32]:
    """Return (S, F): 1 where a line holds an n-gram for the i-th time, one of F such features.

    The product of two rows is then the sum of the smaller counts of all n-grams. It is exact: whole
    numbers far below 2^24, the end of those that float32 can tell apart.
    """
    columns: dict[tuple[tuple[str, ...], int], int] = {}
    rows = [
        [
            columns.setdefault((ngram, time), len(columns))
            for ngram, count in ngram_counts(words, order).items()
            for time in range(count)
        ]
        for words in lines
    ]
    found = np.zeros((len(lines), len(columns)), dtype=np.float32)
    for row, features in enumerate(rows):
        found[row, features] = 1
    return found
