"""x + dropout(y), and the LayerNorm of the sum, in one pass over the rows.

What is dropped is drawn again backward; of the sum, only what the LayerNorm's gradient needs is
kept. Gradients of the LayerNorm's parameters are added up in two stages, always in one order.

Shapes: N rows, C width.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqattn_fairseq.ops.kernels.dropout import fresh_seed, kept
from seqattn_fairseq.ops.residual import LayerNorm

# Programs of the backward pass, each with a share of the rows and partial sums of its own.
_PROGRAMS = 256


@triton.jit
def _forward(
    x, y, seed, weight, bias, total, out, mean, rstd, rate, eps,
    C, HAS_NORM: tl.constexpr, DROPS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_C)
    inside = columns < C
    here = row * C + columns
    added = tl.load(y + here, mask=inside, other=0.0).to(tl.float32)
    if DROPS:
        added *= kept(tl.load(seed) + row, columns, rate)
    s = tl.load(x + here, mask=inside, other=0.0).to(tl.float32) + added
    if HAS_NORM:
        # as it will be read backward
        s = s.to(total.dtype.element_ty)
        tl.store(total + here, s, mask=inside)
        s = s.to(tl.float32)
        centre = tl.sum(s, axis=0) / C
        around = tl.where(inside, s - centre, 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(around * around, axis=0) / C + eps)
        tl.store(mean + row, centre)
        tl.store(rstd + row, scale)
        w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
        s = around * scale * w + tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + here, s.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    d_out, total, seed, weight, mean, rstd, d_x, d_y, d_weight, d_bias, rate,
    N, C, HAS_NORM: tl.constexpr, DROPS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_C)
    inside = columns < C
    d_w = tl.zeros([BLOCK_C], tl.float32)
    d_b = tl.zeros([BLOCK_C], tl.float32)
    w = tl.zeros([BLOCK_C], tl.float32)
    if HAS_NORM:
        w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    for row in range(program, N, tl.num_programs(0)):
        here = tl.cast(row, tl.int64) * C + columns
        d = tl.load(d_out + here, mask=inside, other=0.0).to(tl.float32)
        if HAS_NORM:
            scale = tl.load(rstd + row)
            s = tl.load(total + here, mask=inside, other=0.0).to(tl.float32)
            normal = tl.where(inside, (s - tl.load(mean + row)) * scale, 0.0)
            d_w += d * normal
            d_b += d
            d = d * w
            along = tl.sum(d * normal, axis=0) / C
            d = (d - tl.sum(d, axis=0) / C - normal * along) * scale
            tl.store(d_x + here, d.to(d_x.dtype.element_ty), mask=inside)
        if DROPS:
            d *= kept(tl.load(seed) + row, columns, rate)
            tl.store(d_y + here, d.to(d_y.dtype.element_ty), mask=inside)
    if HAS_NORM:
        tl.store(d_weight + program * C + columns, d_w, mask=inside)
        tl.store(d_bias + program * C + columns, d_b, mask=inside)


def _shape(width: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"BLOCK_C": block, "num_warps": min(max(block // 256, 1), 8)}


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        rate: float,
        eps: float,
    ) -> Tensor:
        x, y = x.contiguous(), y.contiguous()
        width = x.size(-1)
        rows: int = x.numel() // width
        out = torch.empty_like(x)
        normed = weight is not None
        total = torch.empty_like(x) if normed else None
        mean, rstd = x.new_empty(2, rows if normed else 0, dtype=torch.float32)
        seed = fresh_seed(x.device) if rate > 0 else None
        if rows:
            _forward[(rows,)](
                x, y, seed, weight, bias, total, out, mean, rstd, rate, eps, width,
                HAS_NORM=normed, DROPS=rate > 0, **_shape(width),
            )  # fmt: skip
        ctx.save_for_backward(total, seed, weight, bias, mean, rstd)
        ctx.rate = rate
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        total, seed, weight, bias, mean, rstd = ctx.saved_tensors
        d_out, width, normed = d_out.contiguous(), d_out.size(-1), weight is not None
        rows = d_out.numel() // width
        programs = min(rows, _PROGRAMS)
        d_x = torch.empty_like(d_out) if normed else d_out
        d_y = torch.empty_like(d_out) if ctx.rate else d_x
        partial = mean.new_empty(2, programs if normed else 0, width)
        if rows:
            _backward[(programs,)](
                d_out, total, seed, weight, mean, rstd, d_x, d_y, *partial, ctx.rate, rows, width,
                HAS_NORM=normed, DROPS=ctx.rate > 0, **_shape(width),
            )  # fmt: skip
        if not normed:
            return d_x, d_y, None, None, None, None
        d_weight, d_bias = partial.sum(1)
        return d_x, d_y, d_weight.to(weight.dtype), d_bias.to(bias.dtype), None, None


def residual_rows(x: Tensor, y: Tensor, rate: float, norm: LayerNorm | None) -> Tensor:
    """Return ``norm(x + dropout(y))``, or the sum; see :func:`seqattn_fairseq.ops.residual`."""
    weight, bias, eps = (None, None, 0.0) if norm is None else norm
    out: Tensor = _Residual.apply(x, y, weight, bias, rate, eps)
    return out
