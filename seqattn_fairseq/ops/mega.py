"""The attention functions of Mega's gated units (Ma et al. 2023, section 3.2 and appendix B).

One head; weights are a softmax, or an element-wise function of scores divided by the number of
keys, whose rows need not sum to one. A bias for the distance of key and query is added to the
scores. It comes as a line: one number for each distance that occurs.

Shapes: M independent sequences (or chunks of them), T queries, S keys, Z width of queries and keys,
V width of values, L = T + S - 1 distances.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.ops import backend
from seqattn_fairseq.ops.backend import select
from seqattn_fairseq.ops.dropout import dropout as dropped
from seqattn_fairseq.ops.masking import causal_mask

# The normal distribution function that has value and slope of relu(x)^2 at sqrt(2) (equation 16),
# in the digits of the released code
MEAN, DEVIATION = 0.707107, 0.282095

# Causal attention to more positions than this goes block by block of the queries: those to come
# are not computed. On a CPU, measured forward and backward, four blocks or fewer are the fastest.
_BLOCK = 128


def laplace(x: Tensor) -> Tensor:
    """Return (1 + erf((x - mu) / (sigma sqrt 2))) / 2, a smooth squared ReLU with a ceiling."""
    return 0.5 * (1.0 + torch.erf((x - MEAN) / (DEVIATION * math.sqrt(2.0))))


def relu2(x: Tensor) -> Tensor:
    """Return relu(x)^2 (So et al. 2021)."""
    return F.relu(x).square()


ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {"laplace": laplace, "relu2": relu2}
ATTENTIONS = ("softmax", *ELEMENTWISE)


def distance_line(vector: Tensor, queries: int, keys: int, first: int, centre: int) -> Tensor:
    """Return the (L,) values of all distances between T queries and S keys, 0 outside the vector.

    Entry T - 1 - t + s is that of query t and key s, ``vector[centre + s - (first + t)]``.

    Args:
        vector: one value for each distance, that of distance 0 at ``centre``.
        queries: T.
        keys: S.
        first: position of the first query, counted as the keys are.
        centre: an index of the vector.
    """
    start, end = centre - (first + queries - 1), centre + keys - first
    missing = (max(0, -start), max(0, end - vector.numel()))
    inside = vector[max(0, start) : max(0, end)]
    line = F.pad(inside, missing) if any(missing) else inside
    return line[: queries + keys - 1]


def by_pairs(line_L: Tensor, queries: int, keys: int) -> Tensor:
    """Return the (T, S) matrix of a line: what each query and key have, by their distance."""
    return line_L[: queries + keys - 1].unfold(0, keys, 1).flip(0)


def toeplitz(vector: Tensor, queries: int, keys: int, first: int, centre: int) -> Tensor:
    """Return the (T, S) matrix with ``vector[centre + s - (first + t)]`` at (t, s), 0 outside.

    The arguments are those of :func:`distance_line`.
    """
    return by_pairs(distance_line(vector, queries, keys, first, centre), queries, keys)


def diagonal_sums(matrix_TS: Tensor) -> Tensor:
    """Return the (L,) sums of a matrix along its diagonals: how ``by_pairs`` is differentiated."""
    queries, keys = matrix_TS.shape
    # In rows that are one entry longer than the sums, each row begins one place further to the left
    rows = F.pad(matrix_TS.flip(0), (0, queries)).flatten()[:-queries]
    return rows.view(queries, queries + keys - 1).sum(dim=0)


def rotary_distances(alpha_Z: Tensor, beta_Z: Tensor, least: int, most: int) -> Tensor:
    """Return <R_0 alpha, R_d beta> for the distances d = least .. most.

    R_d rotates the two halves of a vector against each other, pair c by the angle
    d 10000^(-2 c / Z); the product for positions i and j depends on j - i alone.
    """
    a1, a2 = alpha_Z.chunk(2)
    b1, b2 = beta_Z.chunk(2)
    pairs = torch.arange(a1.numel(), device=a1.device, dtype=a1.dtype)
    frequency = torch.exp(pairs * (-math.log(10000) / a1.numel()))
    distance = torch.arange(least, most + 1, device=a1.device, dtype=a1.dtype)
    angle = distance[:, None] * frequency
    return angle.cos() @ (a1 * b1 + a2 * b2) - angle.sin() @ (a1 * b2 - a2 * b1)


def key_counts(
    queries: int, keys: int, padding_mask_MS: Tensor | None, causal: bool, like: Tensor
) -> Tensor | int:
    """Return what divides the scores: the keys up to the query, or those that are no padding.

    (T, 1) if causal, else (M, 1, 1) if padded, else a number.
    """
    if causal:
        rows = torch.arange(keys - queries + 1, keys + 1, device=like.device, dtype=like.dtype)
        return rows.unsqueeze(-1)
    if padding_mask_MS is None:
        return keys
    counts = (~padding_mask_MS).sum(dim=-1).clamp(min=1)
    return counts.to(like.dtype)[:, None, None]


def _start(q: Tensor, k: Tensor, bias: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Return what is added to the products, (T, S), or (M, T, S) if padded: the bias or, where a
    key is hidden, a number so low that nothing is left of it.

    Not -inf, so that a row without a visible key stays finite, backward too. What hides future
    keys is as small as the bias.
    """
    queries, keys = q.size(1), k.size(1)
    start = bias.to(torch.promote_types(q.dtype, torch.float32))
    lowest = torch.finfo(start.dtype).min / 2
    if causal and queries > 1:
        start = start.masked_fill(causal_mask(queries, keys, q.device), lowest)
    return start if mask is None else start.masked_fill(mask.unsqueeze(1), lowest)


def _blind_rows(queries: int, mask: Tensor, causal: bool) -> Tensor:
    """Return (M, T or 1, 1): True for queries that see no key; only padding can do that."""
    if not causal:
        return mask.all(dim=-1)[:, None, None]
    return (~mask).cumsum(dim=-1)[:, -queries:, None].eq(0)


def _in_one_dtype(q: Tensor, start: Tensor) -> bool:
    return q.dtype == start.dtype and not torch.is_autocast_enabled(q.device.type)


def _scores(q: Tensor, k: Tensor, start: Tensor) -> Tensor:
    keys = k.transpose(1, 2)
    if not _in_one_dtype(q, start):
        return (q @ keys).to(start.dtype) + start
    return torch.baddbmm(start, q, keys) if start.dim() == 2 else start.baddbmm_(q, keys)


def _counted_scores(q: Tensor, k: Tensor, start: Tensor, counts: Tensor | int) -> Tensor:
    if _in_one_dtype(q, start):
        return _scores(q / counts, k, start)
    # in half precision a quotient of the queries may be too small to tell from 0
    return (q @ k.transpose(1, 2)).to(start.dtype) / counts + start


def _fast_weights(
    q: Tensor, k: Tensor, bias: Tensor, mask: Tensor | None, causal: bool, activation: str
) -> Tensor:
    start = _start(q, k, bias, mask, causal)
    if activation != "softmax":
        # at a hidden key, both functions and their slopes are 0
        counts = key_counts(q.size(1), k.size(1), mask, causal, start)
        return ELEMENTWISE[activation](_counted_scores(q, k, start, counts))
    weights = F.softmax(_scores(q * q.size(-1) ** -0.5, k, start), dim=-1)
    if mask is None:
        return weights
    return weights.masked_fill(_blind_rows(q.size(1), mask, causal), 0.0)


def gated_weights_reference(
    q: Tensor, k: Tensor, bias: Tensor, mask: Tensor | None, causal: bool, activation: str
) -> Tensor:
    """Return the weights one query at a time: obvious, slow, exact in float64."""
    wide = torch.promote_types(q.dtype, torch.float32)
    rows = []
    for t in range(q.size(1)):
        seen = torch.ones(k.shape[:2], dtype=torch.bool, device=q.device)
        if causal:
            seen[:, k.size(1) - q.size(1) + t + 1 :] = False
        count = seen.sum(dim=-1, keepdim=True)
        if mask is not None:
            seen = seen & ~mask
            count = count if causal else seen.sum(dim=-1, keepdim=True).clamp(min=1)
        product = torch.einsum("mz,msz->ms", q[:, t], k).to(wide)
        if activation != "softmax":
            row = ELEMENTWISE[activation](product / count + bias[t].to(wide))
            rows.append(row.masked_fill(~seen, 0.0))
            continue
        scores = product / math.sqrt(q.size(-1)) + bias[t].to(wide)
        dead = ~seen.any(dim=-1, keepdim=True)
        top = scores.masked_fill(~seen, float("-inf")).amax(-1, keepdim=True)
        row = (scores - top.masked_fill(dead, 0.0)).exp().masked_fill(~seen, 0.0)
        rows.append(row / row.sum(-1, keepdim=True).masked_fill(dead, 1.0))
    return torch.stack(rows, dim=1)


_WEIGHTS = {"reference": gated_weights_reference, "torch": _fast_weights}


def gated_weights(
    q_MTZ: Tensor,
    k_MSZ: Tensor,
    bias_TS: Tensor,
    padding_mask_MS: Tensor | None,
    causal: bool,
    activation: str,
) -> Tensor:
    """Return the (M, T, S) weights, in at least float32; rows without a visible key are 0.

    Args:
        q_MTZ: queries, not scaled.
        k_MSZ: keys.
        bias_TS: what is added to the scores (after the division by the number of keys).
        padding_mask_MS: True at keys nobody may see; None if there are none.
        causal: query t sees the keys up to S - T + t only.
        activation: one of ``ATTENTIONS``. Softmax scales scores by Z^-0.5; "laplace" and "relu2"
            divide them by the number of keys: those that are no padding or, if causal, those up
            to the query (padding on the left would count).
    """
    form = select("gated attention weights", _WEIGHTS)
    weights: Tensor = form(q_MTZ, k_MSZ, bias_TS, padding_mask_MS, causal, activation)
    return weights


def _sums(weights: Tensor, v: Tensor, dropout: float) -> Tensor:
    weights = weights.to(v.dtype)
    return dropped(weights, dropout) @ v if dropout else weights @ v


def gated_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    line: Tensor,
    mask: Tensor | None,
    causal: bool,
    activation: str,
    dropout: float,
) -> Tensor:
    """Return the sums of the values by the reference's weights."""
    bias = by_pairs(line, q.size(1), k.size(1))
    return _sums(gated_weights_reference(q, k, bias, mask, causal, activation), v, dropout)


class QueryBlock(NamedTuple):
    """Some consecutive queries and what they may see.

    Attributes:
        start: the first of them.
        end: the first behind them.
        keys: how many keys, counted from the first, any of them sees.
        line: where the distances of these queries and keys begin in the line of all.
    """

    start: int
    end: int
    keys: int
    line: int


def query_blocks(queries: int, keys: int, causal: bool, size: int) -> list[QueryBlock]:
    """Cut the queries into blocks of up to ``size``; those of causal attention see less keys."""
    blocks = []
    for start in range(0, queries, size):
        end = min(start + size, queries)
        blocks.append(
            QueryBlock(start, end, keys - queries + end if causal else keys, queries - end)
        )
    return blocks


def _fast_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    line: Tensor,
    mask: Tensor | None,
    causal: bool,
    activation: str,
    dropout: float,
) -> Tensor:
    queries, outputs = q.size(1), []
    size = max(_BLOCK, queries // 4) if causal else queries
    for start, end, keys, first in query_blocks(queries, k.size(1), causal, size):
        bias = by_pairs(line[first:] if first else line, end - start, keys)
        hidden = None if mask is None else mask[:, :keys]
        weights = _fast_weights(q[:, start:end], k[:, :keys], bias, hidden, causal, activation)
        outputs.append(_sums(weights, v[:, :keys], dropout))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def _kernel_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    line: Tensor,
    mask: Tensor | None,
    causal: bool,
    activation: str,
    dropout: float,
) -> Tensor:
    from seqattn_fairseq.ops.kernels import gated

    backend.require_kernels(q)
    form = gated.gated_attention if gated.supports(q, k, v) else _fast_attention
    return form(q, k, v, line, mask, causal, activation, dropout)


_FORMS = {
    "reference": gated_attention_reference,
    "torch": _fast_attention,
    "triton": _kernel_attention,
}


def gated_attention(
    q_MTZ: Tensor,
    k_MSZ: Tensor,
    v_MSV: Tensor,
    line_L: Tensor,
    padding_mask_MS: Tensor | None,
    causal: bool,
    activation: str,
    dropout: float = 0.0,
) -> Tensor:
    """Return (M, T, V): the values summed with the weights of :func:`gated_weights`.

    Args:
        q_MTZ: queries, not scaled.
        k_MSZ: keys.
        v_MSV: values.
        line_L: the bias of each distance, as :func:`distance_line` gives it.
        padding_mask_MS: True at keys nobody may see; None if there are none.
        causal: query t sees the keys up to S - T + t only.
        activation: one of ``ATTENTIONS``.
        dropout: probability of dropping a weight.
    """
    form = select("gated attention", _FORMS)
    out: Tensor = form(q_MTZ, k_MSZ, v_MSV, line_L, padding_mask_MS, causal, activation, dropout)
    return out
