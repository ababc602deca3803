"""What test_compilation compiles of attention: each forward kernel, and both backward ones.

``EVERY`` is all of it, in every dtype, and takes minutes: test_attention_compilation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from seqattn_fairseq.ops.kernels.attention import FAMILIES, attention

# queries, keys, width, causal, padding, dropout: rows that fit, long rows, wide heads, short ones
SHAPES = {
    "short": (30, 27, 64, True, True, 0.1),
    "row": (100, 500, 80, False, True, 0.0),
    "long": (600, 700, 64, True, True, 0.1),
    "wide": (128, 600, 256, False, False, 0.0),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def run(method: str, shape: str, dtype: str) -> None:
    queries, keys, width, causal, padded, dropout = SHAPES[shape]
    q, k, v = (
        torch.empty(1, n, 2, width, dtype=DTYPES[dtype]).transpose(1, 2).requires_grad_()
        for n in (queries, keys, keys)
    )
    padding = torch.zeros(1, keys, dtype=torch.bool) if padded else None
    numbers = (torch.full((1, 1, 1, 1), 8),) if method == "top-k" else ()
    attention(method, q, k, v, padding, causal, dropout, *numbers).sum().backward()


EVERY: dict[str, Callable[[], None]] = {
    f"{method} {shape} {dtype}": partial(run, method, shape, dtype)
    for method in FAMILIES
    for shape in SHAPES
    for dtype in DTYPES
}
SPECIMENS = {
    name: EVERY[name]
    for name in ("relu short float16", "entmax15 row bfloat16", "top-k long bfloat16")
}
