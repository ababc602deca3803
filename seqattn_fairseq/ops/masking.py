"""Which query may see which key.

Shapes: B batch, T queries, S keys, d head width. True hides.
"""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """Return (T, S): True where a key lies in the future of a query.

    The last query is at the last key: with fewer queries than keys, the first keys are history.
    """
    ones = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return ones.triu(keys - queries + 1)


def hidden_pairs(
    q: Tensor, k: Tensor, padding_mask_BS: Tensor | None, causal: bool
) -> Tensor | None:
    """Return which scores are hidden, broadcastable to (B, ..., T, S); None if none is.

    Args:
        q: (B, ..., T, d) queries, with or without heads.
        k: (B, ..., S, d) keys.
        padding_mask_BS: True at keys nobody may see; (B, T, S) tells it for each query, and order
            does not count then; None if there are none.
        causal: query t sees the keys up to S - T + t only.
    """
    if padding_mask_BS is not None and padding_mask_BS.dim() == 3:
        return padding_mask_BS.view(
            padding_mask_BS.size(0), *[1] * (k.dim() - 3), *padding_mask_BS.shape[1:]
        )
    queries, keys = q.size(-2), k.size(-2)
    hidden = causal_mask(queries, keys, q.device) if causal and queries > 1 else None
    if padding_mask_BS is None:
        return hidden
    padding = padding_mask_BS.view(padding_mask_BS.size(0), *[1] * (k.dim() - 2), keys)
    return padding if hidden is None else hidden | padding


def visible_counts(q: Tensor, k: Tensor, padding_mask_BS: Tensor | None, causal: bool) -> Tensor:
    """Return how many keys each query sees, broadcastable to (B, ..., T, 1).

    The arguments are those of :func:`hidden_pairs`.
    """
    hidden = hidden_pairs(q, k, padding_mask_BS, causal)
    if hidden is None:
        return torch.full((1, 1), k.size(-2), device=k.device)
    return hidden.logical_not().sum(dim=-1, keepdim=True)
