"""Comparing a kernel with the reference form of its operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from seqattn_fairseq.ops.backend import backend


def assert_same_gradients(
    function: Callable[..., Tensor], leaves: Sequence[Tensor], d_out: Tensor, atol: float = 2e-5
) -> None:
    """Compare output and all gradients of both forms, float32 with float64."""
    with backend("triton"):
        out = function(*leaves)
        gradients = torch.autograd.grad(out, leaves, d_out)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    with backend("reference"):
        true = function(*exact)
        wanted = torch.autograd.grad(true, exact, d_out.double())
    for got, want in zip([out, *gradients], [true, *wanted], strict=True):
        torch.testing.assert_close(got.double(), want, rtol=2e-5, atol=atol)
