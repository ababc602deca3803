"""How sparse, how spread and how diverse attention weights are, as sums that add up.

Shapes: B batch, H heads, T queries, S keys.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class AttentionSums(NamedTuple):
    """What the statistics of one attention are ratios of; sums over batches add field by field.

    Only queries that are no padding and see at least one key count; a query's row is null if all
    keys that it sees weigh exactly 0.

    Attributes:
        keys_H: visible keys of all queries.
        zeros_H: those of them that weigh exactly 0.
        rows_H: queries.
        null_H: queries with a null row.
        entropy_H: sum of the entropies, in nats, of the rows that are not null.
        diversity: sum over queries of the Jensen-Shannon divergence of the heads, in nats; a null
            row has all its mass on a slot of its own.
        queries: how many queries ``diversity`` sums over.
        dense_diversity: the same over the queries for which no head is null.
        dense_queries: how many those are.
    """

    keys_H: Tensor
    zeros_H: Tensor
    rows_H: Tensor
    null_H: Tensor
    entropy_H: Tensor
    diversity: Tensor
    queries: Tensor
    dense_diversity: Tensor
    dense_queries: Tensor

    def plus(self, other: AttentionSums) -> AttentionSums:
        """Return the sums of both."""
        return AttentionSums(*(a + b for a, b in zip(self, other, strict=True)))


def attention_sums(weights_BHTS: Tensor, visible_BTS: Tensor, query_BT: Tensor) -> AttentionSums:
    """Return the sums that a batch adds (float64).

    Definitions: micro-averaged sparsity and null rates; the generalised Jensen-Shannon divergence
    of Correia et al. 2019 (section 5.2), Ent(mean of heads) - mean of Ent(head).

    Args:
        weights_BHTS: weights before dropout; their magnitude counts, and rows need not sum to one.
        visible_BTS: True where a query may look (broadcastable; (B, H, T, S) if heads differ).
        query_BT: True at queries that are no padding (broadcastable).
    """
    if visible_BTS.dim() == 3:
        visible_BTS = visible_BTS.unsqueeze(1)
    visible = (visible_BTS & query_BT[:, None, :, None]).expand_as(weights_BHTS)
    weights = weights_BHTS.abs().masked_fill(~visible, 0.0)
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    seen_BHT = visible.any(dim=-1)
    total = weights.sum(dim=-1, keepdim=True)
    null_BHT = seen_BHT & total.squeeze(-1).eq(0)
    shares = weights / total.masked_fill(total.eq(0), 1.0)
    entropy_BHT = torch.special.entr(shares).sum(dim=-1)

    counted_BT = seen_BHT.all(dim=1)
    with_null = torch.cat([shares, null_BHT.unsqueeze(-1).to(shares.dtype)], dim=-1)
    diversity_BT = torch.special.entr(with_null.mean(dim=1)).sum(dim=-1) - entropy_BHT.mean(dim=1)
    dense_BT = counted_BT & ~null_BHT.any(dim=1)
    over = (0, 2)
    return AttentionSums(
        _sum(visible.sum(dim=-1), over),
        _sum((visible & weights_BHTS.eq(0)).sum(dim=-1), over),
        _sum(seen_BHT, over),
        _sum(null_BHT, over),
        _sum(entropy_BHT.masked_fill(~seen_BHT, 0.0), over),
        _sum(diversity_BT.masked_fill(~counted_BT, 0.0), (0, 1)),
        _sum(counted_BT, (0, 1)),
        _sum(diversity_BT.masked_fill(~dense_BT, 0.0), (0, 1)),
        _sum(dense_BT, (0, 1)),
    )


def _sum(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return x.sum(dim=dims, dtype=torch.float64)


def visible_keys(
    query_padding_BT: Tensor, key_padding_BS: Tensor, causal: bool, reach: Tensor | None = None
) -> Tensor:
    """Return (B, 1 or H, T, S), True where a query may look.

    Args:
        query_padding_BT: True at padding of the queries.
        key_padding_BS: True at padding of the keys.
        causal: query t sees the keys up to t only.
        reach: what the mechanism can read at all, (B, H, T, S) or of sizes 1; None: everything.
    """
    visible = ~key_padding_BS[:, None, None, :]
    visible = visible.expand(-1, -1, query_padding_BT.size(1), -1)
    if causal:
        visible = visible.tril()
    return visible if reach is None else visible & reach
