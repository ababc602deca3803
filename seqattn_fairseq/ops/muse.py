"""Several dynamic convolutions of one sequence, weighed by a gate (MUSE, Zhao et al. 2019).

    out = sum over i of softmax(gate)_i D_i(x)

where D_i is the dynamic convolution with the taps of the i-th kernel. A convolution is linear in
its taps, so the kernels are merged first, and one pass over x serves all of them.

Shapes: B batch, T length, C channels, H heads, K taps, N kernels, R rows and n new positions when
stepping, m earlier positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.ops.backend import select
from seqattn_fairseq.ops.convolution import convolution_step, dynamic_convolution

# (taps, taps before the current position) -> a convolution with them
Convolve = Callable[[Tensor, int], Tensor]


def taps_before(kernel_size: int, causal: bool) -> int:
    """Return how many taps lie before the current position: all but one, or half of the rest."""
    return kernel_size - 1 if causal else (kernel_size - 1) // 2


def merge_taps(
    taps: Sequence[Tensor], lefts: Sequence[int], weights_N: Tensor
) -> tuple[Tensor, int]:
    """Return the taps (B, T, H, K) of the weighed sum of kernels, and their left.

    Args:
        taps: (B, T, H, K_i) of each kernel.
        lefts: taps of each before the current position.
        weights_N: what each kernel counts.
    """
    left = max(lefts)
    right = max(t.size(-1) - 1 - before for t, before in zip(taps, lefts, strict=True))
    size = left + 1 + right
    aligned = [
        F.pad(t * weight, (left - before, size - t.size(-1) - left + before))
        for t, before, weight in zip(taps, lefts, weights_N.unbind(), strict=True)
    ]
    return sum(aligned[1:], aligned[0]), left


def _merged(
    taps: Sequence[Tensor], lefts: Sequence[int], weights_N: Tensor, convolve: Convolve
) -> Tensor:
    return convolve(*merge_taps(taps, lefts, weights_N))


def _one_by_one(
    taps: Sequence[Tensor], lefts: Sequence[int], weights_N: Tensor, convolve: Convolve
) -> Tensor:
    outputs = [convolve(t, left) for t, left in zip(taps, lefts, strict=True)]
    return (torch.stack(outputs, dim=-1) * weights_N).sum(-1).to(outputs[0].dtype)


_FORMS = {"reference": _one_by_one, "torch": _merged}


def _convolved(
    taps: Sequence[Tensor], lefts: Sequence[int], gate_N: Tensor | None, convolve: Convolve
) -> Tensor:
    if gate_N is None:
        outputs = [convolve(t, left) for t, left in zip(taps, lefts, strict=True)]
        return torch.cat(outputs, dim=-1)
    dtype = torch.promote_types(gate_N.dtype, torch.float32)
    weights = F.softmax(gate_N, dim=-1, dtype=dtype)
    out: Tensor = select("gated convolution", _FORMS)(taps, lefts, weights, convolve)
    return out


def multiscale_convolution(
    x_BTC: Tensor, taps: Sequence[Tensor], lefts: Sequence[int], gate_N: Tensor | None
) -> Tensor:
    """Return (B, T, C), the gated sum of the kernels, or (B, T, N C), all side by side.

    Args:
        x_BTC: zero at padding.
        taps: (B, T, H, K_i) of each kernel, normalised.
        lefts: taps of each before the current position.
        gate_N: the gate before its softmax; None puts the kernels side by side.
    """
    return _convolved(taps, lefts, gate_N, lambda t, left: dynamic_convolution(x_BTC, t, left))


def multiscale_step(
    past_RmC: Tensor, x_RnC: Tensor, taps: Sequence[Tensor], gate_N: Tensor | None
) -> Tensor:
    """Return the next n positions of a causal ``multiscale_convolution``, (R, n, C or N C).

    Args:
        past_RmC: the positions before; all, or at least as many as the widest kernel reaches.
        x_RnC: the new positions.
        taps: (R, n, H, K_i) of each kernel.
        gate_N: as above.
    """
    lefts = [t.size(-1) - 1 for t in taps]
    return _convolved(taps, lefts, gate_N, lambda t, _: convolution_step(past_RmC, x_RnC, t)[0])
