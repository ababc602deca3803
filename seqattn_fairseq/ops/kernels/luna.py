"""Kernels of Luna's causal attention: running mean, softmax over P, running mean, in one.

The target is cut into chunks. Within a chunk, positions meet in pairs; of all chunks before, two
(L, d) sums are left, pack^T k and pack^T v, which one kernel makes for each chunk and another adds
up. Backward, the same sums run from the end: of the scores' gradients with the queries, and of the
read weights with the output's gradient. Sums and everything between the products are in float32.

Shapes: B batch, H heads, T target length, L length of P, d width of a head, N chunks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from seqattn_fairseq.ops.kernels.dropout import fresh_seed, kept
from seqattn_fairseq.ops.precision import exact_sums

# The widest heads and longest P, by the bytes of an entry: beyond, tiles do not fit into registers
_WIDEST = {2: 128, 4: 64}
_SCAN = 256


@triton.jit
def _program(length, heads, CHUNK: tl.constexpr):
    """Return row b h, sentence, head, chunk and number of chunks of a program."""
    chunks = tl.cdiv(length, CHUNK)
    row = (tl.program_id(0) // chunks).to(tl.int64)
    return row, row // heads, row % heads, tl.program_id(0) % chunks, chunks


@triton.jit
def _load(base, t, stride, length, width, WIDTH: tl.constexpr):
    c = tl.arange(0, WIDTH)
    inside = (t < length)[:, None] & (c < width)[None, :]
    rows = tl.load(base + t.to(tl.int64)[:, None] * stride + c[None, :], mask=inside, other=0.0)
    return rows.to(tl.float32)


@triton.jit
def _store(base, t, stride, values, length, width, WIDTH: tl.constexpr):
    c = tl.arange(0, WIDTH)
    inside = (t < length)[:, None] & (c < width)[None, :]
    place = base + t.to(tl.int64)[:, None] * stride + c[None, :]
    tl.store(place, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _state(states, row, chunk, chunks, which, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Return pointers to one of the two (L, d) sums of a chunk."""
    base = states + ((row * chunks + chunk) * 2 + which) * (ROWS * WIDTH)
    return base + tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]


@triton.jit
def _counts(counts, b, t, stride_b, length):
    return tl.load(counts + b * stride_b + t, mask=t < length, other=1.0)


@triton.jit
def _up_to(scores, t):
    """Return scores of pairs (reader, read), 0 where what is read comes later."""
    return tl.where(t[:, None] >= t[None, :], scores, 0.0)


@triton.jit
def _softmax(scores, hidden, b, length_p, PADDED: tl.constexpr, ROWS: tl.constexpr):
    """Return the softmax over the rows of P that there are; all 0 if there is none."""
    column = tl.arange(0, ROWS)
    used = column < length_p
    if PADDED:
        used = used & (tl.load(hidden + b * length_p + column, mask=used, other=1) == 0)
    scores = tl.where(used[None, :], scores, float("-inf"))
    top = tl.max(scores, axis=1)
    shifted = scores - tl.where(top == float("-inf"), 0.0, top)[:, None]
    parts = tl.exp(shifted)
    total = tl.sum(parts, axis=1)
    return parts / tl.where(total == 0.0, 1.0, total)[:, None]


@triton.jit
def _chunk_sums_kernel(
    pack, k, v, states, length, heads, width, length_p,
    pack_b, pack_h, pack_t, k_b, k_h, k_t, v_b, v_h, v_t,
    CHUNK: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write pack^T k and pack^T v of each chunk."""
    row, b, h, chunk, chunks = _program(length, heads, CHUNK)
    t = chunk * CHUNK + tl.arange(0, CHUNK)
    packed = tl.trans(_load(pack + b * pack_b + h * pack_h, t, pack_t, length, length_p, ROWS))
    keys = _load(k + b * k_b + h * k_h, t, k_t, length, width, WIDTH)
    sums = tl.dot(packed, keys, input_precision=PRECISION)
    tl.store(_state(states, row, chunk, chunks, 0, ROWS, WIDTH), sums)
    values = _load(v + b * v_b + h * v_h, t, v_t, length, width, WIDTH)
    sums = tl.dot(packed, values, input_precision=PRECISION)
    tl.store(_state(states, row, chunk, chunks, 1, ROWS, WIDTH), sums)


@triton.jit
def _scan_kernel(states, chunks, size, REVERSED: tl.constexpr, BLOCK: tl.constexpr):
    """Put the sum of all chunks before (after, if reversed) in place of each chunk's."""
    blocks = tl.cdiv(size, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    entry = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for step in range(0, chunks):
        chunk = step
        if REVERSED:
            chunk = chunks - 1 - step
        place = states + (row * chunks + chunk) * size + entry
        part = tl.load(place, mask=entry < size, other=0.0)
        tl.store(place, total, mask=entry < size)
        total += part


@triton.jit
def _read_weights(
    q_tile, k_tile, p_tile, states, row, b, chunk, chunks, t, count, hidden, length_p,
    STATES: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Return each position's weights over P, before dropout, and q k^T up to each position."""
    pairs = _up_to(tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION), t)
    scores = tl.dot(pairs, p_tile, input_precision=PRECISION)
    if STATES:
        before = tl.load(_state(states, row, chunk, chunks, 0, ROWS, WIDTH))
        scores += tl.dot(q_tile, tl.trans(before), input_precision=PRECISION)
    return _softmax(scores / count[:, None], hidden, b, length_p, PADDED, ROWS), pairs


@triton.jit
def _kept(seed, row, t, dropout, DROPS: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr):
    factor = tl.full((CHUNK, ROWS), 1.0, tl.float32)
    if DROPS:
        offsets = t[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
        factor = kept(tl.load(seed) + row, offsets, dropout)
    return factor


@triton.jit
def _forward_kernel(
    q, k, v, pack, counts, hidden, seed, states, out, length, heads, width, length_p, dropout,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, pack_b, pack_h, pack_t, out_b, out_h, out_t,
    count_b,
    STATES: tl.constexpr, PADDED: tl.constexpr, DROPS: tl.constexpr, CHUNK: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row, b, h, chunk, chunks = _program(length, heads, CHUNK)
    t = chunk * CHUNK + tl.arange(0, CHUNK)
    count = _counts(counts, b, t, count_b, length)
    q_tile = _load(q + b * q_b + h * q_h, t, q_t, length, width, WIDTH)
    k_tile = _load(k + b * k_b + h * k_h, t, k_t, length, width, WIDTH)
    p_tile = _load(pack + b * pack_b + h * pack_h, t, pack_t, length, length_p, ROWS)
    weights, _ = _read_weights(
        q_tile, k_tile, p_tile, states, row, b, chunk, chunks, t, count, hidden, length_p,
        STATES, PADDED, WIDTH, ROWS, PRECISION,
    )  # fmt: skip
    weights *= _kept(seed, row, t, dropout, DROPS, CHUNK, ROWS)
    v_tile = _load(v + b * v_b + h * v_h, t, v_t, length, width, WIDTH)
    pairs = _up_to(tl.dot(weights, tl.trans(p_tile), input_precision=PRECISION), t)
    sums = tl.dot(pairs, v_tile, input_precision=PRECISION)
    if STATES:
        before = tl.load(_state(states, row, chunk, chunks, 1, ROWS, WIDTH))
        sums += tl.dot(weights, before, input_precision=PRECISION)
    _store(out + b * out_b + h * out_h, t, out_t, sums / count[:, None], length, width, WIDTH)


@triton.jit
def _backward_readers_kernel(
    q, k, v, pack, g, counts, hidden, seed, states, d_q, d_scores, read, later,
    length, heads, width, length_p, dropout,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, pack_b, pack_h, pack_t, g_b, g_h, g_t,
    dq_b, dq_h, dq_t, count_b,
    STATES: tl.constexpr, PADDED: tl.constexpr, DROPS: tl.constexpr, CHUNK: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write what positions get as readers: gradients of queries and, (B H, T, L), of scores.

    Also the weights they read with, (B H, T, L), and the sums that a chunk hands to those before.
    """
    row, b, h, chunk, chunks = _program(length, heads, CHUNK)
    t = chunk * CHUNK + tl.arange(0, CHUNK)
    count = _counts(counts, b, t, count_b, length)
    q_tile = _load(q + b * q_b + h * q_h, t, q_t, length, width, WIDTH)
    k_tile = _load(k + b * k_b + h * k_h, t, k_t, length, width, WIDTH)
    p_tile = _load(pack + b * pack_b + h * pack_h, t, pack_t, length, length_p, ROWS)
    weights, _ = _read_weights(
        q_tile, k_tile, p_tile, states, row, b, chunk, chunks, t, count, hidden, length_p,
        STATES, PADDED, WIDTH, ROWS, PRECISION,
    )  # fmt: skip
    factor = _kept(seed, row, t, dropout, DROPS, CHUNK, ROWS)
    g_tile = _load(g + b * g_b + h * g_h, t, g_t, length, width, WIDTH) / count[:, None]
    v_tile = _load(v + b * v_b + h * v_h, t, v_t, length, width, WIDTH)
    pairs = _up_to(tl.dot(g_tile, tl.trans(v_tile), input_precision=PRECISION), t)
    d_weights = tl.dot(pairs, p_tile, input_precision=PRECISION)
    if STATES:
        before = tl.load(_state(states, row, chunk, chunks, 1, ROWS, WIDTH))
        d_weights += tl.dot(g_tile, tl.trans(before), input_precision=PRECISION)
    d_weights *= factor
    mean = tl.sum(weights * d_weights, axis=1)
    d_tile = weights * (d_weights - mean[:, None]) / count[:, None]
    pairs = _up_to(tl.dot(d_tile, tl.trans(p_tile), input_precision=PRECISION), t)
    d_queries = tl.dot(pairs, k_tile, input_precision=PRECISION)
    if STATES:
        before = tl.load(_state(states, row, chunk, chunks, 0, ROWS, WIDTH))
        d_queries += tl.dot(d_tile, before, input_precision=PRECISION)
    _store(d_q + b * dq_b + h * dq_h, t, dq_t, d_queries, length, width, WIDTH)
    used = weights * factor
    _store(d_scores + row * length * length_p, t, length_p, d_tile, length, length_p, ROWS)
    _store(read + row * length * length_p, t, length_p, used, length, length_p, ROWS)
    if STATES:
        sums = tl.dot(tl.trans(d_tile), q_tile, input_precision=PRECISION)
        tl.store(_state(later, row, chunk, chunks, 0, ROWS, WIDTH), sums)
        sums = tl.dot(tl.trans(used), g_tile, input_precision=PRECISION)
        tl.store(_state(later, row, chunk, chunks, 1, ROWS, WIDTH), sums)


@triton.jit
def _backward_read_kernel(
    q, k, v, pack, g, counts, d_scores, read, later, d_k, d_v, d_pack,
    length, heads, width, length_p,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, pack_b, pack_h, pack_t, g_b, g_h, g_t,
    dk_b, dk_h, dk_t, dv_b, dv_h, dv_t, dp_b, dp_h, dp_t, count_b,
    STATES: tl.constexpr, CHUNK: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write what positions get from themselves and all later ones: as keys, values and pack."""
    row, b, h, chunk, chunks = _program(length, heads, CHUNK)
    t = chunk * CHUNK + tl.arange(0, CHUNK)
    count = _counts(counts, b, t, count_b, length)
    p_tile = _load(pack + b * pack_b + h * pack_h, t, pack_t, length, length_p, ROWS)
    # first mean: keys with pack, read by the queries
    d_tile = _load(d_scores + row * length * length_p, t, length_p, length, length_p, ROWS)
    q_tile = _load(q + b * q_b + h * q_h, t, q_t, length, width, WIDTH)
    k_tile = _load(k + b * k_b + h * k_h, t, k_t, length, width, WIDTH)
    pairs = _up_to(tl.dot(d_tile, tl.trans(p_tile), input_precision=PRECISION), t)
    d_keys = tl.dot(tl.trans(pairs), q_tile, input_precision=PRECISION)
    pairs = _up_to(tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION), t)
    d_packed = tl.dot(tl.trans(pairs), d_tile, input_precision=PRECISION)
    if STATES:
        after = tl.load(_state(later, row, chunk, chunks, 0, ROWS, WIDTH))
        d_keys += tl.dot(p_tile, after, input_precision=PRECISION)
        d_packed += tl.dot(k_tile, tl.trans(after), input_precision=PRECISION)
    _store(d_k + b * dk_b + h * dk_h, t, dk_t, d_keys, length, width, WIDTH)
    # second mean: pack with values, read by the weights
    w_tile = _load(read + row * length * length_p, t, length_p, length, length_p, ROWS)
    g_tile = _load(g + b * g_b + h * g_h, t, g_t, length, width, WIDTH) / count[:, None]
    v_tile = _load(v + b * v_b + h * v_h, t, v_t, length, width, WIDTH)
    pairs = _up_to(tl.dot(w_tile, tl.trans(p_tile), input_precision=PRECISION), t)
    d_values = tl.dot(tl.trans(pairs), g_tile, input_precision=PRECISION)
    pairs = _up_to(tl.dot(g_tile, tl.trans(v_tile), input_precision=PRECISION), t)
    d_packed += tl.dot(tl.trans(pairs), w_tile, input_precision=PRECISION)
    if STATES:
        after = tl.load(_state(later, row, chunk, chunks, 1, ROWS, WIDTH))
        d_values += tl.dot(p_tile, after, input_precision=PRECISION)
        d_packed += tl.dot(v_tile, tl.trans(after), input_precision=PRECISION)
    _store(d_v + b * dv_b + h * dv_h, t, dv_t, d_values, length, width, WIDTH)
    _store(d_pack + b * dp_b + h * dp_h, t, dp_t, d_packed, length, length_p, ROWS)


class _Sizes(NamedTuple):
    """The numbers that all launches share."""

    batch: int
    heads: int
    length: int
    width: int
    length_p: int
    chunk: int
    precision: str
    warps: int

    @staticmethod
    def of(k: Tensor, pack: Tensor) -> _Sizes:
        batch, heads, length, width = k.shape
        single = torch.float32 in {k.dtype, pack.dtype}
        wide = single or max(width, pack.size(3)) > 64
        chunk = min(16 if single else 32 if wide else 64, _power(length))
        # three products of TF32 have the digits of float32, on tensor cores
        exact = single and torch.get_float32_matmul_precision() == "highest"
        precision = "tf32x3" if exact else "tf32"
        warps = 8 if wide and not single else 4
        return _Sizes(batch, heads, length, width, pack.size(3), chunk, precision, warps)

    @property
    def chunks(self) -> int:
        return -(-self.length // self.chunk)

    @property
    def grid(self) -> tuple[int]:
        return (self.batch * self.heads * self.chunks,)

    @property
    def numbers(self) -> tuple[int, ...]:
        return self.length, self.heads, self.width, self.length_p

    @property
    def constants(self) -> dict[str, Any]:
        return {
            "CHUNK": self.chunk,
            "WIDTH": _power(self.width),
            "ROWS": _power(self.length_p),
            "PRECISION": self.precision,
            "num_warps": self.warps,
            "num_stages": 1,
        }

    def states(self, like: Tensor) -> Tensor:
        """Return (B H, N, 2, L, d) float32, or next to nothing where there is but one chunk."""
        if self.chunks == 1:
            return torch.empty(1, dtype=torch.float32, device=like.device)
        shape = (self.batch * self.heads, self.chunks, 2, _power(self.length_p), _power(self.width))
        return torch.empty(shape, dtype=torch.float32, device=like.device)

    def heads_like(self, x: Tensor, width: int) -> Tensor:
        """Return an empty (B, H, T, width) whose heads can be joined without a copy."""
        made = torch.empty(
            self.batch, self.length, self.heads, width, dtype=x.dtype, device=x.device
        )
        return made.transpose(1, 2)


def _power(length: int) -> int:
    smallest: int = triton.next_power_of_2(length)
    return max(16, smallest)


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(stride for tensor in tensors for stride in tensor.stride()[:3])


def _scanned(states: Tensor, is_reversed: bool) -> Tensor:
    rows, chunks = states.shape[:2]
    size = states[0, 0].numel()
    grid = (rows * triton.cdiv(size, _SCAN),)
    _scan_kernel[grid](states, chunks, size, REVERSED=is_reversed, BLOCK=_SCAN)
    return states


def _sums_before(sizes: _Sizes, k: Tensor, v: Tensor, pack: Tensor) -> Tensor:
    states = sizes.states(k)
    if sizes.chunks == 1:
        return states
    _chunk_sums_kernel[sizes.grid](
        *(pack, k, v, states, *sizes.numbers, *_strides(pack, k, v)), **sizes.constants
    )
    return _scanned(states, False)


class _CausalAttention(torch.autograd.Function):
    """Forward saves its arguments and the sums before each chunk."""

    @staticmethod
    def forward(ctx, q, k, v, pack, counts, hidden, seed, padded, dropout):
        sizes = _Sizes.of(k, pack)
        states = _sums_before(sizes, k, v, pack)
        out = sizes.heads_like(v, sizes.width)
        _forward_kernel[sizes.grid](
            *(q, k, v, pack, counts, hidden, seed, states, out, *sizes.numbers, dropout),
            *(*_strides(q, k, v, pack, out), _count_stride(counts)),
            **{"STATES": sizes.chunks > 1, "PADDED": padded, "DROPS": dropout > 0},
            **sizes.constants,
        )
        ctx.save_for_backward(q, k, v, pack, counts, hidden, seed, states)
        ctx.options = (sizes, padded, dropout)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        q, k, v, pack, counts, hidden, seed, states = ctx.saved_tensors
        sizes, padded, dropout = ctx.options
        g = _rows_in_order(g)
        d_q, d_k, d_v = (sizes.heads_like(t, sizes.width) for t in (q, k, v))
        d_pack, later = sizes.heads_like(pack, sizes.length_p), sizes.states(k)
        shape = (sizes.batch * sizes.heads, sizes.length, sizes.length_p)
        d_scores, read = torch.empty((2, *shape), dtype=torch.float32, device=q.device)
        tensors, has_states = (q, k, v, pack, g), sizes.chunks > 1
        _backward_readers_kernel[sizes.grid](
            *(*tensors, counts, hidden, seed, states, d_q, d_scores, read, later),
            *(*sizes.numbers, dropout, *_strides(*tensors, d_q), _count_stride(counts)),
            **{"STATES": has_states, "PADDED": padded, "DROPS": dropout > 0},
            **sizes.constants,
        )
        if has_states:
            _scanned(later, True)
        _backward_read_kernel[sizes.grid](
            *(*tensors, counts, d_scores, read, later, d_k, d_v, d_pack, *sizes.numbers),
            *(*_strides(*tensors, d_k, d_v, d_pack), _count_stride(counts)),
            STATES=has_states,
            **sizes.constants,
        )
        return d_q, d_k, d_v, d_pack, *[None] * 5


def _count_stride(counts_BT: Tensor) -> int:
    return 0 if counts_BT.size(0) == 1 else counts_BT.stride(0)


def _rows_in_order(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def supports(q: Tensor, k: Tensor, v: Tensor, pack: Tensor) -> bool:
    """Return whether the kernels can compute a call with these tensors.

    Not in float64, with values of another width than the keys', with heads or a P too large for
    registers, with nothing to compute, or with offsets beyond int32.
    """
    sizes = {t.element_size() for t in (q, k, v, pack)}
    widest = _WIDEST.get(max(sizes), 0)
    fits = max(q.size(-1), pack.size(-1)) <= widest and q.size(2) * widest < 2**31
    return fits and q.shape == k.shape == v.shape and min(q.numel(), pack.numel()) > 0


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pack: Tensor,
    count: Tensor,
    padding_mask: Tensor | None,
    dropout: float,
) -> Tensor:
    """Return (B, H, T, d), as ``ops.luna.causal_attention``; ``supports`` tells of which tensors.

    Args:
        q: (B, H, T, d) queries, scaled.
        k: keys.
        v: values.
        pack: (B, H, T, L) positive weights, 0 at padding.
        count: (T, 1) or (B, 1, T, 1) divisors.
        padding_mask: (B, L), True at rows of P that a sentence does not use.
        dropout: of the read weights.
    """
    q, k, v, pack = (_rows_in_order(t) for t in (q, k, v, pack))
    counts = count.float().reshape(-1, q.size(2))
    seed = fresh_seed(q.device) if dropout else counts
    hidden = counts if padding_mask is None else padding_mask.contiguous().view(torch.uint8)
    with exact_sums(q):
        out: Tensor = _CausalAttention.apply(
            q, k, v, pack, counts, hidden, seed, padding_mask is not None, dropout
        )
    return out
