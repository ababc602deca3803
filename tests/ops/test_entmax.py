"""alpha-entmax: its two exact cases, its gradients, its corner cases."""

from __future__ import annotations

import pytest
import torch

from seqattn_fairseq.ops.entmax import entmax
from seqattn_fairseq.ops.sparse import entmax15, sparsemax

INF = float("inf")


@pytest.mark.parametrize(("alpha", "exact"), [(1.5, entmax15), (2.0, sparsemax)])
def test_exact_cases(alpha, exact):
    z = 3 * torch.randn(40, 17, dtype=torch.double)
    z[:9, 5:] = -INF
    torch.testing.assert_close(entmax(z, alpha), exact(z), rtol=0, atol=1e-10)


def test_towards_softmax():
    z = torch.randn(5, 7, dtype=torch.double)
    torch.testing.assert_close(entmax(z, 1.0001), z.softmax(-1), rtol=0, atol=1e-4)


def test_gradients_reach_scores_and_alpha():
    z = torch.randn(6, 9, dtype=torch.double, requires_grad=True)
    rows = (1.1 + torch.rand(6, 1, dtype=torch.double)).requires_grad_()
    one = torch.tensor(1.3, dtype=torch.double, requires_grad=True)
    for alpha in (rows, one):
        assert torch.autograd.gradcheck(entmax, (z, alpha), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("alpha", [1.2, 1.5, 2.0])
def test_offsets_hidden_scores_and_dead_rows(dtype, alpha):
    row = [1.0, 0.8, 0.1, -INF, -2.0]
    z = torch.tensor([row, row, [-INF] * 5]) + torch.tensor([[0.0], [-1000.0], [0.0]])
    z = z.to(dtype).requires_grad_()
    out = entmax(z, alpha)
    out.square().sum().backward()
    assert out.dtype == torch.float32
    assert out[:, 3].eq(0).all()
    assert z.grad is not None and z.grad.isfinite().all()
    torch.testing.assert_close(out.sum(-1), torch.tensor([1.0, 1.0, 0.0]))
