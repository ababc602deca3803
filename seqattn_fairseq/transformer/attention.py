"""Multi-head attention as a mixer: what softmax, ReLA and their peers share.

A variant brings ``attend``; projections, heads, caches and the three places are here.

Shapes: B batch, R rows (hypotheses), T queries, S keys, C width, H heads, d = C / H.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from functools import partial

from torch import Tensor, nn

from seqattn_fairseq.transformer.cache import BeamCache, Memory, MemoryCache
from seqattn_fairseq.transformer.linear import Linear, together
from seqattn_fairseq.transformer.padding import all_on_real_rows, on_real_rows


class Site(str, Enum):
    """The three places of an encoder-decoder Transformer where positions are mixed."""

    ENCODER_SELF = "encoder_self"
    DECODER_SELF = "decoder_self"
    CROSS = "cross"


class AttentionLog:
    """Receives the weights of every attention as a pass goes along; this one keeps them.

    Attributes:
        weights: site -> one (B, H, T, S) tensor of pre-dropout weights per layer.
    """

    def __init__(self) -> None:
        self.weights: dict[str, list[Tensor]] = {}

    def add(self, site: Site, weights_BHTS: Tensor, reach: Tensor | None = None) -> None:
        """Take the weights of the next layer's attention at ``site``.

        Args:
            site: where the attention stands.
            weights_BHTS: weights before dropout.
            reach: (B, H, T, S) or of sizes 1, True where the mechanism can read a key at all (its
                chunk, its kernel), whatever padding and causality say; None: anywhere.
        """
        self.weights.setdefault(site.value, []).append(weights_BHTS)

    def through(self, change: Callable[[Tensor], Tensor]) -> AttentionLog:
        """Return a log that hands weights and reach on to this one, each changed first."""
        return _ChangingLog(self, change)

    def handing_on(self, log: AttentionLog | None) -> AttentionLog:
        """Return a log that adds to this one and, where there is one, to another."""
        return self if log is None else _ForkedLog(self, log)


class _ForkedLog(AttentionLog):
    def __init__(self, *logs: AttentionLog) -> None:
        super().__init__()
        self.logs = logs

    def add(self, site: Site, weights_BHTS: Tensor, reach: Tensor | None = None) -> None:
        """See :class:`AttentionLog`."""
        for log in self.logs:
            log.add(site, weights_BHTS, reach)


class _ChangingLog(AttentionLog):
    def __init__(self, log: AttentionLog, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.log, self.change = log, change

    def add(self, site: Site, weights_BHTS: Tensor, reach: Tensor | None = None) -> None:
        """See :class:`AttentionLog`."""
        changed_reach = None if reach is None else self.change(reach)
        self.log.add(site, self.change(weights_BHTS), changed_reach)


class MultiheadAttention(nn.Module):
    """Query, key, value and output projections around an attention function.

    Parameters are named, shaped and initialised as in fairseq's MultiheadAttention.

    Args:
        site: where it stands; decides causality and what the keys are.
        embed_dim: C of the queries and the output.
        num_heads: H.
        memory_dim: width of the keys' and values' source, if not C.
        dropout: dropout of attention weights.
    """

    def __init__(
        self,
        site: Site,
        embed_dim: int,
        num_heads: int,
        memory_dim: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        memory_dim = embed_dim if memory_dim is None else memory_dim
        self.site = site
        self.causal = site is Site.DECODER_SELF
        self.num_heads = num_heads
        self.scaling = (embed_dim // num_heads) ** -0.5
        self.dropout = dropout
        self.retain_dropout = False
        self.k_proj = Linear(memory_dim, embed_dim)
        self.v_proj = Linear(memory_dim, embed_dim)
        self.q_proj = Linear(embed_dim, embed_dim)
        self.out_proj = Linear(embed_dim, embed_dim)
        self.reset_parameters(1 / math.sqrt(2) if memory_dim == embed_dim else 1.0)

    def reset_parameters(self, gain: float) -> None:
        """Initialise: Glorot uniform, with ``gain`` for queries, keys and values."""
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(projection.weight, gain=gain)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def attend(
        self,
        q_BHTd: Tensor,
        k_BHSd: Tensor,
        v_BHSd: Tensor,
        padding_mask_BS: Tensor | None,
        dropout: float,
    ) -> Tensor:
        """Return the joined heads (B, T, C); the queries are scaled. A variant's own part."""
        raise NotImplementedError(f"{type(self).__name__} does not define attend()")

    def weights(self, q_BHTd: Tensor, k_BHSd: Tensor, padding_mask_BS: Tensor | None) -> Tensor:
        """Return the (B, H, T, S) pre-dropout weights that ``attend`` uses, for analysis."""
        raise NotImplementedError(f"{type(self).__name__} does not define weights()")

    def forward(
        self,
        x_BTC: Tensor,
        context_BSC: Tensor,
        padding_mask_BS: Tensor | None,
        log: AttentionLog | None = None,
        query_mask_BT: Tensor | None = None,
    ) -> Tensor:
        """Return (B, T, C) for whole sequences.

        Args:
            x_BTC: where the queries come from.
            context_BSC: where keys and values come from: ``x_BTC`` itself, or the memory.
            padding_mask_BS: True at padding of the context; None if there is none.
            log: receives the weights under the name of the site.
            query_mask_BT: True at queries whose outputs nobody reads (if they come from elsewhere
                than keys and values); None for none.
        """
        if x_BTC is context_BSC:
            query_mask_BT = padding_mask_BS
            q, k, v = self._projected(x_BTC, padding_mask_BS, "qkv")
        else:
            (q,) = self._projected(x_BTC, query_mask_BT, "q")
            k, v = self._projected(context_BSC, padding_mask_BS, "kv")
        attended = self._attended(q, k, v, padding_mask_BS, log)
        return on_real_rows(self, self.out_proj, attended, query_mask_BT)

    def memory_cache(self, memory: Memory) -> MemoryCache:
        """Project the memory once, for all steps (cross-attention)."""
        k, v = self._projected(memory.x_BSC, None, "kv")
        return MemoryCache(k, v, memory.padding_mask_BS)

    def step_self(self, x_RnC: Tensor, cache: BeamCache, log: AttentionLog | None = None) -> Tensor:
        """Return (R, n, C) for the next n positions, appending them to the cache."""
        q, k, v = self._projected(x_RnC, None, "qkv")
        k, v, hidden = cache.append(k, v)
        if log is not None:
            log = log.through(
                lambda weights: cache.by_position(by_hypothesis(weights, x_RnC.size(1)))
            )
        # the hypotheses of a sentence are more queries
        q = q.transpose(1, 2).reshape(k.size(0), -1, *q.shape[1::2]).transpose(1, 2)
        out: Tensor = self.out_proj(self._attended(q, k, v, hidden, log).view_as(x_RnC))
        return out

    def step_cross(
        self, x_RnC: Tensor, cache: MemoryCache, log: AttentionLog | None = None
    ) -> Tensor:
        """Return (R, n, C) for the next n positions of R = B * group hypotheses."""
        # Positions do not see each other here: the beams of a sentence are just more queries.
        x = x_RnC.reshape(cache.key_BHSd.size(0), -1, x_RnC.size(-1))
        log = log and log.through(lambda weights: by_hypothesis(weights, x_RnC.size(1)))
        (q,) = self._projected(x, None, "q")
        y = self._attended(q, cache.key_BHSd, cache.value_BHSd, cache.padding_mask_BS, log)
        out: Tensor = self.out_proj(y)
        return out.view_as(x_RnC)

    def _projected(self, x_BTC: Tensor, mask_BT: Tensor | None, names: str) -> list[Tensor]:
        """Return heads (B, H, T, d) of x by the named projections, of "q" (scaled), "k", "v"."""
        maps = [getattr(self, f"{name}_proj") for name in names]
        parts = all_on_real_rows(self, partial(together, maps), x_BTC, mask_BT)
        if names[0] == "q":
            parts[0] = parts[0] * self.scaling
        return [self._heads(part) for part in parts]

    def _attended(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, log: AttentionLog | None
    ) -> Tensor:
        """Return the joined heads (B, T, C)."""
        if log is not None:
            log.add(self.site, self.weights(q, k, mask))
        dropout = self.dropout if self.training or self.retain_dropout else 0.0
        return self.attend(q, k, v, mask, dropout)

    def _heads(self, x_BTC: Tensor) -> Tensor:
        batch, length, width = x_BTC.shape
        return x_BTC.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)

    def make_generation_fast_(
        self,
        name: str,
        retain_dropout: bool = False,
        retain_dropout_modules: list[str] | None = None,
        **_: object,
    ) -> None:
        """Honour fairseq's ``--retain-dropout`` (dropout kept on while generating)."""
        named = retain_dropout_modules is None or type(self).__name__ in retain_dropout_modules
        self.retain_dropout = retain_dropout and named


def join_heads(x_BHTd: Tensor) -> Tensor:
    """Return (B, T, C) of (B, H, T, d): head h becomes the channels h d .. (h + 1) d - 1."""
    return x_BHTd.transpose(1, 2).flatten(2)


def by_hypothesis(x_BHTe: Tensor, positions: int) -> Tensor:
    """Return (R, H, n, e) of what has the n positions of a sentence's hypotheses in one row."""
    by_beam: Tensor = x_BHTe.unflatten(2, (-1, positions)).transpose(1, 2)
    return by_beam.flatten(0, 1)
