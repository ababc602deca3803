"""What test_compilation compiles of Mega's gated attention."""

from __future__ import annotations

from functools import partial

import torch

from seqattn_fairseq.ops.mega import gated_attention

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32


def call(
    dtype: torch.dtype,
    activation: str,
    causal: bool,
    sizes: tuple[int, int, int, int] = (130, 130, 128, 512),
    padded: bool = False,
    dropout: float = 0.0,
) -> None:
    """Run forward and backward of one call, with T, S, Z and V of ``sizes``."""
    queries, keys, width, values = sizes
    shapes = ((2, queries, width), (2, keys, width), (2, keys, values), (queries + keys - 1,))
    q, k, v, line = (torch.randn(shape).to(dtype).requires_grad_() for shape in shapes)
    mask = torch.zeros(2, keys, dtype=torch.bool) if padded else None
    gated_attention(q, k, v, line, mask, causal, activation, dropout).sum().backward()


SPECIMENS = {
    # the widest queries need the most room; dropout and padding, most instructions
    "softmax bfloat16": partial(call, BRAIN, "softmax", True, (70, 70, 256, 2048), True, 0.1),
    "softmax float16": partial(call, HALF, "softmax", False),
    "softmax float32": partial(call, SINGLE, "softmax", True, (70, 70, 256, 130), True, 0.1),
    "laplace bfloat16": partial(call, BRAIN, "laplace", False, (27, 131, 200, 72), True, 0.1),
    "laplace float16": partial(call, HALF, "laplace", True),
    "laplace float32": partial(call, SINGLE, "laplace", False),
    "relu2 bfloat16": partial(call, BRAIN, "relu2", True, (5, 9, 16, 40)),
    "relu2 float32": partial(call, SINGLE, "relu2", False, (1, 1, 20, 20), True),
}
