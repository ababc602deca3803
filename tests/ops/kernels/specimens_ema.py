"""What test_compilation compiles of the moving average: dtypes, directions, chunks, lags."""

from __future__ import annotations

from collections.abc import Callable

import torch

from seqattn_fairseq.ops.ema import ema, ema_coefficients


def call(
    dtype: torch.dtype, length: int, states: int, both: bool, truncation: int = 0
) -> Callable[[], None]:
    def specimen() -> None:
        rows = 48 * (2 if both else 1)
        shape = (rows, states, 1)
        delta, alpha, beta, gamma = (torch.randn(shape).requires_grad_() for _ in range(4))
        c = ema_coefficients(delta, alpha, beta, gamma.squeeze(-1))
        mask = torch.zeros(2, length, dtype=torch.bool) if both else None
        x = torch.randn(2, length, 48, dtype=dtype).requires_grad_()
        omega = torch.randn(48).requires_grad_()
        ema(x, c, omega, mask, truncation).sum().backward()

    return specimen


SPECIMENS = {
    "float32": call(torch.float32, 300, 16, both=True),
    "bfloat16": call(torch.bfloat16, 100, 16, both=True),
    "float16 causal, truncated": call(torch.float16, 300, 32, both=False, truncation=40),
}
