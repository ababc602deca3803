"""Rectified linear attention, ReLA (Zhang, Titov, Sennrich 2021).

Weights are relu(scores): no softmax, no division by their sum; the heads are joined and
normalised by their root mean square instead.

Shapes: B batch, H heads, T queries, S keys, d head width, C = H d. Queries arrive scaled.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.ops import backend
from seqattn_fairseq.ops.masking import hidden_pairs
from seqattn_fairseq.ops.mega import relu2
from seqattn_fairseq.ops.precision import exact_sums
from seqattn_fairseq.ops.rela_blocks import fits, rela_in_blocks


def _identity(scores: Tensor) -> Tensor:
    return scores


# All map 0 to 0, so that a hidden score of 0 is a weight of 0.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu2": relu2,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "identity": _identity,
}


def rela_weights(
    q_BHTd: Tensor,
    k_BHSd: Tensor,
    padding_mask_BS: Tensor | None,
    causal: bool,
    activation: str = "relu",
) -> Tensor:
    """Return the (B, H, T, S) weights: the activation of each visible score, 0 elsewhere.

    They are not a distribution; a row may be all zero ("null attention").
    """
    scores = q_BHTd @ k_BHSd.transpose(-1, -2)
    # In place, as a product keeps none of its result; selects, not products with 0: an infinite
    # score must not become NaN.
    if causal and padding_mask_BS is None:
        scores.tril_(k_BHSd.size(-2) - q_BHTd.size(-2))
    else:
        hidden = hidden_pairs(q_BHTd, k_BHSd, padding_mask_BS, causal)
        if hidden is not None:
            scores.masked_fill_(hidden, 0.0)
    return scores.relu_() if activation == "relu" else ACTIVATIONS[activation](scores)


def _torch_form(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout: float,
    activation: str,
) -> Tensor:
    pairs = mask if mask is not None and mask.dim() == 3 else None
    if mask is not None and pairs is None:
        # A zero key scores 0 and weighs 0, so padding costs no pass over the T x S scores.
        k = k.masked_fill(mask[:, None, :, None], 0.0)
    if activation == "relu" and not dropout and pairs is None and fits(q, k):
        return rela_in_blocks(q, k, v, causal)
    weights = rela_weights(q, k, pairs, causal, activation)
    if dropout:
        weights = F.dropout(weights, dropout)
    if weights.dtype == torch.float16:
        # unnormalised sums overflow float16
        with exact_sums(v):
            return weights.float() @ v.float()
    return weights @ v


def rela_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout: float,
    activation: str,
) -> Tensor:
    """Return ReLA's weighted sum one query at a time: obvious, slow, exact in float64."""
    rows = []
    for t in range(q.size(2)):
        weights = ACTIVATIONS[activation](torch.einsum("bhd,bhsd->bhs", q[:, :, t], k))
        if mask is not None:
            weights = weights.masked_fill(mask[:, None, :], 0.0)
        if causal:
            future = torch.arange(k.size(2), device=k.device) > k.size(2) - q.size(2) + t
            weights = weights.masked_fill(future, 0.0)
        rows.append(torch.einsum("bhs,bhsd->bhd", F.dropout(weights, dropout), v))
    return torch.stack(rows, dim=2)


def _kernels(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout: float,
    activation: str,
) -> Tensor:
    from seqattn_fairseq.ops.kernels import attention

    backend.require_kernels(q)
    if activation not in attention.FAMILIES or not attention.fits(q, k, v):
        return _torch_form(q, k, v, mask, causal, dropout, activation)
    return attention.attention(activation, q, k, v, mask, causal, dropout)


_FORMS = {"reference": rela_attention_reference, "torch": _torch_form, "triton": _kernels}


def rela_attention(
    q_BHTd: Tensor,
    k_BHSd: Tensor,
    v_BHSd: Tensor,
    padding_mask_BS: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    activation: str = "relu",
) -> Tensor:
    """Return the (B, H, T, d) weighted sums; float32 for float16 input, else the input's dtype.

    Args:
        q_BHTd: queries, already multiplied by d^-0.5.
        k_BHSd: keys.
        v_BHSd: values.
        padding_mask_BS: True at keys nobody may see; None if there are none.
        causal: query t sees the keys up to S - T + t only.
        dropout: probability of dropping a weight.
        activation: a name in ``ACTIVATIONS``.
    """
    form = backend.select("ReLA", _FORMS)
    out: Tensor = form(q_BHTd, k_BHSd, v_BHSd, padding_mask_BS, causal, dropout, activation)
    return out


def _rms_norm(h_BTC: Tensor, scale_C: Tensor, gate_C: Tensor | None, eps: float) -> Tensor:
    h = h_BTC.to(torch.promote_types(h_BTC.dtype, torch.float32))
    out = scale_C.to(h.dtype) * h * (h.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    if gate_C is not None:
        out = torch.sigmoid(gate_C.to(h.dtype) * h) * out
    return out


def _rms_norm_kernel(h: Tensor, scale: Tensor, gate: Tensor | None, eps: float) -> Tensor:
    from seqattn_fairseq.ops.kernels import rms_norm as kernel

    backend.require_kernels(h)
    if h.dtype == torch.float64 or not 0 < h.size(-1) <= kernel.WIDEST:
        return _rms_norm(h, scale, gate, eps)
    return kernel.rms_norm_rows(h, scale, gate, eps)


_NORMS = {"reference": _rms_norm, "torch": _rms_norm, "triton": _rms_norm_kernel}


def rms_norm(h_BTC: Tensor, scale_C: Tensor, gate_C: Tensor | None, eps: float) -> Tensor:
    """Return scale * h / rms(h), times sigmoid(gate * h) if there is a gate.

    rms(h) = sqrt(mean over C of h^2 + eps). ReLA-i has no gate; ReLA-g has one, and it reads the
    un-normalised h. Everything is computed in at least float32: in float16 the squares overflow
    and an eps of 1e-8 vanishes.
    """
    out: Tensor = backend.select("RMS norm", _NORMS)(h_BTC, scale_C, gate_C, eps)
    return out
