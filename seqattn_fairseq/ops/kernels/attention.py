"""Attention in Triton: one template for ReLA, softmax, top-k, sparsemax and 1.5-entmax.

Scores exist in tiles only. The forward pass keeps two numbers of a row at most, its output, and its
arguments; the backward pass makes the weights again. Rows of few keys find their threshold in
registers, longer ones in more passes over the keys.

Shapes: B batch, H heads, T queries, S keys, d head width. Queries arrive scaled.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqattn_fairseq.ops.kernels.attention_backward import backward_keys, backward_queries
from seqattn_fairseq.ops.kernels.attention_forward import forward_rows, forward_tiles
from seqattn_fairseq.ops.kernels.dropout import fresh_seed

FAMILIES = {
    "relu": "rectified",
    "relu2": "rectified",
    "softmax": "exponential",
    "top-k": "exponential",
    "sparsemax": "simplex",
    "entmax15": "simplex",
}
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LEAST = 16  # what a product of tiles asks of each of its sides
_WIDEST = 256
# Keys of a row in registers, and scores of a block of such rows: with a score in float32, 64
# registers of each of 128 threads. In float32 the products need registers, too.
_ROW_KEYS = {2: 512, 4: 128}
_ROW_SCORES = {2: 8192, 4: 2048}


class _Tiles(NamedTuple):
    """The sizes of a launch."""

    queries: int
    keys: int
    width: int
    warps: int
    stages: int

    def options(self) -> dict[str, int]:
        """Return them as the kernels' arguments."""
        return {
            "BLOCK_T": self.queries,
            "BLOCK_S": self.keys,
            "BLOCK_D": self.width,
            "num_warps": self.warps,
            "num_stages": self.stages,
        }


def fits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Return whether the kernels do these arguments."""
    same = q.dtype == k.dtype == v.dtype and q.size(-1) == v.size(-1)
    full = q.numel() > 0 and k.numel() > 0
    return same and full and q.dtype in _DTYPES and q.size(-1) <= _WIDEST


def _power(length: int) -> int:
    power: int = triton.next_power_of_2(length)
    return max(_LEAST, power)


def _row_tiles(q: Tensor, keys: int) -> _Tiles:
    """Return the sizes for rows in registers."""
    size = q.element_size()
    block = _power(keys)
    rows = max(_LEAST, min(64, _ROW_SCORES[size] // block, _power(q.size(2))))
    return _Tiles(rows, block, min(_power(q.size(3)), 128 // size), 8 if block > 256 else 4, 1)


def _forward_tiles(q: Tensor) -> _Tiles:
    """Return the sizes for passes over keys, queries in programs of their own."""
    width = _power(q.size(3))
    if q.dtype == torch.float32:
        rows, keys, warps, stages = 32, 32, 4, 1
    elif width > 128:
        rows, keys, warps, stages = 64, 32, 8, 1
    else:
        long = q.size(2) >= 512
        rows, keys, warps, stages = 128 if long else 64, 64, 8 if long else 4, 2
    return _Tiles(min(rows, _power(q.size(2))), keys, width, warps, stages)


def _backward_tiles(q: Tensor, keys: int) -> _Tiles:
    """Return the sizes of both backward kernels, which hold more at a time."""
    width = _power(q.size(3))
    if q.dtype == torch.float32:
        side, warps, stages = 32 if width <= 64 else 16, 4, 1
    elif width > 128:
        side, warps, stages = 32, 8, 1
    else:
        side, warps, stages = 64, 4 if width <= 64 else 8, 2
    rows = min(side, _power(q.size(2)))
    return _Tiles(rows, min(side, _power(keys)), width, warps, stages)


def _precision(dtype: torch.dtype) -> str:
    """Return the precision of products of float32; those of half precision are exact."""
    exact = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    # float16 was widened for its range alone: TF32 has all its digits
    return "ieee" if exact else "tf32"


def _beside(x: Tensor) -> Tensor:
    """Return a tensor whose columns are beside each other: itself, but for gradients of sums."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _joinable(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an empty (B, H, N, d) tensor like another, whose heads join in a view."""
    batch, heads, length, width = x.shape
    empty = torch.empty(batch, length, heads, width, dtype=dtype, device=x.device)
    return empty.transpose(1, 2)


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    """Return the strides of batch, head and row of each tensor."""
    return tuple(stride for x in tensors for stride in x.stride()[:3])


def _programs(x: Tensor, block: int) -> tuple[int]:
    return (x.size(0) * x.size(1) * triton.cdiv(x.size(2), block),)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        padding: Tensor | None,
        numbers: Tensor | None,
        method: str,
        causal: bool,
        dropout: float,
    ) -> Tensor:
        q, k, v = _beside(q), _beside(k), _beside(v)
        rectified = FAMILIES[method] == "rectified"
        wide = torch.float32 if rectified and q.dtype == torch.float16 else q.dtype
        out = _joinable(q, wide)
        # what a method does not need is a tensor without numbers
        rows = q.new_empty(0 if rectified else 2, *q.shape[:3], dtype=torch.float32)
        shifts, levels = (rows, rows) if rectified else rows.unbind(0)
        seed = fresh_seed(q.device) if dropout else q.new_empty(0, dtype=torch.int64)
        hidden = q.new_empty(0, dtype=torch.uint8) if padding is None else _bytes(padding)
        number = q.new_empty((0, 0, 0, 0), dtype=torch.int64) if numbers is None else numbers
        ctx.options = {
            "WIDTH": q.size(3),
            "METHOD": method,
            "FAMILY": FAMILIES[method],
            "CAUSAL": causal,
            "PADDED": padding is not None,
            "DROPPED": dropout > 0,
            "PRECISION": _precision(q.dtype),
        }
        in_registers = not rectified and method != "softmax"
        in_registers = in_registers and k.size(2) <= _ROW_KEYS[q.element_size()]
        kernel = forward_rows if in_registers else forward_tiles
        tiles = _row_tiles(q, k.size(2)) if in_registers else _forward_tiles(q)
        kernel[_programs(q, tiles.queries)](
            q, k, v, hidden, number, out, shifts, levels, seed, dropout,
            *_strides(q, k, v, number), q.size(1), q.size(2), k.size(2),
            **ctx.options, **tiles.options(),
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, hidden, shifts, levels, seed, out)
        ctx.dropout = dropout
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, hidden, shifts, levels, seed, out = ctx.saved_tensors
        grad = _beside(grad)
        d_q, d_k, d_v = (_joinable(x, x.dtype) for x in (q, k, v))
        deltas = torch.empty_like(shifts)
        shape = (*_strides(q, k, v, grad), q.size(1), q.size(2), k.size(2))
        tiles = _backward_tiles(q, k.size(2))
        options = {**ctx.options, **tiles.options()}
        backward_queries[_programs(q, tiles.queries)](
            q, k, v, hidden, out, grad, shifts, levels, deltas, d_q, seed, ctx.dropout,
            *shape, **options,
        )  # fmt: skip
        backward_keys[_programs(k, tiles.keys)](
            q, k, v, hidden, grad, shifts, levels, deltas, d_k, d_v, seed, ctx.dropout,
            *shape, **options,
        )  # fmt: skip
        return d_q, d_k, d_v, None, None, None, None, None


def _bytes(padding_mask_BS: Tensor) -> Tensor:
    return padding_mask_BS.contiguous().view(torch.uint8)


def attention(
    method: str,
    q_BHTd: Tensor,
    k_BHSd: Tensor,
    v_BHSd: Tensor,
    padding_mask_BS: Tensor | None,
    causal: bool,
    dropout: float,
    k_rows: Tensor | None = None,
) -> Tensor:
    """Return the (B, H, T, d) weighted values of arguments that :func:`fits` accepts.

    They are a view of (B, T, H, d): joining the heads moves nothing. Their dtype is the values', of
    ReLA in float16 float32, whose range sums that are not normalised need.

    Args:
        method: a key of ``FAMILIES``.
        q_BHTd: queries, already multiplied by d^-0.5.
        k_BHSd: keys.
        v_BHSd: values.
        padding_mask_BS: True at keys nobody may see; None if there are none.
        causal: query t sees the keys up to S - T + t only.
        dropout: probability of dropping a weight.
        k_rows: of top-k: how many keys a row keeps, broadcastable to (B, H, T, 1).
    """
    numbers = None if k_rows is None else k_rows.expand(*q_BHTd.shape[:3], 1)
    out: Tensor = _Attention.apply(
        q_BHTd, k_BHSd, v_BHSd, padding_mask_BS, numbers, method, causal, dropout
    )
    return out
