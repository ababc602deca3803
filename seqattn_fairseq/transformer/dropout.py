"""How much dropout applies at the moment."""

from __future__ import annotations

from fairseq.modules import FairseqDropout


def active_rate(dropout: FairseqDropout) -> float:
    """Return the probability that applies now: 0 outside training, unless dropout is retained."""
    return float(dropout.p) if dropout.training or dropout.apply_during_inference else 0.0
