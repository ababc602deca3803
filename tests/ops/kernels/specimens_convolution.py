"""What test_compilation compiles of the convolution: dtypes of x and taps, tiles, both kinds."""

from __future__ import annotations

from collections.abc import Callable

import torch

from seqattn_fairseq.ops.convolution import dynamic_convolution, lightweight_convolution


def call(
    dtype: torch.dtype, taps_dtype: torch.dtype, length: int, width: int, static: bool = False
) -> Callable[[], None]:
    def specimen() -> None:
        x = torch.randn(2, length, 2 * width, dtype=dtype).requires_grad_()
        shape = (2, 31) if static else (2, length, 2, 31)
        taps = torch.randn(shape, dtype=taps_dtype).requires_grad_()
        convolve = lightweight_convolution if static else dynamic_convolution
        convolve(x, taps, 15).sum().backward()

    return specimen


SPECIMENS = {
    "float32": call(torch.float32, torch.float32, 100, 64),
    "bfloat16": call(torch.bfloat16, torch.float32, 100, 64),
    "bfloat16 short, wide": call(torch.bfloat16, torch.bfloat16, 20, 200, static=True),
    "float16": call(torch.float16, torch.float32, 100, 16),
}
