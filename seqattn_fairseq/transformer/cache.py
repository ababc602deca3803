"""What step-by-step decoding remembers.

The contract, for every variant and for every search:

* a decoder layer makes its cache from the memory (``new_cache``) before the first position, and
  ``step`` appends the positions it is given to it;
* target-side state has one row per hypothesis; memory-side state has one row per **sentence**,
  shared by the ``group`` hypotheses (beams) of that sentence, which are neighbours;
* ``reorder`` makes the new row r continue the old row ``order[r]``; the new order may have any
  length, so hypotheses can be copied, dropped and permuted in one go.

Shapes: R rows (hypotheses), B sentences, R = B * group, S source length, H heads, d head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """What the decoder reads of the source.

    The encoder's layers make it, each from the one before; the decoder's layers read it, and may
    hand a changed one to the next, as long as it depends on nothing but the source.

    Attributes:
        x_BSC: the source positions.
        padding_mask_BS: True at padding; None if there is none.
        companion: a second sequence that some variants carry beside the first (Luna's P).
    """

    x_BSC: Tensor
    padding_mask_BS: Tensor | None
    companion: Memory | None = None

    def select(self, rows: Tensor) -> Memory:
        """Return the memory of the given sentences."""
        mask = self.padding_mask_BS
        return Memory(
            self.x_BSC.index_select(0, rows),
            None if mask is None else mask.index_select(0, rows),
            None if self.companion is None else self.companion.select(rows),
        )


class LayerCache(ABC):
    """The state of one decoder layer; each variant brings its own."""

    @abstractmethod
    def reorder(self, order_R: Tensor) -> None:
        """Let row r of the target-side state continue the old row ``order_R[r]``."""

    @abstractmethod
    def reorder_memory(self, order_B: Tensor) -> None:
        """Let row b of the memory-side state be the old row ``order_B[b]``."""

    def move(self, order_R: Tensor, sentences: Tensor, beam: int) -> None:
        """Let row r continue the old row ``order_R[r]`` of its sentence.

        Args:
            order_R: sentence by sentence.
            sentences: those that stay.
            beam: how many rows each row becomes.
        """
        self.reorder(order_R)


class TargetSide(Protocol):
    """State of the target positions so far, one row per hypothesis."""

    def reorder(self, order_R: Tensor) -> None:
        """Let row r continue the old row ``order_R[r]``."""


class MemorySide(Protocol):
    """State made of the memory, one row per sentence."""

    def reorder_memory(self, order_B: Tensor) -> None:
        """Let row b be the old row ``order_B[b]``."""


TargetT = TypeVar("TargetT", bound=TargetSide)
MemoryT = TypeVar("MemoryT", bound=MemorySide)


class TwoSidedCache(LayerCache, Generic[TargetT, MemoryT]):
    """The usual state of a decoder layer: what it keeps of the target, and of the memory."""

    def __init__(self, target: TargetT, cross: MemoryT) -> None:
        self.target = target
        self.cross = cross

    def reorder(self, order_R: Tensor) -> None:
        """See :class:`LayerCache`."""
        self.target.reorder(order_R)

    def move(self, order_R: Tensor, sentences: Tensor, beam: int) -> None:
        """See :class:`LayerCache`."""
        if isinstance(self.target, BeamCache):
            self.target.move(order_R, sentences, beam)
        else:
            self.target.reorder(order_R)

    def reorder_memory(self, order_B: Tensor) -> None:
        """See :class:`LayerCache`."""
        self.cross.reorder_memory(order_B)


class KeyValueCache:
    """Keys and values of the target positions so far, in buffers that double when full."""

    _FIRST_CAPACITY = 32

    def __init__(self) -> None:
        self.length = 0
        self._key: Tensor | None = None
        self._value: Tensor | None = None

    def append(self, key_RHnd: Tensor, value_RHnd: Tensor) -> tuple[Tensor, Tensor]:
        """Append n positions; return all keys and values, (R, H, length, d) each."""
        end = self.length + key_RHnd.size(2)
        self._key = self._stored(self._key, key_RHnd, end)
        self._value = self._stored(self._value, value_RHnd, end)
        self.length = end
        return self._key[:, :, :end], self._value[:, :, :end]

    def _stored(self, buffer: Tensor | None, new: Tensor, end: int) -> Tensor:
        if buffer is None or buffer.size(2) < end:
            buffer = self._grown(buffer, new, end)
        buffer[:, :, self.length : end] = new
        return buffer

    def _grown(self, buffer: Tensor | None, new: Tensor, end: int) -> Tensor:
        rows, heads, _, width = new.shape
        capacity = max(self._FIRST_CAPACITY, 2 * end)
        grown = new.new_empty(rows, heads, capacity, width)
        if buffer is not None:
            grown[:, :, : self.length] = buffer[:, :, : self.length]
        return grown

    def reorder(self, order_R: Tensor) -> None:
        """Let row r continue the old row ``order_R[r]``."""
        self._key = self._selected(self._key, order_R)
        self._value = self._selected(self._value, order_R)

    def _selected(self, buffer: Tensor | None, order: Tensor) -> Tensor | None:
        if buffer is None:
            return None
        _, heads, capacity, width = buffer.shape
        selected = buffer.new_empty(order.numel(), heads, capacity, width)
        used = buffer[:, :, : self.length]
        selected[:, :, : self.length] = used.index_select(0, order)
        return selected


class BeamCache:
    """Keys and values of the target positions so far, of all hypotheses of a sentence in one row.

    What the hypotheses of a sentence have in common is there once, and when one continues another
    nothing is copied: a table says which entries are whose. Queries of all hypotheses meet all
    entries of their sentence in one product, and a mask hides those of others.
    """

    _FIRST_CAPACITY = 128

    def __init__(self) -> None:
        self.length = 0
        self._group = 1
        self._used = 0
        self._key_BHSd: Tensor | None = None
        self._value_BHSd: Tensor | None = None
        # the entry of each position of each hypothesis (R, length); None while all have the same
        self._entry_RT: Tensor | None = None

    def append(self, key_RHnd: Tensor, value_RHnd: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Append n positions.

        Return all keys and values, (B, H, S, d) each, and for the n positions of the hypotheses of
        a sentence, one after another, which entries are not theirs, (B, group * n, S); None if all
        are, but for the order of the n positions themselves.
        """
        new = key_RHnd.size(2)
        start, end = self._used, self._used + self._group * new
        self._key_BHSd = self._stored(self._key_BHSd, self._by_sentence(key_RHnd), end)
        self._value_BHSd = self._stored(self._value_BHSd, self._by_sentence(value_RHnd), end)
        self._used, self.length = end, self.length + new
        hidden = None
        if self._entry_RT is not None:
            hidden = self._extend(start, new)
        return self._key_BHSd[:, :, :end], self._value_BHSd[:, :, :end], hidden

    def _by_sentence(self, x_RHnd: Tensor) -> Tensor:
        """Return (B, H, group * n, d)."""
        by_group: Tensor = x_RHnd.unflatten(0, (-1, self._group)).transpose(1, 2)
        return by_group.flatten(2, 3)

    def _stored(self, buffer: Tensor | None, new: Tensor, end: int) -> Tensor:
        if buffer is None or buffer.size(2) < end:
            sentences, heads, _, width = new.shape
            capacity = max(self._FIRST_CAPACITY, 2 * end)
            grown = new.new_empty(sentences, heads, capacity, width)
            if buffer is not None:
                grown[:, :, : self._used] = buffer[:, :, : self._used]
            buffer = grown
        buffer[:, :, self._used : end] = new
        return buffer

    def _extend(self, start: int, new: int) -> Tensor:
        """Note the entries of n new positions; return what each of them may not see."""
        entry, group = cast(Tensor, self._entry_RT), self._group
        rows, past = entry.shape
        first = torch.arange(start, start + group * new, new, device=entry.device)
        added = first.unsqueeze(1) + torch.arange(new, device=entry.device)
        self._entry_RT = entry = torch.cat([entry, added.repeat(rows // group, 1)], dim=1)
        seen_RnT = entry.unsqueeze(1).expand(-1, new, -1)
        if new > 1:
            own = entry[:, past:].unsqueeze(2)
            later = torch.ones(new, past + new, dtype=torch.bool, device=entry.device)
            seen_RnT = torch.where(later.triu(past + 1), own, seen_RnT)
        hidden = torch.ones(rows, new, self._used, dtype=torch.bool, device=entry.device)
        hidden.scatter_(2, seen_RnT, False)
        return hidden.view(rows // group, group * new, -1)

    def by_position(self, weights_RHnS: Tensor) -> Tensor:
        """Return (R, H, n, length) of weights (R, H, n, S) of entries."""
        if self._entry_RT is None:
            return weights_RHnS
        rows, heads, new, _ = weights_RHnS.shape
        index = self._entry_RT[:, None, None].expand(rows, heads, new, -1)
        return weights_RHnS.gather(3, index)

    def move(self, order_R: Tensor, sentences: Tensor, beam: int) -> None:
        """See :class:`LayerCache`."""
        if self._key_BHSd is None or self._value_BHSd is None:
            return
        if len(sentences) < self._key_BHSd.size(0):
            self._key_BHSd = self._key_BHSd.index_select(0, sentences)
            self._value_BHSd = self._value_BHSd.index_select(0, sentences)
        self._group *= beam
        if self._entry_RT is None and self._group > 1:
            common = torch.arange(self.length, device=order_R.device)
            self._entry_RT = common.repeat(order_R.numel(), 1)
        elif self._entry_RT is not None:
            self._entry_RT = self._entry_RT.index_select(0, order_R)

    def reorder(self, order_R: Tensor) -> None:
        """Let row r continue the old row ``order_R[r]``; from now on every row stands alone."""
        if self._key_BHSd is None or self._value_BHSd is None:
            return
        self._key_BHSd = self._alone(self._key_BHSd, order_R)
        self._value_BHSd = self._alone(self._value_BHSd, order_R)
        self._used, self._group, self._entry_RT = self.length, 1, None

    def _alone(self, buffer_BHSd: Tensor, order_R: Tensor) -> Tensor:
        rows = buffer_BHSd[:, :, : self._used].index_select(0, order_R // self._group)
        if self._entry_RT is not None:
            index = self._entry_RT.index_select(0, order_R)[:, None, :, None]
            rows = rows.gather(2, index.expand(-1, rows.size(1), -1, rows.size(3)))
        room = rows.new_empty(*rows.shape[:2], buffer_BHSd.size(2), rows.size(3))
        room[:, :, : self.length] = rows
        return room


@dataclass
class MemoryCache:
    """Keys and values of the memory, projected once per sentence; never longer than the source."""

    key_BHSd: Tensor
    value_BHSd: Tensor
    padding_mask_BS: Tensor | None

    def reorder_memory(self, order_B: Tensor) -> None:
        """Let row b be the old row ``order_B[b]``."""
        self.key_BHSd = self.key_BHSd.index_select(0, order_B)
        self.value_BHSd = self.value_BHSd.index_select(0, order_B)
        if self.padding_mask_BS is not None:
            self.padding_mask_BS = self.padding_mask_BS.index_select(0, order_B)


def is_grouped(sentence_R: Tensor, group: int) -> bool:
    """Tell whether the rows of each run of ``group`` neighbours belong to one sentence."""
    if sentence_R.numel() % group:
        return False
    runs = sentence_R.view(-1, group)
    return bool((runs == runs[:, :1]).all())


def group_size(sentence_R: Tensor) -> int:
    """Return the common length of the runs of equal neighbours, or 1 if they differ in length."""
    counts = torch.unique_consecutive(sentence_R, return_counts=True)[1]
    first = int(counts[0])
    return first if bool((counts == first).all()) else 1


class DecodingState:
    """The caches of all decoder layers and the number of target positions they hold.

    Attributes:
        layers: one cache per decoder layer.
        length: target positions consumed so far.
        group: hypotheses per sentence, neighbours sharing one row of the memory.
    """

    def __init__(self, layers: list[LayerCache], sentence_R: Tensor, group: int) -> None:
        self.layers = layers
        self.length = 0
        self.group = group
        self._sentence_R = sentence_R

    def move(self, order_R: Tensor, sentences: Tensor, beam: int = 1) -> None:
        """Let row r continue the old row ``order_R[r]``, where sentences stay together.

        Args:
            order_R: sentence by sentence, as many rows of each as before, or ``beam`` times that.
            sentences: those that stay, in their order.
            beam: how many neighbours, sharing the memory, each row becomes.
        """
        before = self._sentence_R.numel() // self.group
        for cache in self.layers:
            cache.move(order_R, sentences, beam)
            if len(sentences) < before:
                cache.reorder_memory(sentences)
        self._sentence_R = self._sentence_R.index_select(0, order_R)
        self.group *= beam

    def reorder(self, order_R: Tensor) -> None:
        """Let row r continue the old row ``order_R[r]``; any order and length is right.

        While hypotheses only move within their sentences the memory stays where it is.
        """
        for cache in self.layers:
            cache.reorder(order_R)
        before, self._sentence_R = self._sentence_R, self._sentence_R.index_select(0, order_R)
        if torch.equal(before, self._sentence_R):
            return
        memory_order = order_R.div(self.group, rounding_mode="floor")
        if is_grouped(self._sentence_R, self.group):
            memory_order = memory_order[:: self.group]
        else:
            self.group = 1
        for cache in self.layers:
            cache.reorder_memory(memory_order)
