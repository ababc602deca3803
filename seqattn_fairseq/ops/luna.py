"""Luna's attention through a short sequence P (Ma et al. 2021), its causal form above all.

The causal form replaces the softmax over positions, which would see the future, by a positive
activation and a running mean (section 3.3):

    f(x, y, z)_t = x_t . (sum over j <= t of y_j^T z_j) / t

Shapes: B batch, H heads, T target length, L length of P, d and e widths, c chunk length,
N number of chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.ops import backend
from seqattn_fairseq.ops.backend import select
from seqattn_fairseq.ops.dropout import dropout as dropped
from seqattn_fairseq.ops.precision import exact_sums

# Up to this length the T x T form is the faster; above, time and memory are linear in T. Chunks of
# this length cost the least, measured forward and backward on a CPU.
_SHORT = 64
_CHUNK = 32


def _softplus2(scores: Tensor) -> Tensor:
    # log2(1 + 2^x): 1 at 0, like elu(x) + 1
    return F.softplus(scores, beta=math.log(2))


def _shifted_elu(scores: Tensor) -> Tensor:
    return F.elu(scores) + 1


# All positive: the packed sums of the causal form are weighted by them, unnormalised.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus2": _softplus2,
    "elu": _shifted_elu,
}


def compose_weights(unpack_BHTL: Tensor, pack_BPLS: Tensor) -> Tensor:
    """Return the (B, H, T, S) weights of the context through P: unpack times pack.

    Head by head if both have as many heads, else with the mean of the pack's P heads. They are
    distributions over the context.
    """
    if pack_BPLS.size(1) != unpack_BHTL.size(1):
        pack_BPLS = pack_BPLS.mean(dim=1, keepdim=True)
    return unpack_BHTL @ pack_BPLS


def softmax_over_p(scores_BHTL: Tensor, padding_mask_BL: Tensor | None) -> Tensor:
    """Return the softmax over the rows of P, in at least float32.

    Args:
        scores_BHTL: the logits.
        padding_mask_BL: True at rows that the sentence does not use; with no row left all is 0.
    """
    dtype = torch.promote_types(scores_BHTL.dtype, torch.float32)
    if padding_mask_BL is None:
        return F.softmax(scores_BHTL, dim=-1, dtype=dtype)
    hidden = padding_mask_BL[:, None, None, :]
    weights = F.softmax(scores_BHTL.masked_fill(hidden, float("-inf")), dim=-1, dtype=dtype)
    return weights.masked_fill(hidden, 0.0)


def counted(padding_mask_BT: Tensor | None, length: int, like: Tensor) -> Tensor:
    """Return how many real positions there are up to each: (T, 1), or (B, 1, T, 1) if padded.

    At least 1, so that padding before the first real position divides by something.
    """
    if padding_mask_BT is None:
        count_T = torch.arange(1, length + 1, device=like.device)
        return count_T.to(torch.promote_types(like.dtype, torch.float32)).unsqueeze(-1)
    count_BT = (~padding_mask_BT).cumsum(dim=1).clamp(min=1)
    return count_BT.to(torch.promote_types(like.dtype, torch.float32))[:, None, :, None]


def accumulate(sum_BHde: Tensor | None, y_BHTd: Tensor, z_BHTe: Tensor, exact: bool) -> Tensor:
    """Return the running sum of y_j^T z_j with T more positions in it.

    ``exact`` sums are in at least float32, others in the dtype of ``y``.
    """
    if exact:
        y, z = _wide(y_BHTd, z_BHTe)
        with exact_sums(y):
            new = y.transpose(-1, -2) @ z
    else:
        new = y_BHTd.transpose(-1, -2) @ z_BHTe.to(y_BHTd.dtype)
    return new if sum_BHde is None else sum_BHde + new


def causal_mean_weights(x_BHTd: Tensor, y_BHTd: Tensor, count: Tensor) -> Tensor:
    """Return what f weighs z with, as (B, H, T, T): x_t . y_j / t for j <= t, else 0."""
    x, y = _wide(x_BHTd, y_BHTd)
    with exact_sums(x):
        return (x @ y.transpose(-1, -2)).tril() / count


def _quadratic(x: Tensor, y: Tensor, z: Tensor, start: Tensor | None) -> Tensor:
    sums = (x @ y.transpose(-1, -2)).tril() @ z
    return sums if start is None else sums + x @ start


def _chunked(x: Tensor, y: Tensor, z: Tensor, start: Tensor | None) -> Tensor:
    """Sum within chunks by the quadratic form, and over the chunks before by their sums."""
    length = x.size(2)
    x_BHNcd, y_BHNcd, z_BHNce = (_chunks(tensor) for tensor in (x, y, z))
    sums = y_BHNcd.transpose(-1, -2) @ z_BHNce
    # not "all up to here, less this chunk": its future would move the rounding of its past
    before = F.pad(sums[:, :, :-1].cumsum(dim=2), (0, 0, 0, 0, 1, 0))
    if start is not None:
        before = before + start.unsqueeze(2)
    out = _quadratic(x_BHNcd, y_BHNcd, z_BHNce, before)
    return out.flatten(2, 3)[:, :, :length]


def _chunks(x_BHTd: Tensor) -> Tensor:
    padded = F.pad(x_BHTd, (0, 0, 0, -x_BHTd.size(2) % _CHUNK))
    # two products read it: one copy here saves one in each
    chunks: Tensor = padded.unflatten(2, (-1, _CHUNK))
    return chunks.contiguous()


def _torch_form(x: Tensor, y: Tensor, z: Tensor, start: Tensor | None) -> Tensor:
    form = _quadratic if x.size(2) <= _SHORT else _chunked
    return form(x, y, z, start)


def causal_sum_reference(x: Tensor, y: Tensor, z: Tensor, start: Tensor | None) -> Tensor:
    """Return x_t . (start + sum over j <= t of y_j^T z_j), by the recurrence over t."""
    rows = []
    total = torch.zeros_like(y[:, :, 0, :, None] * z[:, :, 0, None, :]) if start is None else start
    for t in range(x.size(2)):
        total = total + torch.einsum("bhd,bhe->bhde", y[:, :, t], z[:, :, t])
        rows.append(torch.einsum("bhd,bhde->bhe", x[:, :, t], total))
    return torch.stack(rows, dim=2)


def _rounded_form(x: Tensor, y: Tensor, z: Tensor, start: Tensor | None) -> Tensor:
    # every partial sum is rounded to the dtype, and all of them are in memory: as officially
    sums = (y.unsqueeze(-1) * z.unsqueeze(-2)).cumsum(dim=2)
    if start is not None:
        sums = sums + start.unsqueeze(2)
    return (x.unsqueeze(-2) @ sums).squeeze(-2)


_FORMS = {"reference": causal_sum_reference, "torch": _torch_form}


def causal_mean(
    x_BHTd: Tensor,
    y_BHTd: Tensor,
    z_BHTe: Tensor,
    count: Tensor,
    start_BHde: Tensor | None = None,
    exact: bool = True,
) -> Tensor:
    """Return f(x, y, z), (B, H, T, e), in at least float32 if ``exact``.

    Args:
        x_BHTd: what reads the mean at each position.
        y_BHTd: zero at padding, which then adds nothing.
        z_BHTe: or zero here.
        count: divisor of each position, as ``counted`` gives it.
        start_BHde: the sum over the positions before the first, if there are any.
        exact: sums in at least float32; otherwise half precision sums in its own dtype, as in the
            official code.
    """
    if exact or z_BHTe.dtype not in (torch.float16, torch.bfloat16):
        form = select("causal Luna mean", _FORMS)
        x, y, z = _wide(x_BHTd, y_BHTd, z_BHTe)
        with exact_sums(x):
            out: Tensor = form(x, y, z, start_BHde)
    else:
        out = _rounded_form(x_BHTd.to(z_BHTe.dtype), y_BHTd, z_BHTe, start_BHde)
    return out / count.to(out.dtype)


def _two_means(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pack: Tensor,
    count: Tensor,
    mask: Tensor | None,
    dropout: float,
    exact: bool,
) -> Tensor:
    weights = softmax_over_p(causal_mean(q, k, pack, count, exact=exact), mask)
    return causal_mean(dropped(weights, dropout), pack, v, count, exact=exact)


def _kernel_form(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pack: Tensor,
    count: Tensor,
    mask: Tensor | None,
    dropout: float,
    exact: bool,
) -> Tensor:
    from seqattn_fairseq.ops.kernels import luna

    backend.require_kernels(q)
    if luna.supports(q, k, v, pack) and (exact or v.dtype == pack.dtype == torch.float32):
        return luna.causal_attention(q, k, v, pack, count, mask, dropout)
    return _two_means(q, k, v, pack, count, mask, dropout, exact)


# the reference is in the means
_ATTENTION_FORMS = {"reference": _two_means, "torch": _two_means, "triton": _kernel_form}


def causal_attention(
    q_BHTd: Tensor,
    k_BHTd: Tensor,
    v_BHTd: Tensor,
    pack_BHTL: Tensor,
    count: Tensor,
    padding_mask_BL: Tensor | None = None,
    dropout: float = 0.0,
    exact: bool = True,
) -> Tensor:
    """Return (B, H, T, d): each position reads P, into which the positions up to it are packed.

    Args:
        q_BHTd: queries, scaled.
        k_BHTd: keys.
        v_BHTd: values.
        pack_BHTL: what each position gives to the rows of P, positive; zero at padding.
        count: divisor of each position, as ``counted`` gives it.
        padding_mask_BL: True at rows of P that the sentence does not use.
        dropout: probability of dropping a weight over P.
        exact: see :func:`causal_mean`.
    """
    form = select("causal Luna attention", _ATTENTION_FORMS)
    out: Tensor = form(q_BHTd, k_BHTd, v_BHTd, pack_BHTL, count, padding_mask_BL, dropout, exact)
    return out


def _wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return them in one dtype, at least float32: unnormalised sums outgrow half precision."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)
