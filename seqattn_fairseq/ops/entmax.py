"""alpha-entmax for any alpha > 1, by bisection (Peters et al. 2019; Correia et al. 2019).

``ops.sparse`` has its two exact cases, alpha = 2 (sparsemax) and 1.5, which attention uses.

Shapes: N rows of D scores; alpha is one number, or (N, 1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# halvings of an interval no longer than 1: enough for float64
_STEPS = 60


def _threshold(z: Tensor, power: Tensor) -> Tensor:
    """Return tau (N, 1) with sum of relu(z - tau)^power = 1, from rows whose maximum is 0."""
    low = torch.full_like(z[..., :1], -1.0)
    high = torch.zeros_like(low)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        mass = (z - middle).clamp(min=0).pow(power).sum(dim=-1, keepdim=True)
        low, high = torch.where(mass >= 1, middle, low), torch.where(mass >= 1, high, middle)
    return low


class _Entmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, alpha: Tensor) -> Tensor:
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        top = z.amax(dim=-1, keepdim=True)
        scaled = (alpha - 1) * (z - top.masked_fill(top.isneginf(), 0.0))
        power = 1 / (alpha - 1)
        p = (scaled - _threshold(scaled, power)).clamp(min=0).pow(power)
        total = p.sum(dim=-1, keepdim=True)
        p = p / total.masked_fill(total.eq(0), 1.0)
        ctx.save_for_backward(p, alpha)
        return p

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        p, alpha = ctx.saved_tensors
        s = torch.where(p > 0, p.pow(2 - alpha), 0.0)
        total = s.sum(dim=-1, keepdim=True)
        share = s / total.masked_fill(total.eq(0), 1.0)
        d_z = s * (grad - (share * grad).sum(dim=-1, keepdim=True))
        if not ctx.needs_input_grad[1]:
            return d_z, None
        entropy = torch.special.xlogy(p, p)  # p log p, 0 at 0
        step = (p - share) / (alpha - 1).square()
        step = step - (entropy - share * entropy.sum(dim=-1, keepdim=True)) / (alpha - 1)
        return d_z, (grad * step).sum(dim=-1, keepdim=True).sum_to_size(alpha.shape)


def entmax(z: Tensor, alpha: Tensor | float) -> Tensor:
    """Return alpha-entmax of each row, in at least float32; a row that hides everything is zero.

    p = relu((alpha - 1) z - tau)^(1 / (alpha - 1)) with the tau that makes it sum to 1.

    Args:
        z: scores, -inf at what is hidden.
        alpha: above 1, one number or one per row (..., 1); gradients reach it, too.
    """
    dtype = torch.promote_types(z.dtype, torch.float32)
    weights: Tensor = _Entmax.apply(  # type: ignore[no-untyped-call]
        z, torch.as_tensor(alpha, dtype=dtype, device=z.device)
    )
    return weights
