"""The convolution of ``ops/convolution.py`` as products with band matrices that no memory holds.

A program owns L positions of a head. With W positions of what they see at a time it puts their taps
into an L x W matrix, as they come from memory, and multiplies; sums are in float32, and each entry
of a result is written by one program.

Shapes: B batch, T length, H heads, R channels of a head, K taps, L positions of a tile, W positions
seen at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable


@triton.jit
def _place(length, heads, parts, rows: tl.constexpr):
    """Return sentence, head, part of the head's channels and first position of this program."""
    tiles = tl.cdiv(length, rows)
    place = tl.program_id(0)
    rest = place // tiles
    # sentences in 64 bits: offsets of whole batches may need them
    return (
        (rest // (heads * parts)).to(tl.int64),
        rest // parts % heads,
        rest % parts,
        (place % tiles * rows),
    )


@triton.jit
def _products(
    x,
    taps,
    out,
    length,
    heads,
    width,
    size,
    left,
    x_b,
    x_t,
    x_h,
    taps_b,
    taps_t,
    taps_h,
    out_b,
    out_t,
    out_h,
    transposed: tl.constexpr,
    precision: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    channels: tl.constexpr,
):
    """Write the convolution; transposed, the gradient of its input, x being that of its output."""
    b, h, part, start = _place(length, heads, tl.cdiv(width, channels), rows)
    x += b * x_b + h * x_h
    taps += b * taps_b + h * taps_h
    out += b * out_b + h * out_h
    row = tl.arange(0, rows)
    channel = part * channels + tl.arange(0, channels)
    # the first position that is seen
    first = start + left - (size - 1) if transposed else start - left
    total = tl.zeros((rows, channels), tl.float32)
    for begin in range(0, rows + size - 1, columns):
        column = begin + tl.arange(0, columns)
        seen = first + column
        inside = (seen >= 0) & (seen < length)
        if transposed:  # the taps of a position seen
            tap = size - 1 + row[:, None] - column[None, :]
            owner = seen[None, :]
            owned = inside[None, :]
        else:
            tap = column[None, :] - row[:, None]
            owner = (start + row)[:, None]
            owned = owner < length
        exists = owned & (tap >= 0) & (tap < size)
        band = tl.load(taps + owner.to(tl.int64) * taps_t + tap, mask=exists, other=0.0)
        values = tl.load(
            x + seen.to(tl.int64)[:, None] * x_t + channel[None, :],
            mask=inside[:, None] & (channel < width)[None, :],
            other=0.0,
        )
        total = tl.dot(band.to(values.dtype), values, total, input_precision=precision)
    position = start + row
    tl.store(
        out + position[:, None] * out_t + channel[None, :],
        total.to(out.dtype.element_ty),
        mask=(position < length)[:, None] & (channel < width)[None, :],
    )


@triton.jit
def _tap_gradients(
    x,
    grad,
    out,
    length,
    heads,
    width,
    size,
    left,
    x_b,
    x_t,
    x_h,
    grad_b,
    grad_t,
    grad_h,
    out_b,
    out_t,
    out_h,
    precision: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    channels: tl.constexpr,
):
    """Write the products of what a position receives with what each of its taps saw."""
    b, h, _, start = _place(length, heads, 1, rows)
    x += b * x_b + h * x_h
    grad += b * grad_b + h * grad_h
    out += b * out_b + h * out_h
    row = tl.arange(0, rows)
    position = start + row
    for begin in range(0, rows + size - 1, columns):
        column = begin + tl.arange(0, columns)
        seen = start - left + column
        inside = (seen >= 0) & (seen < length)
        total = tl.zeros((rows, columns), tl.float32)
        for origin in range(0, width, channels):
            channel = origin + tl.arange(0, channels)
            received = tl.load(
                grad + position.to(tl.int64)[:, None] * grad_t + channel[None, :],
                mask=(position < length)[:, None] & (channel < width)[None, :],
                other=0.0,
            )
            values = tl.load(
                x + seen.to(tl.int64)[None, :] * x_t + channel[:, None],
                mask=inside[None, :] & (channel < width)[:, None],
                other=0.0,
            )
            total = tl.dot(received, values, total, input_precision=precision)
        tap = column[None, :] - row[:, None]
        exists = (position < length)[:, None] & (tap >= 0) & (tap < size)
        tl.store(out + position[:, None] * out_t + tap, total.to(out.dtype.element_ty), mask=exists)


def _precision(dtype: torch.dtype) -> str:
    exact = dtype is not torch.float32 or torch.get_float32_matmul_precision() == "highest"
    return "ieee" if exact else "tf32"


def _tile(x_BTHR: Tensor) -> dict[str, Any]:
    # float32 products run on no tensor core: half the tile keeps their operands in registers
    narrow = x_BTHR.dtype is torch.float32 or x_BTHR.size(1) <= 32
    widest = 64 if x_BTHR.dtype is torch.float32 else 128
    return {
        "precision": _precision(x_BTHR.dtype),
        "rows": 32 if narrow else 64,
        "columns": 32,
        "channels": min(widest, max(16, triton.next_power_of_2(x_BTHR.size(-1)))),
        "num_warps": 4,
        "num_stages": 2,
    }


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _multiplied(x_BTHR: Tensor, taps_BTHK: Tensor, left: int, transposed: bool) -> Tensor:
    batch, length, heads, width = x_BTHR.shape
    tile = _tile(x_BTHR)
    out = x_BTHR.new_empty(x_BTHR.shape)
    parts = triton.cdiv(width, tile["channels"])
    _products[(batch * heads * parts * triton.cdiv(length, tile["rows"]),)](
        *(x_BTHR, taps_BTHK, out),
        *(length, heads, width, taps_BTHK.size(-1), left),
        *(*x_BTHR.stride()[:3], *taps_BTHK.stride()[:3], *out.stride()[:3]),
        transposed=transposed,
        **tile,
    )
    return out


def _tap_sums(x_BTHR: Tensor, grad_BTHR: Tensor, taps_BTHK: Tensor, left: int) -> Tensor:
    batch, length, heads, width = x_BTHR.shape
    tile = _tile(x_BTHR)
    out = taps_BTHK.new_empty(taps_BTHK.shape)
    _tap_gradients[(batch * heads * triton.cdiv(length, tile["rows"]),)](
        *(x_BTHR, grad_BTHR, out),
        *(length, heads, width, taps_BTHK.size(-1), left),
        *(*x_BTHR.stride()[:3], *grad_BTHR.stride()[:3], *out.stride()[:3]),
        **tile,
    )
    return out


class _Convolution(torch.autograd.Function):
    """One kernel forward, two backward; keeps nothing but the arguments."""

    @staticmethod
    def forward(ctx: Any, x_BTHR: Tensor, taps_BTHK: Tensor, left: int) -> Tensor:
        """Return (B, T, H, R)."""
        ctx.save_for_backward(x_BTHR, taps_BTHK)
        ctx.left = left
        return _multiplied(_dense(x_BTHR), _dense(taps_BTHK), left, transposed=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTHR: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of x and of the taps."""
        x, taps = (_dense(t) for t in ctx.saved_tensors)
        grad, (of_x, of_taps, _) = _dense(grad_BTHR), ctx.needs_input_grad
        grad_x = _multiplied(grad, taps, ctx.left, transposed=True) if of_x else None
        return grad_x, _tap_sums(x, grad, taps, ctx.left) if of_taps else None, None


_convolution: Callable[..., Tensor] = _Convolution.apply


def convolve(x_BTHR: Tensor, taps_BTHK: Tensor, left: int) -> Tensor:
    """Return the convolution (B, T, H, R), see ``ops/convolution.py``.

    Args:
        x_BTHR: float32, bfloat16 or float16; at least one entry.
        taps_BTHK: of any such dtype; with strides of zero they serve all positions.
        left: taps before the current position.
    """
    return _convolution(x_BTHR, taps_BTHK, left)
