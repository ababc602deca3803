"""The damped moving average: definition, forms, steps, padding, precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.ema import (
    Coefficients,
    _transform_length,
    ema,
    ema_coefficients,
    ema_kernel,
    ema_start,
    ema_step,
)

CHANNELS, STATES = 3, 4


def parameters(
    both: bool, scale: float = 1.0, dtype: torch.dtype = torch.double, shift: float = 0.0
) -> list[Tensor]:
    """Return delta, alpha, beta, gamma."""
    torch.manual_seed(2)
    rows = CHANNELS * (2 if both else 1)
    shapes = [(rows, STATES, 1)] * 3 + [(rows, STATES)]
    shifts = [shift, shift, 0, 0]
    made = [
        scale * torch.randn(s, dtype=torch.double) + m for s, m in zip(shapes, shifts, strict=True)
    ]
    return [p.to(dtype).requires_grad_() for p in made]


def sequence(length: int, batch: int = 2) -> Tensor:
    torch.manual_seed(length)
    return torch.randn(batch, length, CHANNELS, dtype=torch.double).requires_grad_()


OMEGA = torch.tensor([0.5, -1.0, 2.0], dtype=torch.double)


def test_worked_example() -> None:
    zero = torch.zeros(1, 1, 1, dtype=torch.double)  # p = 1/2, q = 1 - 1/4
    c = ema_coefficients(zero, zero, zero + 2, torch.full((1, 1), 3.0, dtype=torch.double))
    kernel = ema_kernel(c, 3)
    assert kernel.tolist() == [[pytest.approx(3.0), pytest.approx(2.25), pytest.approx(1.6875)]]
    x = torch.tensor([[[1.0], [0.0], [2.0]]], dtype=torch.double)
    omega = torch.full((1,), 10.0, dtype=torch.double)
    expected = F.silu(torch.tensor([3.0 + 10, 2.25, 1.6875 + 6 + 20], dtype=torch.double))
    torch.testing.assert_close(ema(x, c, omega)[0, :, 0], expected)


def test_both_directions_count_the_present() -> None:
    c = ema_coefficients(*parameters(both=True))
    kernel = ema_kernel(c, 5)
    impulse = torch.zeros(1, 9, CHANNELS, dtype=torch.double)
    impulse[0, 4] = 1.0
    y = ema(impulse, c, torch.zeros(CHANNELS, dtype=torch.double))[0].T
    left, right = kernel.chunk(2)
    line = torch.cat([right.flip(1)[:, :4], left[:, :1] + right[:, :1], left[:, 1:]], dim=1)
    torch.testing.assert_close(y, F.silu(line))


@pytest.mark.parametrize("truncation", [0, 1, 4, 500])
@pytest.mark.parametrize("both", [False, True], ids=["causal", "both"])
@pytest.mark.parametrize("length", [1, 2, 9, 64, 65, 100])
def test_fast_form_equals_reference(length: int, both: bool, truncation: int) -> None:
    leaves, x = parameters(both), sequence(length)
    omega = OMEGA.clone().requires_grad_()
    mask = torch.zeros(2, length, dtype=torch.bool)
    mask[1, : length // 3] = True
    weight = torch.randn(2, length, CHANNELS, dtype=torch.double)

    def run() -> tuple[Tensor, tuple[Tensor, ...]]:
        y = ema(x, ema_coefficients(*leaves), omega, mask, truncation)
        return y, torch.autograd.grad((y * weight).sum(), [*leaves, omega, x])

    fast, fast_grads = run()
    with backend("reference"):
        slow, slow_grads = run()
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    for actual, expected in zip(fast_grads, slow_grads, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 100, 1025])
def test_kernel_is_the_sum_of_powers(length: int) -> None:
    c = ema_coefficients(*parameters(both=False))
    powers = torch.exp(c.log_decay_EN)[..., None] ** torch.arange(length)
    expected = torch.einsum("en,en,enj->ej", c.input_EN, c.output_EN, powers)
    torch.testing.assert_close(ema_kernel(c, length), expected)


@pytest.mark.parametrize("sizes", [[1] * 9, [4, 1, 3, 1], [9], [2, 7], [1, 70, 2]], ids=str)
def test_steps_equal_the_whole(sizes: list[int]) -> None:
    c, x = ema_coefficients(*parameters(both=False)), sequence(sum(sizes))
    state, outputs = ema_start(2, c), []
    for block in x.split(sizes, dim=1):
        y, state = ema_step(block, state, c, OMEGA)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=1), ema(x, c, OMEGA))
    expected = ema_start(2, c)
    for t in range(sum(sizes)):
        expected = torch.exp(c.log_decay_EN) * expected + c.input_EN * x[:, t, :, None]
    torch.testing.assert_close(state, expected)


@pytest.mark.parametrize("length", [7, 61])
@pytest.mark.parametrize("both", [False, True], ids=["causal", "both"])
def test_padding_neither_leaks_nor_moves_anything(length: int, both: bool) -> None:
    c, x = ema_coefficients(*parameters(both)), sequence(length, batch=1)
    alone = ema(x, c, OMEGA)
    for left, right in ((4, 0), (0, 4), (2, 3)):
        garbage = F.pad(x, (0, 0, left, right), value=1e3)
        mask = F.pad(torch.zeros(1, length, dtype=torch.bool), (left, right), value=True)
        padded = ema(garbage, c, OMEGA, mask)
        torch.testing.assert_close(padded[:, left : left + length], alone)


@pytest.mark.parametrize("length", [24, 64, 65, 200])
def test_the_past_is_exact_where_no_transform_is(length: int) -> None:
    c, x = ema_coefficients(*parameters(both=False)), sequence(length).detach()
    changed = x.clone()
    changed[:, length // 2 :] = 7.0
    before, after = ema(x, c, OMEGA), ema(changed, c, OMEGA)
    assert torch.equal(before[:, : length // 2], after[:, : length // 2])


def test_the_past_is_nearly_exact_where_a_transform_is() -> None:
    c = ema_coefficients(*(p.float() for p in parameters(both=False)))
    x = sequence(100).detach().float()
    changed = x.clone()
    changed[:, 60:] = 7.0
    before, after = (ema(s, c, OMEGA.float(), truncation=50) for s in (x, changed))
    error = (before - after)[:, :60].abs().max() / after.abs().max()
    assert 0 < error.item() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("shift", [-30.0, -9.0, 9.0, 30.0])
def test_extreme_parameters_give_no_nan(dtype: torch.dtype, shift: float) -> None:
    leaves = parameters(both=True, dtype=dtype, shift=shift)
    x = sequence(50).detach().to(dtype).requires_grad_()
    y = ema(x, ema_coefficients(*leaves), OMEGA.to(dtype))
    y.float().sum().backward()
    assert y.dtype == dtype and y.isfinite().all()
    for leaf in (*leaves, x):
        assert leaf.grad is not None and leaf.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_parameters_keep_a_long_memory(dtype: torch.dtype) -> None:
    leaves = parameters(both=False, scale=0.2, dtype=dtype, shift=-4.0)
    low = ema_kernel(ema_coefficients(*leaves), 512)
    exact = ema_kernel(ema_coefficients(*(p.double() for p in leaves)), 512)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), exact, rtol=0, atol=1e-5 * exact.abs().max().item())


@pytest.mark.parametrize("length", [9, 60])
def test_autocast_leaves_the_average_alone(length: int) -> None:
    leaves = [p.detach().float() for p in parameters(both=True)]
    x, omega = sequence(length).detach().float(), OMEGA.float()
    expected = ema(x, ema_coefficients(*leaves), omega)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = ema(x, ema_coefficients(*leaves), omega)
    torch.testing.assert_close(actual, expected)


def test_a_state_in_float32_does_not_drift() -> None:
    leaves = parameters(both=False, scale=0.2, dtype=torch.bfloat16, shift=-4.0)
    c = ema_coefficients(*leaves)
    x = sequence(200).detach().bfloat16()
    state = ema_start(2, c)
    assert state.dtype == torch.float32
    for block in x.split(1, dim=1):
        _, state = ema_step(block, state, c, OMEGA.bfloat16())
    exact = Coefficients(*(part.double() for part in c))
    expected = ema_start(2, exact)
    for block in x.double().split(1, dim=1):
        _, expected = ema_step(block, expected, exact, OMEGA)
    torch.testing.assert_close(state.double(), expected, rtol=1e-4, atol=1e-4)


def test_transform_lengths_are_near_and_have_small_factors() -> None:
    for least in range(1, 3000):
        length = rest = _transform_length(least)
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        assert rest == 1 and least <= length <= max(8, 1.25 * least)


@pytest.mark.parametrize("length", [9, 100])
def test_an_empty_batch_has_an_empty_average(length: int) -> None:
    c = ema_coefficients(*parameters(both=True))
    assert ema(sequence(length, batch=0), c, OMEGA).shape == (0, length, CHANNELS)


@pytest.mark.parametrize("length", [9, pytest.param(70, marks=pytest.mark.slow)])
def test_the_average_compiles_whole(length: int) -> None:
    leaves, x = parameters(both=True), sequence(length)
    compiled = torch.compile(ema, backend="aot_eager", fullgraph=True)
    results = []
    for average in (compiled, ema):
        y = average(x, ema_coefficients(*leaves), OMEGA)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, *leaves])))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
