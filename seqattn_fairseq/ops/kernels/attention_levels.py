"""Thresholds of rows of scores, without sorting: of rows in registers, and of rows in passes.

Sparsemax and 1.5-entmax are relu((x - top - level) / q)^q with q = 1 and 2. Newton's steps from the
left never pass the root (:mod:`seqattn_fairseq.ops.thresholds` says why); those of a part of a row
stop at the root of the part, which is no further. A row stops by its own steps.

The k-th largest is bracketed in the integers that are ordered as their float32 numbers are; a step
cuts the bracket to a quarter. The level lies halfway to the next lower score: scores that are made
again in another kernel, and rounded otherwise, fall on the same side.
"""

from __future__ import annotations

import triton
import triton.language as tl

from seqattn_fairseq.ops.kernels.attention_tiles import positive, tile_scores

# steps at most where six are many; steps with a part of a row
MOST_STEPS = tl.constexpr(64)
PART_STEPS = tl.constexpr(4)
LOWEST = tl.constexpr(-3.0e38)
EPS = tl.constexpr(2.0**-23)


# ---- sparsemax and 1.5-entmax ------------------------------------------------------------------


@triton.jit
def newton_sums(x, level, METHOD: tl.constexpr):
    """Return what a tile adds to the two sums of a step; x is relative to its row's maximum."""
    gap = positive(x - level[:, None])
    second = gap * gap if METHOD == "entmax15" else (gap > 0.0).to(tl.float32)
    return tl.sum(gap, 1), tl.sum(second, 1)


@triton.jit
def newton_step(first, second, METHOD: tl.constexpr):
    """Return how far the level moves, given the sums of a row."""
    if METHOD == "entmax15":
        norm = tl.sqrt(second)
        step = (norm - 2.0) * norm / tl.maximum(first, 1e-30)
    else:
        step = (first - 1.0) / tl.maximum(second, 1.0)
    return positive(step)


@triton.jit
def unfinished(step, keys, METHOD: tl.constexpr):
    """Return which rows another step would still move by more than rounding."""
    if METHOD == "entmax15":
        return step * step * keys > EPS
    return step > 2.0 * EPS


@triton.jit
def leftmost(METHOD: tl.constexpr):
    """Return the level of a row of one score."""
    return -2.0 if METHOD == "entmax15" else -1.0


@triton.jit
def simplex_row(x, keys, METHOD: tl.constexpr, BLOCK_T: tl.constexpr):
    """Return maximum and level of rows that are here as a whole."""
    top = tl.max(x, 1)
    top = tl.where(top == float("-inf"), 0.0, top)
    x = x - top[:, None]
    level = tl.zeros([BLOCK_T], tl.float32) + leftmost(METHOD)
    moving = level < 0.0
    steps = 0
    while (tl.max(moving.to(tl.int32), 0) > 0) & (steps < MOST_STEPS):
        first, second = newton_sums(x, level, METHOD)
        step = newton_step(first, second, METHOD)
        level += tl.where(moving, step, 0.0)
        moving = moving & unfinished(step, keys, METHOD)
        steps += 1
    return top, level


@triton.jit
def simplex_passes(
    q, k, k_stride, padding, rows, stop, keys, width, diagonal,
    METHOD: tl.constexpr, CAUSAL: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Return maximum and level of rows whose scores are made again for every step."""
    top = tl.zeros([BLOCK_T], tl.float32) + LOWEST
    level = tl.zeros([BLOCK_T], tl.float32) + leftmost(METHOD)
    for start in range(0, stop, BLOCK_S):
        x = tile_scores(
            q, k, k_stride, padding, rows, start, keys, width, diagonal,
            "simplex", CAUSAL, PADDED, PRECISION, BLOCK_S, BLOCK_D,
        )  # fmt: skip
        higher = tl.maximum(top, tl.max(x, 1))
        level = tl.maximum(level + (top - higher), leftmost(METHOD))
        top = higher
        x = x - top[:, None]
        for _ in range(PART_STEPS):
            first, second = newton_sums(x, level, METHOD)
            level += newton_step(first, second, METHOD)
    top = tl.where(top == LOWEST, 0.0, top)
    moving = level < float("inf")
    steps = 0
    while (tl.max(moving.to(tl.int32), 0) > 0) & (steps < MOST_STEPS):
        first = tl.zeros([BLOCK_T], tl.float32)
        second = tl.zeros([BLOCK_T], tl.float32)
        for start in range(0, stop, BLOCK_S):
            x = tile_scores(
                q, k, k_stride, padding, rows, start, keys, width, diagonal,
                "simplex", CAUSAL, PADDED, PRECISION, BLOCK_S, BLOCK_D,
            )  # fmt: skip
            of_first, of_second = newton_sums(x - top[:, None], level, METHOD)
            first += of_first
            second += of_second
        step = newton_step(first, second, METHOD)
        level += tl.where(moving, step, 0.0)
        moving = moving & unfinished(step, keys, METHOD)
        steps += 1
    return top, level


# ---- top-k -------------------------------------------------------------------------------------


@triton.jit
def image(x):
    """Return the int32 of a float32; integers are ordered as their numbers."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def number(i):
    """Return the float32 of an int32; the inverse of :func:`image`."""
    return (i ^ ((i >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def average(a, b):
    """Return (a + b) / 2, rounded down, of integers whose sum may overflow."""
    return (a & b) + ((a ^ b) >> 1)


@triton.jit
def quarter_counts(images, low, high):
    """Return how many of a tile's integers reach the three quarters of their row's bracket."""
    middle = average(low, high)
    third = tl.sum((images >= average(middle, high)[:, None]).to(tl.int32), 1)
    second = tl.sum((images >= middle[:, None]).to(tl.int32), 1)
    first = tl.sum((images >= average(low, middle)[:, None]).to(tl.int32), 1)
    return first, second, third


@triton.jit
def narrowed(low, high, first, second, third, k):
    """Return the bracket's quarter with the k-th largest; k reach ``low``, fewer ``high``."""
    middle = average(low, high)
    lower, upper = average(low, middle), average(middle, high)
    count = tl.where(third >= k, third, tl.where(second >= k, second, first))
    new_low = tl.where(third >= k, upper, tl.where(second >= k, middle, lower))
    new_low = tl.where(count >= k, new_low, low)
    new_high = tl.where(
        first < k, lower, tl.where(second < k, middle, tl.where(third < k, upper, high))
    )
    # a number that parts k from the rest will do
    return new_low, tl.where(count == k, new_low + 1, tl.maximum(new_high, new_low + 1))


@triton.jit
def lowest_image(BLOCK_T: tl.constexpr):
    """Return the image of -inf, for each row."""
    return image(tl.zeros([BLOCK_T], tl.float32) + float("-inf"))


@triton.jit
def halfway(above, below):
    """Return a number that parts two, ``above`` if there is none between them."""
    parted = below > float("-inf")
    below = tl.where(parted, below, 0.0)
    above = tl.where(parted, above, 0.0)
    middle = above - 0.5 * (above - below)
    middle = tl.where((middle > below) & (middle < above), middle, above)
    return tl.where(parted, middle, float("-inf"))


@triton.jit
def sides(x, threshold):
    """Return the least score that reaches its row's threshold and the largest that does not."""
    reaching = x >= threshold[:, None]
    above = tl.min(tl.where(reaching, x, float("inf")), 1)
    return above, tl.max(tl.where(reaching, float("-inf"), x), 1)


@triton.jit
def topk_row(x, k, BLOCK_T: tl.constexpr):
    """Return the level of rows that are here as a whole."""
    images = image(x)
    k = tl.minimum(k, tl.sum((x > float("-inf")).to(tl.int32), 1))
    low = lowest_image(BLOCK_T)
    high = image(tl.max(x, 1)) + 1
    while tl.max((high > low + 1).to(tl.int32), 0) > 0:
        first, second, third = quarter_counts(images, low, high)
        low, high = narrowed(low, high, first, second, third, k)
    above, below = sides(x, number(low))
    return halfway(above, below)


@triton.jit
def topk_passes(
    q, k_of_rows, k, k_stride, padding, rows, stop, keys, width, diagonal,
    CAUSAL: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Return the level of rows whose scores are made again for every step."""
    seen = tl.zeros([BLOCK_T], tl.int32)
    low = lowest_image(BLOCK_T)
    top = tl.zeros([BLOCK_T], tl.float32) + float("-inf")
    for start in range(0, stop, BLOCK_S):
        x = tile_scores(
            q, k, k_stride, padding, rows, start, keys, width, diagonal,
            "exponential", CAUSAL, PADDED, PRECISION, BLOCK_S, BLOCK_D,
        )  # fmt: skip
        seen += tl.sum((x > float("-inf")).to(tl.int32), 1)
        images = image(x)
        largest = tl.max(x, 1)
        top = tl.maximum(top, largest)
        high = tl.maximum(image(largest), low) + 1
        for _ in range(PART_STEPS):
            first, second, third = quarter_counts(images, low, high)
            low, high = narrowed(low, high, first, second, third, k_of_rows)
    k_of_rows = tl.minimum(k_of_rows, seen)
    high = tl.maximum(image(top), low) + 1
    while tl.max((high > low + 1).to(tl.int32), 0) > 0:
        first = tl.zeros([BLOCK_T], tl.int32)
        second = tl.zeros([BLOCK_T], tl.int32)
        third = tl.zeros([BLOCK_T], tl.int32)
        for start in range(0, stop, BLOCK_S):
            x = tile_scores(
                q, k, k_stride, padding, rows, start, keys, width, diagonal,
                "exponential", CAUSAL, PADDED, PRECISION, BLOCK_S, BLOCK_D,
            )  # fmt: skip
            of_first, of_second, of_third = quarter_counts(image(x), low, high)
            first += of_first
            second += of_second
            third += of_third
        low, high = narrowed(low, high, first, second, third, k_of_rows)
    above = tl.zeros([BLOCK_T], tl.float32) + float("inf")
    below = tl.zeros([BLOCK_T], tl.float32) + float("-inf")
    for start in range(0, stop, BLOCK_S):
        x = tile_scores(
            q, k, k_stride, padding, rows, start, keys, width, diagonal,
            "exponential", CAUSAL, PADDED, PRECISION, BLOCK_S, BLOCK_D,
        )  # fmt: skip
        of_above, of_below = sides(x, number(low))
        above = tl.minimum(above, of_above)
        below = tl.maximum(below, of_below)
    return halfway(above, below)
