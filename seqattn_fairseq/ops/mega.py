"""The attention functions of Mega's gated units (Ma et al. 2023, section 3.2 and appendix B).

One head; weights are a softmax, or an element-wise function of scores divided by the number of
keys, whose rows need not sum to one. A bias for the distance of key and query is added to the
scores.

Shapes: M independent sequences (or chunks of them), T queries, S keys, Z width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.ops.backend import select
from seqattn_fairseq.ops.masking import hidden_pairs

# The normal distribution function that has value and slope of relu(x)^2 at sqrt(2) (equation 16),
# in the digits of the released code
_MEAN, _DEVIATION = 0.707107, 0.282095


def laplace(x: Tensor) -> Tensor:
    """Return (1 + erf((x - mu) / (sigma sqrt 2))) / 2, a smooth squared ReLU with a ceiling."""
    return 0.5 * (1.0 + torch.erf((x - _MEAN) / (_DEVIATION * math.sqrt(2.0))))


def relu2(x: Tensor) -> Tensor:
    """Return relu(x)^2 (So et al. 2021)."""
    return F.relu(x).square()


ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {"laplace": laplace, "relu2": relu2}
ATTENTIONS = ("softmax", *ELEMENTWISE)


def toeplitz(vector: Tensor, queries: int, keys: int, first: int, centre: int) -> Tensor:
    """Return the (T, S) matrix with ``vector[centre + s - (first + t)]`` at (t, s), 0 outside.

    Args:
        vector: one value for each distance, that of distance 0 at ``centre``.
        queries: T.
        keys: S.
        first: position of the first query, counted as the keys are.
        centre: an index of the vector.
    """
    start, end = centre - (first + queries - 1), centre + keys - first
    missing = (max(0, -start), max(0, end - vector.numel()))
    line = F.pad(vector[max(0, start) : max(0, end)], missing)[: queries + keys - 1]
    return line.unfold(0, keys, 1).flip(0)


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


def _key_counts(
    queries: int, keys: int, padding_mask_MS: Tensor | None, causal: bool, like: Tensor
) -> Tensor | int:
    """Return what divides the scores: the keys up to the query, or those that are no padding."""
    if causal:
        rows = torch.arange(keys - queries + 1, keys + 1, device=like.device, dtype=like.dtype)
        return rows.unsqueeze(-1)
    if padding_mask_MS is None:
        return keys
    counts = (~padding_mask_MS).sum(dim=-1).clamp(min=1)
    return counts.to(like.dtype)[:, None, None]


def _fast_weights(
    q: Tensor, k: Tensor, bias: Tensor, mask: Tensor | None, causal: bool, activation: str
) -> Tensor:
    queries, keys = q.size(1), k.size(1)
    hidden = hidden_pairs(q, k, mask, causal)
    wide = torch.promote_types(q.dtype, torch.float32)
    if activation == "softmax":
        scores = ((q * q.size(-1) ** -0.5) @ k.transpose(1, 2)).to(wide) + bias.to(wide)
        if hidden is None:
            return F.softmax(scores, dim=-1)
        weights = F.softmax(scores.masked_fill(hidden, float("-inf")), dim=-1)
        # only padding can hide all keys of a row, which is then 0/0: no key, no weight
        return weights if mask is None else weights.masked_fill(hidden, 0.0)
    scores = (q @ k.transpose(1, 2)).to(wide)
    scores = scores / _key_counts(queries, keys, mask, causal, scores) + bias.to(wide)
    weights = ELEMENTWISE[activation](scores)
    return weights if hidden is None else weights.masked_fill(hidden, 0.0)


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


_FORMS = {"reference": gated_weights_reference, "torch": _fast_weights}


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
    form = select("gated attention", _FORMS)
    weights: Tensor = form(q_MTZ, k_MSZ, bias_TS, padding_mask_MS, causal, activation)
    return weights
