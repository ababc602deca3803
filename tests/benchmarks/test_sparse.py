"""What the benchmark of sparse attention calls torch's top-k is what it says."""

from __future__ import annotations

import torch

from benchmarks.sparse import KEPT, torch_topk
from seqattn_fairseq.ops.sparse import topk_softmax_reference


def test_torchs_topk_equals_the_reference() -> None:
    z = torch.randn(7, 31, dtype=torch.double, requires_grad=True)
    weights = torch.randn(7, 31, dtype=torch.double)
    results = [torch_topk(z), topk_softmax_reference(z, torch.tensor([[KEPT]]))]
    grads = [torch.autograd.grad((p * weights).sum(), z) for p in results]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*grads)
