"""Training batches of few shapes: sentences are grouped by both lengths, groups share a shape.

fairseq sorts pairs by source length and cuts the row into batches, nearly each of which has a
shape of its own. Here the plane of (source, target) lengths is cut into rectangles instead: one
rectangle holds all pairs; again and again the cut, parallel to an axis, is made that saves most
padding. Every pair is padded to the longest source and target of its rectangle, and all batches of
a rectangle but the last have the same number of sentences.

Shapes: N sentences, P different pairs of lengths.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from fairseq.data import BaseWrapperDataset, LanguagePairDataset
from fairseq.logging import metrics

from seqattn_fairseq.errors import SeqAttnError

logger = logging.getLogger(__name__)

Integers = npt.NDArray[np.int64]

SIDES = ("source", "target")

# of a batch of another dataset: ranks add their outputs up, so that all must have the same keys
NO_PADDING = {f"{side}_{what}": 0 for side in SIDES for what in ("positions", "padding")}


@dataclass(frozen=True)
class Capacity:
    """What a batch may hold, as fairseq's options say it.

    Attributes:
        tokens: ``--max-tokens``: sentences times the longer of the two padded lengths.
        sentences: ``--batch-size``.
        multiple: ``--required-batch-size-multiple``: batches that are larger are cut to a multiple.
    """

    tokens: int | None
    sentences: int | None
    multiple: int

    def of(self, length: Any) -> Any:
        """Return how many sentences of a padded length (or of an array of them) fit at most."""
        most = np.full_like(length, np.iinfo(np.int64).max)
        if self.tokens is not None:
            most = self.tokens // np.maximum(length, 1)
        if self.sentences is not None:
            most = np.minimum(most, self.sentences)
        return np.where(most < self.multiple, most, most - most % self.multiple)

    def even(self, sentences: int, length: int) -> int:
        """Return the size of as few batches as can be that share ``sentences`` evenly."""
        most = min(int(self.of(length)), sentences)
        size = math.ceil(sentences / math.ceil(sentences / most))
        return min(most, math.ceil(size / self.multiple) * self.multiple)


@dataclass(frozen=True)
class _Cut:
    """A line through a rectangle, behind the pairs whose length on a side is at most ``length``."""

    saved: int
    side: int
    length: int


class _Rectangle:
    """Pairs of lengths, their number, and the best cut through them.

    Args:
        lengths_P2: different pairs of lengths.
        counts_P: how many sentences have them.
        members: indices of the pairs of this rectangle.
        capacity: of a batch; both parts of a cut fill one at least.
    """

    def __init__(
        self, lengths_P2: Integers, counts_P: Integers, members: Integers, capacity: Capacity
    ) -> None:
        self.members = members
        self._lengths, self._counts = lengths_P2[members], counts_P[members]
        cuts = [cut for side in range(2) if (cut := self._best_cut(side, capacity))]
        self.cut = max(cuts, key=lambda cut: cut.saved, default=None)

    def _best_cut(self, side: int, capacity: Capacity) -> _Cut | None:
        own, other = self._lengths[:, side], self._lengths[:, 1 - side]
        order = np.argsort(own, kind="stable")
        own, other, counts = own[order], other[order], self._counts[order]
        last = np.flatnonzero(np.diff(own))  # a cut behind a pair before a longer one
        if len(last) == 0:
            return None
        below = counts.cumsum()[last]
        above = counts.sum() - below
        low = (own[last], np.maximum.accumulate(other)[last])
        high = (own[-1], np.maximum.accumulate(other[::-1])[::-1][last + 1])
        saved = counts.sum() * (own[-1] + other.max()) - below * sum(low) - above * sum(high)
        filled = (below >= capacity.of(np.maximum(*low))) & (
            above >= capacity.of(np.maximum(*high))
        )
        saved = np.where(filled, saved, 0)
        best = int(saved.argmax())
        return _Cut(int(saved[best]), side, int(low[0][best])) if saved[best] > 0 else None

    def parts(self) -> tuple[Integers, Integers]:
        """Return the pairs on both sides of the cut."""
        assert self.cut is not None
        below = self._lengths[:, self.cut.side] <= self.cut.length
        return self.members[below], self.members[~below]


def partition(lengths_N2: Integers, most: int, capacity: Capacity) -> Integers:
    """Return the number of each sentence's rectangle, (N,): at most ``most`` numbers from 0.

    Which sentences share a rectangle depends on the lengths alone, not on their order. Rectangles
    of short sentences have the smaller numbers.
    """
    base = lengths_N2.max() + 1
    keys_P, inverse_N, counts_P = np.unique(
        lengths_N2 @ np.array([base, 1]), return_inverse=True, return_counts=True
    )
    pairs_P2 = np.stack([keys_P // base, keys_P % base], axis=1)

    def rectangle(members: Integers) -> _Rectangle:
        return _Rectangle(pairs_P2, counts_P, members, capacity)

    rectangles = [rectangle(np.arange(len(pairs_P2)))]
    while len(rectangles) < most:
        best = max(rectangles, key=lambda found: found.cut.saved if found.cut else 0)
        if best.cut is None:
            break
        rectangles.remove(best)
        rectangles += map(rectangle, best.parts())
    rectangles.sort(key=lambda found: tuple(pairs_P2[found.members].max(axis=0)))
    numbers_P = np.empty(len(pairs_P2), dtype=np.int64)
    for number, found in enumerate(rectangles):
        numbers_P[found.members] = number
    return numbers_P[inverse_N]


class ShapeBuckets(BaseWrapperDataset):
    """A training set whose batches have few shapes; no sentence is lost, none comes twice.

    Batches also tell how much of them is padding: ``padding`` holds, for either side, the number of
    positions and how many of them are padding, which the task logs.

    Args:
        pairs: fairseq's dataset of sentence pairs.
        most: how many shapes there may be, apart from the last batch of each.
        length_multiple: lengths are rounded up to multiples of it.
    """

    def __init__(self, pairs: LanguagePairDataset, most: int, length_multiple: int = 1) -> None:
        super().__init__(pairs)
        self.most = most
        self.length_multiple = length_multiple
        self._sizes: Integers = np.asarray(pairs.sizes, dtype=np.int64)
        self._padded = self._sizes.copy()  # (N, 2), once batches are made
        self._described = False

    def ordered_indices(self) -> Integers:
        """Return all sentences in a random order (drawn from numpy's generator, as fairseq's is).

        Within a bucket no order saves padding.
        """
        count = len(self)
        order = np.random.permutation(count) if self.dataset.shuffle else np.arange(count)
        return order.astype(np.int64)

    def batch_by_size(
        self,
        indices: Any,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[Integers]:
        """Return the batches of the given sentences, those of short ones first.

        Raises:
            SeqAttnError: a sentence has more tokens than a batch may hold.
        """
        indices = np.asarray(indices, dtype=np.int64)
        capacity = Capacity(max_tokens, max_sentences, required_batch_size_multiple)
        lengths = -(-self._sizes[indices] // self.length_multiple) * self.length_multiple
        if len(indices) == 0:
            return []
        if int(capacity.of(longest := int(lengths.max()))) == 0:
            raise SeqAttnError(
                f"--max-tokens {max_tokens} is less than the {longest:,} positions of the longest "
                "sentence, --required-seq-len-multiple included; raise --max-tokens"
            )
        numbers = partition(lengths, self.most, capacity)
        batches = []
        for number in range(numbers.max() + 1):
            inside = numbers == number
            shape = lengths[inside].max(axis=0)
            self._padded[indices[inside]] = shape
            size = capacity.even(int(inside.sum()), int(shape.max()))
            batches += np.split(indices[inside], range(size, int(inside.sum()), size))
        self._describe(batches)
        return batches

    def _describe(self, batches: Sequence[Integers]) -> None:
        if self._described:
            return
        self._described = True
        shapes = {(len(batch), *self._padded[batch[0]]) for batch in batches}
        shares = share_of_padding(self._sizes, batches, lambda batch: self._padded[batch[0]])
        logger.info(
            f"training batches: {len(batches):,}, shapes: {len(shapes):,}; padding is "
            f"{shares[0]:.1%} of the source positions and {shares[1]:.1%} of the target positions"
        )

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return fairseq's batch, padded to the lengths of its bucket, with ``padding``."""
        if not samples:
            return {}
        lengths = self._padded[[sample["id"] for sample in samples]].max(axis=0)
        batch: dict[str, Any] = self.dataset.collater(
            samples, pad_to_length=dict(zip(SIDES, map(int, lengths), strict=True))
        )
        tokens = (batch["net_input"]["src_tokens"], batch["target"])
        batch["padding"] = {}
        for side, ids, pad in zip(SIDES, tokens, self._padding_ids(), strict=True):
            batch["padding"][f"{side}_positions"] = ids.numel()
            batch["padding"][f"{side}_padding"] = int(ids.eq(pad).sum())
        return batch

    def _padding_ids(self) -> tuple[int, int]:
        return self.dataset.src_dict.pad(), self.dataset.tgt_dict.pad()


def share_of_padding(
    sizes_N2: Integers, batches: Iterable[Integers], shape: Callable[[Integers], Any]
) -> Any:
    """Return which share of the positions of all batches is padding, on either side: (2,).

    Args:
        sizes_N2: source and target length of every sentence.
        batches: indices of sentences.
        shape: returns the two lengths that a batch is padded to.
    """
    positions, tokens = np.zeros(2), np.zeros(2)
    for batch in batches:
        positions += len(batch) * np.asarray(shape(batch))
        tokens += sizes_N2[batch].sum(axis=0)
    return 1 - tokens / positions


def log_padding(logging_outputs: Sequence[Mapping[str, Any]]) -> None:
    """Log ``source_padding`` and ``target_padding``: shares of the positions of training batches.

    Args:
        logging_outputs: with the ``padding`` of batches of :class:`ShapeBuckets`; without any,
            nothing is logged.
    """
    for side in SIDES:
        key = f"{side}_positions"
        if any(key in output for output in logging_outputs):
            padding, positions = (
                sum(output.get(name, 0) for output in logging_outputs)
                for name in (f"{side}_padding", key)
            )
            metrics.log_scalar(f"{side}_padding", padding / positions, positions, round=3)
