"""How much a system repeats itself within a line.

``rep<n>`` is the share of a line's n-grams that occurred before in the same line: 1 - (different
n-grams) / (n-grams), seq-rep-n of Welleck et al. 2020, "Neural Text Generation with Unlikelihood
Training", section 3. They average it over sequences; here numerators and denominators are summed
over all lines first, so that short lines, which hardly can repeat anything, do not dilute it.
``loops`` is the share of lines in which some 4-gram occurs three times or more: what a decoder
that does not find its way out leaves.

Languages repeat by themselves ("the", "of the"), so the figures of the reference belong beside
those of the hypotheses; what is beyond them is the model's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

ORDERS = (1, 2, 3, 4)
LOOP_ORDER = 4
LOOP_TIMES = 3


def repetition(lines: Iterable[str]) -> dict[str, float]:
    """Return ``rep1`` to ``rep4`` and ``loops`` of tokenised lines, each from 0 to 1.

    A figure of nothing (no line, or none with so many words) is 0.
    """
    repeated: Counter[int] = Counter()
    total: Counter[int] = Counter()
    loops = count = 0
    for line in lines:
        words = line.split()
        for order in ORDERS:
            ngrams = ngram_counts(words, order)
            total[order] += ngrams.total()
            repeated[order] += ngrams.total() - len(ngrams)
        loops += max(ngram_counts(words, LOOP_ORDER).values(), default=0) >= LOOP_TIMES
        count += 1
    shares = {f"rep{order}": _share(repeated[order], total[order]) for order in ORDERS}
    return {**shares, "loops": _share(loops, count)}


def ngram_counts(words: list[str], order: int) -> Counter[tuple[str, ...]]:
    """Return how often each n-gram of ``order`` words occurs."""
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
