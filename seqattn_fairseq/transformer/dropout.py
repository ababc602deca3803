"""Dropout as a module, and how much of it applies at the moment."""

from __future__ import annotations

from fairseq.modules import FairseqDropout
from torch import Tensor

from seqattn_fairseq.ops.dropout import dropout


def active_rate(module: FairseqDropout) -> float:
    """Return the probability that applies now: 0 outside training, unless dropout is retained."""
    return float(module.p) if module.training or module.apply_during_inference else 0.0


class Dropout(FairseqDropout):
    """fairseq's dropout, which can be kept on while generating, with cheaper draws."""

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Return x, or a copy with entries dropped; fairseq's ``inplace`` changes nothing."""
        return dropout(x, active_rate(self))
