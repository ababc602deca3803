"""Which words may come next.

Shapes: R rows (hypotheses) of whole sentences, b hypotheses of a sentence, V vocabulary, S steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_NEVER = float("-inf")


@dataclass(frozen=True)
class Rules:
    """What a search allows, as fairseq's SequenceGenerator defines it.

    Attributes:
        pad, unk, eos: ids of special words.
        shortest: words, eos not counted, that a hypothesis has at least.
        longest: words, eos not counted, that it has at most.
        unk_penalty: what is subtracted from the log-probability of ``unk``.
        suppressed: ids that never come.
        blocker: fairseq's module that forbids repeated n-grams, or None.
    """

    pad: int
    unk: int
    eos: int
    shortest: int
    longest: int
    unk_penalty: float
    suppressed: Tensor | None
    blocker: Any


def apply_rules(lprob_RV: Tensor, rules: Rules, step: int, prefix_R: Tensor | None) -> None:
    """Make what may not come impossible, in place.

    Args:
        lprob_RV: log-probabilities of the next words.
        rules: of the search.
        step: number of words before.
        prefix_R: the word that each row must go on with, or ``pad`` for those that may choose; None
            if no prefix reaches this step.
    """
    _drop_broken_rows(lprob_RV)
    lprob_RV[:, rules.pad] = _NEVER
    if rules.unk_penalty:
        lprob_RV[:, rules.unk] -= rules.unk_penalty
    if step >= rules.longest:
        _keep_only(lprob_RV, torch.full_like(lprob_RV[:, 0], rules.eos, dtype=torch.long))
    elif prefix_R is not None:
        forced = prefix_R.ne(rules.pad)
        rows = lprob_RV[forced]
        _keep_only(rows, prefix_R[forced])
        lprob_RV[forced] = rows
        return
    if step < rules.shortest:
        lprob_RV[:, rules.eos] = _NEVER
    if rules.suppressed is not None:
        lprob_RV[:, rules.suppressed] = _NEVER


def _drop_broken_rows(lprob_RV: Tensor) -> None:
    # a NaN among the logits is one in every log-probability of the row
    broken = lprob_RV[:, :1].isnan()
    if broken.device.type != "cpu" or bool(broken.any()):
        lprob_RV.masked_fill_(broken, _NEVER)


def _keep_only(lprob_RV: Tensor, word_R: Tensor) -> None:
    index = word_R.unsqueeze(1)
    kept = lprob_RV.gather(1, index)
    lprob_RV.fill_(_NEVER).scatter_(1, index, kept)
