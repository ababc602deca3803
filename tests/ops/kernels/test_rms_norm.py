"""The kernel of ReLA's norm against the formula: output and every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.kernels import rms_norm as kernel
from seqattn_fairseq.ops.rela import rms_norm


def drawn(*shape: int, gated: bool = True) -> list[Tensor]:
    gate = [torch.randn(shape[-1]).requires_grad_()] if gated else []
    return [torch.randn(shape).requires_grad_(), torch.randn(shape[-1]).requires_grad_(), *gate]


def assert_same(leaves: list[Tensor], eps: float = 1e-8) -> None:
    exact = [t.detach().double().requires_grad_() for t in leaves]
    results = []
    for name, (h, scale, *gate) in (("triton", leaves), ("torch", exact)):
        with backend(name):
            out = rms_norm(h, scale, gate[0] if gate else None, eps)
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        tensors = [h, scale, *gate]
        results.append((out, *torch.autograd.grad((out * weights).sum(), tensors)))
    assert results[0][0].dtype == torch.float32
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 20), (3, 1, 64), (0, 5, 8)], ids=str)
def test_values_and_gradients(
    shape: tuple[int, ...], gated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "_PROGRAMS", 4)  # fewer than there are rows
    assert_same(drawn(*shape, gated=gated))


def test_epsilon_and_rows_of_zeros() -> None:
    h, scale, gate = drawn(2, 2, 6)
    with torch.no_grad():
        h[0] = 0.0
        gate *= 1000  # a sigmoid without overflow
    assert_same([h, scale, gate], eps=0.1)


def test_rows_apart_and_half_precision() -> None:
    h, scale, gate = (t.detach() for t in drawn(8, 3, 2))
    with backend("triton"):
        assert_same([h.permute(1, 2, 0).requires_grad_(), *drawn(8)[1:]])
        large, *parameters = (t.half().requires_grad_() for t in (h * 300, scale, gate))
        out = rms_norm(large, parameters[0], parameters[1], 1e-8)
        grads = torch.autograd.grad(out.sum(), (large, *parameters))
    assert out.dtype == torch.float32
    assert [g.dtype for g in grads] == [torch.float16] * 3
    assert all(t.isfinite().all() for t in (out, *grads))


def test_float64_takes_the_formula() -> None:
    h, scale, gate = (t.double() for t in drawn(2, 2, 4))
    with backend("triton"):
        assert rms_norm(h, scale, gate, 1e-8).dtype == torch.float64
