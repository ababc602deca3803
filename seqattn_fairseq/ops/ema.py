"""Multi-dimensional damped exponential moving average, Mega's (Ma et al. 2023, section 3.1).

Every channel is expanded to N scalar states, each of which decays at a rate of its own:

    h_t = q h_{t-1} + p beta x_t          y_t = N^-0.5 sum_n gamma_n h_t[n]
    p = sigmoid(delta)                    q = 1 - p sigmoid(alpha)

The names are those of the released code; the paper calls p "alpha" and sigmoid(alpha) "delta". The
paper (equation 6) stops at y; the release returns silu(y + omega x), and so do we. A bidirectional
average adds one that runs from the right; the present position is in both.

All arithmetic is in at least float32: near 1, where long memories live, half precision has no
decay rates left, and a state kept in it drifts.

Shapes: B batch, R rows (hypotheses), T positions, n new positions, D channels, N states, E = D, or
2 D if bidirectional (first those of the average from the left), J lags.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.ops.backend import select
from seqattn_fairseq.ops.precision import exact_sums

# Up to this many positions a matrix product is no slower than the Fourier transform, and exact.
_SHORT = {"cpu": 24}
_SHORT_ELSEWHERE = 64
# Lengths of the transform: no prime factor above 5, at most a quarter apart, and few, so that
# sentences of all lengths share their plans (and a compiled layer its code)
_LENGTHS = sorted(m << octave for m in (8, 9, 10, 12, 15) for octave in range(20))
# fine powers of a kernel up to 1024 lags, and beyond
_FINE, _FINE_BEYOND = 16, 128


class Coefficients(NamedTuple):
    """What the recurrence multiplies with, in at least float32.

    Attributes:
        input_EN: p beta.
        log_decay_EN: log q, always finite.
        output_EN: gamma N^-0.5.
    """

    input_EN: Tensor
    log_decay_EN: Tensor
    output_EN: Tensor

    def rows(self, start: int, end: int) -> Coefficients:
        """Return those of some channels."""
        return Coefficients(*(c[start:end] for c in self))


def ema_coefficients(
    delta_EN1: Tensor, alpha_EN1: Tensor, beta_EN1: Tensor, gamma_EN: Tensor
) -> Coefficients:
    """Return the coefficients of the parameters (released names and shapes)."""
    wide = torch.promote_types(delta_EN1.dtype, torch.float32)
    delta, alpha, beta, gamma = (c.to(wide) for c in (delta_EN1, alpha_EN1, beta_EN1, gamma_EN))
    p = torch.sigmoid(delta).squeeze(-1)
    # a product that rounds to 1 would make log q infinite, and 0 times that NaN
    damping = (p * torch.sigmoid(alpha).squeeze(-1)).clamp(max=1 - torch.finfo(wide).eps)
    return Coefficients(p * beta.squeeze(-1), torch.log1p(-damping), gamma * gamma.size(-1) ** -0.5)


def ema_kernel(c: Coefficients, length: int) -> Tensor:
    """Return the (E, J) weights of the lags 0 .. length - 1: sum_n output input q^j."""
    # q^(a m + b) = q^(a m) q^b: m + J / m exponentials for each state in place of J
    log_decay = c.log_decay_EN.unsqueeze(-1)
    m = _FINE if length <= 1024 else _FINE_BEYOND
    lags = torch.arange(0, length, m, device=log_decay.device, dtype=log_decay.dtype)
    fine = torch.exp(log_decay * torch.arange(m, device=lags.device, dtype=lags.dtype))
    coarse = torch.exp(log_decay * lags) * (c.input_EN * c.output_EN).unsqueeze(-1)
    return (coarse.transpose(1, 2) @ fine).flatten(1)[:, :length]


def _split(c: Coefficients, channels: int) -> tuple[Coefficients, Coefficients | None]:
    from_left = c.rows(0, channels)
    both = c.input_EN.size(0) > channels
    return from_left, c.rows(channels, 2 * channels) if both else None


def _recurrence(x_BTD: Tensor, c: Coefficients, lags: int) -> Tensor:
    h = x_BTD.new_zeros(x_BTD.size(0), *c.input_EN.shape)
    decay = torch.exp(c.log_decay_EN)
    rows = []
    for t in range(x_BTD.size(1)):
        h = decay * h + c.input_EN * x_BTD[:, t, :, None]
        if t >= lags:
            h = h - decay**lags * c.input_EN * x_BTD[:, t - lags, :, None]
        rows.append((c.output_EN * h).sum(dim=-1))
    return torch.stack(rows, dim=1)


def ema_reference(x_BTD: Tensor, c: Coefficients, lags: int) -> Tensor:
    """Return the average by its recurrence, position by position: obvious and slow."""
    from_left, from_right = _split(c, x_BTD.size(-1))
    y = _recurrence(x_BTD, from_left, lags)
    if from_right is not None:
        y = y + _recurrence(x_BTD.flip(1), from_right, lags).flip(1)
    return y


def _matrix_product(x_BTD: Tensor, left_DJ: Tensor, right_DJ: Tensor | None) -> Tensor:
    length, lags = x_BTD.size(1), left_DJ.size(1)
    # weights in the order of the earlier position: lag length - 1 first, then to the future
    line = F.pad(left_DJ, (0, length - lags)).flip(1)
    line = F.pad(line, (0, length - 1))
    if right_DJ is not None:
        line = line + F.pad(right_DJ, (length - 1, length - lags))
    toeplitz_DTT = line.unfold(1, length, 1).flip(1)
    return (toeplitz_DTT @ x_BTD.permute(2, 1, 0)).permute(2, 1, 0)


def _transform_length(least: int) -> int:
    """Return a number from ``least`` on that is quick to transform."""
    for length in _LENGTHS:
        if length >= least:
            return length
    return least


def _fourier(x_BTD: Tensor, left_DJ: Tensor, right_DJ: Tensor | None) -> Tensor:
    length = x_BTD.size(1)
    n = _transform_length(length + left_DJ.size(1) - 1)
    kernel = torch.fft.rfft(left_DJ, n)
    if right_DJ is not None:
        # a conjugate turns time around: the lags to the future stand at the end of the circle
        kernel = kernel + torch.fft.rfft(right_DJ, n).conj()
    spectrum = torch.fft.rfft(x_BTD.transpose(1, 2), n)
    y: Tensor = torch.fft.irfft(spectrum * kernel, n)
    return y[..., :length].transpose(1, 2)


def _convolution(x_BTD: Tensor, c: Coefficients, lags: int) -> Tensor:
    channels, length = x_BTD.size(-1), x_BTD.size(1)
    kernel = ema_kernel(c, min(lags, length))
    right = kernel[channels:] if kernel.size(0) > channels else None
    if length <= _SHORT.get(x_BTD.device.type, _SHORT_ELSEWHERE):
        return _matrix_product(x_BTD, kernel[:channels], right)
    return _fourier(x_BTD, kernel[:channels], right)


_FORMS = {"reference": ema_reference, "torch": _convolution}


def _activated(y: Tensor, x: Tensor, omega_D: Tensor) -> Tensor:
    return F.silu(y + omega_D.to(y.dtype) * x.to(y.dtype)).to(x.dtype)


def ema(
    x_BTD: Tensor,
    c: Coefficients,
    omega_D: Tensor,
    padding_mask_BT: Tensor | None = None,
    truncation: int = 0,
) -> Tensor:
    """Return silu(y + omega x), (B, T, D), for whole sequences.

    Args:
        x_BTD: the sequence.
        c: coefficients; 2 D rows of them make the average bidirectional.
        omega_D: weight of the residual.
        padding_mask_BT: True at positions that enter no average; outputs there mean nothing.
        truncation: number of lags that count, in each direction; 0 for all.
    """
    x = x_BTD.to(torch.promote_types(x_BTD.dtype, c.input_EN.dtype))
    if padding_mask_BT is not None:
        x = x.masked_fill(padding_mask_BT.unsqueeze(-1), 0.0)
    with exact_sums(x):
        y = select("EMA", _FORMS)(x, c, truncation or x.size(1))
    return _activated(y, x_BTD, omega_D)


def ema_start(rows: int, c: Coefficients) -> Tensor:
    """Return the (R, D, N) state before the first position."""
    return c.input_EN.new_zeros(rows, *c.input_EN.shape)


def ema_step(
    x_RnD: Tensor, state_RDN: Tensor, c: Coefficients, omega_D: Tensor
) -> tuple[Tensor, Tensor]:
    """Return silu(y + omega x), (R, n, D), for the next n positions, and the state after them.

    The state is h above. Nothing is truncated.
    """
    x = x_RnD.to(torch.promote_types(x_RnD.dtype, c.input_EN.dtype))
    with exact_sums(x):
        if x.size(1) == 1:
            state = torch.exp(c.log_decay_EN) * state_RDN + c.input_EN * x[:, 0, :, None]
            y = (c.output_EN * state).sum(dim=-1).unsqueeze(1)
        else:
            y, state = _block(x, state_RDN, c)
    return _activated(y, x_RnD, omega_D), state


def _block(x_RnD: Tensor, state_RDN: Tensor, c: Coefficients) -> tuple[Tensor, Tensor]:
    new = x_RnD.size(1)
    lags = torch.arange(new + 1, device=x_RnD.device, dtype=x_RnD.dtype)
    decay_DNn = torch.exp(c.log_decay_EN.unsqueeze(-1) * lags)
    carried = torch.einsum(
        "rdn,dnt->rtd", state_RDN, c.output_EN.unsqueeze(-1) * decay_DNn[..., 1:]
    )
    y = _convolution(x_RnD, c, new) + carried
    received = c.input_EN.unsqueeze(-1) * decay_DNn[..., :-1].flip(-1)
    state = torch.einsum("rtd,dnt->rdn", x_RnD, received) + decay_DNn[..., -1] * state_RDN
    return y, state
