"""Mega's two gated units: self-attention over averaged positions, and cross-attention.

Shapes: see :mod:`seqattn_fairseq.variants.mega_modules`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqattn_fairseq.transformer.attention import AttentionLog, Site
from seqattn_fairseq.transformer.cache import KeyValueCache, Memory
from seqattn_fairseq.variants.mega_modules import (
    AverageCache,
    GatedUnit,
    MegaSide,
    MovingAverage,
    check_length,
    columns_used,
    leading_padding,
    linear,
    shifted,
)


class _Projected(NamedTuple):
    """What a self-attention unit makes of the averaged positions, (B, T, .) each."""

    update_D: Tensor
    query_Z: Tensor
    key_Z: Tensor
    reset_V: Tensor
    candidate_D: Tensor


class SelfCache:
    """Moving average, keys and values of one unit: of all positions, or of the present chunk.

    Args:
        unit: whose it is.
    """

    def __init__(self, unit: GatedSelfAttention) -> None:
        self.average = AverageCache(unit.move)
        self.length = 0
        self.present = KeyValueCache()
        self._chunk = unit.chunk_size

    def pieces(self, new: int) -> list[tuple[int, int]]:
        """Cut the next ``new`` positions at the borders of chunks; return (start, end) of each."""
        if self._chunk < 1:
            return [(0, new)]
        borders = range(self._chunk - self.length % self._chunk, new, self._chunk)
        return list(zip([0, *borders], [*borders, new], strict=True))

    def append(self, key_RnZ: Tensor, value_RnV: Tensor) -> tuple[Tensor, Tensor]:
        """Append positions of one chunk; return its keys and values so far."""
        if self._chunk > 0 and self.length % self._chunk == 0:
            self.present = KeyValueCache()
        self.length += key_RnZ.size(1)
        key, value = self.present.append(key_RnZ.unsqueeze(1), value_RnV.unsqueeze(1))
        return key.squeeze(1), value.squeeze(1)

    def reorder(self, order_R: Tensor) -> None:
        """Let row r continue the old row ``order_R[r]``."""
        self.average.reorder(order_R)
        self.present.reorder(order_R)


class GatedSelfAttention(GatedUnit):
    """Moving average, single-head attention within chunks (or everywhere), two gates.

    Equations 6 to 14 of the paper; queries and keys are read from the averaged positions, values
    from the positions themselves. Chunks begin at the first real token of a sentence, unless
    counted by column.

    Parameters: ``move.*``, ``v_proj`` (D to V), ``mx_proj`` (D to D + Z + V + D: update gate, z,
    reset gate, candidate), ``h_proj`` (V to D), ``gamma`` and ``beta`` (2, Z) (z to query and
    key), ``norm``, ``rel_pos_bias``.
    """

    def __init__(self, cfg: Any, side: MegaSide) -> None:
        self_longest = side.chunk_size if side.chunk_size > 0 else side.max_positions
        super().__init__(cfg, side, self_longest, cfg.mega_feature_dropout_whole)
        self.causal = side.name == "decoder"
        self.site = Site.DECODER_SELF if self.causal else Site.ENCODER_SELF
        self.chunk_size = side.chunk_size
        counts_positions = self.chunk_size > 0 or (self.causal and self.attention != "softmax")
        self.aligns = counts_positions and not cfg.mega_chunk_by_column
        self.sizes = (side.embed_dim, side.z_dim, side.hidden_dim, side.embed_dim)
        self.move = MovingAverage(
            side.embed_dim, side.n_dim, not self.causal, cfg.truncation_length or 0
        )
        self.v_proj = linear(side, side.embed_dim, side.hidden_dim)
        self.mx_proj = linear(side, side.embed_dim, sum(self.sizes))
        self.h_proj = linear(side, side.hidden_dim, side.embed_dim)
        self.gamma = nn.Parameter(torch.empty(2, side.z_dim).normal_(std=0.02))
        self.beta = nn.Parameter(torch.zeros(2, side.z_dim))

    def forward(
        self, x_BTD: Tensor, padding_mask_BT: Tensor | None, log: AttentionLog | None = None
    ) -> Tensor:
        """Return (B, T, D) for whole sequences."""
        if not self.aligns or padding_mask_BT is None:
            return self._unit(x_BTD, padding_mask_BT, log)
        lead = leading_padding(padding_mask_BT)
        log = log and log.through(lambda weights: shifted(shifted(weights, -lead, 2), -lead, 3))
        y = self._unit(shifted(x_BTD, lead), shifted(padding_mask_BT, lead), log)
        return shifted(y, -lead)

    def _unit(self, x: Tensor, mask: Tensor | None, log: AttentionLog | None) -> Tensor:
        source = self.before(x)
        projected = self._project(self.move(source, mask))
        value = self.activation(self.v_proj(source))
        attended = self._attend(projected, value, mask, log)
        return self._finish(x, projected, attended)

    def _project(self, averaged: Tensor) -> _Projected:
        parts = self.mx_proj(self.dropout(averaged)).split(self.sizes, dim=-1)
        z = F.silu(parts[1])
        query, key = z * self.gamma[0] + self.beta[0], z * self.gamma[1] + self.beta[1]
        return _Projected(parts[0], query, key, F.silu(parts[2]), parts[3])

    def _finish(self, x: Tensor, projected: _Projected, attended: Tensor) -> Tensor:
        candidate = projected.candidate_D + self.h_proj(attended * projected.reset_V)
        return self.gated(x, candidate, projected.update_D)

    def _attend(
        self, projected: _Projected, value: Tensor, mask: Tensor | None, log: AttentionLog | None
    ) -> Tensor:
        batch, length, _ = value.shape
        size = self.chunk_size if 0 < self.chunk_size < length else length
        query, key, value = (_chunked(t, size) for t in (projected.query_Z, projected.key_Z, value))
        mask = self._chunked_mask(mask, batch, length, size)
        check_length(self.rel_pos_bias, size, lambda: _longest(mask, size))
        query, key = query.flatten(0, 1), key.flatten(0, 1)
        value = self.hidden_dropout(value).flatten(0, 1)
        line, record = self.rel_pos_bias.line(size, size), None
        if log is not None:
            record = partial(_record, log, self.site, batch, length)
        attended = self.attended(query, key, value, line, mask, self.causal, record)
        return attended.view(batch, -1, value.size(-1))[:, :length]

    def _chunked_mask(
        self, mask: Tensor | None, batch: int, length: int, size: int
    ) -> Tensor | None:
        missing = -length % size
        if mask is None:
            if not missing or self.causal:
                return None  # what fills the last chunk lies in the future
            mask = self.v_proj.weight.new_zeros(batch, length, dtype=torch.bool)
        return F.pad(mask, (0, missing), value=True).view(-1, size)

    def step(self, x_RnD: Tensor, cache: SelfCache, log: AttentionLog | None = None) -> Tensor:
        """Return (R, n, D) for the next n positions."""
        source = self.before(x_RnD)
        projected = self._project(cache.average.step(source))
        value = self.hidden_dropout(self.activation(self.v_proj(source)))
        return self._finish(x_RnD, projected, self._attend_next(projected, value, cache, log))

    def _attend_next(
        self, projected: _Projected, value: Tensor, cache: SelfCache, log: AttentionLog | None
    ) -> Tensor:
        outputs: list[Tensor] = []
        recorded: list[Tensor] = []
        reach: list[Tensor] = []
        new, before = value.size(1), cache.length
        for start, end in cache.pieces(new):
            key, values = cache.append(projected.key_Z[:, start:end], value[:, start:end])
            keys = key.size(1)
            check_length(self.rel_pos_bias, keys)
            line = self.rel_pos_bias.line(end - start, keys, keys - (end - start))
            query, record = projected.query_Z[:, start:end], None
            if log is not None:
                record = partial(_record_part, recorded, reach, (before + end - keys, new - end))
            outputs.append(self.attended(query, key, values, line, None, True, record))
        if log is not None:
            log.add(self.site, torch.cat(recorded, 1)[:, None], torch.cat(reach, 1)[:, None])
        return torch.cat(outputs, dim=1)


def _chunked(x_BTD: Tensor, size: int) -> Tensor:
    """Return (B, K, C, D), filled up with zeros."""
    filled = F.pad(x_BTD, (0, 0, 0, -x_BTD.size(1) % size))
    return filled.view(x_BTD.size(0), -1, size, x_BTD.size(-1))


def _longest(mask_MT: Tensor | None, length: int) -> int:
    return length if mask_MT is None else int((~mask_MT).sum(dim=-1).amax())


def _record(log: AttentionLog, site: Site, batch: int, length: int, weights_MCC: Tensor) -> None:
    log.add(site, *_over_all(weights_MCC, batch, length))


def _record_part(
    recorded: list[Tensor], reach: list[Tensor], outside: tuple[int, int], weights: Tensor
) -> None:
    """Keep the weights of some steps, and 1 for their keys, among ``outside`` keys without any."""
    recorded.append(F.pad(weights, outside))
    reach.append(F.pad(torch.ones_like(weights, dtype=torch.bool), outside))


def _over_all(weights_MCC: Tensor, batch: int, length: int) -> tuple[Tensor, Tensor | None]:
    """Return the weights of chunks as (B, 1, T, T), and which keys they reach if not all."""
    weights = _block_diagonal(weights_MCC, batch)[:, None, :length, :length]
    if weights_MCC.size(0) == batch:
        return weights, None
    reach = _block_diagonal(torch.ones_like(weights_MCC), batch)[:, None, :length, :length]
    return weights, reach.bool()


def _block_diagonal(weights_MCC: Tensor, batch: int) -> Tensor:
    blocks = weights_MCC.unflatten(0, (batch, -1))
    chunks = torch.eye(blocks.size(1), device=blocks.device, dtype=blocks.dtype)
    return torch.einsum("bkij,kl->bkilj", blocks, chunks).flatten(3, 4).flatten(1, 2)


def _record_cross(
    log: AttentionLog, lead_B: Tensor | None, shape: torch.Size, weights_BQS: Tensor
) -> None:
    """Log the weights of Q = group * n queries of each sentence, by the columns of the source."""
    by_column = weights_BQS if lead_B is None else shifted(weights_BQS, -lead_B, 2)
    log.add(Site.CROSS, by_column.reshape(shape[0], 1, shape[1], -1))


class CrossCache:
    """Keys and values of the memory, one row for each sentence, and the steps taken.

    Attributes:
        key_BSZ: keys; unless counted by column, each row begins with its first real token.
        value_BSD: values, likewise.
        padding_mask_BS: True at padding, likewise; None if there is none.
        lead_B: by how much the rows were moved; None if they were not.
        length: target positions so far.
    """

    def __init__(
        self, key: Tensor, value: Tensor, mask: Tensor | None, lead: Tensor | None
    ) -> None:
        self.key_BSZ, self.value_BSD, self.padding_mask_BS, self.lead_B = key, value, mask, lead
        self.length = 0

    def reorder_memory(self, order_B: Tensor) -> None:
        """Let row b be the old row ``order_B[b]``."""
        self.key_BSZ = self.key_BSZ.index_select(0, order_B)
        self.value_BSD = self.value_BSD.index_select(0, order_B)
        if self.padding_mask_BS is not None:
            self.padding_mask_BS = self.padding_mask_BS.index_select(0, order_B)
        if self.lead_B is not None:
            self.lead_B = self.lead_B.index_select(0, order_B)


class GatedCrossAttention(GatedUnit):
    """Single-head attention to the memory with two gates, as released; the paper has none.

    The distance of a target and a source position is that of their numbers in the sentences,
    unless counted by column.

    Parameters: ``q_proj`` (D to D + D + Z: update gate, reset gate, query), ``k_proj`` (to Z) and
    ``v_proj`` (to D) from the memory, ``h_proj`` (D to D), ``norm``, ``rel_pos_bias``.
    """

    def __init__(self, cfg: Any, side: MegaSide) -> None:
        longest = max(cfg.max_source_positions, cfg.max_target_positions)
        super().__init__(cfg, side, longest, False)
        self.aligns = not cfg.mega_bias_by_column
        self.sizes = (side.embed_dim, side.embed_dim, side.z_dim)
        self.k_proj = linear(side, side.memory_dim, side.z_dim)
        self.v_proj = linear(side, side.memory_dim, side.embed_dim)
        self.q_proj = linear(side, side.embed_dim, sum(self.sizes))
        self.h_proj = linear(side, side.embed_dim, side.embed_dim)

    def memory_cache(self, memory: Memory) -> CrossCache:
        """Project the memory once, for all steps."""
        x, mask, lead = memory.x_BSC, memory.padding_mask_BS, None
        if self.aligns and mask is not None:
            lead = leading_padding(mask)
            x, mask = shifted(x, lead), shifted(mask, lead)
        value = self.hidden_dropout(self.activation(self.v_proj(x)))
        return CrossCache(self.k_proj(x), value, mask, lead)

    def forward(
        self,
        x_BTD: Tensor,
        padding_mask_BT: Tensor | None,
        memory: Memory,
        log: AttentionLog | None = None,
    ) -> Tensor:
        """Return (B, T, D) for whole target sequences."""
        cache = self.memory_cache(memory)
        if not self.aligns or padding_mask_BT is None:
            return self._unit(x_BTD, cache, padding_mask_BT, log)
        lead = leading_padding(padding_mask_BT)
        log = log and log.through(lambda weights: shifted(weights, -lead, 2))
        y = self._unit(shifted(x_BTD, lead), cache, shifted(padding_mask_BT, lead), log)
        return shifted(y, -lead)

    def step(self, x_RnD: Tensor, cache: CrossCache, log: AttentionLog | None = None) -> Tensor:
        """Return (R, n, D) for the next n positions of R = B * group hypotheses."""
        y = self._unit(x_RnD, cache, None, log)
        cache.length += x_RnD.size(1)
        return y

    def _unit(
        self, x: Tensor, cache: CrossCache, mask: Tensor | None, log: AttentionLog | None
    ) -> Tensor:
        new = x.size(1)
        update, reset, query = self.q_proj(self.before(x)).split(self.sizes, dim=-1)
        line, record = self._line(cache, new, mask), None
        if log is not None:
            record = partial(_record_cross, log, cache.lead_B, x.shape[:2])
        # the hypotheses of a sentence are just more queries
        query = query.reshape(cache.key_BSZ.size(0), -1, query.size(-1))
        attended = self.attended(
            query, cache.key_BSZ, cache.value_BSD, line, cache.padding_mask_BS, False, record, new
        ).view(x.shape)
        return self.gated(x, self.h_proj(attended * F.silu(reset)), update)

    def _line(self, cache: CrossCache, new: int, mask: Tensor | None) -> Tensor:
        end, keys = cache.length + new, cache.key_BSZ.size(1)
        check_length(
            self.rel_pos_bias,
            max(end, keys),
            lambda: max(
                cache.length + columns_used(mask, new), columns_used(cache.padding_mask_BS, keys)
            ),
        )
        return self.rel_pos_bias.line(new, keys, cache.length)
