"""Mega's gated attention with matrices of scores, weights and biases in memory (Ma et al. 2023).

Shapes: M sequences or chunks, T queries, S keys, Z width of queries, V of values, L = T + S - 1
distances.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.official_forms.attention import causal_bias, softmax


def bias_matrix(line_L: Tensor, queries: int, keys: int) -> Tensor:
    """Return the (T, S) biases: the line repeated, and cut into rows one shorter than it is.

    Args:
        line_L: one value for each distance, first that of the last query to the first key.
        queries: T.
        keys: S.
    """
    length = queries + keys - 1
    rows = F.pad(line_L, (0, 1)).repeat(queries)[: queries * length].view(queries, length)
    return rows[:, queries - 1 :]


def _laplace(scores: Tensor) -> Tensor:
    mean, deviation = 0.707107, 0.282095  # the released code's digits
    return 0.5 * (1.0 + torch.erf((scores - mean) / (deviation * math.sqrt(2.0))))


def _key_counts(
    queries: int, keys: int, padding_mask_MS: Tensor | None, causal: bool, like: Tensor
) -> Tensor:
    if causal:
        return torch.arange(keys - queries + 1, keys + 1).to(like).unsqueeze(-1)
    if padding_mask_MS is None:
        return torch.full((), keys).to(like)
    return (~padding_mask_MS).sum(dim=-1).clamp(min=1).to(like)[:, None, None]


def _elementwise(
    scores: Tensor, padding_mask_MS: Tensor | None, causal: bool, activation: str
) -> Tensor:
    weights = _laplace(scores) if activation == "laplace" else F.relu(scores).square()
    if padding_mask_MS is not None:
        weights = weights.masked_fill(padding_mask_MS.unsqueeze(1), 0.0)
    if causal:
        seen = torch.ones(scores.shape[-2:], device=scores.device).to(scores.dtype)
        weights = weights * seen.tril(scores.size(-1) - scores.size(-2))
    return weights


def gated_weights(
    q_MTZ: Tensor,
    k_MSZ: Tensor,
    bias_TS: Tensor,
    padding_mask_MS: Tensor | None,
    causal: bool,
    activation: str,
) -> Tensor:
    """Return the (M, T, S) weights.

    Args:
        q_MTZ: queries, not scaled.
        k_MSZ: keys.
        bias_TS: added to the scores.
        padding_mask_MS: True at keys nobody may see.
        causal: query t sees the keys up to S - T + t only.
        activation: "softmax" of scores times Z^-0.5, or "laplace" or "relu2" of scores over the
            number of keys.
    """
    queries, keys = q_MTZ.size(1), k_MSZ.size(1)
    if activation == "softmax":
        scores = torch.bmm(q_MTZ * q_MTZ.size(-1) ** -0.5, k_MSZ.transpose(1, 2)) + bias_TS
        if causal:
            scores = scores + causal_bias(queries, keys, scores)
        if padding_mask_MS is not None:
            # a chunk of nothing but padding is left as it is: nobody reads it
            hidden = padding_mask_MS & ~padding_mask_MS.all(dim=-1, keepdim=True)
            scores = scores.masked_fill(hidden.unsqueeze(1), float("-inf"))
        return softmax(scores)
    scores = torch.bmm(q_MTZ, k_MSZ.transpose(1, 2))
    counts = _key_counts(queries, keys, padding_mask_MS, causal, scores)
    return _elementwise(scores / counts + bias_TS, padding_mask_MS, causal, activation)


def attention(
    q_MTZ: Tensor,
    k_MSZ: Tensor,
    v_MSV: Tensor,
    line_L: Tensor,
    padding_mask_MS: Tensor | None,
    causal: bool,
    activation: str,
    dropout: float = 0.0,
) -> Tensor:
    """Return (M, T, V): the values weighed; arguments as for ``bias_matrix`` and the weights."""
    bias = bias_matrix(line_L, q_MTZ.size(1), k_MSZ.size(1))
    weights = gated_weights(q_MTZ, k_MSZ, bias, padding_mask_MS, causal, activation)
    return torch.bmm(F.dropout(weights.to(v_MSV.dtype), dropout), v_MSV)
