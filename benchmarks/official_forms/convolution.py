"""Light- and DynamicConv as fairseq computes them without its CUDA extension (Wu et al. 2019).

Shapes: T length, B batch, C = H R channels, H heads, K taps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def unfold(x: Tensor, taps: Tensor, left: int, time: int = 0) -> Tensor:
    """Return the shape of x: a small matrix times a vector for every position, sentence and head.

    The gradient of the unfolded x takes K times the memory of x.

    Args:
        x: (T, B, C), zero at padding.
        taps: normalised, (T, B, H, K) or, the same at every position, (H, K).
        left: taps before the current position.
        time: 1 for (B, T, C), and taps (B, T, H, K).
    """
    heads, size = taps.shape[-2:]
    beside = [0, 0] * (2 - time)
    around = F.pad(x, (*beside, left, size - 1 - left))
    windows = around.unfold(time, size, 1).reshape(-1, x.size(2) // heads, size)
    weights = taps.expand(*x.shape[:2], heads, size).reshape(-1, size, 1)
    return torch.bmm(windows, weights).view(x.shape)


def multiscale(
    x: Tensor, taps: Sequence[Tensor], lefts: Sequence[int], gate_N: Tensor | None, time: int = 0
) -> Tensor:
    """Return MUSE's convolutions of several widths, one after the other (Zhao et al. 2019).

    Their gated sum, or without a gate all side by side in the last dimension.
    """
    outputs = [unfold(x, t, left, time) for t, left in zip(taps, lefts, strict=True)]
    if gate_N is None:
        return torch.cat(outputs, dim=-1)
    shares = gate_N.softmax(dim=-1)
    weighed = [out * share for out, share in zip(outputs, shares.unbind(), strict=True)]
    return sum(weighed[1:], weighed[0])


def band(x_TBC: Tensor, taps: Tensor, left: int) -> Tensor:
    """Return (T, B, C): a matrix product with the taps as bands of T x T matrices.

    Memory and time grow with T^2. Arguments as above, time first.
    """
    length, batch, channels = x_TBC.shape
    heads, size = taps.shape[-2:]
    rows = batch * heads
    weights = taps.expand(length, batch, heads, size).reshape(length, rows, size).transpose(0, 1)
    wide = length + size - 1
    matrix = weights.new_zeros(rows, length, wide)
    # one entry further right in each row
    matrix.as_strided((rows, length, size), (length * wide, wide + 1, 1)).copy_(weights)
    x = x_TBC.reshape(length, rows, channels // heads).transpose(0, 1)
    out = torch.bmm(matrix.narrow(2, left, length), x)
    return out.transpose(0, 1).reshape(length, batch, channels)
