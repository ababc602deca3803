"""Cross entropy of rows of logits: one pass reads them, another leaves the gradient.

Shapes: n rows, V vocabulary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_WIDEST_BLOCK = 4096


@triton.jit
def _score(
    logits, labels, counts, gradient, nll, log_total, best, on_label,
    V, COUNTS: tl.constexpr, WANTED: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * V
    label = tl.load(labels + row)
    # read before anything is written: the gradient may come in place of the logits
    label_logit = tl.load(logits + label).to(tl.float32)
    top = tl.load(logits).to(tl.float32)
    total = 0.0
    where = 0
    for start in range(0, V, BLOCK_V):
        columns = start + tl.arange(0, BLOCK_V)
        inside = columns < V
        x = tl.load(logits + columns, mask=inside, other=-float("inf")).to(tl.float32)
        peak = tl.max(x, axis=0)
        first = tl.min(tl.where((x == peak) & inside, columns, V), axis=0)
        where = tl.where(peak > top, first, where)
        new = tl.maximum(top, peak)
        shift = tl.where(new == -float("inf"), 0.0, new)
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(x - shift), axis=0)
        top = new
    log_sum = tl.log(total)
    # the largest logit goes first: its sum with the logarithm would round
    tl.store(nll + row, top - label_logit + log_sum)
    tl.store(log_total + row, top + log_sum)
    tl.store(best + row, tl.cast(where, tl.int64))
    if WANTED:
        tl.debug_barrier()
        gradient += row * V
        counted = True
        if COUNTS:
            counted = tl.load(counts + row) != 0
        for start in range(0, V, BLOCK_V):
            columns = start + tl.arange(0, BLOCK_V)
            inside = columns < V
            x = tl.load(logits + columns, mask=inside, other=-float("inf")).to(tl.float32)
            d = tl.exp(x - top - log_sum) - tl.where(columns == label, on_label, 0.0)
            d = tl.where(counted, d, 0.0)
            tl.store(gradient + columns, d.to(gradient.dtype.element_ty), mask=inside)


def score_rows(
    logits_nV: Tensor,
    label_n: Tensor,
    counts_n: Tensor | None,
    on_label: float,
    gradient_nV: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return -log p_label, the logarithm of the sum of exponentials, and the likeliest id, (n,).

    Sums are of float32 whatever the dtype of the logits.

    Args:
        logits_nV: contiguous.
        label_n: ids.
        counts_n: False where the gradient is to be zero; None for nowhere.
        on_label: what the gradient of the label's logit has less than its probability.
        gradient_nV: receives the probabilities, less ``on_label`` at the label; maybe the logits
            themselves; None if it is not wanted.
    """
    rows, vocabulary = logits_nV.shape
    nll, log_total = logits_nV.new_empty(2, rows, dtype=torch.float32)
    best = torch.empty_like(label_n)
    if rows:
        block = min(triton.next_power_of_2(vocabulary), _WIDEST_BLOCK)
        _score[(rows,)](
            logits_nV, label_n, counts_n, gradient_nV, nll, log_total, best, on_label, vocabulary,
            COUNTS=counts_n is not None, WANTED=gradient_nV is not None, BLOCK_V=block, num_warps=8,
        )  # fmt: skip
    return nll, log_total, best
