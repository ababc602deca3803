"""Which query may see which key.

Shapes: B batch, H heads, T queries, S keys. True hides.
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
    scores_BHTS: Tensor, padding_mask_BS: Tensor | None, causal: bool
) -> Tensor | None:
    """Return what hides entries of the scores, broadcastable to (B, H, T, S); None if nothing."""
    queries, keys = scores_BHTS.shape[-2:]
    hidden = None
    if causal and queries > 1:
        hidden = causal_mask(queries, keys, scores_BHTS.device)
    if padding_mask_BS is not None:
        padding = padding_mask_BS[:, None, None, :]
        hidden = padding if hidden is None else hidden | padding
    return hidden
