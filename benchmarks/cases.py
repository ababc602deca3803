"""The mechanisms that are measured, each at any shape: ours beside the official algorithms.

Shapes: B batch, T length, C channels, H heads, K taps, d width of a head, l length of P, N states,
Z width of Mega's queries.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import OURS
from benchmarks.official_forms import attention as official_attention
from benchmarks.official_forms import convolution as official_convolution
from benchmarks.official_forms import ema as official_ema
from benchmarks.official_forms import gated as official_gated
from benchmarks.official_forms import luna as official_luna
from seqattn_fairseq.ops.convolution import (
    dynamic_convolution,
    lightweight_convolution,
    tap_softmax,
)
from seqattn_fairseq.ops.cross_entropy import LossOptions, projected_cross_entropy
from seqattn_fairseq.ops.ema import ema, ema_coefficients
from seqattn_fairseq.ops.luna import causal_attention, counted
from seqattn_fairseq.ops.mega import gated_attention
from seqattn_fairseq.ops.muse import multiscale_convolution, taps_before
from seqattn_fairseq.ops.rela import rela_attention, rms_norm
from seqattn_fairseq.ops.residual import LayerNorm, residual
from seqattn_fairseq.ops.softmax import softmax_attention
from seqattn_fairseq.ops.sparse import sparse_attention

WIDTH, HEADS, KEPT = 512, 8, 8
NAIVE, SDPA = "materialised", "SDPA softmax"
Function = Callable[..., Tensor]


class Case(NamedTuple):
    """One mechanism at one shape.

    Attributes:
        mechanism: what the rows are called.
        shape: its numbers by name.
        sequences: the arguments (B, T, ...) that all forms get, each in its layout.
        parameters: those that follow.
        forms: ours, official ones, of which the first is, in float64, the truth, and others that
            do something else and have no error.
        time_first: whether official forms have the layout (T, B, ...).
        others: names of the forms that do something else.
        shaped_like: number of the sequence that has the output's shape; None for one number.
    """

    mechanism: str
    shape: dict[str, Any]
    sequences: list[Tensor]
    parameters: list[Tensor]
    forms: dict[str, Function]
    time_first: bool = True
    others: tuple[str, ...] = ()
    shaped_like: int | None = 0

    def upstream(self) -> Tensor:
        """Return numbers for a gradient of the output."""
        if self.shaped_like is None:
            return torch.ones(())
        return torch.randn(self.sequences[self.shaped_like].shape)

    @property
    def truth(self) -> str:
        """The name of the form that tells the errors of all."""
        return next(name for name in self.forms if name != OURS)

    def leaves(self, name: str, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
        """Return the arguments of a form, each a leaf, in its layout."""
        first = self.time_first and name != OURS
        sequences = [time_first(s) for s in self.sequences] if first else self.sequences
        inputs = (t.detach().to(device, dtype) for t in (*sequences, *self.parameters))
        return [t.requires_grad_() for t in inputs]


def time_first(sequence: Tensor) -> Tensor:
    """Return the (B, T, ...) values as they lie in memory in the layout (T, B, ...)."""
    return sequence.transpose(0, 1).contiguous().transpose(0, 1)


def _swapped(function: Function) -> Function:
    """Return a form of (T, B, ...) sequences as one of (B, T, ...): views alone, no copies."""

    def form(*arguments: Tensor) -> Tensor:
        return function(*arguments).transpose(0, 1)

    return form


def step(function: Function, leaves: list[Tensor], upstream: Tensor) -> list[Tensor]:
    """Return output and gradients."""
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def _shape(batch: int, length: int, **others: Any) -> dict[str, Any]:
    return {"T": length, "B": batch, "C": WIDTH, **others}


def _official_convolutions(left: int) -> dict[str, Function]:
    def form(convolve: Function) -> Function:
        def run(x: Tensor, logits: Tensor) -> Tensor:
            shared = logits.dim() == 2
            taps = (logits if shared else logits.transpose(0, 1)).softmax(-1)
            return convolve(x.transpose(0, 1), taps, left)

        return _swapped(run)

    return {
        "unfold": form(official_convolution.unfold),
        "band": form(official_convolution.band),
    }


def dynamic_case(batch: int, length: int, heads: int = HEADS, size: int = 31) -> Case:
    """Return DynamicConv from the logits of its taps."""
    left = (size - 1) // 2
    sequences = [torch.randn(batch, length, WIDTH), torch.randn(batch, length, heads, size)]

    def ours(x: Tensor, logits: Tensor) -> Tensor:
        return dynamic_convolution(x, tap_softmax(logits), left)

    forms = {OURS: ours, **_official_convolutions(left)}
    return Case("dynamic_convolution", _shape(batch, length, H=heads, K=size), sequences, [], forms)


def light_case(batch: int, length: int, heads: int = HEADS, size: int = 31) -> Case:
    """Return LightConv from the logits of its taps."""
    left = (size - 1) // 2

    def ours(x: Tensor, logits: Tensor) -> Tensor:
        return lightweight_convolution(x, tap_softmax(logits), left)

    x = torch.randn(batch, length, WIDTH)
    forms = {OURS: ours, **_official_convolutions(left)}
    return Case(
        "light_convolution",
        _shape(batch, length, H=heads, K=size),
        [x],
        [torch.randn(heads, size)],
        forms,
    )


def muse_case(
    batch: int, length: int, heads: int = HEADS, sizes: tuple[int, int] = (3, 15)
) -> Case:
    """Return MUSE's two widths, from the logits of their taps and the gate's."""
    lefts = [taps_before(size, causal=False) for size in sizes]

    def ours(x: Tensor, first: Tensor, second: Tensor, gate: Tensor) -> Tensor:
        taps = [tap_softmax(first), tap_softmax(second)]
        return multiscale_convolution(x, taps, lefts, gate)

    def official(name: str) -> Function:
        convolutions = [_official_convolutions(left)[name] for left in lefts]

        def run(x: Tensor, first: Tensor, second: Tensor, gate: Tensor) -> Tensor:
            weights = gate.softmax(-1)
            a, b = convolutions[0](x, first), convolutions[1](x, second)
            return a * weights[0] + b * weights[1]

        return run

    logits = [torch.randn(batch, length, heads, size) for size in sizes]
    return Case(
        "muse_convolutions",
        _shape(batch, length, H=heads, K="+".join(map(str, sizes))),
        [torch.randn(batch, length, WIDTH), *logits],
        [torch.randn(len(sizes))],
        {OURS: ours, "unfold": official("unfold"), "band": official("band")},
    )


def luna_case(batch: int, length: int, heads: int = HEADS, rows: int = 16) -> Case:
    """Return Luna's causal attention: both running means and the softmax between them."""
    width = WIDTH // heads

    def ours(q: Tensor, k: Tensor, v: Tensor, pack: Tensor) -> Tensor:
        q, k, v, pack = (t.transpose(1, 2) for t in (q, k, v, pack))
        return causal_attention(q, k, v, pack, counted(None, length, q)).transpose(1, 2)

    def official(*sequences: Tensor) -> Tensor:
        flat = (
            t.transpose(0, 1).reshape(length, batch * heads, -1).transpose(0, 1) for t in sequences
        )
        out = official_luna.causal_attention(*flat)
        return out.transpose(0, 1).reshape(length, batch, heads, width).transpose(0, 1)

    sequences = [torch.randn(batch, length, heads, width) * width**-0.5]
    sequences += [torch.randn(batch, length, heads, width) for _ in range(2)]
    sequences += [F.softplus(torch.randn(batch, length, heads, rows))]
    forms: dict[str, Function] = {OURS: ours, "outer_product": official}
    return Case("luna_causal", _shape(batch, length, H=heads, l=rows), sequences, [], forms)


def ema_case(batch: int, length: int, both: bool = True, states: int = 16) -> Case:
    """Return Mega's moving average with its activation, from its parameters."""
    rows = WIDTH * (2 if both else 1)

    def ours(x: Tensor, *parameters: Tensor) -> Tensor:
        *coefficients, omega = parameters
        return ema(x, ema_coefficients(*coefficients), omega)

    def official(x: Tensor, *parameters: Tensor) -> Tensor:
        delta, alpha, beta, gamma, omega = parameters
        y = official_ema.ema(x.transpose(0, 1), delta, alpha, beta, gamma, omega)
        return y.transpose(0, 1)

    # as Mega initialises them
    signs = torch.tensor([1.0, -1.0]).repeat(states // 2).view(1, states, 1)
    parameters = [0.2 * torch.randn(rows, states, 1) for _ in range(2)]
    parameters += [0.02 * torch.randn(rows, states, 1) + signs]
    parameters += [torch.randn(rows, states), torch.randn(WIDTH)]
    return Case(
        "mega_ema_bidirectional" if both else "mega_ema_causal",
        _shape(batch, length, N=states),
        [torch.randn(batch, length, WIDTH)],
        parameters,
        {OURS: ours, "official_fft": official},
    )


def _headed(function: Function) -> Function:
    """Return an attention of (B, H, T, d) heads as one of (B, T, H, d): views alone."""

    def form(*arguments: Tensor) -> Tensor:
        return function(*(t.transpose(1, 2) for t in arguments)).transpose(1, 2)

    return form


def attention_case(
    batch: int,
    length: int,
    method: str,
    causal: bool = False,
    padded: bool = False,
    keys: int = 0,
    heads: int = HEADS,
    width: int = WIDTH // HEADS,
) -> Case:
    """Return a multi-head attention from its queries, keys and values, beside torch's softmax.

    Args:
        batch: B.
        length: T.
        method: "softmax", "rela", or a map of ``ops.sparse``.
        causal: whether a query sees no later keys.
        padded: whether the last third of the keys is hidden, in the first sentence more.
        keys: S, if not T.
        heads: H.
        width: d.
    """
    lengths = (length, keys or length, keys or length)
    sequences = [torch.randn(batch, n, heads, width) for n in lengths]
    sequences[0] *= width**-0.5
    mask = _hidden_end(batch, keys or length) if padded else None
    forms = {
        OURS: _our_attention(method, mask, causal),
        NAIVE: _materialised(method, mask, causal),
    }
    if not padded:
        forms[SDPA] = partial(F.scaled_dot_product_attention, is_causal=causal, scale=1.0)
    headed = {form: _headed(function) for form, function in forms.items()}
    name = f"{method} attention" + (", causal" if causal else "")
    shape = {"T": length, "B": batch, "C": heads * width, "H": heads}
    shape |= {"S": keys} if keys else {}
    others = () if method == "softmax" else (SDPA,)
    return Case(name, shape, sequences, [], headed, time_first=False, others=others)


def _hidden_end(batch: int, keys: int) -> Tensor:
    """Return (B, S), True at the last third, and in the first sentence at all but the first key."""
    hidden = torch.arange(keys).expand(batch, -1) >= keys - keys // 3
    hidden[0, 1:] = True
    return hidden


def _our_attention(method: str, mask: Tensor | None, causal: bool) -> Function:
    if method in {"softmax", "rela"}:
        form = softmax_attention if method == "softmax" else rela_attention
        return lambda q, k, v: form(q, k, v, _on(q, mask), causal)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept = [torch.full((1, 1, 1, 1), KEPT, device=q.device)] if method == "top-k" else []
        return sparse_attention(method, q, k, v, _on(q, mask), causal, 0.0, *kept)

    return run


def _on(like: Tensor, mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.to(like.device)


def _materialised(method: str, mask: Tensor | None, causal: bool) -> Function:
    if method == "rela":
        return lambda q, k, v: official_attention.rela(F.relu, q, k, v, _on(q, mask), causal)
    if method == "softmax":
        row_map: Function = official_attention.softmax
    elif method == "top-k":
        row_map = partial(official_attention.topk, kept=KEPT)
    else:
        row_map = official_attention.package_map(method)
    return lambda q, k, v: official_attention.attention(row_map, q, k, v, _on(q, mask), causal)


def gated_case(
    batch: int,
    length: int,
    activation: str = "softmax",
    causal: bool = False,
    padded: bool = False,
    chunk: int = 0,
) -> Case:
    """Return Mega's gated attention, or that within chunks, with the bias of distances.

    Args:
        batch: B.
        length: T.
        activation: a name of ``ops.mega.ATTENTIONS``.
        causal: whether a query sees no later keys.
        padded: whether the last third of the keys is hidden, in the first sequence more.
        chunk: length of the chunks; 0 for none.
    """
    size = min(chunk, length) if chunk else length
    rows, z_dim, v_dim = batch * (length // size), 128, 2 * WIDTH
    sequences = [torch.randn(rows, size, width) for width in (z_dim, z_dim, v_dim)]
    sequences[0] *= 0.3  # so that no score, squared, swamps the others
    line = 0.02 * torch.randn(2 * size - 1)
    mask = _hidden_end(rows, size) if padded else None

    def form(attention: Function) -> Function:
        return lambda q, *rest: attention(q, *rest, _on(q, mask), causal, activation)

    name = f"mega attention, {activation}" + (", causal" if causal else "")
    name += f", chunks of {chunk}" if chunk else ""
    forms = {OURS: form(gated_attention), NAIVE: form(official_gated.attention)}
    shape = {"T": length, "B": batch, "C": WIDTH, "Z": z_dim}
    return Case(name, shape, sequences, [line], forms, time_first=False, shaped_like=2)


# ---- what stands between the attentions --------------------------------------------------------


def loss_case(batch: int, length: int, vocabulary: int = 10_240) -> Case:
    """Return projection and label-smoothed loss, summed, beside fairseq's; a tenth is padding."""
    target = torch.randint(2, vocabulary, (batch * length,))
    target[torch.rand(target.shape) < 0.1] = 1
    target_on = cache(target.to)  # moved once, not in every call
    options = LossOptions(smoothing=0.1, padding_idx=1)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        features = x.flatten(0, 1).unsqueeze(0)
        return projected_cross_entropy(features, weight, None, target_on(x.device), options).loss

    def fairseqs(x: Tensor, weight: Tensor) -> Tensor:
        logits = F.linear(x.flatten(0, 1), weight)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        lprobs = F.log_softmax(logits, dim=-1, dtype=dtype)
        loss: Tensor = label_smoothed_nll_loss(
            lprobs, target_on(x.device), options.smoothing, options.padding_idx
        )[0]
        return loss

    x, weight = torch.randn(batch, length, WIDTH), torch.randn(vocabulary, WIDTH)
    forms: dict[str, Function] = {OURS: ours, "fairseq": fairseqs}
    shape = _shape(batch, length, V=vocabulary)
    parameters = [weight * WIDTH**-0.5]
    return Case("loss", shape, [x], parameters, forms, time_first=False, shaped_like=None)


def residual_case(batch: int, length: int) -> Case:
    """Return LayerNorm(x + y), what ends a sub-block, without dropout."""

    def ours(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return residual(x, y, 0.0, LayerNorm(weight, bias, 1e-5))

    def torchs(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.layer_norm(x + y, (WIDTH,), weight, bias, 1e-5)

    sequences = [torch.randn(batch, length, WIDTH) for _ in range(2)]
    parameters = [torch.rand(WIDTH) + 0.5, torch.randn(WIDTH)]
    forms: dict[str, Function] = {OURS: ours, "add, layer_norm": torchs}
    shape = _shape(batch, length)
    return Case("residual norm", shape, sequences, parameters, forms, time_first=False)


def rms_case(batch: int, length: int) -> Case:
    """Return ReLA's norm of the joined heads, with its gate."""

    def ours(h: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        return rms_norm(h, scale, gate, 1e-8).to(h.dtype)

    def official(h: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        return official_attention.rms_norm(h, scale, gate, 1e-8)

    h = torch.randn(batch, length, WIDTH)
    parameters = [torch.rand(WIDTH) + 0.5, torch.randn(WIDTH)]
    forms: dict[str, Function] = {OURS: ours, NAIVE: official}
    return Case("rms norm", _shape(batch, length), [h], parameters, forms, time_first=False)
