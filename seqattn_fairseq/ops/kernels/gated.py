"""Kernels of Mega's gated attention.

The values are far wider than the queries, so that no program could hold a row of the output. One
kernel makes the weights of a block of queries, dropped and in the inputs' dtype, and the library's
matrix product sums the values; the weights are thrown away. Backward, another kernel makes the
weights again and their gradients beside them; the rest is products. A block has at most ``_ROWS``
queries: memory is linear in the length, and causal attention skips most of the future.

Shapes: M sequences, T queries, S keys, Z width of queries and keys, V width of values, L distances.
Offsets of queries and keys within a sequence are int32, those of sequences int64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqattn_fairseq.ops.kernels.dropout import fresh_seed, kept
from seqattn_fairseq.ops.mega import (
    DEVIATION,
    MEAN,
    QueryBlock,
    diagonal_sums,
    key_counts,
    query_blocks,
)
from seqattn_fairseq.ops.precision import exact_sums

_ROWS = 512
_CENTRE = tl.constexpr(MEAN)
_SPREAD = tl.constexpr(DEVIATION * 2**0.5)
_SLOPE = tl.constexpr(1 / (DEVIATION * (2 * torch.pi) ** 0.5))


@triton.jit
def _load(base, rows, there, stride, columns, width):
    inside = there[:, None] & (columns < width)[None, :]
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _products(
    a, a_rows, a_there, a_stride, b, b_rows, b_there, b_stride, width,
    BLOCK_A: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the products of rows of two matrices, (BLOCK_A, BLOCK_B)."""
    total = tl.zeros((BLOCK_A, BLOCK_B), tl.float32)
    for first in range(0, width, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        left = _load(a, a_rows, a_there, a_stride, columns, width)
        right = _load(b, b_rows, b_there, b_stride, columns, width)
        total += tl.dot(left, tl.trans(right), input_precision=PRECISION)
    return total


@triton.jit
def _factors(counts, m, t, scale, T, S, ACTIVATION: tl.constexpr, CAUSAL: tl.constexpr):
    # what a product is multiplied with, of each query
    if ACTIVATION == "softmax":
        factor = tl.zeros(t.shape, tl.float32) + scale
    elif CAUSAL:
        factor = 1.0 / tl.maximum(S - T + t + 1, 1).to(tl.float32)
    else:
        factor = tl.zeros(t.shape, tl.float32) + 1.0 / tl.load(counts + m)
    return factor


@triton.jit
def _tile(
    q, k, line, mask, factor, m, t, s, last, keys, T, S, width,
    stride_qm, stride_qt, stride_km, stride_ks,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_Z: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the scores of a tile of pairs, and which pairs there are."""
    products = _products(
        q + m * stride_qm, t, t < last, stride_qt, k + m * stride_km, s, s < keys, stride_ks, width,
        BLOCK_T, BLOCK_S, BLOCK_Z, PRECISION,
    )  # fmt: skip
    seen = (t < last)[:, None] & (s < keys)[None, :]
    bias = tl.load(line + (T - 1 - t[:, None] + s[None, :]), mask=seen, other=0.0)
    if CAUSAL:
        seen = seen & (s[None, :] <= S - T + t[:, None])
    if MASKED:
        padded = tl.load(mask + m * S + s, mask=s < keys, other=1)
        seen = seen & (padded == 0)[None, :]
    return products * factor[:, None] + bias, seen


@triton.jit
def _activated(scores, seen, lse, ACTIVATION: tl.constexpr):
    if ACTIVATION == "softmax":
        weights = tl.exp(tl.where(seen, scores - lse[:, None], float("-inf")))
    elif ACTIVATION == "laplace":
        weights = 0.5 * (1.0 + tl.erf((scores - _CENTRE) / _SPREAD))
    else:
        rectified = tl.maximum(scores, 0.0)
        weights = rectified * rectified
    return tl.where(seen, weights, 0.0)


@triton.jit
def _slope(scores, ACTIVATION: tl.constexpr):
    if ACTIVATION == "laplace":
        distance = (scores - _CENTRE) / _SPREAD
        slope = _SLOPE * tl.exp(-distance * distance)
    else:
        slope = 2.0 * tl.maximum(scores, 0.0)
    return slope


@triton.jit
def _log_sum(
    q, k, line, mask, factor, m, t, last, keys, T, S, width,
    stride_qm, stride_qt, stride_km, stride_ks,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_Z: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the logarithm of the sum of each query's exponentials; 0 where it sees no key."""
    top = tl.full((BLOCK_T,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_T,), tl.float32)
    for first in range(0, keys, BLOCK_S):
        scores, seen = _tile(
            q, k, line, mask, factor, m, t, first + tl.arange(0, BLOCK_S), last, keys, T, S, width,
            stride_qm, stride_qt, stride_km, stride_ks,
            CAUSAL, MASKED, BLOCK_T, BLOCK_S, BLOCK_Z, PRECISION,
        )  # fmt: skip
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, axis=1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - finite) + tl.sum(tl.exp(scores - finite[:, None]), axis=1)
        top = higher
    seen_any = total > 0.0
    return tl.where(seen_any, top + tl.log(tl.where(seen_any, total, 1.0)), 0.0)


@triton.jit
def _weights_kernel(
    q, k, line, mask, counts, seed, lse, weights, start, rows, keys, T, S, width,
    stride_qm, stride_qt, stride_km, stride_ks, scale, dropout,
    ACTIVATION: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr, DROPS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_Z: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the weights (M, rows, keys) of the queries from ``start`` on, and lse (M, T)."""
    tiles = tl.cdiv(rows, BLOCK_T)
    m = (tl.program_id(0) // tiles).to(tl.int64)
    t = start + (tl.program_id(0) % tiles) * BLOCK_T + tl.arange(0, BLOCK_T)
    last = start + rows
    factor = _factors(counts, m, t, scale, T, S, ACTIVATION, CAUSAL)
    lse_tile = tl.zeros((BLOCK_T,), tl.float32)
    if ACTIVATION == "softmax":
        lse_tile = _log_sum(
            q, k, line, mask, factor, m, t, last, keys, T, S, width,
            stride_qm, stride_qt, stride_km, stride_ks,
            CAUSAL, MASKED, BLOCK_T, BLOCK_S, BLOCK_Z, PRECISION,
        )  # fmt: skip
        tl.store(lse + m * T + t, lse_tile, mask=t < last)
    for first in range(0, keys, BLOCK_S):
        s = first + tl.arange(0, BLOCK_S)
        scores, seen = _tile(
            q, k, line, mask, factor, m, t, s, last, keys, T, S, width,
            stride_qm, stride_qt, stride_km, stride_ks,
            CAUSAL, MASKED, BLOCK_T, BLOCK_S, BLOCK_Z, PRECISION,
        )  # fmt: skip
        values = _activated(scores, seen, lse_tile, ACTIVATION)
        if DROPS:
            values *= kept(tl.load(seed) + m, t[:, None] * S + s[None, :], dropout)
        inside = (t < last)[:, None] & (s < keys)[None, :]
        place = weights + m * rows * keys + (t - start)[:, None] * keys + s[None, :]
        tl.store(place, values.to(weights.dtype.element_ty), mask=inside)


@triton.jit
def _gradients_kernel(
    q, k, v, g, line, mask, counts, seed, lse, products, weights, slopes,
    start, rows, keys, T, S, width, values,
    stride_qm, stride_qt, stride_km, stride_ks, stride_vm, stride_vs, scale, dropout,
    ACTIVATION: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr, DROPS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_Z: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the weights (M, rows, keys) again, and into ``slopes`` the gradients of the scores.

    ``g`` (M, T, V) is the gradient of the output, ``products`` (M, T) its product with the output.
    """
    across = tl.cdiv(keys, BLOCK_S)
    tiles = tl.cdiv(rows, BLOCK_T) * across
    m = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    t = start + (tile // across) * BLOCK_T + tl.arange(0, BLOCK_T)
    s = (tile % across) * BLOCK_S + tl.arange(0, BLOCK_S)
    last = start + rows
    inside = (t < last)[:, None] & (s < keys)[None, :]
    upstream = _products(
        g + m * T * values, t, t < last, values, v + m * stride_vm, s, s < keys, stride_vs, values,
        BLOCK_T, BLOCK_S, BLOCK_Z, PRECISION,
    )  # fmt: skip
    factor = _factors(counts, m, t, scale, T, S, ACTIVATION, CAUSAL)
    scores, seen = _tile(
        q, k, line, mask, factor, m, t, s, last, keys, T, S, width,
        stride_qm, stride_qt, stride_km, stride_ks,
        CAUSAL, MASKED, BLOCK_T, BLOCK_S, BLOCK_Z, PRECISION,
    )  # fmt: skip
    lse_tile = tl.zeros((BLOCK_T,), tl.float32)
    if ACTIVATION == "softmax":
        lse_tile = tl.load(lse + m * T + t, mask=t < last, other=0.0)
    made = _activated(scores, seen, lse_tile, ACTIVATION)
    used = made
    if DROPS:
        keep = kept(tl.load(seed) + m, t[:, None] * S + s[None, :], dropout)
        used = made * keep
        upstream = upstream * keep
    if ACTIVATION == "softmax":
        mean = tl.load(products + m * T + t, mask=t < last, other=0.0)
        slope = made * (upstream - mean[:, None])
    else:
        slope = tl.where(seen, upstream * _slope(scores, ACTIVATION), 0.0)
    place = m * rows * keys + (t - start)[:, None] * keys + s[None, :]
    tl.store(weights + place, used.to(weights.dtype.element_ty), mask=inside)
    tl.store(slopes + place, slope.to(slopes.dtype.element_ty), mask=inside)


@triton.jit
def _row_products_kernel(a, b, out, rows, width, BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr):
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    total = tl.zeros((BLOCK_T,), tl.float32)
    for first in range(0, width, BLOCK_V):
        c = first + tl.arange(0, BLOCK_V)
        left = _load(a, t, t < rows, width, c, width).to(tl.float32)
        total += tl.sum(left * _load(b, t, t < rows, width, c, width).to(tl.float32), axis=1)
    tl.store(out + t, total, mask=t < rows)


def _row_products(a_MTV: Tensor, b_MTV: Tensor) -> Tensor:
    """Return the (M, T) products of the rows of two contiguous tensors, in float32."""
    rows, width = a_MTV.size(0) * a_MTV.size(1), a_MTV.size(2)
    out = torch.empty(a_MTV.shape[:2], dtype=torch.float32, device=a_MTV.device)
    grid = (triton.cdiv(rows, 16),)
    _row_products_kernel[grid](a_MTV, b_MTV, out, rows, width, BLOCK_T=16, BLOCK_V=128)
    return out


class _Call(NamedTuple):
    """The arguments of one call; what is missing is replaced by another tensor, never read.

    Attributes:
        q: (M, T, Z) queries.
        k: (M, S, Z) keys.
        v: (M, S, V) values.
        line: (L,) float32.
        mask: (M, S) bytes, not 0 at padding.
        counts: (M,) float32, what divides the products.
        seed: (1,) of dropout.
        masked: whether there is a mask.
        causal: see ``ops.mega.gated_attention``.
        activation: likewise.
        dropout: likewise.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    line: Tensor
    mask: Tensor
    counts: Tensor
    seed: Tensor
    masked: bool
    causal: bool
    activation: str
    dropout: float

    def blocks(self) -> list[QueryBlock]:
        return query_blocks(self.q.size(1), self.k.size(1), self.causal, _ROWS)

    def factor(self) -> Tensor | float:
        """Return what a product is multiplied with: a number, (T, 1) or (M, 1, 1)."""
        if self.activation == "softmax":
            return float(self.q.size(-1) ** -0.5)
        mask = self.mask.bool() if self.masked else None
        return 1.0 / key_counts(self.q.size(1), self.k.size(1), mask, self.causal, self.line)

    def scalars(self, block: QueryBlock) -> tuple[int, ...]:
        queries, width = self.q.shape[1:]
        rows = block.end - block.start
        return block.start, rows, block.keys, queries, self.k.size(1), width

    def strides(self) -> tuple[int, ...]:
        return (*self.q.stride()[:2], *self.k.stride()[:2])

    def constants(self, block: QueryBlock) -> dict[str, Any]:
        exact = torch.get_float32_matmul_precision() == "highest"
        single = self.q.dtype == torch.float32
        most = 32 if single else 64
        return {
            "ACTIVATION": self.activation,
            "CAUSAL": self.causal,
            "MASKED": self.masked,
            "DROPS": self.dropout > 0,
            "BLOCK_T": _block(block.end - block.start, most),
            "BLOCK_S": _block(block.keys, most),
            "BLOCK_Z": most,
            "PRECISION": "tf32x3" if single and exact else "tf32",
            "num_warps": 4,
            "num_stages": 2,
        }


def _block(length: int, most: int) -> int:
    smallest: int = triton.next_power_of_2(length)
    return min(most, max(16, smallest))


def _weights(call: _Call, block: QueryBlock, lse: Tensor) -> Tensor:
    """Return the (M, rows, keys) weights of a block of queries; write their rows of lse (M, T)."""
    rows, constants = block.end - block.start, call.constants(block)
    weights = call.q.new_empty(call.q.size(0), rows, block.keys)
    grid = (call.q.size(0) * triton.cdiv(rows, constants["BLOCK_T"]),)
    _weights_kernel[grid](
        *(call.q, call.k, call.line, call.mask, call.counts, call.seed, lse, weights),
        *(*call.scalars(block), *call.strides()),
        *(call.k.size(-1) ** -0.5, call.dropout),
        **constants,
    )
    return weights


def _weights_and_slopes(
    call: _Call, block: QueryBlock, lse: Tensor, products: Tensor, g: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the weights of a block and the gradients of its scores, (M, rows, keys) each."""
    rows, constants = block.end - block.start, call.constants(block)
    weights = call.q.new_empty(call.q.size(0), rows, block.keys)
    slopes = torch.empty_like(weights)
    tiles = triton.cdiv(rows, constants["BLOCK_T"]) * triton.cdiv(block.keys, constants["BLOCK_S"])
    _gradients_kernel[(call.q.size(0) * tiles,)](
        *(call.q, call.k, call.v, g, call.line, call.mask, call.counts, call.seed, lse, products),
        *(weights, slopes, *call.scalars(block), call.v.size(-1)),
        *(*call.strides(), *call.v.stride()[:2]),
        *(call.k.size(-1) ** -0.5, call.dropout),
        **constants,
    )
    return weights, slopes


class _Sums:
    """Gradients that grow block by block, from the block that sees all keys to the first one.

    Sums of more than one block are in float32.
    """

    def __init__(self, several: bool) -> None:
        self._several = several
        self.total: Tensor | None = None

    def add(self, part: Tensor, dim: int, first: int = 0) -> None:
        """Add a part to the entries of ``dim`` that begin at ``first``."""
        if self.total is None:
            self.total = part.float() if self._several else part
        else:
            self.total.narrow(dim, first, part.size(dim)).add_(part)


class _GatedAttention(torch.autograd.Function):
    """Forward saves its arguments, its output and one number for each row of a softmax."""

    @staticmethod
    def forward(ctx, q, k, v, line, mask, counts, seed, masked, causal, activation, dropout):
        call = _Call(q, k, v, line, mask, counts, seed, masked, causal, activation, dropout)
        out = v.new_empty(q.size(0), q.size(1), v.size(2))
        lse = line
        if activation == "softmax":
            lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        for block in call.blocks():
            weights = _weights(call, block, lse)
            torch.bmm(weights, v[:, : block.keys], out=out[:, block.start : block.end])
        ctx.save_for_backward(q, k, v, line, mask, counts, seed, lse, out)
        ctx.options = (masked, causal, activation, dropout)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        *tensors, lse, out = ctx.saved_tensors
        call, g = _Call(*tensors, *ctx.options), g.contiguous()
        with exact_sums(g):
            products = _row_products(g, out) if call.activation == "softmax" else lse
            return (*_gradients(call, lse, products, g), *[None] * 7)


def _gradients(call: _Call, lse: Tensor, products: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    blocks, factor = call.blocks(), call.factor()
    d_q, scaled = call.q.new_empty(call.q.shape), (call.q * factor).to(call.q.dtype)
    d_k, d_v = _Sums(len(blocks) > 1), _Sums(len(blocks) > 1)
    d_line = torch.zeros_like(call.line)
    for block in reversed(blocks):
        rows = slice(block.start, block.end)
        weights, slopes = _weights_and_slopes(call, block, lse, products, g)
        d_v.add(weights.transpose(1, 2) @ g[:, rows], 1)
        d_k.add(slopes.transpose(1, 2) @ scaled[:, rows], 1)
        torch.bmm(slopes, call.k[:, : block.keys], out=d_q[:, rows])
        sums = diagonal_sums(slopes.sum(dim=0, dtype=torch.float32))
        d_line[block.line : block.line + sums.numel()] += sums
    d_q.mul_(factor)
    assert d_k.total is not None
    assert d_v.total is not None
    return d_q, d_k.total.to(call.k.dtype), d_v.total.to(call.v.dtype), d_line


def supports(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Return whether the kernels can compute a call with these tensors.

    Not in float64, with nothing to compute, or with offsets beyond int32.
    """
    known = {torch.float16, torch.bfloat16, torch.float32}
    widest = max(q.size(-1), k.size(1), v.size(-1))
    fits = max(q.size(1), k.size(1)) * widest < 2**31
    return {q.dtype, k.dtype, v.dtype} <= known and fits and min(q.numel(), v.numel()) > 0


def gated_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    line: Tensor,
    mask: Tensor | None,
    causal: bool,
    activation: str,
    dropout: float,
) -> Tensor:
    """Return (M, T, V), as ``ops.mega.gated_attention``; ``supports`` tells of which tensors."""
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    if torch.is_autocast_enabled(q.device.type):
        dtype = torch.get_autocast_dtype(q.device.type)
    q, k, v = (_rows_in_order(t.to(dtype)) for t in (q, k, v))
    line = line.float().contiguous()
    counts = line
    if activation != "softmax" and not causal:
        number = key_counts(q.size(1), k.size(1), mask, causal, line)
        one_M = torch.ones(q.size(0), dtype=line.dtype, device=line.device)
        counts = one_M * (number.flatten() if isinstance(number, Tensor) else number)
    seed = fresh_seed(q.device) if dropout else line
    hidden = line if mask is None else mask.contiguous().view(torch.uint8)
    with exact_sums(q):
        out: Tensor = _GatedAttention.apply(
            q, k, v, line, hidden, counts, seed, mask is not None, causal, activation, dropout
        )
    return out


def _rows_in_order(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
