"""Backward kernels of attention: queries and keys have programs of their own, and no atomics.

Weights are made again from the scores and the two numbers of a row that the forward pass kept.
With s of :func:`attention_tiles.slopes`, and g the products of a row's gradient with the values,
the gradient of its scores is s (g - delta); delta = s . g / sum s is 0 for ReLA, and for softmax
and top-k the product of output and gradient.
"""

from __future__ import annotations

import triton
import triton.language as tl

from seqattn_fairseq.ops.kernels.attention_tiles import (
    any_but_zero,
    cells,
    draws,
    joined,
    last_key,
    loaded,
    masked,
    program,
    row_numbers,
    seen_keys,
    slopes,
    tile_scores,
    weights_of,
)
from seqattn_fairseq.ops.kernels.dropout import kept


@triton.jit
def value_products(
    grad, v, v_stride, rows, first, keys, seed, dropout,
    WIDTH: tl.constexpr, DROPPED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Return g of a tile: the products of gradients and values, where the draws keep them."""
    columns = first + tl.arange(0, BLOCK_S)
    value = loaded(v, v_stride, columns, columns < keys, WIDTH, BLOCK_D).to(grad.dtype)
    g = tl.dot(grad, tl.trans(value), input_precision=PRECISION)
    if DROPPED:
        g = g * kept(seed, draws(rows[:, None], columns[None, :], keys), dropout)
    return g


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
def backward_queries(
    q, k, v, padding, out, grad, shifts, levels, deltas, d_q, seed, dropout,
    q_b, q_h, q_t, k_b, k_h, k_s, v_b, v_h, v_s, g_b, g_h, g_t, heads, queries, keys,
    WIDTH: tl.constexpr, METHOD: tl.constexpr, FAMILY: tl.constexpr, CAUSAL: tl.constexpr,
    PADDED: tl.constexpr, DROPPED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a block of queries, and delta of its rows."""
    sentence, head, begin = program(queries, heads, BLOCK_T)
    rows = begin + tl.arange(0, BLOCK_T)
    inside = rows < queries
    diagonal = keys - queries
    stop = last_key(begin, queries, keys, BLOCK_T, CAUSAL)
    padding += sentence * keys
    k += sentence * k_b + head * k_h
    v += sentence * v_b + head * v_h
    of_rows = (sentence * heads + head) * queries + rows
    drawn = 0
    if DROPPED:
        drawn = tl.load(seed) + sentence * heads + head
    query = loaded(q + sentence * q_b + head * q_h, q_t, rows, inside, WIDTH, BLOCK_D)
    d_out = loaded(grad + sentence * g_b + head * g_h, g_t, rows, inside, WIDTH, BLOCK_D)
    shift, level = row_numbers(shifts, levels, of_rows, inside, METHOD, FAMILY, BLOCK_T)
    delta = tl.zeros([BLOCK_T], tl.float32)
    if FAMILY == "exponential":
        base = joined(out, sentence, head, queries, heads, WIDTH)
        result = loaded(base, heads * WIDTH, rows, inside, WIDTH, BLOCK_D)
        delta = tl.sum(result.to(tl.float32) * d_out.to(tl.float32), 1)
    elif FAMILY == "simplex":
        total = tl.zeros([BLOCK_T], tl.float32)
        for start in range(0, stop, BLOCK_S):
            x = tile_scores(
                query, k, k_s, padding, rows, start, keys, WIDTH, diagonal,
                FAMILY, CAUSAL, PADDED, PRECISION, BLOCK_S, BLOCK_D,
            )  # fmt: skip
            slope = slopes(x, shift[:, None], level[:, None], METHOD)
            if any_but_zero(slope) > 0:
                g = value_products(
                    d_out, v, v_s, rows, start, keys, drawn, dropout,
                    WIDTH, DROPPED, PRECISION, BLOCK_S, BLOCK_D,
                )  # fmt: skip
                total += tl.sum(slope, 1)
                delta += tl.sum(slope * g, 1)
        delta = delta / tl.where(total == 0.0, 1.0, total)
    if FAMILY != "rectified":
        tl.store(deltas + of_rows, delta, mask=inside)
    d_query = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    for start in range(0, stop, BLOCK_S):
        x = tile_scores(
            query, k, k_s, padding, rows, start, keys, WIDTH, diagonal,
            FAMILY, CAUSAL, PADDED, PRECISION, BLOCK_S, BLOCK_D,
        )  # fmt: skip
        slope = slopes(x, shift[:, None], level[:, None], METHOD)
        if any_but_zero(slope) > 0:
            g = value_products(
                d_out, v, v_s, rows, start, keys, drawn, dropout,
                WIDTH, DROPPED, PRECISION, BLOCK_S, BLOCK_D,
            )  # fmt: skip
            d_x = (slope * (g - delta[:, None])).to(d_out.dtype)
            columns = start + tl.arange(0, BLOCK_S)
            key = loaded(k, k_s, columns, columns < keys, WIDTH, BLOCK_D).to(d_out.dtype)
            d_query = tl.dot(d_x, key, d_query, input_precision=PRECISION)
    base = joined(d_q, sentence, head, queries, heads, WIDTH)
    pointers, there = cells(base, heads * WIDTH, rows, inside, 0, WIDTH, BLOCK_D)
    tl.store(pointers, d_query.to(d_q.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
def backward_keys(
    q, k, v, padding, grad, shifts, levels, deltas, d_k, d_v, seed, dropout,
    q_b, q_h, q_t, k_b, k_h, k_s, v_b, v_h, v_s, g_b, g_h, g_t, heads, queries, keys,
    WIDTH: tl.constexpr, METHOD: tl.constexpr, FAMILY: tl.constexpr, CAUSAL: tl.constexpr,
    PADDED: tl.constexpr, DROPPED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a block of keys and of their values; tiles are (keys, queries)."""
    sentence, head, begin = program(keys, heads, BLOCK_S)
    columns = begin + tl.arange(0, BLOCK_S)
    exists = columns < keys
    seen = seen_keys(padding + sentence * keys, columns, keys, PADDED)
    q += sentence * q_b + head * q_h
    grad += sentence * g_b + head * g_h
    key = loaded(k + sentence * k_b + head * k_h, k_s, columns, exists, WIDTH, BLOCK_D)
    value = loaded(v + sentence * v_b + head * v_h, v_s, columns, exists, WIDTH, BLOCK_D)
    value = value.to(grad.dtype.element_ty)
    drawn = 0
    if DROPPED:
        drawn = tl.load(seed) + sentence * heads + head
    d_key = tl.zeros([BLOCK_S, BLOCK_D], tl.float32)
    d_value = tl.zeros([BLOCK_S, BLOCK_D], tl.float32)
    start = 0
    if CAUSAL:  # no query before this one sees a key of the block
        start = tl.maximum(0, begin - (keys - queries)) // BLOCK_T * BLOCK_T
    for first in range(start, queries, BLOCK_T):
        rows = first + tl.arange(0, BLOCK_T)
        inside = rows < queries
        of_rows = (sentence * heads + head) * queries + rows
        shift, level = row_numbers(shifts, levels, of_rows, inside, METHOD, FAMILY, BLOCK_T)
        delta = tl.zeros([BLOCK_T], tl.float32)
        if FAMILY != "rectified":
            delta = tl.load(deltas + of_rows, mask=inside, other=0.0)
        query = loaded(q, q_t, rows, inside, WIDTH, BLOCK_D)
        x = tl.dot(key, tl.trans(query), input_precision=PRECISION)
        x = masked(
            x, rows[None, :], columns[:, None], seen[:, None], keys - queries,
            FAMILY, CAUSAL, PADDED,
        )  # fmt: skip
        slope = slopes(x, shift[None, :], level[None, :], METHOD)
        if any_but_zero(slope) > 0:
            p = weights_of(x, slope, shift[None, :], level[None, :], METHOD)
            d_out = loaded(grad, g_t, rows, inside, WIDTH, BLOCK_D)
            g = tl.dot(value, tl.trans(d_out), input_precision=PRECISION)
            if DROPPED:
                scale = kept(drawn, draws(rows[None, :], columns[:, None], keys), dropout)
                p = p * scale
                g = g * scale
            d_value = tl.dot(p.to(d_out.dtype), d_out, d_value, input_precision=PRECISION)
            d_x = (slope * (g - delta[None, :])).to(d_out.dtype)
            d_key = tl.dot(d_x, query.to(d_out.dtype), d_key, input_precision=PRECISION)
    at_k, there = cells(
        joined(d_k, sentence, head, keys, heads, WIDTH), heads * WIDTH, columns, exists, 0, WIDTH,
        BLOCK_D,
    )  # fmt: skip
    tl.store(at_k, d_key.to(d_k.dtype.element_ty), mask=there)
    at_v, there = cells(
        joined(d_v, sentence, head, keys, heads, WIDTH), heads * WIDTH, columns, exists, 0, WIDTH,
        BLOCK_D,
    )  # fmt: skip
    tl.store(at_v, d_value.to(d_v.dtype.element_ty), mask=there)
