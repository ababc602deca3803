"""What test_compilation compiles of the cross entropy."""

from __future__ import annotations

import itertools

import torch

from seqattn_fairseq.ops.kernels.cross_entropy import score_rows


def _score(logits_dtype: torch.dtype, gradient_dtype: torch.dtype | None, counts: bool) -> None:
    logits = torch.zeros(3, 10_000, dtype=logits_dtype)
    gradient = None if gradient_dtype is None else logits.to(gradient_dtype)
    labels = torch.zeros(3, dtype=torch.long)
    score_rows(logits, labels, labels.bool() if counts else None, 0.9, gradient)


_CASES = [
    *((dtype, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)),
    (torch.float32, torch.bfloat16),
    (torch.float32, None),
]
SPECIMENS = {
    f"{logits} to {gradient}, counts {counts}": (
        lambda call=(logits, gradient, counts): _score(*call)
    )
    for (logits, gradient), counts in itertools.product(_CASES, (False, True))
}
