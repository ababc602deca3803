"""Convolution with taps per head and position: forms, shapes, hand-computed cases, steps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.convolution import (
    band_matrix,
    convolution_step,
    dynamic_convolution,
    lightweight_convolution,
    tap_softmax,
    taps_outside,
)

# length, taps: one position, more taps than positions, even, shifted sums, one band, blocks
SHAPES = [
    (1, 1),
    (1, 4),
    (5, 9),
    (9, 4),
    (40, 3),
    (150, 12),
    (130, 31),
    (200, 32),
    (150, 40),
    (150, 70),
]


def lefts(size: int) -> set[int]:
    return {size - 1, (size - 1) // 2, 0}


def arguments(length: int, size: int, static: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length + size)
    shape = (3, size) if static else (2, length, 3, size)
    x = torch.randn(2, length, 6, generator=generator, dtype=torch.double).requires_grad_()
    taps = torch.randn(shape, generator=generator, dtype=torch.double).requires_grad_()
    return x, taps


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "lightweight"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fast_form_equals_reference(shape: tuple[int, int], static: bool) -> None:
    convolve = lightweight_convolution if static else dynamic_convolution
    x, taps = arguments(*shape, static)
    for left in lefts(shape[1]):
        fast = convolve(x, taps, left)
        weights = torch.randn_like(fast)
        fast_grads = torch.autograd.grad((fast * weights).sum(), (x, taps))
        with backend("reference"):
            slow = convolve(x, taps, left)
        slow_grads = torch.autograd.grad((slow * weights).sum(), (x, taps))
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
        for actual, expected in zip(fast_grads, slow_grads, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", range(1, 65))
def test_steps_of_any_number_of_taps_equal_the_whole(size: int) -> None:
    x, taps = arguments(20, size, static=False)
    whole = dynamic_convolution(x, taps, size - 1)
    for n in (1, 3, 20):
        window, outs = x[:, :0], []
        for start in range(0, 20, n):
            new = slice(start, start + n)
            out, window = convolution_step(window, x[:, new], taps[:, new])
            outs.append(out)
            assert window.shape == (2, size - 1, 6)
        torch.testing.assert_close(torch.cat(outs, 1), whole, rtol=1e-10, atol=1e-10)


def test_step_with_taps_of_all_positions() -> None:
    x, taps = arguments(6, 4, static=True)
    out, _ = convolution_step(x[:, :0], x, taps)
    torch.testing.assert_close(out, lightweight_convolution(x, taps, 3))


def test_worked_example() -> None:
    """Two heads of one channel each, three taps, one of them in the future."""
    x = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]])
    taps = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]])
    expected = [[0 + 2 * 2, 10 - 20], [1 + 2 * 3, 20 - 30], [2 + 0, 30.0]]
    assert lightweight_convolution(x, taps, 1)[0].tolist() == expected


def test_heads_are_blocks_of_neighbouring_channels() -> None:
    out = lightweight_convolution(torch.ones(1, 1, 6), torch.tensor([[1.0], [2.0]]), 0)
    assert out.flatten().tolist() == [1, 1, 1, 2, 2, 2]


def test_band_matrix_is_the_convolution() -> None:
    x, taps = arguments(7, 4, static=False)
    for left in lefts(4):
        band = band_matrix(taps, left)
        assert band.shape == (2, 3, 7, 7)
        out = band @ x.unflatten(2, (3, 2)).transpose(1, 2)
        expected = dynamic_convolution(x, taps, left)
        torch.testing.assert_close(out.transpose(1, 2).flatten(2), expected)


def test_hidden_taps_leave_the_others_a_distribution() -> None:
    mask = torch.tensor([[True, False, False, True]])
    outside = taps_outside(4, 3, 1, mask, mask.device)
    assert outside.int().tolist() == [[[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 1]]]
    logits = torch.zeros(1, 4, 2, 3)
    taps = tap_softmax(logits, outside)
    assert taps[0, :, 0].tolist() == [[0, 0, 1], [0, 0.5, 0.5], [0.5, 0.5, 0], [1, 0, 0]]
    nothing = tap_softmax(logits, torch.ones(1, 4, 3, dtype=torch.bool))
    assert nothing.eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_taps_are_normalised_in_float32(dtype: torch.dtype) -> None:
    taps = tap_softmax(torch.randn(5, 31).to(dtype))
    assert taps.dtype == torch.float32
    torch.testing.assert_close(taps.sum(-1), torch.ones(5))
    assert tap_softmax(torch.randn(5, 3).double()).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(40, 3), (130, 31), (200, 32)], ids=str)
def test_low_precision_errs_by_its_rounding(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x, logits = arguments(*shape, static=False)
    x, taps = x.detach().to(dtype), tap_softmax(logits.detach().float())
    exact = dynamic_convolution(x.double(), taps.double(), 2)
    out = dynamic_convolution(x, taps, 2)
    assert out.dtype == dtype
    error = (out.double() - exact).abs().max()
    assert error <= torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize("size", [31, 40], ids=["sums", "blocks"])
def test_memory_grows_with_the_length_not_with_its_square(size: int) -> None:
    saved: dict[int, int] = {}
    for length in (512, 1024, 2048):
        x, taps = arguments(length, size, static=False)
        stored: dict[int, int] = {}

        def pack(t: Tensor, stored: dict[int, int] = stored) -> Tensor:
            stored[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            dynamic_convolution(x, taps, size - 1)
        saved[length] = sum(stored.values())
    assert math.isclose(saved[2048] / saved[1024], 2, rel_tol=0.1)
    assert math.isclose(saved[1024] / saved[512], 2, rel_tol=0.1)


@pytest.mark.parametrize(
    "shape", [(40, 3), (20, 9), pytest.param((150, 40), marks=pytest.mark.slow)], ids=str
)
def test_every_form_compiles_whole(shape: tuple[int, int]) -> None:
    x, taps = arguments(*shape, static=False)
    compiled = torch.compile(dynamic_convolution, backend="aot_eager", fullgraph=True)
    results = []
    for convolve in (compiled, dynamic_convolution):
        out = convolve(x, taps, 2)
        results.append((out, *torch.autograd.grad(out.square().sum(), (x, taps))))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
