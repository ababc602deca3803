"""The end of every sub-block: x + dropout(y), and the LayerNorm after it in post-norm layers.

Shapes: B batch, T length, C width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.ops import backend
from seqattn_fairseq.ops.backend import select
from seqattn_fairseq.ops.dropout import drawn, draws_cheaply

# A row lies in the registers of one program.
_WIDEST_KERNEL = 8192


class LayerNorm(NamedTuple):
    """What torch's LayerNorm of the last dimension is made of.

    Attributes:
        weight_C: scale; None for ones.
        bias_C: shift; None for zeros.
        eps: added to the variance.
    """

    weight_C: Tensor | None
    bias_C: Tensor | None
    eps: float

    def __call__(self, x_BTC: Tensor) -> Tensor:
        """Return the normalised (B, T, C)."""
        return F.layer_norm(x_BTC, x_BTC.shape[-1:], self.weight_C, self.bias_C, self.eps)


def residual_reference(x: Tensor, y: Tensor, rate: float, norm: LayerNorm | None) -> Tensor:
    """Return the sum, or its LayerNorm, by the formula."""
    total = x + (F.dropout(y, rate) if rate > 0 else y)
    return total if norm is None else norm(total)


def _by_torch(x: Tensor, y: Tensor, rate: float, norm: LayerNorm | None) -> Tensor:
    if not draws_cheaply(y, rate):
        return residual_reference(x, y, rate, norm)
    kept, scale = drawn(y.shape, rate)
    total = torch.add(x, y * kept, alpha=scale)
    return total if norm is None else norm(total)


def _by_kernel(x: Tensor, y: Tensor, rate: float, norm: LayerNorm | None) -> Tensor:
    plain = x.dtype == y.dtype != torch.float64 and x.shape == y.shape
    affine = norm is None or (norm.weight_C is not None and norm.bias_C is not None)
    if not (plain and affine and 0 < x.size(-1) <= _WIDEST_KERNEL and rate < 1):
        return _by_torch(x, y, rate, norm)
    if rate == 0 and norm is None:
        return x + y
    backend.require_kernels(x)
    from seqattn_fairseq.ops.kernels.residual import residual_rows

    total: Tensor = residual_rows(x, y, rate, norm)
    return total


_FORMS = {"reference": residual_reference, "torch": _by_torch, "triton": _by_kernel}


def residual(x: Tensor, y: Tensor, rate: float = 0.0, norm: LayerNorm | None = None) -> Tensor:
    """Return ``norm(x + dropout(y))``, (B, T, C); without ``norm``, the sum.

    Args:
        x: what goes past the sub-block.
        y: what comes out of it.
        rate: probability of dropping an entry of y; 0 outside training.
        norm: None for layers that normalise before.
    """
    total: Tensor = select("residual sum", _FORMS)(x, y, rate, norm)
    return total
