"""ReLA's norm of the joined heads and its gate, in one pass over the rows.

Of the forward pass, the rows and their 1 / rms are kept. Gradients of the parameters are added up
in two stages, always in one order.

Shapes: N rows, C width.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

# a row lies in the registers of one program
WIDEST = 16_384
# Programs of the backward pass, each with a share of the rows and partial sums of its own.
_PROGRAMS = 256


@triton.jit
def _gate_of(x):
    """Return sigmoid(x) of float32 numbers of any size."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x < 0.0, small, 1.0) / (1.0 + small)


@triton.jit
def _forward(
    h, scale, gate, out, rstd, eps, C, GATED: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_C)
    inside = columns < C
    x = tl.load(h + row * C + columns, mask=inside, other=0.0).to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / C + eps)
    tl.store(rstd + row, inverse)
    y = tl.load(scale + columns, mask=inside, other=0.0).to(tl.float32) * x * inverse
    if GATED:
        y *= _gate_of(tl.load(gate + columns, mask=inside, other=0.0).to(tl.float32) * x)
    tl.store(out + row * C + columns, y, mask=inside)


@triton.jit
def _backward(
    d_out, h, scale, gate, rstd, d_h, d_scale, d_gate, N, C,
    GATED: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_C)
    inside = columns < C
    factor = tl.load(scale + columns, mask=inside, other=0.0).to(tl.float32)
    slope = tl.zeros([BLOCK_C], tl.float32)
    if GATED:
        slope = tl.load(gate + columns, mask=inside, other=0.0).to(tl.float32)
    of_scale = tl.zeros([BLOCK_C], tl.float32)
    of_gate = tl.zeros([BLOCK_C], tl.float32)
    for row in range(program, N, tl.num_programs(0)):
        here = tl.cast(row, tl.int64) * C + columns
        x = tl.load(h + here, mask=inside, other=0.0).to(tl.float32)
        d = tl.load(d_out + here, mask=inside, other=0.0).to(tl.float32)
        inverse = tl.load(rstd + row)
        normal = x * inverse
        d_x = tl.zeros([BLOCK_C], tl.float32)
        if GATED:
            open_ = _gate_of(slope * x)
            d_argument = d * factor * normal * open_ * (1.0 - open_)
            of_gate += d_argument * x
            d_x = d_argument * slope
            d = d * open_
        of_scale += d * normal
        d = d * factor
        d_x += inverse * (d - normal * (tl.sum(d * normal, axis=0) / C))
        tl.store(d_h + here, d_x.to(d_h.dtype.element_ty), mask=inside)
    tl.store(d_scale + program * C + columns, of_scale, mask=inside)
    if GATED:
        tl.store(d_gate + program * C + columns, of_gate, mask=inside)


def _shape(width: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"BLOCK_C": block, "num_warps": min(max(block // 256, 1), 8)}


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, scale: Tensor, gate: Tensor | None, eps: float) -> Tensor:
        h, scale = h.contiguous(), scale.contiguous()
        gate = None if gate is None else gate.contiguous()
        width = h.size(-1)
        rows = h.numel() // width
        out = torch.empty_like(h, dtype=torch.float32)
        rstd = h.new_empty(rows, dtype=torch.float32)
        if rows:
            _forward[(rows,)](
                h, scale, gate, out, rstd, eps, width, GATED=gate is not None, **_shape(width)
            )
        ctx.save_for_backward(h, scale, gate, rstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        h, scale, gate, rstd = ctx.saved_tensors
        d_out, width = d_out.contiguous(), h.size(-1)
        rows = h.numel() // width
        programs = min(rows, _PROGRAMS)
        d_h = torch.empty_like(h)
        partial = rstd.new_empty(1 if gate is None else 2, programs, width)
        if rows:
            _backward[(programs,)](
                d_out, h, scale, gate, rstd, d_h, partial[0], partial[-1], rows, width,
                GATED=gate is not None, **_shape(width),
            )  # fmt: skip
        sums = partial.sum(1)
        d_gate = None if gate is None else sums[1].to(gate.dtype)
        return d_h, sums[0].to(scale.dtype), d_gate, None


def rms_norm_rows(h: Tensor, scale_C: Tensor, gate_C: Tensor | None, eps: float) -> Tensor:
    """Return what :func:`seqattn_fairseq.ops.rela.rms_norm` does, in float32."""
    out: Tensor = _RmsNorm.apply(h, scale_C, gate_C, eps)
    return out
