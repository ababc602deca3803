"""Depthwise convolution whose taps differ from head to head, and maybe from position to position.

Lightweight and Dynamic Convolutions (Wu et al. 2019), also the local branch of MUSE (Zhao et al.
2019). With h(c) the head of channel c (heads are contiguous blocks of channels) and x = 0 outside
the sequence:

    out[t, c] = sum over k of taps[t, h(c), k] x[t + k - left, c]

left = K - 1 makes it causal; the last tap is the rightmost position. K may be even, and may exceed
the length.

Shapes: B batch, T length, C = H R channels, H heads, R channels of a head, K taps, n new positions
of R rows when stepping, N blocks of L positions, W <= L + K - 1 the window of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from seqattn_fairseq.ops import backend
from seqattn_fairseq.ops.precision import exact_sums

# Adding shifted products beats multiplying with the band matrix up to a fifth of the length, and
# up to this many taps; measured forward and backward on a CPU.
_FEW_TAPS = 11
# Positions whose taps become one band matrix, or as many as there are taps; sequences of more than
# two such blocks are cut, so that time and memory grow with T and not with T^2.
_BLOCK = 32


def tap_softmax(logits_BTHK: Tensor, hidden_BTK: Tensor | None = None) -> Tensor:
    """Return softmax over the taps, in at least float32.

    Args:
        logits_BTHK: any leading shape (..., H, K).
        hidden_BTK: True at taps that get no weight, broadcastable to (..., K) without heads; the
            others then sum to one. A position without any tap left has taps of zero.
    """
    dtype = torch.promote_types(logits_BTHK.dtype, torch.float32)
    if hidden_BTK is None:
        return F.softmax(logits_BTHK, dim=-1, dtype=dtype)
    hidden = hidden_BTK.unsqueeze(-2)
    taps = F.softmax(logits_BTHK.masked_fill(hidden, float("-inf")), dim=-1, dtype=dtype)
    return taps.masked_fill(hidden, 0.0)


def taps_outside(
    length: int, kernel_size: int, left: int, padding_mask_BT: Tensor | None, device: torch.device
) -> Tensor:
    """Return (B or 1, T, K): True where a tap falls on padding or outside the sequence.

    Args:
        length: T.
        kernel_size: K.
        left: taps before the current position.
        padding_mask_BT: True at padding; None if there is none.
        device: where.
    """
    if padding_mask_BT is None:
        padding_mask_BT = torch.zeros(1, length, dtype=torch.bool, device=device)
    around = F.pad(padding_mask_BT, (left, kernel_size - 1 - left), value=True)
    outside: Tensor = around.unfold(1, kernel_size, 1)
    return outside


def band_matrix(taps_BTHK: Tensor, left: int) -> Tensor:
    """Return the taps as (B, H, T, T) weights of every position for every other."""
    length = taps_BTHK.size(1)
    return _skewed(taps_BTHK.transpose(1, 2))[..., left : left + length]


def _skewed(taps: Tensor) -> Tensor:
    """Return (..., L, W) of (..., L, K): row i begins at column i, the rest is zero."""
    rows, size = taps.shape[-2:]
    # rows of K + L entries, read again as rows of one entry less
    flat = F.pad(taps, (0, rows)).flatten(-2)[..., :-rows]
    skewed: Tensor = flat.unflatten(-1, (rows, rows + size - 1))
    return skewed


def _reachable(taps: Tensor, left: int, length: int) -> tuple[Tensor, int]:
    # taps that fall outside the sequence at every position only ever meet zeros
    first = max(0, left - length + 1)
    last = min(taps.size(-1), left + length)
    return taps[..., first:last], left - first


class _Bands(NamedTuple):
    """A convolution as products of band matrices with what blocks of positions see, head by head.

    Attributes:
        columns: those of L + K - 1 that are inside the sequence.
        windows_BNHWR: what the blocks see.
        taps_BNLHK: theirs, zero behind the end.
    """

    columns: slice
    windows_BNHWR: Tensor
    taps_BNLHK: Tensor

    def frame(self) -> tuple[Tensor, Tensor]:
        """Return zeros with room for the bands of a head, twice: (B N, L, W), and (B, N, L, K).

        The second view shows what the taps are in the first.
        """
        batch, blocks, rows, _, size = self.taps_BNLHK.shape
        frame = self.taps_BNLHK.new_zeros(batch, blocks, rows, rows + size - 1)
        return frame[..., self.columns].flatten(0, 1), _diagonals(frame, size)

    def products(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the bands (B N, L, W) and the windows (B N, W, R) of each head.

        All bands are one tensor, so that they stay in the cache.
        """
        band, taps = self.frame()
        heads = zip(self.taps_BNLHK.unbind(3), self.windows_BNHWR.unbind(2), strict=True)
        for taps_BNLK, window_BNWR in heads:
            taps.copy_(taps_BNLK)
            yield band, window_BNWR.flatten(0, 1)


def _bands(x_BTHR: Tensor, taps_BTHK: Tensor, left: int) -> _Bands:
    length, size = x_BTHR.size(1), taps_BTHK.size(-1)
    rows = max(_BLOCK, size)
    if length <= 2 * rows:
        windows = x_BTHR.unsqueeze(1).transpose(2, 3)
        return _Bands(slice(left, left + length), windows, taps_BTHK.unsqueeze(1))
    around = F.pad(x_BTHR, (0, 0, 0, 0, left, -length % rows + size - 1 - left))
    windows = around.unfold(1, rows + size - 1, rows).transpose(-1, -2)
    return _Bands(slice(None), windows, _cut(taps_BTHK, rows))


def _cut(x_BTHR: Tensor, rows: int) -> Tensor:
    """Return (B, N, L, H, R): the positions in blocks, zeros behind the last."""
    missing = -x_BTHR.size(1) % rows
    padded = F.pad(x_BTHR, (0, 0, 0, 0, 0, missing)) if missing else x_BTHR
    blocks: Tensor = padded.unflatten(1, (-1, rows))
    return blocks


def _diagonals(band: Tensor, size: int) -> Tensor:
    """Return (..., L, K) as a view of a contiguous (..., L, W): row i from column i on."""
    return band.as_strided((*band.shape[:-1], size), (*band.stride()[:-2], band.size(-1) + 1, 1))


def _overlapped(windows_BNWR: Tensor, rows: int) -> Tensor:
    """Return (B, (N + 1) L, R): windows added up where they overlap, at most L positions."""
    batch, blocks, size, width = windows_BNWR.shape
    total = windows_BNWR.new_zeros(batch, blocks + 1, rows, width)
    total[:, :-1].copy_(windows_BNWR[:, :, :rows])
    # the last rows of a window are the first of the next block
    total[:, 1:, : size - rows].add_(windows_BNWR[:, :, rows:])
    return total.flatten(1, 2)


class _BandedSum(torch.autograd.Function):
    """The product with band matrices; keeps nothing but its arguments, makes the bands again."""

    @staticmethod
    def forward(ctx: Any, x_BTHR: Tensor, taps_BTHK: Tensor, left: int) -> Tensor:
        """Return (B, T, H, R)."""
        ctx.save_for_backward(x_BTHR, taps_BTHK)
        ctx.left = left
        bands = _bands(x_BTHR, taps_BTHK, left)
        out = x_BTHR.new_empty(*bands.taps_BNLHK.shape[:-1], x_BTHR.size(-1))
        for (band, seen), head in zip(bands.products(), out.unbind(3), strict=True):
            head.copy_(torch.bmm(band, seen).view(head.shape))
        return out.flatten(1, 2)[:, : x_BTHR.size(1)]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTHR: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of x and of the taps."""
        x_BTHR, taps_BTHK = ctx.saved_tensors
        bands = _bands(x_BTHR, taps_BTHK, ctx.left)
        with exact_sums(grad_BTHR):
            return *_banded_grads(bands, grad_BTHR, ctx.left), None


def _banded_grads(bands: _Bands, grad_BTHR: Tensor, left: int) -> tuple[Tensor, Tensor]:
    length, rows = grad_BTHR.size(1), bands.taps_BNLHK.size(2)
    grad_x, grad_taps = torch.empty_like(grad_BTHR), torch.empty_like(bands.taps_BNLHK)
    grads = _cut(grad_BTHR, rows).unbind(3)
    (grad_band, diagonals), products = bands.frame(), bands.products()
    for h, (band, seen) in enumerate(products):
        grad = grads[h].flatten(0, 1)
        grad_seen = torch.bmm(band.transpose(1, 2), grad).unflatten(0, grads[h].shape[:2])
        whole = grad_seen.squeeze(1) if rows == length else _overlapped(grad_seen, rows)[:, left:]
        grad_x[:, :, h].copy_(whole[:, :length])
        grad_band.copy_(torch.bmm(grad, seen.transpose(1, 2)))
        grad_taps[:, :, :, h].copy_(diagonals)
    return grad_x, grad_taps.flatten(1, 2)[:, :length]


_bands_summed: Callable[..., Tensor] = _BandedSum.apply


def _banded(x_BTHR: Tensor, taps_BTHK: Tensor, left: int) -> Tensor:
    if x_BTHR.device.type == "cpu":
        return _bands_summed(x_BTHR, taps_BTHK, left)
    # few large products
    batch, _, heads, _ = x_BTHR.shape
    x, taps = (t.transpose(1, 2).flatten(0, 1).unsqueeze(2) for t in (x_BTHR, taps_BTHK))
    return _bands_summed(x, taps, left).view(batch, heads, -1, x.size(-1)).transpose(1, 2)


class _ShiftedSum(torch.autograd.Function):
    """The sum over taps, one shifted product at a time; keeps nothing but its arguments."""

    @staticmethod
    def forward(ctx: Any, x_BTHR: Tensor, taps_BTHK: Tensor, left: int) -> Tensor:
        """Return (B, T, H, R)."""
        ctx.save_for_backward(x_BTHR, taps_BTHK)
        ctx.left = left
        out = torch.zeros_like(x_BTHR)
        for k, (here, there) in enumerate(_overlaps(x_BTHR, taps_BTHK, left)):
            out[:, here].addcmul_(taps_BTHK[:, here, :, k, None], x_BTHR[:, there])
        return out

    @staticmethod
    def backward(ctx: Any, grad_BTHR: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of x and of the taps."""
        x_BTHR, taps_BTHK = ctx.saved_tensors
        grad_x = torch.zeros_like(x_BTHR)
        grad_taps = torch.zeros_like(taps_BTHK)
        for k, (here, there) in enumerate(_overlaps(x_BTHR, taps_BTHK, ctx.left)):
            grad = grad_BTHR[:, here]
            grad_x[:, there].addcmul_(taps_BTHK[:, here, :, k, None], grad)
            grad_taps[:, here, :, k] = (grad * x_BTHR[:, there]).sum(-1)
        return grad_x, grad_taps, None


_shifted_sum: Callable[..., Tensor] = _ShiftedSum.apply


def _overlaps(x_BTHR: Tensor, taps_BTHK: Tensor, left: int) -> list[tuple[slice, slice]]:
    """Return for each tap the positions it writes and those it reads."""
    length = x_BTHR.size(1)
    shifts = range(-left, taps_BTHK.size(-1) - left)
    return [
        (slice(max(0, -s), length - max(0, s)), slice(max(0, s), length - max(0, -s)))
        for s in shifts
    ]


def _torch_form(x_BTHR: Tensor, taps: Tensor, left: int) -> Tensor:
    length, size = x_BTHR.size(1), taps.size(-1)
    if size <= min(_FEW_TAPS, (length + 8) // 5):
        # its sums are added up in memory, and so not in 16 bits
        dtype = torch.promote_types(x_BTHR.dtype, torch.float32)
        taps_BTHK = taps.to(dtype).expand(*x_BTHR.shape[:3], -1)
        out: Tensor = _shifted_sum(x_BTHR.to(dtype), taps_BTHK, left)
        return out
    # a GPU's matrix product adds up in float32 by itself
    gpu = x_BTHR.device.type == "cuda"
    dtype = x_BTHR.dtype if gpu else torch.promote_types(x_BTHR.dtype, torch.float32)
    return _banded(x_BTHR.to(dtype), taps.to(dtype).expand(*x_BTHR.shape[:3], -1), left)


def _convolve_reference(x_BTHR: Tensor, taps: Tensor, left: int) -> Tensor:
    """Return the convolution one position at a time: obvious, slow, exact in float64."""
    length, size = x_BTHR.size(1), taps.size(-1)
    dtype = torch.promote_types(x_BTHR.dtype, torch.float32)
    taps_BTHK = taps.to(dtype).expand(*x_BTHR.shape[:3], -1)
    out = []
    for t in range(length):
        total = torch.zeros_like(x_BTHR[:, 0], dtype=dtype)
        for k in range(size):
            if 0 <= t + k - left < length:
                total = total + taps_BTHK[:, t, :, k, None] * x_BTHR[:, t + k - left].to(dtype)
        out.append(total)
    return torch.stack(out, dim=1)


def _triton_form(x_BTHR: Tensor, taps: Tensor, left: int) -> Tensor:
    backend.require_kernels(x_BTHR)
    if torch.float64 in (x_BTHR.dtype, taps.dtype) or 0 in x_BTHR.shape:
        return _torch_form(x_BTHR, taps, left)
    from seqattn_fairseq.ops.kernels.convolution import convolve

    return convolve(x_BTHR, taps.expand(*x_BTHR.shape[:3], -1), left)


_FORMS = {"reference": _convolve_reference, "torch": _torch_form, "triton": _triton_form}


def _convolve(operation: str, x_BTC: Tensor, taps: Tensor, left: int) -> Tensor:
    form = backend.select(operation, _FORMS)
    x_BTHR = x_BTC.unflatten(2, (taps.size(-2), -1))
    with exact_sums(x_BTC):
        out: Tensor = form(x_BTHR, *_reachable(taps, left, x_BTC.size(1)))
    return out.flatten(2).to(x_BTC.dtype)


def dynamic_convolution(x_BTC: Tensor, taps_BTHK: Tensor, left: int) -> Tensor:
    """Return (B, T, C): the convolution with taps of each position's own.

    Sums are in at least float32, the result in the dtype of x.

    Args:
        x_BTC: zero at padding.
        taps_BTHK: weights of the positions t - left ... t - left + K - 1; H divides C.
        left: taps before the current position, from 0 to K - 1.
    """
    return _convolve("dynamic convolution", x_BTC, taps_BTHK, left)


def lightweight_convolution(x_BTC: Tensor, taps_HK: Tensor, left: int) -> Tensor:
    """Return (B, T, C): the convolution with the same taps (H, K) at every position.

    Otherwise it is ``dynamic_convolution``.
    """
    return _convolve("lightweight convolution", x_BTC, taps_HK, left)


def convolution_step(window_RmC: Tensor, x_RnC: Tensor, taps_RnHK: Tensor) -> tuple[Tensor, Tensor]:
    """Return the causal convolution (R, n, C) at n >= 1 new positions, and the next window.

    Args:
        window_RmC: the m positions before the new ones; zeros, or nothing (m = 0), stand for the
            beginning. No more than the last K - 1 are read.
        x_RnC: the new positions.
        taps_RnHK: their taps, or (H, K) taps of all positions.

    The next window holds the last K - 1 positions, zeros where there are none.
    """
    new, heads, size = x_RnC.size(1), taps_RnHK.size(-2), taps_RnHK.size(-1)
    missing = size - 1 - window_RmC.size(1)
    past_RmC = F.pad(window_RmC, (0, 0, missing, 0))
    seen = torch.cat([past_RmC, x_RnC], dim=1)
    dtype = torch.promote_types(x_RnC.dtype, torch.float32)
    windows_RnHdK = seen.to(dtype).unfold(1, size, 1).unflatten(2, (heads, -1))
    taps = taps_RnHK.to(dtype).expand(x_RnC.size(0), new, -1, -1)
    with exact_sums(x_RnC):
        out = (windows_RnHdK @ taps.unsqueeze(-1)).flatten(2)
    return out.to(x_RnC.dtype), seen[:, new:]
