"""Attention with scores and weights in memory, as the official codes have it.

Queries arrive scaled. Rows that see no key are not looked after: they become NaN, as there.

Shapes: B batch, H heads, T queries, S keys, d head width, C = H d.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

RowMap = Callable[[Tensor], Tensor]


def causal_bias(queries: int, keys: int, like: Tensor) -> Tensor:
    """Return the (T, S) matrix that is added to causal scores: -inf at the future."""
    future = like.new_full((queries, keys), float("-inf"))
    return future.triu(keys - queries + 1)


def masked_scores(
    q_BHTd: Tensor, k_BHSd: Tensor, padding_mask_BS: Tensor | None, causal: bool
) -> Tensor:
    """Return the (B, H, T, S) scores, -inf where a key may not be seen."""
    scores = q_BHTd @ k_BHSd.transpose(-1, -2)
    if causal:
        scores = scores + causal_bias(q_BHTd.size(2), k_BHSd.size(2), scores)
    if padding_mask_BS is not None:
        scores = scores.masked_fill(padding_mask_BS[:, None, None, :], float("-inf"))
    return scores


def softmax(scores: Tensor) -> Tensor:
    """Return the softmax over the keys, in float32 at least."""
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return F.softmax(scores, dim=-1, dtype=dtype)


def topk(scores: Tensor, kept: int) -> Tensor:
    """Return the softmax over the scores not below the k-th largest (Zhao et al. 2019)."""
    kth = scores.topk(min(kept, scores.size(-1)), dim=-1).values[..., -1:]
    return softmax(scores.masked_fill(scores < kth, float("-inf")))


def package_map(name: str) -> RowMap:
    """Return ``sparsemax`` or ``entmax15`` of the ``entmax`` package, which sort their rows."""

    def row_map(scores: Tensor) -> Tensor:
        import entmax  # an extra requirement, which the other forms do without

        weights: Tensor = getattr(entmax, name)(scores, dim=-1)
        return weights

    return row_map


def attention(
    row_map: RowMap,
    q_BHTd: Tensor,
    k_BHSd: Tensor,
    v_BHSd: Tensor,
    padding_mask_BS: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Return (B, H, T, d): the values weighed by a map of the rows of scores.

    Args:
        row_map: scores to weights.
        q_BHTd: scaled queries.
        k_BHSd: keys.
        v_BHSd: values.
        padding_mask_BS: True at keys nobody may see.
        causal: query t sees the keys up to S - T + t only.
        dropout: of the weights.
    """
    weights = row_map(masked_scores(q_BHTd, k_BHSd, padding_mask_BS, causal))
    return F.dropout(weights.to(v_BHSd.dtype), dropout) @ v_BHSd


def rela(
    activation: RowMap,
    q_BHTd: Tensor,
    k_BHSd: Tensor,
    v_BHSd: Tensor,
    padding_mask_BS: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Return (B, H, T, d) of rectified linear attention (Zhang et al. 2021), not normalised.

    The arguments are those of ``attention``; hidden weights are zeroed by products with masks.
    """
    weights = activation(q_BHTd @ k_BHSd.transpose(-1, -2))
    if padding_mask_BS is not None:
        weights = weights * (~padding_mask_BS)[:, None, None, :].to(weights.dtype)
    if causal:
        seen = weights.new_ones(weights.shape[-2:]).tril(k_BHSd.size(2) - q_BHTd.size(2))
        weights = weights * seen
    return F.dropout(weights, dropout) @ v_BHSd


def rms_norm(h_BTC: Tensor, scale_C: Tensor, gate_C: Tensor | None, eps: float) -> Tensor:
    """Return the joined heads over their root mean square, scaled, and gated if there is a gate."""
    normalised = scale_C * (h_BTC * torch.rsqrt(torch.mean(h_BTC**2, dim=-1, keepdim=True) + eps))
    return normalised if gate_C is None else torch.sigmoid(gate_C * h_BTC) * normalised
