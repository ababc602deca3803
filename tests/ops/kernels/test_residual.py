"""The residual kernel against the formula: numbers, gradients, draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.residual import LayerNorm, residual
from tests.support.kernels import assert_same_gradients

pytest.importorskip("triton")


def _inputs(shape: tuple[int, ...], normed: bool) -> tuple[list[Tensor], Tensor]:
    leaves = [torch.randn(shape).add(1), torch.randn(shape)]
    if normed:
        leaves += [torch.randn(shape[-1]), torch.randn(shape[-1])]
    return [leaf.requires_grad_() for leaf in leaves], torch.randn(shape)


def _sum(x: Tensor, y: Tensor, *norm: Tensor, rate: float = 0.0) -> Tensor:
    return residual(x, y, rate, LayerNorm(norm[0], norm[1], 1e-5) if norm else None)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 20), (2, 1, 64), (300, 7), (2, 0, 8)])
def test_sum_and_gradients_without_dropout(shape, normed) -> None:
    leaves, d_out = _inputs(shape, normed)
    assert_same_gradients(_sum, leaves, d_out)


def test_arguments_that_are_no_rows_of_memory() -> None:
    leaves, d_out = _inputs((4, 6, 16), True)
    x, y = (leaf.detach().transpose(0, 1).requires_grad_() for leaf in leaves[:2])
    assert_same_gradients(_sum, [x, y, *leaves[2:]], d_out.transpose(0, 1))


@pytest.mark.parametrize("normed", [False, True])
def test_the_same_entries_are_dropped_forward_and_backward(normed) -> None:
    (x, y, *norm), d_out = _inputs((40, 33), normed)
    with backend("triton"):
        out = _sum(x, y, *norm, rate=0.3)
        gradients = torch.autograd.grad(out, [x, y, *norm], d_out)
    # without a norm the sum shows what was kept; with one, the gradients do
    shown = (out - x) / y if not normed else gradients[1] / gradients[0]
    kept = shown.detach().gt(0.5)
    share = float(kept.float().mean())
    assert abs(share - 0.7) < 5 * (0.21 / kept.numel()) ** 0.5
    assert kept[0].ne(kept[1]).any()
    total = x + y * kept / 0.7
    expected = total if not normed else LayerNorm(norm[0], norm[1], 1e-5)(total)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    wanted = torch.autograd.grad(expected, [x, y, *norm], d_out)
    for got, true in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got, true, rtol=1e-4, atol=1e-5)


def test_draws_follow_torchs_generator() -> None:
    x, y = torch.zeros(4, 64), torch.ones(4, 64)
    with backend("triton"):
        outs = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            outs.append(residual(x, y, 0.5))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_the_kernel_does_not_do_is_done_elsewhere(dtype) -> None:
    x = torch.randn(2, 3, 8, dtype=dtype)
    y = torch.randn(3, 8, dtype=dtype)
    with backend("triton"):
        torch.testing.assert_close(residual(x, y), x + y)
        plain = LayerNorm(None, None, 1e-5)
        torch.testing.assert_close(residual(x, x, 0.0, plain), plain(2 * x))
        assert residual(x, x, 1.0).equal(x)
