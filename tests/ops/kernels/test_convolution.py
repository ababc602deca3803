"""The convolution's kernels against its reference: shapes, kinds of taps, strides, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.convolution import dynamic_convolution, lightweight_convolution
from seqattn_fairseq.ops.muse import multiscale_convolution

# length, taps, width of a head: one position, more taps than positions, even, widths that are no
# power of two, more than one tile of positions, of columns and of channels
SHAPES = [(1, 1, 16), (1, 4, 5), (5, 9, 16), (33, 4, 24), (40, 31, 16), (33, 3, 72), (9, 70, 16)]


def arguments(length: int, size: int, width: int, static: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length + size)
    shape = (2, size) if static else (2, length, 2, size)
    x = torch.randn(2, length, 2 * width, generator=generator).requires_grad_()
    taps = torch.randn(shape, generator=generator).requires_grad_()
    return x, taps


def run(x: Tensor, taps: Tensor, left: int) -> list[Tensor]:
    convolve = lightweight_convolution if taps.dim() == 2 else dynamic_convolution
    out = convolve(x, taps, left)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), (x, taps))]


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "lightweight"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_equal_the_reference(shape: tuple[int, int, int], static: bool) -> None:
    x, taps = arguments(*shape, static)
    for left in {shape[1] - 1, (shape[1] - 1) // 2, 0}:
        with backend("triton"):
            actual = run(x, taps, left)
        with backend("reference"):
            expected = run(x, taps, left)
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_views_are_read_as_they_lie() -> None:
    """Columns of a wider matrix, sequence-first memory, taps with other taps between them."""
    wide = torch.randn(7, 2, 100)
    x = wide[..., 10:42].transpose(0, 1).requires_grad_()
    taps = torch.randn(2, 7, 2, 10)[..., ::2].requires_grad_()
    with backend("triton"):
        actual = run(x, taps, 2)
    with backend("reference"):
        expected = run(x, taps, 2)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_gradient_without_memory_of_its_own() -> None:
    x, taps = arguments(9, 3, 16, static=False)
    with backend("triton"):
        out = dynamic_convolution(x, taps, 1)
        (grad,) = torch.autograd.grad(out.sum(), x)
        (expected,) = torch.autograd.grad(dynamic_convolution(x, taps, 1), x, torch.ones_like(out))
    assert torch.equal(grad, expected)


def test_both_widths_of_muse_take_one_pass() -> None:
    x, gate = torch.randn(2, 20, 32).requires_grad_(), torch.randn(2).requires_grad_()
    taps = [torch.randn(2, 20, 2, size).softmax(-1).requires_grad_() for size in (3, 15)]
    results = []
    for name in ("triton", "reference"):
        with backend(name):
            out = multiscale_convolution(x, taps, [1, 7], gate)
            grads = torch.autograd.grad(out.square().sum(), (x, gate, *taps))
        results.append((out, *grads))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_past_is_exact() -> None:
    x, taps = arguments(40, 5, 16, static=False)
    changed = x.detach().clone()
    changed[:, 25:] = 7.0
    with backend("triton"):
        before, after = dynamic_convolution(x, taps, 4), dynamic_convolution(changed, taps, 4)
    assert torch.equal(before[:, :25], after[:, :25])


def test_what_no_kernel_does_works_all_the_same() -> None:
    x, taps = arguments(9, 3, 16, static=False)
    with backend("triton"):
        assert dynamic_convolution(x.double(), taps.double(), 1).dtype == torch.float64
        assert dynamic_convolution(x[:0], taps[:0], 1).shape == (0, 9, 32)
