"""What test_compilation compiles of ReLA's norm."""

from __future__ import annotations

from functools import partial

import torch

from seqattn_fairseq.ops.rela import rms_norm

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def run(dtype: torch.dtype, gated: bool) -> None:
    h, scale, gate = (
        torch.empty(*shape, 513).to(dtype).requires_grad_() for shape in ((2, 3), (), ())
    )
    rms_norm(h, scale, gate if gated else None, 1e-8).sum().backward()


SPECIMENS = {
    **{f"gated {dtype}": partial(run, dtype, True) for dtype in DTYPES},
    "plain": partial(run, torch.bfloat16, False),
}
