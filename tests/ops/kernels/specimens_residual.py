"""What test_compilation compiles of the residual connection."""

from __future__ import annotations

import itertools

import torch

from seqattn_fairseq.ops.residual import LayerNorm, residual


def _step(dtype: torch.dtype, width: int, rate: float, normed: bool) -> None:
    x, y = (torch.zeros(2, 3, width, dtype=dtype, requires_grad=True) for _ in range(2))
    weight, bias = torch.ones(2, width, dtype=dtype, requires_grad=True)
    residual(x, y, rate, LayerNorm(weight, bias, 1e-5) if normed else None).sum().backward()


_CASES = [
    *itertools.product((torch.float32, torch.bfloat16, torch.float16), (512,)),
    *itertools.product((torch.bfloat16,), (20, 8192)),
]
SPECIMENS = {
    f"{dtype}, width {width}, dropout {rate}, norm {normed}": (
        lambda call=(dtype, width, rate, normed): _step(*call)
    )
    for (dtype, width), (rate, normed) in itertools.product(
        _CASES, ((0.3, False), (0.3, True), (0.0, True))
    )
}
