"""Scaled dot-product attention with softmax (Vaswani et al. 2017, equation 1).

Shapes: B batch, H heads, T queries, S keys, d head width. Queries arrive scaled.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.ops import backend
from seqattn_fairseq.ops.masking import hidden_pairs

# Up to this many keys the explicit form beats torch's fused kernel on a CPU.
_SHORT = 128


def softmax_weights(
    q_BHTd: Tensor, k_BHSd: Tensor, padding_mask_BS: Tensor | None, causal: bool
) -> Tensor:
    """Return the (B, H, T, S) attention weights, in at least float32.

    Query t of a causal attention is the key S - T + t, so that T new queries may follow S - T
    cached keys. A row without a visible key is all zero.
    """
    scores = q_BHTd @ k_BHSd.transpose(-1, -2)
    hidden = hidden_pairs(q_BHTd, k_BHSd, padding_mask_BS, causal)
    if hidden is None:
        return _softmax(scores)
    weights = _softmax(scores.masked_fill(hidden, float("-inf")))
    # a fully masked row is 0/0: no key, no weight
    return weights.masked_fill(hidden, 0.0)


def _softmax(scores: Tensor) -> Tensor:
    dtype = torch.promote_types(scores.dtype, torch.float32)
    return F.softmax(scores, dim=-1, dtype=dtype)


def _explicit(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float
) -> Tensor:
    weights = softmax_weights(q, k, mask, causal).to(v.dtype)
    return F.dropout(weights, dropout) @ v if dropout else weights @ v


def _fused(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float
) -> Tensor:
    if q.device.type == "cpu" and (k.size(2) <= _SHORT or dropout):
        return _explicit(q, k, v, mask, causal, dropout)
    square = causal and mask is None and q.size(2) == k.size(2)
    hidden = None if square else hidden_pairs(q, k, mask, causal)
    visible = None if hidden is None else ~hidden
    return F.scaled_dot_product_attention(q, k, v, visible, dropout, is_causal=square, scale=1.0)


def softmax_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float
) -> Tensor:
    """Return softmax attention one query at a time: obvious, slow, exact in float64."""
    rows = []
    for t in range(q.size(2)):
        scores = torch.einsum("bhd,bhsd->bhs", q[:, :, t], k)
        hidden = torch.zeros_like(scores, dtype=torch.bool)
        if mask is not None:
            hidden = hidden | mask[:, None, :]
        if causal:
            hidden[..., k.size(2) - q.size(2) + t + 1 :] = True
        dead = hidden.all(dim=-1, keepdim=True)
        top = scores.masked_fill(hidden, float("-inf")).amax(-1, keepdim=True)
        weights = (scores - top.masked_fill(dead, 0.0)).exp().masked_fill(hidden, 0.0)
        weights = weights / weights.sum(-1, keepdim=True).masked_fill(dead, 1.0)
        rows.append(torch.einsum("bhs,bhsd->bhd", F.dropout(weights, dropout), v))
    return torch.stack(rows, dim=2)


def _kernels(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float
) -> Tensor:
    from seqattn_fairseq.ops.kernels import attention

    backend.require_kernels(q)
    if not attention.fits(q, k, v):
        return _fused(q, k, v, mask, causal, dropout)
    return attention.attention("softmax", q, k, v, mask, causal, dropout)


_FORMS = {"reference": softmax_attention_reference, "torch": _fused, "triton": _kernels}


def softmax_attention(
    q_BHTd: Tensor,
    k_BHSd: Tensor,
    v_BHSd: Tensor,
    padding_mask_BS: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Return the (B, H, T, d) attention output.

    Args:
        q_BHTd: queries, already multiplied by d^-0.5.
        k_BHSd: keys.
        v_BHSd: values.
        padding_mask_BS: True at keys nobody may see; None if there are none.
        causal: query t sees the keys up to S - T + t only.
        dropout: probability of dropping an attention weight.
    """
    form = backend.select("softmax attention", _FORMS)
    out: Tensor = form(q_BHTd, k_BHSd, v_BHSd, padding_mask_BS, causal, dropout)
    return out
