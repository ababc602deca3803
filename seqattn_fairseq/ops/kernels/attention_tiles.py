"""What the kernels of attention share: where a tile lies, its scores, its weights.

Methods: "relu", "relu2" (ReLA), "softmax", "top-k", "sparsemax", "entmax15". Two numbers of a row
make weights of its scores x: ReLA's relu(x)^n needs none, softmax is exp(x - shift), top-k the same
where x >= level, sparsemax and 1.5-entmax relu(x - shift - level) and the square of its half.

Families: "rectified" are the first two, "exponential" the next two, "simplex" the last two.

Matrices have their columns beside each other. A tile is square to its queries: (queries, keys), or
(keys, queries) where keys have programs of their own.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def program(length, heads, BLOCK: tl.constexpr):
    """Return sentence, head and first position of this program of a grid of one dimension."""
    blocks = tl.cdiv(length, BLOCK)
    pid = tl.program_id(0)
    row = pid // blocks
    return (row // heads).to(tl.int64), (row % heads).to(tl.int64), (pid % blocks) * BLOCK


@triton.jit
def cells(base, stride, rows, inside, first_column, width, COLUMNS: tl.constexpr):
    """Return pointers to rows of a matrix, and which of the cells there are.

    Args:
        base: pointer to the matrix.
        stride: from row to row.
        rows: row numbers.
        inside: which of the rows there are.
        first_column: number of the first column.
        width: columns of the matrix.
        COLUMNS: how many are wanted.
    """
    columns = first_column + tl.arange(0, COLUMNS)
    pointers = base + rows.to(tl.int64)[:, None] * stride + columns[None, :]
    return pointers, inside[:, None] & (columns < width)[None, :]


@triton.jit
def loaded(base, stride, rows, inside, width, COLUMNS: tl.constexpr):
    """Return rows of a matrix, 0 where there is none; arguments as for :func:`cells`."""
    pointers, there = cells(base, stride, rows, inside, 0, width, COLUMNS)
    return tl.load(pointers, mask=there, other=0.0)


@triton.jit
def joined(base, sentence, head, length, heads, width):
    """Return the pointer to a head of a (B, T, H, d) tensor, whose rows are H d apart."""
    return base + (sentence * length * heads + head) * width


@triton.jit
def seen_keys(padding, columns, keys, PADDED: tl.constexpr):
    """Return which keys exist and are no padding; ``padding`` is the row of a sentence."""
    seen = columns < keys
    if PADDED:
        seen = seen & (tl.load(padding + columns, mask=seen, other=1) == 0)
    return seen


@triton.jit
def masked(
    x,
    rows,
    columns,
    seen,
    diagonal,
    FAMILY: tl.constexpr,
    CAUSAL: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Return scores with -inf at hidden keys; a key beyond the last is 0, which is none to ReLA.

    Args:
        x: scores of a tile.
        rows: positions of the queries, shaped to broadcast.
        columns: positions of the keys, shaped to broadcast.
        seen: what :func:`seen_keys` says of them, shaped to broadcast.
        diagonal: S - T; a query at t sees the keys up to t + S - T.
        FAMILY: of the method.
        CAUSAL: whether that is so.
        PADDED: whether there is padding.
    """
    if PADDED or FAMILY != "rectified":
        x = tl.where(seen, x, float("-inf"))
    if CAUSAL:
        x = tl.where(columns <= rows + diagonal, x, float("-inf"))
    return x


@triton.jit
def last_key(first, queries, keys, BLOCK_T: tl.constexpr, CAUSAL: tl.constexpr):
    """Return the end of what the queries of a block can see."""
    if CAUSAL:
        return tl.minimum(keys, tl.maximum(0, first + BLOCK_T + keys - queries))
    return keys


@triton.jit
def tile_scores(
    q, k, k_stride, padding, rows, first, keys, width, diagonal,
    FAMILY: tl.constexpr, CAUSAL: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Return the masked scores of a tile's queries with the keys from ``first`` on."""
    columns = first + tl.arange(0, BLOCK_S)
    tile = loaded(k, k_stride, columns, columns < keys, width, BLOCK_D)
    x = tl.dot(q, tl.trans(tile), input_precision=PRECISION)
    seen = seen_keys(padding, columns, keys, PADDED)
    return masked(
        x, rows[:, None], columns[None, :], seen[None, :], diagonal, FAMILY, CAUSAL, PADDED
    )


@triton.jit
def positive(x):
    """Return relu(x); what is not a number stays so."""
    return tl.where(x <= 0.0, 0.0, x)


@triton.jit
def slopes(x, shift, level, METHOD: tl.constexpr):
    """Return s of a row's gradient s (g - s . g / sum s); ReLA's is s g.

    Args:
        x: masked scores.
        shift: of their rows, shaped to broadcast.
        level: of their rows, shaped to broadcast.
        METHOD: one of the methods.
    """
    if METHOD == "relu":
        return tl.where(x <= 0.0, 0.0, 1.0)
    elif METHOD == "relu2":
        return 2.0 * positive(x)
    elif METHOD == "softmax":
        return tl.exp(x - shift)
    elif METHOD == "top-k":
        return tl.where(x < level, 0.0, tl.exp(x - shift))
    elif METHOD == "sparsemax":
        return tl.where(x - shift <= level, 0.0, 1.0)
    else:
        return 0.5 * positive(x - shift - level)


@triton.jit
def weights_of(x, slope, shift, level, METHOD: tl.constexpr):
    """Return the weights; arguments as those and the result of :func:`slopes`."""
    if METHOD == "relu":
        return positive(x)
    elif METHOD == "relu2":
        return 0.25 * slope * slope
    elif METHOD == "sparsemax":
        return positive(x - shift - level)
    elif METHOD == "entmax15":
        return slope * slope
    else:
        return slope


@triton.jit
def row_numbers(
    shifts, levels, of_rows, inside, METHOD: tl.constexpr, FAMILY: tl.constexpr, ROWS: tl.constexpr
):
    """Return shift and level of rows, 0 where the method has none."""
    shift = tl.zeros([ROWS], tl.float32)
    level = tl.zeros([ROWS], tl.float32)
    if FAMILY != "rectified":
        shift = tl.load(shifts + of_rows, mask=inside, other=0.0)
        if METHOD != "softmax":
            level = tl.load(levels + of_rows, mask=inside, other=0.0)
    return shift, level


@triton.jit
def any_but_zero(x):
    """Return 1 if a number of a tile is not 0, or is no number, else 0."""
    return tl.max(tl.max((x != 0.0).to(tl.int32), 1), 0)


@triton.jit
def draws(rows, columns, keys):
    """Return the places of a tile in its head's stream of draws, which may wrap around."""
    return rows * keys + columns
