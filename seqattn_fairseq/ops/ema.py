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
2 D if bidirectional (first those of the average from the left), J lags, I chunks of L positions.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from seqattn_fairseq.ops import backend
from seqattn_fairseq.ops.precision import exact_sums

# Up to this many positions the weights of all lags make one Toeplitz matrix; longer sequences are
# cut into chunks of at most _CHUNK, and states carried between them. Measured forward and backward
# on a CPU.
_UNCUT, _CHUNK = 64, 32
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


def _entering(x_BTD: Tensor, c: Coefficients, padding_mask_BT: Tensor | None) -> Tensor:
    x = x_BTD.to(torch.promote_types(x_BTD.dtype, c.input_EN.dtype))
    return x if padding_mask_BT is None else x.masked_fill(padding_mask_BT.unsqueeze(-1), 0.0)


def ema_reference(
    x_BTD: Tensor,
    c: Coefficients,
    omega_D: Tensor,
    padding_mask_BT: Tensor | None,
    lags: int,
) -> Tensor:
    """Return silu(y + omega x) by the recurrence, position by position: obvious and slow."""
    x_BTD = _entering(x_BTD, c, padding_mask_BT)
    from_left, from_right = _split(c, x_BTD.size(-1))
    y = _recurrence(x_BTD, from_left, lags)
    if from_right is not None:
        y = y + _recurrence(x_BTD.flip(1), from_right, lags).flip(1)
    return F.silu(y + omega_D * x_BTD)


class _Transposed(torch.autograd.Function):
    """The transpose of a matrix, copied, and its gradient likewise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the transpose."""
        return x.t().contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the transpose of the gradient."""
        return grad.t().contiguous()


class _Toeplitz(torch.autograd.Function):
    """Square matrices whose diagonals are the entries of lines."""

    @staticmethod
    def forward(ctx: Any, line: Tensor) -> Tensor:
        """Return (D, L, L) of (D, 2 L - 1): entry [s, t] is that of lag t - s, lags ascending."""
        return line.unfold(1, (line.size(1) + 1) // 2, 1).flip(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the sums over the diagonals."""
        channels, size, _ = grad.shape
        # rows a little short of 2 L entries, read again as rows of 2 L: diagonals become columns
        rows = grad.new_zeros(channels, size, 2 * size)
        strides = (2 * size * size, 2 * size - 1, 1)
        rows.as_strided(grad.shape, strides, size - 1).copy_(grad)
        return rows.sum(1)[:, :-1]


class _Chunks(torch.autograd.Function):
    """The product of chunks with the weights within them, and what they hand to each other.

    Arguments: the sequence (D, B, I, L); what position s of a chunk adds to position t, (D, L, L)
    at [s, t]; and, for the average from the left and maybe for that from the right, what states
    keep of positions and what they give to positions, (D, N, L) both, and how they decay over a
    chunk, (D, N).
    """

    @staticmethod
    def forward(ctx: Any, x_DBIL: Tensor, within_DLL: Tensor, *sides: Tensor) -> Tensor:
        """Return (D, B I, L)."""
        x = x_DBIL.flatten(1, 2)
        y = x @ within_DLL
        states = []
        for side in range(0, len(sides), 3):
            keep, give, decay = sides[side : side + 3]
            received = (x @ keep.transpose(1, 2)).view(*x_DBIL.shape[:-1], keep.size(1))
            states.append(_carried(received, decay, back=side > 0))
            y.baddbmm_(states[-1].flatten(1, 2), give)
        ctx.save_for_backward(x_DBIL, within_DLL, *states, *sides)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients; the states' by the recurrence in the other direction."""
        x_DBIL, within_DLL, *saved = ctx.saved_tensors
        states, sides = saved[: len(saved) // 4], saved[len(saved) // 4 :]
        x = x_DBIL.flatten(1, 2)
        grad_x = grad @ within_DLL.transpose(1, 2)
        grads = [x.transpose(1, 2) @ grad]
        for side, carried in enumerate(states):
            keep, give, decay = sides[3 * side : 3 * side + 3]
            back = (grad @ give.transpose(1, 2)).view_as(carried)
            received = _carried(back, decay, back=side == 0)
            flat = received.flatten(1, 2)
            grad_x.baddbmm_(flat, keep)
            grads += [flat.transpose(1, 2) @ x, carried.flatten(1, 2).transpose(1, 2) @ grad]
            grads.append((received * carried).sum((1, 2)))
        return grad_x.view_as(x_DBIL), *grads


def _carried(received_DBIN: Tensor, decay_DN: Tensor, back: bool) -> Tensor:
    """Return the states that chunks begin with, of what each alone leaves; from the right if back.

    s_i = decay s_{i-1} + received_{i-1}
    """
    states = torch.zeros_like(received_DBIN)
    order = list(range(received_DBIN.size(2)))[:: -1 if back else 1]
    for before, here in pairwise(order):
        state = states[:, :, here].copy_(received_DBIN[:, :, before])
        state.addcmul_(decay_DN.unsqueeze(1), states[:, :, before])
    return states


class _Activated(torch.autograd.Function):
    """The transpose of silu of a matrix; its gradient needs one matrix besides the argument."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        """Return silu(y), transposed."""
        ctx.save_for_backward(y)
        return F.silu(y.t().contiguous(), inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient."""
        (y,) = ctx.saved_tensors
        grad = grad.t().contiguous()
        torch.ops.aten.silu_backward.grad_input(grad, y, grad_input=grad)
        return grad


_transposed: Callable[..., Tensor] = _Transposed.apply
_toeplitz: Callable[..., Tensor] = _Toeplitz.apply
_chunks: Callable[..., Tensor] = _Chunks.apply
_activated: Callable[..., Tensor] = _Activated.apply


def _weights(c: Coefficients, omega_D: Tensor, lags: int) -> tuple[Tensor, Tensor | None]:
    """Return the (D, J) weights of the lags to the left, omega with them, and to the right."""
    kernel, channels = ema_kernel(c, lags), omega_D.size(0)
    left = kernel[:channels] + F.pad(omega_D.unsqueeze(-1), (0, lags - 1))
    return left, kernel[channels:] if kernel.size(0) > channels else None


def _within(left_DJ: Tensor, right_DJ: Tensor | None, length: int) -> Tensor:
    """Return (D, L, L): what position s of a chunk adds to position t, as [s, t]."""
    lags = left_DJ.size(-1)
    line = F.pad(left_DJ, (length - 1, length - lags))
    if right_DJ is not None:
        line = line + F.pad(right_DJ.flip(1), (length - lags, length - 1))
    return _toeplitz(line)


def _between(c: Coefficients, length: int, back: bool) -> list[Tensor]:
    """Return what states keep of a chunk's positions, what they give, and their decay."""
    lags = torch.arange(length + 1, device=c.input_EN.device, dtype=c.input_EN.dtype)
    powers_DNL = torch.exp(c.log_decay_EN.unsqueeze(-1) * lags)
    keep, give, decay_DN = powers_DNL[..., :-1], powers_DNL[..., 1:], powers_DNL[..., -1]
    give = (c.input_EN * c.output_EN).unsqueeze(-1) * give
    # from the left a chunk's first position is the oldest, from the right its last
    return [keep, give.flip(-1), decay_DN] if back else [keep.flip(-1), give, decay_DN]


def _chunked(x_BTD: Tensor, c: Coefficients, omega_D: Tensor, lags: int) -> Tensor:
    """Return y + omega x as (D, B, T'), T' >= T; more than one chunk must count all lags."""
    batch, length, channels = x_BTD.shape
    chunks = 1 if length <= _UNCUT else -(-length // _CHUNK)
    rows = -(-length // chunks)
    missing = chunks * rows - length
    padded = F.pad(x_BTD, (0, 0, 0, missing)) if missing else x_BTD
    x_DBIL = _transposed(padded.flatten(0, 1)).view(channels, batch, chunks, rows)
    within = _within(*_weights(c, omega_D, min(lags, rows)), rows)
    if chunks == 1:
        return x_DBIL.squeeze(2) @ within
    parts = zip(_split(c, channels), (False, True), strict=True)
    sides = [t for part, back in parts if part is not None for t in _between(part, rows, back)]
    return _chunks(x_DBIL, within, *sides).view(channels, batch, chunks * rows)


def _transform_length(least: int) -> int:
    """Return a number from ``least`` on that is quick to transform."""
    for length in _LENGTHS:
        if length >= least:
            return length
    return least


def _fourier(x_BTD: Tensor, c: Coefficients, omega_D: Tensor, lags: int) -> Tensor:
    length = x_BTD.size(1)
    left, right = _weights(c, omega_D, lags)
    n = _transform_length(length + lags - 1)
    kernel = torch.fft.rfft(left, n)
    if right is not None:
        # a conjugate turns time around: the lags to the future stand at the end of the circle
        kernel = kernel + torch.fft.rfft(right, n).conj()
    spectrum = torch.fft.rfft(x_BTD.transpose(1, 2), n)
    y: Tensor = torch.fft.irfft(spectrum * kernel, n)
    return y[..., :length].transpose(1, 2)


def _torch_form(
    x_BTD: Tensor,
    c: Coefficients,
    omega_D: Tensor,
    padding_mask_BT: Tensor | None,
    lags: int,
) -> Tensor:
    x, length = _entering(x_BTD, c, padding_mask_BT), x_BTD.size(1)
    omega = omega_D.to(x.dtype)
    # states forget nothing: what is cut off after some lags is no recurrence
    if lags < length and length > _UNCUT:
        return F.silu(_fourier(x, c, omega, lags))
    y_DBT = _chunked(x, c, omega, lags)
    out: Tensor = _activated(y_DBT.flatten(1)).view(*y_DBT.shape[1:], x.size(2))
    return out[:, :length]


def _triton_form(
    x_BTD: Tensor,
    c: Coefficients,
    omega_D: Tensor,
    padding_mask_BT: Tensor | None,
    lags: int,
) -> Tensor:
    backend.require_kernels(x_BTD)
    from seqattn_fairseq.ops.kernels.ema import MOST_STATES, moving_average

    wide = torch.float64 in (x_BTD.dtype, c.input_EN.dtype)
    if wide or 0 in x_BTD.shape or c.input_EN.size(1) > MOST_STATES:
        return _torch_form(x_BTD, c, omega_D, padding_mask_BT, lags)
    weights_EN, omega = c.input_EN * c.output_EN, omega_D.to(c.input_EN.dtype)
    return moving_average(x_BTD, weights_EN, c.log_decay_EN, omega, padding_mask_BT, lags)


_FORMS = {"reference": ema_reference, "torch": _torch_form, "triton": _triton_form}


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
        padding_mask_BT: True at positions where x counts as zero; outputs there mean nothing.
        truncation: number of lags that count, in each direction; 0 for all.
    """
    length = x_BTD.size(1)
    lags = min(truncation or length, length)
    with exact_sums(x_BTD):
        out: Tensor = backend.select("EMA", _FORMS)(x_BTD, c, omega_D, padding_mask_BT, lags)
    return out.to(x_BTD.dtype)


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
    omega = omega_D.to(x.dtype)
    with exact_sums(x):
        if x.size(1) == 1:
            state = torch.exp(c.log_decay_EN) * state_RDN + c.input_EN * x[:, 0, :, None]
            y = (c.output_EN * state).sum(dim=-1).unsqueeze(1) + omega * x
        else:
            y, state = _block(x, state_RDN, c, omega)
    return F.silu(y).to(x_RnD.dtype), state


def _block(
    x_RnD: Tensor, state_RDN: Tensor, c: Coefficients, omega_D: Tensor
) -> tuple[Tensor, Tensor]:
    new = x_RnD.size(1)
    lags = torch.arange(new + 1, device=x_RnD.device, dtype=x_RnD.dtype)
    decay_DNn = torch.exp(c.log_decay_EN.unsqueeze(-1) * lags)
    carried = torch.einsum(
        "rdn,dnt->rtd", state_RDN, c.output_EN.unsqueeze(-1) * decay_DNn[..., 1:]
    )
    own_DRn = _chunked(x_RnD, c, omega_D, new)[..., :new]
    y = own_DRn.permute(1, 2, 0) + carried
    received = c.input_EN.unsqueeze(-1) * decay_DNn[..., :-1].flip(-1)
    state = torch.einsum("rtd,dnt->rdn", x_RnD, received) + decay_DNn[..., -1] * state_RDN
    return y, state
