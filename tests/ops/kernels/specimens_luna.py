"""What test_compilation compiles of Luna's causal attention."""

from __future__ import annotations

from functools import partial

import torch

from seqattn_fairseq.ops.luna import causal_attention, counted


def call(
    dtype: torch.dtype,
    length: int,
    width: int,
    length_p: int,
    padded: bool = False,
    dropout: float = 0.0,
) -> None:
    """Run forward and backward of one call."""
    shapes = [(2, 2, length, width)] * 3 + [(2, 2, length, length_p)]
    q, k, v, pack = (torch.rand(shape).to(dtype).requires_grad_() for shape in shapes)
    mask = torch.zeros(2, length_p, dtype=torch.bool) if padded else None
    count = counted(None, length, q)
    causal_attention(q, k, v, pack, count, mask, dropout).sum().backward()


SPECIMENS = {
    "bfloat16, the usual size": partial(call, torch.bfloat16, 130, 64, 16, True, 0.1),
    "bfloat16, one chunk": partial(call, torch.bfloat16, 27, 64, 16),
    "bfloat16, the largest size": partial(call, torch.bfloat16, 70, 128, 128, True, 0.1),
    "float16": partial(call, torch.float16, 130, 40, 64),
    "float32": partial(call, torch.float32, 70, 64, 16, True, 0.1),
    "float32, the largest size": partial(call, torch.float32, 70, 64, 64),
}
