"""Mega's moving average by the Fourier transform, as long as officially (Ma et al. 2023).

Shapes: T length, B batch, D channels, E = D or, if bidirectional, 2 D rows, N states.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def kernel(delta: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor, length: int) -> Tensor:
    """Return the (E, T) weights of the lags, summed from an (E, N, T) tensor.

    Args:
        delta: (E, N, 1), like alpha and beta.
        alpha: damping.
        beta: expansion.
        gamma: (E, N), projection.
        length: number of lags.
    """
    p = torch.sigmoid(delta)
    q = 1 - p * torch.sigmoid(alpha)
    lags = torch.arange(length, device=q.device, dtype=q.dtype)
    powers = p * beta * torch.exp(lags * torch.log(q))
    weights: Tensor = torch.einsum("enl,en->el", powers, gamma * gamma.size(-1) ** -0.5)
    return weights


def _convolved(x_BDT: Tensor, weights: Tensor) -> Tensor:
    """Return the linear convolution through a circle of twice the (padded) length."""
    n = 2 * x_BDT.size(-1)
    spectrum = torch.fft.rfft(x_BDT, n=n) * torch.fft.rfft(weights, n=n)
    out: Tensor = torch.fft.irfft(spectrum, n=n)
    return out


def ema(
    x_TBD: Tensor,
    delta: Tensor,
    alpha: Tensor,
    beta: Tensor,
    gamma: Tensor,
    omega: Tensor,
    padding_mask_BT: Tensor | None = None,
    truncation: int = 0,
) -> Tensor:
    """Return silu(average + omega x), (T, B, D).

    Args:
        x_TBD: the sequence.
        delta: this and the next as for ``kernel``; 2 D rows make the average bidirectional.
        alpha: see above.
        beta: see above.
        gamma: see above.
        omega: (D,).
        padding_mask_BT: True at padding.
        truncation: lags that count; 0 for all.
    """
    length, _, channels = x_TBD.shape
    wide = torch.promote_types(x_TBD.dtype, torch.float32)  # nothing transforms half precision
    delta, alpha, beta, gamma = (p.to(wide) for p in (delta, alpha, beta, gamma))
    x = x_TBD.permute(1, 2, 0).to(wide)
    if padding_mask_BT is not None:
        x = x * (~padding_mask_BT).unsqueeze(1).type_as(x)
    lags = min(length, truncation or length)
    weights = F.pad(kernel(delta, alpha, beta, gamma, lags), (0, length - lags))
    before = 0
    if weights.size(0) > channels:
        past, future = weights.split(channels)
        before = length - 1
        weights = F.pad(past, (before, 0)) + F.pad(future.flip(-1), (0, before))
        x = F.pad(x, (before, 0))
    average = _convolved(x, weights)[..., 2 * before : 2 * before + length]
    return F.silu(average.permute(2, 0, 1).to(x_TBD.dtype) + x_TBD * omega)
