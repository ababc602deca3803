"""Mega's moving average by its recurrence, with the states in registers, see ``ops/ema.py``.

With unit input, h_t = q h_{t-1} + x_t, and y_t = sum_n w_n h_t[n]. A program runs over a chunk of
the positions of some channels; where a sentence has several chunks, their states are made first:
what each chunk alone leaves, then what it begins with. An average from the right is one of the
reversed sequence. If only J lags count, x_t - q^J x_{t-J} takes the place of x_t.

The gradient of the input is the average of the output's gradient with the directions swapped. Those
of the coefficients need no second recurrence in the other direction either:

    dL/dw_n = sum_t g_t h_t[n]      dL/dlog q_n = w_n sum_t g_t m_t[n]

where m_t = dh_t/dlog q = q (h_{t-1} + m_{t-1}). Every program sums over its own positions, so that
results repeat bit for bit.

Shapes: B batch, T positions, D channels, N states, E = D, or 2 D if bidirectional, I chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

# Positions of a chunk: few enough for all of a GPU to work on one long sentence
_CHUNK = 128
# Channels of a program: one for each thread of a warp, with all its states
_CHANNELS = 32
MOST_STATES = 32


@triton.jit
def _place(chunks, channels, block: tl.constexpr):
    """Return sentence (in 64 bits), chunk and channels of this program."""
    blocks = tl.cdiv(channels, block)
    place = tl.program_id(0)
    channel = place % blocks * block + tl.arange(0, block)
    return (place // (blocks * chunks)).to(tl.int64), place // blocks % chunks, channel


@triton.jit
def _of_states(values, channel, channels, rows, states, block: tl.constexpr):
    """Return (N, D) of an (N, E) matrix that begins at this direction's channels."""
    state = tl.arange(0, block)
    exists = (state < states)[:, None] & (channel < channels)[None, :]
    return tl.load(values + state[:, None] * rows + channel[None, :], mask=exists, other=0.0)


@triton.jit
def _value(
    x, hidden, step, length, x_t, channel, channels, back: tl.constexpr, masked: tl.constexpr
):
    """Return x at a step of this direction, zero outside the sequence and at padding."""
    position = (length - 1 - step if back else step) + channel * 0
    exists = (position >= 0) & (position < length) & (channel < channels)
    if masked:
        exists &= tl.load(hidden + position, mask=exists, other=1) == 0
    found = tl.load(x + position.to(tl.int64) * x_t + channel, mask=exists, other=0.0)
    return found.to(tl.float32)


@triton.jit
def _tile(chunk, chunks, channel, channels, states, block: tl.constexpr):
    """Return offsets (N, D) into the (I, N, D) of a sentence, and which of them exist."""
    state = tl.arange(0, block)
    exists = (state < states)[:, None] & (channel < channels)[None, :]
    return (chunk * states + state[:, None]) * channels + channel[None, :], exists


@triton.jit
def _leave(
    x,
    hidden,
    log_decay,
    h_out,
    m_out,
    length,
    chunks,
    channels,
    rows,
    states,
    lags,
    x_b,
    x_t,
    back: tl.constexpr,
    masked: tl.constexpr,
    truncated: tl.constexpr,
    sensitive: tl.constexpr,
    size: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
):
    """Write the state that each chunk alone leaves, and its derivative m if sensitive."""
    b, chunk, channel = _place(chunks, channels, block_d)
    x += b * x_b
    hidden += b * length
    log_q = _of_states(log_decay, channel, channels, rows, states, block_n)
    q = tl.exp(log_q)
    far = tl.exp(log_q * lags)
    h = tl.zeros((block_n, block_d), tl.float32)
    m = tl.zeros((block_n, block_d), tl.float32)
    value = _value(x, hidden, chunk * size, length, x_t, channel, channels, back, masked)
    for step in range(chunk * size, tl.minimum(chunk * size + size, length)):
        coming = _value(x, hidden, step + 1, length, x_t, channel, channels, back, masked)
        if sensitive:
            m = q * (h + m)
        h = q * h + value[None, :]
        if truncated:
            left = (
                far
                * _value(x, hidden, step - lags, length, x_t, channel, channels, back, masked)[
                    None, :
                ]
            )
            h -= left
            m -= lags * left
        value = coming
    offsets, exists = _tile(chunk, chunks, channel, channels, states, block_n)
    start = b * chunks * states * channels
    tl.store(h_out + start + offsets, h, mask=exists)
    if sensitive:
        tl.store(m_out + start + offsets, m, mask=exists)


@triton.jit
def _enter(
    log_decay,
    h_left,
    m_left,
    h_out,
    m_out,
    chunks,
    channels,
    rows,
    states,
    sensitive: tl.constexpr,
    size: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
):
    """Write the state that each chunk begins with, of those that the chunks alone leave."""
    b, _, channel = _place(1, channels, block_d)
    log_q = _of_states(log_decay, channel, channels, rows, states, block_n)
    decay = tl.exp(log_q * size)
    start = b * chunks * states * channels
    h = tl.zeros((block_n, block_d), tl.float32)
    m = tl.zeros((block_n, block_d), tl.float32)
    for chunk in range(chunks):
        offsets, exists = _tile(chunk, chunks, channel, channels, states, block_n)
        tl.store(h_out + start + offsets, h, mask=exists)
        if sensitive:
            tl.store(m_out + start + offsets, m, mask=exists)
            own = tl.load(m_left + start + offsets, mask=exists, other=0.0)
            m = decay * (m + size * h) + own
        h = decay * h + tl.load(h_left + start + offsets, mask=exists, other=0.0)


@triton.jit
def _average(
    x,
    hidden,
    weights,
    log_decay,
    omega,
    entered,
    earlier,
    total,
    out,
    length,
    chunks,
    channels,
    rows,
    states,
    lags,
    x_b,
    x_t,
    back: tl.constexpr,
    masked: tl.constexpr,
    truncated: tl.constexpr,
    enters: tl.constexpr,
    adds: tl.constexpr,
    last: tl.constexpr,
    activated: tl.constexpr,
    size: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
):
    """Write the average, with that of the other direction if it adds.

    The last direction adds omega x. Activated, padding enters as zero, and the sum and its silu are
    written; else the sum alone, zero at padding: that is the gradient of what was activated.
    """
    b, chunk, channel = _place(chunks, channels, block_d)
    x += b * x_b
    hidden += b * length
    start = b * length * channels
    w = _of_states(weights, channel, channels, rows, states, block_n)
    log_q = _of_states(log_decay, channel, channels, rows, states, block_n)
    q = tl.exp(log_q)
    far = tl.exp(log_q * lags)
    h = tl.zeros((block_n, block_d), tl.float32)
    if enters:
        offsets, exists = _tile(chunk, chunks, channel, channels, states, block_n)
        h += tl.load(entered + b * chunks * states * channels + offsets, mask=exists, other=0.0)
    residual = tl.load(omega + channel, mask=channel < channels, other=0.0)
    hides: tl.constexpr = masked and activated
    value = _value(x, hidden, chunk * size, length, x_t, channel, channels, back, hides)
    for step in range(chunk * size, tl.minimum(chunk * size + size, length)):
        coming = _value(x, hidden, step + 1, length, x_t, channel, channels, back, hides)
        h = q * h + value[None, :]
        if truncated:
            h -= (
                far
                * _value(x, hidden, step - lags, length, x_t, channel, channels, back, hides)[
                    None, :
                ]
            )
        y = tl.sum(w * h, axis=0)
        position = length - 1 - step if back else step
        place = start + position * channels + channel
        if adds:
            y += tl.load(earlier + place, mask=channel < channels, other=0.0)
        if last:
            y += residual * value
            if activated:
                tl.store(out + place, y * tl.sigmoid(y), mask=channel < channels)
            elif masked:
                y = tl.where(tl.load(hidden + position) == 0, y, 0.0)
        tl.store(total + place, y, mask=channel < channels)
        value = coming


@triton.jit
def _coefficient_sums(
    x,
    hidden,
    grad,
    log_decay,
    h_entered,
    m_entered,
    of_weights,
    of_decay,
    of_omega,
    length,
    chunks,
    channels,
    rows,
    states,
    lags,
    x_b,
    x_t,
    back: tl.constexpr,
    masked: tl.constexpr,
    truncated: tl.constexpr,
    enters: tl.constexpr,
    size: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
):
    """Write a chunk's sums over its positions of g h, of g m and, from the left, of g x."""
    b, chunk, channel = _place(chunks, channels, block_d)
    x += b * x_b
    hidden += b * length
    grad += b * length * channels
    log_q = _of_states(log_decay, channel, channels, rows, states, block_n)
    q = tl.exp(log_q)
    far = tl.exp(log_q * lags)
    h = tl.zeros((block_n, block_d), tl.float32)
    m = tl.zeros((block_n, block_d), tl.float32)
    if enters:
        offsets, exists = _tile(chunk, chunks, channel, channels, states, block_n)
        offsets += b * chunks * states * channels
        h += tl.load(h_entered + offsets, mask=exists, other=0.0)
        m += tl.load(m_entered + offsets, mask=exists, other=0.0)
    sum_h = tl.zeros((block_n, block_d), tl.float32)
    sum_m = tl.zeros((block_n, block_d), tl.float32)
    sum_x = tl.zeros((block_d,), tl.float32)
    value = _value(x, hidden, chunk * size, length, x_t, channel, channels, back, masked)
    g = _value(grad, hidden, chunk * size, length, channels, channel, channels, back, False)
    for step in range(chunk * size, tl.minimum(chunk * size + size, length)):
        coming = _value(x, hidden, step + 1, length, x_t, channel, channels, back, masked)
        g_coming = _value(grad, hidden, step + 1, length, channels, channel, channels, back, False)
        m = q * (h + m)
        h = q * h + value[None, :]
        if truncated:
            left = (
                far
                * _value(x, hidden, step - lags, length, x_t, channel, channels, back, masked)[
                    None, :
                ]
            )
            h -= left
            m -= lags * left
        sum_h += g[None, :] * h
        sum_m += g[None, :] * m
        sum_x += g * value
        value = coming
        g = g_coming
    state = tl.arange(0, block_n)
    exists = (state < states)[:, None] & (channel < channels)[None, :]
    place = ((b * chunks + chunk) * states + state[:, None]) * rows + channel[None, :]
    tl.store(of_weights + place, sum_h, mask=exists)
    tl.store(of_decay + place, sum_m, mask=exists)
    if not back:
        omega_place = (b * chunks + chunk) * channels + channel
        tl.store(of_omega + omega_place, sum_x, mask=channel < channels)


class _Call:
    """What all kernels of one average are called with.

    Args:
        x_BTD: what is averaged; its channels lie side by side.
        hidden_BT: other than 0 at padding; None if there is none.
        weights_NE: w.
        log_decay_NE: log q.
        lags: number of lags that count.
    """

    def __init__(
        self,
        x_BTD: Tensor,
        hidden_BT: Tensor | None,
        weights_NE: Tensor,
        log_decay_NE: Tensor,
        lags: int,
    ) -> None:
        self.x, self.weights, self.log_decay = x_BTD, weights_NE, log_decay_NE
        # any pointer stands for a mask that is never read
        self.hidden = x_BTD if hidden_BT is None else hidden_BT
        (self.batch, length, channels), (states, rows) = x_BTD.shape, weights_NE.shape
        self.chunks = triton.cdiv(length, _CHUNK)
        self.blocks = triton.cdiv(channels, _CHANNELS)
        self.sizes = (length, self.chunks, channels, rows, states, lags, *x_BTD.stride()[:2])
        self.flags = {"masked": hidden_BT is not None, "truncated": lags < length}
        self.tile = {
            "size": _CHUNK,
            "block_n": triton.next_power_of_2(states),
            "block_d": _CHANNELS,
            "num_warps": 2 if states > 16 else 1,
        }

    def directions(self) -> list[tuple[bool, slice]]:
        """Return whether each average is from the right, and its columns of (N, E)."""
        channels, rows = self.x.size(2), self.weights.size(1)
        from_left, from_right = (False, slice(0, channels)), (True, slice(channels, rows))
        return [from_left, from_right] if rows > channels else [from_left]

    def states(
        self, back: bool, columns: slice, sensitive: bool = False, masked: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return the states that chunks begin with, and their derivatives if sensitive.

        Args:
            back: from the right.
            columns: of (N, E).
            sensitive: the derivatives are needed.
            masked: padding enters as zero.
        """
        log_decay = self.log_decay[:, columns]
        chunks, channels, rows, states = self.sizes[1:5]
        shape = (self.batch, chunks, states, channels) if chunks > 1 else (1,)
        h_left, m_left, h, m = (log_decay.new_empty(shape) for _ in range(4))
        if chunks > 1:
            options = {"sensitive": sensitive, **self.tile}
            masked = masked and self.flags["masked"]
            _leave[(self.batch * chunks * self.blocks,)](
                *(self.x, self.hidden, log_decay, h_left, m_left, *self.sizes),
                **{**self.flags, "back": back, "masked": masked, **options},
            )
            _enter[(self.batch * self.blocks,)](
                *(log_decay, h_left, m_left, h, m, chunks, channels, rows, states), **options
            )
        return h, m

    def averaged(self, omega_D: Tensor, swapped: bool) -> tuple[Tensor, Tensor]:
        """Return y + omega x, and its silu; swapped, the gradient of x, twice."""
        total = self.x.new_empty(self.x.shape)
        out = total if swapped else torch.empty_like(total)
        directions = self.directions()
        partial = self.weights.new_empty(self.x.shape if len(directions) > 1 else (1,))
        for i, (from_right, columns) in enumerate(directions):
            back, last = from_right != swapped, i == len(directions) - 1
            entered, _ = self.states(back, columns, masked=not swapped)
            _average[(self.batch * self.chunks * self.blocks,)](
                *(self.x, self.hidden, self.weights[:, columns], self.log_decay[:, columns]),
                *(omega_D, entered, partial, total if last else partial, out, *self.sizes),
                **{"back": back, "enters": self.chunks > 1, "adds": i > 0, "last": last},
                **{"activated": not swapped, **self.flags, **self.tile},
            )
        return total, out

    def coefficient_sums(self, grad_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums over all positions of g h and g m, (N, E), and of g x, (D,)."""
        parts = self.batch * self.chunks
        of_weights = self.weights.new_empty(parts, *self.weights.shape)
        of_decay = torch.empty_like(of_weights)
        of_omega = self.weights.new_empty(parts, self.x.size(2))
        for back, columns in self.directions():
            entered = self.states(back, columns, sensitive=True)
            _coefficient_sums[(parts * self.blocks,)](
                *(self.x, self.hidden, grad_BTD, self.log_decay[:, columns], *entered),
                *(of_weights[..., columns], of_decay[..., columns], of_omega, *self.sizes),
                **{"back": back, "enters": self.chunks > 1, **self.flags, **self.tile},
            )
        return of_weights.sum(0), of_decay.sum(0), of_omega.sum(0)


class _MovingAverage(torch.autograd.Function):
    """silu(y + omega x); keeps the argument of silu."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BTD: Tensor,
        weights_EN: Tensor,
        log_decay_EN: Tensor,
        omega_D: Tensor,
        hidden_BT: Tensor | None,
        lags: int,
    ) -> Tensor:
        """Return (B, T, D)."""
        x = x_BTD if x_BTD.stride(2) == 1 else x_BTD.contiguous()
        weights, log_decay = (c.t().contiguous() for c in (weights_EN, log_decay_EN))
        total, out = _Call(x, hidden_BT, weights, log_decay, lags).averaged(omega_D, swapped=False)
        ctx.save_for_backward(x, weights, log_decay, omega_D, hidden_BT, total)
        ctx.lags = lags
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and of the coefficients."""
        x, weights, log_decay, omega_D, hidden, total = ctx.saved_tensors
        grad = torch.ops.aten.silu_backward(grad_BTD.contiguous(), total)
        rest = (hidden, weights, log_decay, ctx.lags)
        grad_x, _ = _Call(grad, *rest).averaged(omega_D, swapped=True)
        of_weights, of_decay, of_omega = _Call(x, *rest).coefficient_sums(grad)
        return grad_x, of_weights.t(), (weights * of_decay).t(), of_omega, None, None


_moving_average: Callable[..., Tensor] = _MovingAverage.apply


def moving_average(
    x_BTD: Tensor,
    weights_EN: Tensor,
    log_decay_EN: Tensor,
    omega_D: Tensor,
    padding_mask_BT: Tensor | None,
    lags: int,
) -> Tensor:
    """Return silu(y + omega x), (B, T, D).

    Args:
        x_BTD: float32, bfloat16 or float16; at least one entry.
        weights_EN: what the states of unit input count, float32 like the next two; at most
            ``MOST_STATES`` states.
        log_decay_EN: log q.
        omega_D: weight of the residual.
        padding_mask_BT: True where x counts as zero; outputs there mean nothing.
        lags: number of lags that count, from 1 to T.
    """
    hidden = None if padding_mask_BT is None else padding_mask_BT.contiguous().view(torch.uint8)
    return _moving_average(x_BTD, weights_EN, log_decay_EN, omega_D, hidden, lags)
