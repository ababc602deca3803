"""Light- and DynamicConv as fairseq computes them without its CUDA extension (Wu et al. 2019).

Shapes: T length, B batch, C = H R channels, H heads, K taps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def unfold(x_TBC: Tensor, taps: Tensor, left: int) -> Tensor:
    """Return (T, B, C): a small matrix times a vector for every position, sentence and head.

    The gradient of the unfolded x takes K times the memory of x.

    Args:
        x_TBC: zero at padding.
        taps: normalised, (T, B, H, K) or, the same at every position, (H, K).
        left: taps before the current position.
    """
    length, batch, channels = x_TBC.shape
    heads, size = taps.shape[-2:]
    around = F.pad(x_TBC, (0, 0, 0, 0, left, size - 1 - left))
    windows = around.unfold(0, size, 1).reshape(-1, channels // heads, size)
    weights = taps.expand(length, batch, heads, size).reshape(-1, size, 1)
    return torch.bmm(windows, weights).view(length, batch, channels)


def band(x_TBC: Tensor, taps: Tensor, left: int) -> Tensor:
    """Return (T, B, C): a matrix product with the taps as bands of T x T matrices.

    Memory and time grow with T^2. Arguments as above.
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
