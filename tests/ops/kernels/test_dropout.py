"""The draws of dropout in kernels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqattn_fairseq.ops.kernels.dropout import fresh_seed, kept


@triton.jit
def _draw(out, seed, probability, size: tl.constexpr):
    block = tl.program_id(0)
    offsets = tl.arange(0, size)
    tl.store(out + block * size + offsets, kept(tl.load(seed) + block, offsets, probability))


def draw(seed: Tensor, probability: float) -> Tensor:
    out = torch.empty(16, 1024)
    _draw[(16,)](out, seed, probability, size=1024)
    return out


def test_draws_repeat_with_their_seed_and_keep_the_mean() -> None:
    seed = fresh_seed(torch.device("cpu"))
    first = draw(seed, 0.3)
    assert torch.equal(first, draw(seed, 0.3))
    assert not torch.equal(first, draw(fresh_seed(torch.device("cpu")), 0.3))
    assert not torch.equal(first[0], first[1])
    torch.testing.assert_close(first.unique(), torch.tensor([0.0, 1 / 0.7]))
    # five standard deviations of 16,384 draws
    assert abs(float(first.mean()) - 1) < 5 * (0.3 / 0.7 / first.numel()) ** 0.5


def test_nothing_is_dropped_with_probability_zero() -> None:
    assert draw(fresh_seed(torch.device("cpu")), 0.0).eq(1).all()
