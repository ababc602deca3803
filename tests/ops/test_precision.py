"""Sums over positions in half precision: as exact as in float32, under autocast too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.ops.convolution import (
    convolution_step,
    dynamic_convolution,
    lightweight_convolution,
    tap_softmax,
)
from seqattn_fairseq.ops.ema import ema, ema_coefficients, ema_start, ema_step
from seqattn_fairseq.ops.luna import accumulate, causal_mean, causal_mean_weights, counted
from seqattn_fairseq.ops.muse import multiscale_convolution
from seqattn_fairseq.ops.rela import rela_attention

HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
LENGTH = 300  # beyond every short form, and enough for rounded sums to drift
TAPS = [3, 31, 40]  # shifted sums, and bands in blocks


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def positive(*shape: int, seed: int = 0) -> Tensor:
    return drawn(*shape, seed=seed).abs()


# ---- autocast ----------------------------------------------------------------------------------


def luna(length: int) -> tuple[Tensor, ...]:
    x, y, z = (positive(1, 2, length, 4, seed=seed) for seed in range(3))
    return x, y, z, counted(None, length, x)


Case = tuple[Callable[..., Tensor], tuple[Tensor, ...]]


def convolutions(size: int) -> dict[str, Case]:
    x, taps = drawn(1, LENGTH, 4), drawn(1, LENGTH, 2, size)
    new = (drawn(1, size - 1, 4), drawn(1, 2, 4, seed=1), drawn(1, 2, 2, size))
    gated = (x, taps, drawn(1, LENGTH, 2, 3), drawn(2))
    return {
        f"dynamic, {size} taps": (lambda x, taps: dynamic_convolution(x, taps, 2), (x, taps)),
        f"light, {size} taps": (
            lambda x, taps: lightweight_convolution(x, taps, 2),
            (x, taps[0, 0]),
        ),
        f"step, {size} taps": (lambda past, x, taps: convolution_step(past, x, taps)[0], new),
        f"gated, {size} taps": (
            lambda x, a, b, gate: multiscale_convolution(x, [a, b], [2, 0], gate),
            gated,
        ),
    }


CASES: dict[str, Case] = {
    "Luna, short": (causal_mean, luna(100)),
    "Luna, long": (causal_mean, luna(LENGTH)),
    "Luna, continued": (causal_mean, (*luna(3), positive(1, 2, 4, 4) * 1000)),
    "Luna, sum": (lambda y, z: accumulate(None, y, z, True), luna(LENGTH)[:2]),
    "Luna, weights": (causal_mean_weights, (*luna(LENGTH)[:2], luna(LENGTH)[-1])),
    **{name: case for size in TAPS for name, case in convolutions(size).items()},
}


@pytest.mark.parametrize(("op", "arguments"), CASES.values(), ids=list(CASES))
@HALVES
def test_autocast_leaves_sums_alone(
    op: Callable[..., Tensor], arguments: tuple[Tensor, ...], dtype: torch.dtype
) -> None:
    leaves = [t.clone().requires_grad_() for t in arguments]
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            out = op(*leaves)
        grads = torch.autograd.grad(out.float().sum(), leaves, allow_unused=True)
        results.append((out, *(g for g in grads if g is not None)))
    for actual, expected in zip(*results, strict=True):
        assert actual.isfinite().all()
        assert actual.dtype == expected.dtype
        assert torch.equal(actual, expected)


def test_autocast_leaves_relas_sums_in_float32() -> None:
    q, k, v = (positive(1, 2, 90, 4, seed=seed).half() * 20 for seed in range(3))
    expected = rela_attention(q, k, v)
    with torch.autocast("cpu", dtype=torch.float16):
        actual = rela_attention(q, k, v)
    assert actual.max() > torch.finfo(torch.float16).max
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["Luna, long", "Luna, sum", "dynamic, 3 taps", "step, 31 taps"])
def test_autocast_compiles_whole(name: str) -> None:
    op, arguments = CASES[name]
    torch.compiler.reset()
    compiled = torch.compile(op, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(compiled(*arguments), op(*arguments))


def test_a_long_sum_stays_itself_under_autocast() -> None:
    total = None
    one, quarter = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.25)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(1024):
            total = accumulate(total, one, quarter, exact=True)
    assert total is not None
    assert (total.dtype, float(total)) == (torch.float32, 256.0)


# ---- half precision arguments ------------------------------------------------------------------


def assert_rounded_once(actual: Tensor, exact: Tensor) -> None:
    """Make sure that a result is the exact one, rounded to its dtype, but for float32's errors."""
    half_unit = torch.finfo(actual.dtype).eps / 2
    allowed = 1.01 * half_unit * exact.abs() + 2e-6 * exact.abs().max()
    error = (actual.double() - exact).abs()
    assert (error <= allowed).all(), f"{float((error / allowed).max())} times what rounding does"


@pytest.mark.parametrize("stepped", [False, True], ids=["whole", "stepped"])
@HALVES
def test_luna_adds_up_in_float32(dtype: torch.dtype, stepped: bool) -> None:
    x, y, z = (t.to(dtype) for t in luna(LENGTH)[:3])
    count = counted(None, LENGTH, x)
    exact = causal_mean(x.double(), y.double(), z.double(), count.double())
    if not stepped:
        torch.testing.assert_close(causal_mean(x, y, z, count).double(), exact, rtol=1e-5, atol=0)
        return
    outputs, total = [], None
    for t in range(LENGTH):
        x_1, y_1, z_1 = (part[:, :, t : t + 1] for part in (x, y, z))
        outputs.append(causal_mean(x_1, y_1, z_1, count[t : t + 1], total))
        total = accumulate(total, y_1, z_1, exact=True)
    torch.testing.assert_close(torch.cat(outputs, dim=2).double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("stepped", [False, True], ids=["whole", "stepped"])
@HALVES
def test_the_moving_average_rounds_only_its_result(dtype: torch.dtype, stepped: bool) -> None:
    shapes = [(3, 4, 1)] * 3 + [(3, 4)]
    shifts = (-4, -4, 0, 0)  # rates near 1, that half precision cannot tell from 1
    leaves = [
        (drawn(*shape, seed=i) * 0.5 + shift).to(dtype)
        for i, (shape, shift) in enumerate(zip(shapes, shifts, strict=True))
    ]
    x, omega = positive(2, LENGTH, 3).to(dtype), drawn(3).to(dtype)
    exact = ema(x.double(), ema_coefficients(*(p.double() for p in leaves)), omega.double())
    c = ema_coefficients(*leaves)
    if not stepped:
        assert_rounded_once(ema(x, c, omega), exact)
        return
    state, outputs = ema_start(2, c), []
    for block in x.split([1] * 200 + [100], dim=1):
        out, state = ema_step(block, state, c, omega)
        outputs.append(out)
    assert_rounded_once(torch.cat(outputs, dim=1), exact)


@pytest.mark.parametrize("stepped", [False, True], ids=["whole", "stepped"])
@pytest.mark.parametrize("size", TAPS)
@HALVES
def test_convolutions_round_only_their_result(dtype: torch.dtype, size: int, stepped: bool) -> None:
    x, logits = drawn(2, LENGTH, 4).to(dtype), drawn(2, LENGTH, 2, size, seed=1).to(dtype)
    exact = dynamic_convolution(x.double(), tap_softmax(logits.double()), size - 1)
    taps = tap_softmax(logits)
    if not stepped:
        assert_rounded_once(dynamic_convolution(x, taps, size - 1), exact)
        return
    window, outputs = x[:, :0], []
    for start in range(0, LENGTH, 2):
        new = slice(start, start + 2)
        out, window = convolution_step(window, x[:, new], taps[:, new])
        outputs.append(out)
    assert_rounded_once(torch.cat(outputs, dim=1), exact)
