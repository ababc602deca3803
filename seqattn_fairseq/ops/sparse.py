"""Attention weights with exact zeros: top-k softmax, sparsemax, 1.5-entmax.

Top-k: Explicit Sparse Transformer (Zhao et al. 2019). Sparsemax: Martins and Astudillo 2016.
1.5-entmax: Peters, Niculae, Martins 2019. All are maps of rows of scores; what lies in a row is
hidden by -inf, and a row that hides everything maps to zeros.

Shapes: B batch, H heads, T queries, S keys, d head width. Queries arrive scaled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from seqattn_fairseq.ops import backend
from seqattn_fairseq.ops.masking import hidden_pairs
from seqattn_fairseq.ops.thresholds import simplex_gradient, simplex_map, stepwise, topk_map

# (scores with -inf at what is hidden) -> weights, over the last dimension
RowMap = Callable[[Tensor], Tensor]


def _shifted(z: Tensor) -> Tensor:
    """Return rows minus their maximum, in at least float32; -inf stays, also in a dead row."""
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    top = z.amax(dim=-1, keepdim=True)
    return z - top.masked_fill(top.isneginf(), 0.0)


def _rows(z: Tensor) -> Tensor:
    """Return (N, D) rows, in at least float32."""
    return z.to(torch.promote_types(z.dtype, torch.float32)).reshape(-1, z.size(-1))


def _ranks(z: Tensor) -> Tensor:
    return torch.arange(1, z.size(-1) + 1, device=z.device, dtype=z.dtype)


# ---- sparsemax ---------------------------------------------------------------------------------


def _sparsemax_threshold(z: Tensor) -> Tensor:
    """Return tau (..., 1) with sum of relu(z - tau) = 1: the r largest of row z share one."""
    largest = z.sort(dim=-1, descending=True).values
    sums = largest.masked_fill(largest.isneginf(), 0.0).cumsum(dim=-1)
    supported = 1 + _ranks(z) * largest > sums
    size = supported.sum(dim=-1, keepdim=True).clamp(min=1)
    return (sums.gather(-1, size - 1) - 1) / size


class _SimplexMap(torch.autograd.Function):
    """Sparsemax (q = 1) and 1.5-entmax (q = 2), which keep their result for the gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, q: int) -> Tensor:
        ctx.q = q
        if stepwise(z):
            p = simplex_map(_rows(z), q).view(z.shape)
        else:
            u = _shifted(z) / q
            tau = _sparsemax_threshold(u) if q == 1 else _entmax15_threshold(u)
            p = (u - tau).clamp(min=0).pow(q)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (p,) = ctx.saved_tensors
        if stepwise(p):
            return simplex_gradient(_rows(p), _rows(grad), ctx.q).view(p.shape), None
        return _simplex_gradient(p.ne(0).to(p.dtype) if ctx.q == 1 else p.sqrt(), grad), None


def _simplex_gradient(s: Tensor, grad: Tensor) -> Tensor:
    """Return s (grad - (s . grad) / sum s), the gradient of any entmax with s = p^(2 - alpha)."""
    total = s.sum(dim=-1, keepdim=True)
    mean = (s * grad).sum(dim=-1, keepdim=True) / total.masked_fill(total.eq(0), 1.0)
    return s * (grad - mean)


def sparsemax(z: Tensor) -> Tensor:
    """Return the Euclidean projection of each row onto the simplex, in at least float32."""
    weights: Tensor = _SimplexMap.apply(z, 1)  # type: ignore[no-untyped-call]
    return weights


def sparsemax_reference(z: Tensor) -> Tensor:
    """Return sparsemax with its threshold written out for the support that bisection finds."""
    z = _shifted(z)
    tau = _bisect(z, lambda gap: gap)
    support = z > tau
    size = support.sum(dim=-1, keepdim=True)
    tau = ((z.masked_fill(~support, 0.0).sum(-1, keepdim=True)) - 1) / size.clamp(min=1)
    return torch.where(support, z - tau, torch.zeros_like(z))


def _bisect(z: Tensor, power: Callable[[Tensor], Tensor]) -> Tensor:
    """Return tau with sum of power(relu(z - tau)) = 1, from z with maximum 0; no gradient."""
    with torch.no_grad():
        low = torch.full_like(z[..., :1], -1.0)
        high = torch.zeros_like(low)
        for _ in range(80):
            middle = (low + high) / 2
            mass = power((z - middle).clamp(min=0)).sum(dim=-1, keepdim=True)
            low, high = torch.where(mass > 1, middle, low), torch.where(mass > 1, high, middle)
        return low


# ---- 1.5-entmax --------------------------------------------------------------------------------


def _entmax15_threshold(u: Tensor) -> Tensor:
    """Return tau (..., 1) with sum of relu(u - tau)^2 = 1, for u = z / 2."""
    largest = u.sort(dim=-1, descending=True).values
    finite = largest.masked_fill(largest.isneginf(), 0.0)
    ranks = _ranks(u)
    mean = finite.cumsum(dim=-1) / ranks
    mean_square = finite.square().cumsum(dim=-1) / ranks
    delta = (1 - ranks * (mean_square - mean.square())) / ranks
    tau = mean - delta.clamp(min=0).sqrt()
    supported = (tau <= largest) & ~largest.isneginf()
    size = supported.sum(dim=-1, keepdim=True).clamp(min=1)
    return tau.gather(-1, size - 1)


def entmax15(z: Tensor) -> Tensor:
    """Return 1.5-entmax of each row, in at least float32."""
    weights: Tensor = _SimplexMap.apply(z, 2)  # type: ignore[no-untyped-call]
    return weights


def entmax15_reference(z: Tensor) -> Tensor:
    """Return 1.5-entmax with its threshold written out for the support that bisection finds."""
    u = _shifted(z) / 2
    support = u > _bisect(u, torch.square)
    size = support.sum(dim=-1, keepdim=True).clamp(min=1)
    inside = u.masked_fill(~support, 0.0)
    mean = inside.sum(-1, keepdim=True) / size
    spread = torch.where(support, u - mean, torch.zeros_like(u)).square().sum(-1, keepdim=True)
    tau = mean - ((1 - spread) / size).sqrt()
    return torch.where(support, u - tau, torch.zeros_like(u)).square()


# ---- top-k -------------------------------------------------------------------------------------


class _TopkSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, k_rows: Tensor) -> Tensor:
        k = k_rows.expand(*z.shape[:-1], 1).reshape(-1, 1)
        p = topk_map(_rows(z), k).view(z.shape)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (p,) = ctx.saved_tensors
        return simplex_gradient(_rows(p), _rows(grad), math.inf).view(p.shape), None


def topk_softmax(z: Tensor, k_rows: Tensor) -> Tensor:
    """Return the softmax over the entries not below the k-th largest of their row.

    Args:
        z: scores.
        k_rows: number kept, at least 1, broadcastable to z with a last dimension of 1. More than
            k are kept where others equal the k-th; a row with fewer visible entries keeps all.
    """
    if stepwise(z):
        weights: Tensor = _TopkSoftmax.apply(z, k_rows)  # type: ignore[no-untyped-call]
        return weights
    z = _shifted(z)
    largest = z.sort(dim=-1, descending=True).values
    index = (k_rows - 1).clamp(max=z.size(-1) - 1).expand(*z.shape[:-1], 1)
    dropped = z < largest.gather(-1, index)
    return _softmax_or_zero(z.masked_fill(dropped, float("-inf")))


def _softmax_or_zero(z: Tensor) -> Tensor:
    hidden = z.isneginf()
    return F.softmax(z, dim=-1).masked_fill(hidden, 0.0)


def topk_softmax_reference(z: Tensor, k_rows: Tensor) -> Tensor:
    """Return :func:`topk_softmax`, every entry counting the entries above it."""
    z = _shifted(z)
    above = (z.unsqueeze(-2) > z.unsqueeze(-1)).sum(dim=-1)
    kept = (above < k_rows) & ~z.isneginf()
    weights = z.exp() * kept
    total = weights.sum(dim=-1, keepdim=True)
    return weights / total.masked_fill(total.eq(0), 1.0)


# ---- attention ---------------------------------------------------------------------------------

FORMS: dict[str, dict[str, Callable[..., Tensor]]] = {
    "sparsemax": {"reference": sparsemax_reference, "torch": sparsemax},
    "entmax15": {"reference": entmax15_reference, "torch": entmax15},
    "top-k": {"reference": topk_softmax_reference, "torch": topk_softmax},
}


def masked_scores(
    q_BHTd: Tensor, k_BHSd: Tensor, padding_mask_BS: Tensor | None, causal: bool
) -> Tensor:
    """Return the (B, H, T, S) scores with -inf where a key may not be seen.

    The arguments are those of :func:`seqattn_fairseq.ops.softmax.softmax_attention`.
    """
    scores = q_BHTd @ k_BHSd.transpose(-1, -2)
    hidden = hidden_pairs(q_BHTd, k_BHSd, padding_mask_BS, causal)
    return scores if hidden is None else scores.masked_fill_(hidden, float("-inf"))


def sparse_weights(method: str, scores_BHTS: Tensor, *arguments: Tensor) -> Tensor:
    """Return the weights that ``method`` (a key of ``FORMS``) makes of masked scores."""
    weights: Tensor = backend.select(method, FORMS[method])(scores_BHTS, *arguments)
    return weights


def _composed(kind: str) -> Callable[..., Tensor]:
    """Return the attention of scores, weights and product, one after the other."""

    def form(
        method: str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        causal: bool,
        dropout: float,
        *arguments: Tensor,
    ) -> Tensor:
        weights = FORMS[method][kind](masked_scores(q, k, mask, causal), *arguments)
        return attend(weights, v, dropout)

    return form


def _kernels(
    method: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *more: Any
) -> Tensor:
    from seqattn_fairseq.ops.kernels import attention

    backend.require_kernels(q)
    if not attention.fits(q, k, v):
        return _composed("torch")(method, q, k, v, mask, *more)
    return attention.attention(method, q, k, v, mask, *more)


_ATTENTIONS = {
    "reference": _composed("reference"),
    "torch": _composed("torch"),
    "triton": _kernels,
}


def sparse_attention(
    method: str,
    q_BHTd: Tensor,
    k_BHSd: Tensor,
    v_BHSd: Tensor,
    padding_mask_BS: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    *arguments: Tensor,
) -> Tensor:
    """Return the (B, H, T, d) attention output, in the values' dtype.

    Args:
        method: a key of ``FORMS``.
        q_BHTd: queries, already multiplied by d^-0.5.
        k_BHSd: keys.
        v_BHSd: values.
        padding_mask_BS: True at keys nobody may see; None if there are none.
        causal: query t sees the keys up to S - T + t only.
        dropout: probability of dropping a weight.
        arguments: what the row map takes besides the scores: k of top-k.
    """
    form = backend.select(f"{method} attention", _ATTENTIONS)
    out: Tensor = form(method, q_BHTd, k_BHSd, v_BHSd, padding_mask_BS, causal, dropout, *arguments)
    return out


def attend(weights_BHTS: Tensor, v_BHSd: Tensor, dropout: float) -> Tensor:
    """Return the (B, H, T, d) weighted values, in the values' dtype."""
    weights = weights_BHTS.to(v_BHSd.dtype)
    return (F.dropout(weights, dropout) if dropout else weights) @ v_BHSd
