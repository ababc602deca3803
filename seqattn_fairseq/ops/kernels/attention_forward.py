"""Forward kernels of attention: whole rows in registers, and tiles of rows of any length."""

from __future__ import annotations

import triton
import triton.language as tl

from seqattn_fairseq.ops.kernels.attention_levels import (
    LOWEST,
    simplex_passes,
    simplex_row,
    topk_passes,
    topk_row,
)
from seqattn_fairseq.ops.kernels.attention_tiles import (
    any_but_zero,
    cells,
    draws,
    joined,
    last_key,
    loaded,
    masked,
    program,
    seen_keys,
    slopes,
    tile_scores,
    weights_of,
)
from seqattn_fairseq.ops.kernels.dropout import kept


@triton.jit
def kept_numbers(base, sentence, head, rows, inside, by_sentence, by_head, by_row):
    """Return how many keys each row of top-k keeps."""
    pointers = base + sentence * by_sentence + head * by_head + rows.to(tl.int64) * by_row
    return tl.load(pointers, mask=inside, other=1).to(tl.int32)


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
def forward_tiles(
    q, k, v, padding, numbers, out, shifts, levels, seed, dropout,
    q_b, q_h, q_t, k_b, k_h, k_s, v_b, v_h, v_s, n_b, n_h, n_t, heads, queries, keys,
    WIDTH: tl.constexpr, METHOD: tl.constexpr, FAMILY: tl.constexpr, CAUSAL: tl.constexpr,
    PADDED: tl.constexpr, DROPPED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Write the output of a block of queries, and the two numbers of its rows."""
    sentence, head, begin = program(queries, heads, BLOCK_T)
    rows = begin + tl.arange(0, BLOCK_T)
    inside = rows < queries
    diagonal = keys - queries
    stop = last_key(begin, queries, keys, BLOCK_T, CAUSAL)
    padding += sentence * keys
    k += sentence * k_b + head * k_h
    v += sentence * v_b + head * v_h
    of_rows = (sentence * heads + head) * queries + rows
    query = loaded(q + sentence * q_b + head * q_h, q_t, rows, inside, WIDTH, BLOCK_D)
    top = tl.zeros([BLOCK_T], tl.float32) + LOWEST
    level = tl.zeros([BLOCK_T], tl.float32)
    total = tl.zeros([BLOCK_T], tl.float32)
    if FAMILY == "simplex":
        top, level = simplex_passes(
            query, k, k_s, padding, rows, stop, keys, WIDTH, diagonal,
            METHOD, CAUSAL, PADDED, PRECISION, BLOCK_T, BLOCK_S, BLOCK_D,
        )  # fmt: skip
    elif METHOD == "top-k":
        number = kept_numbers(numbers, sentence, head, rows, inside, n_b, n_h, n_t)
        level = topk_passes(
            query, number, k, k_s, padding, rows, stop, keys, WIDTH, diagonal,
            CAUSAL, PADDED, PRECISION, BLOCK_T, BLOCK_S, BLOCK_D,
        )  # fmt: skip
    result = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    for start in range(0, stop, BLOCK_S):
        x = tile_scores(
            query, k, k_s, padding, rows, start, keys, WIDTH, diagonal,
            FAMILY, CAUSAL, PADDED, PRECISION, BLOCK_S, BLOCK_D,
        )  # fmt: skip
        if FAMILY == "exponential":
            higher = tl.maximum(top, tl.max(x, 1))
            p = slopes(x, higher[:, None], level[:, None], METHOD)
            shrunk = tl.exp(top - higher)
            total = total * shrunk + tl.sum(p, 1)
            result = result * shrunk[:, None]
            top = higher
        else:
            slope = slopes(x, top[:, None], level[:, None], METHOD)
            p = weights_of(x, slope, top[:, None], level[:, None], METHOD)
        columns = start + tl.arange(0, BLOCK_S)
        value = loaded(v, v_s, columns, columns < keys, WIDTH, BLOCK_D).to(out.dtype.element_ty)
        if any_but_zero(p) > 0:
            if DROPPED:
                places = draws(rows[:, None], columns[None, :], keys)
                p = p * kept(tl.load(seed) + sentence * heads + head, places, dropout)
            weights = p.to(out.dtype.element_ty)
            result = tl.dot(weights, value, result, input_precision=PRECISION)
    if FAMILY == "exponential":
        alive = tl.where(total == 0.0, 1.0, total)
        result = result / alive[:, None]
        top = tl.where(total == 0.0, 0.0, top + tl.log(alive))
    if FAMILY != "rectified":
        tl.store(shifts + of_rows, top, mask=inside)
        if METHOD != "softmax":
            tl.store(levels + of_rows, level, mask=inside)
    base = joined(out, sentence, head, queries, heads, WIDTH)
    pointers, there = cells(base, heads * WIDTH, rows, inside, 0, WIDTH, BLOCK_D)
    tl.store(pointers, result.to(out.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["heads", "queries", "keys"])
def forward_rows(
    q, k, v, padding, numbers, out, shifts, levels, seed, dropout,
    q_b, q_h, q_t, k_b, k_h, k_s, v_b, v_h, v_s, n_b, n_h, n_t, heads, queries, keys,
    WIDTH: tl.constexpr, METHOD: tl.constexpr, FAMILY: tl.constexpr, CAUSAL: tl.constexpr,
    PADDED: tl.constexpr, DROPPED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Do what :func:`forward_tiles` does, for top-k and simplex maps of up to BLOCK_S keys.

    The width goes by in parts of BLOCK_D, so that all keys of a part fit.
    """
    sentence, head, begin = program(queries, heads, BLOCK_T)
    rows = begin + tl.arange(0, BLOCK_T)
    columns = tl.arange(0, BLOCK_S)
    inside, exists = rows < queries, columns < keys
    q += sentence * q_b + head * q_h
    k += sentence * k_b + head * k_h
    v += sentence * v_b + head * v_h
    x = tl.zeros([BLOCK_T, BLOCK_S], tl.float32)
    for part in range(0, WIDTH, BLOCK_D):
        at_q, there_q = cells(q, q_t, rows, inside, part, WIDTH, BLOCK_D)
        at_k, there_k = cells(k, k_s, columns, exists, part, WIDTH, BLOCK_D)
        query = tl.load(at_q, mask=there_q, other=0.0)
        key = tl.load(at_k, mask=there_k, other=0.0)
        x = tl.dot(query, tl.trans(key), x, input_precision=PRECISION)
    seen = seen_keys(padding + sentence * keys, columns, keys, PADDED)
    x = masked(
        x, rows[:, None], columns[None, :], seen[None, :], keys - queries, FAMILY, CAUSAL, PADDED
    )
    if METHOD == "top-k":
        level = topk_row(
            x, kept_numbers(numbers, sentence, head, rows, inside, n_b, n_h, n_t), BLOCK_T
        )
        top = tl.maximum(tl.max(x, 1), LOWEST)
        p = slopes(x, top[:, None], level[:, None], METHOD)
        total = tl.sum(p, 1)
        alive = tl.where(total == 0.0, 1.0, total)
        p = p / alive[:, None]
        shift = tl.where(total == 0.0, 0.0, top + tl.log(alive))
    else:
        shift, level = simplex_row(x, keys, METHOD, BLOCK_T)
        slope = slopes(x, shift[:, None], level[:, None], METHOD)
        p = weights_of(x, slope, shift[:, None], level[:, None], METHOD)
    of_rows = (sentence * heads + head) * queries + rows
    tl.store(shifts + of_rows, shift, mask=inside)
    tl.store(levels + of_rows, level, mask=inside)
    if DROPPED:
        places = draws(rows[:, None], columns[None, :], keys)
        p = p * kept(tl.load(seed) + sentence * heads + head, places, dropout)
    p = p.to(v.dtype.element_ty)
    base = joined(out, sentence, head, queries, heads, WIDTH)
    for part in range(0, WIDTH, BLOCK_D):
        at_v, there_v = cells(v, v_s, columns, exists, part, WIDTH, BLOCK_D)
        value = tl.load(at_v, mask=there_v, other=0.0)
        result = tl.dot(p, value, input_precision=PRECISION)
        at_out, there_out = cells(base, heads * WIDTH, rows, inside, part, WIDTH, BLOCK_D)
        tl.store(at_out, result.to(out.dtype.element_ty), mask=there_out)
