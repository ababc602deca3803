"""Luna's causal attention by outer products of all positions and their running sum (2021).

Shapes: N = B H rows, T length, d width of a head, l length of P.
"""

from __future__ import annotations

import torch
from torch import Tensor


def running_product(x_NTd: Tensor, y_NTd: Tensor, z_NTe: Tensor) -> Tensor:
    """Return x_t . (sum over j <= t of y_j^T z_j), (N, T, e).

    All T sums of d x e outer products are in memory at once.
    """
    sums = torch.matmul(y_NTd.unsqueeze(3), z_NTe.unsqueeze(2)).cumsum(dim=1)
    return torch.matmul(x_NTd.unsqueeze(2), sums).squeeze(2)


def causal_mean(x_NTd: Tensor, y_NTd: Tensor, z_NTe: Tensor) -> Tensor:
    """Return the running product over the number of positions so far, (N, T, e)."""
    length = x_NTd.size(1)
    counts = torch.arange(1, length + 1, dtype=x_NTd.dtype, device=x_NTd.device)
    return running_product(x_NTd, y_NTd, z_NTe) / counts.unsqueeze(-1)


def causal_attention(q_NTd: Tensor, k_NTd: Tensor, v_NTd: Tensor, pack_NTl: Tensor) -> Tensor:
    """Return (N, T, d): the positions so far packed into P, and read again by each position.

    Args:
        q_NTd: scaled queries.
        k_NTd: keys.
        v_NTd: values.
        pack_NTl: positive weights of each position for the rows of P.
    """
    weights = causal_mean(q_NTd, k_NTd, pack_NTl).softmax(dim=-1)
    return causal_mean(weights, pack_NTl, v_NTd)
