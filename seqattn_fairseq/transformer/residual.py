"""The residual connection of all layers.

Shapes: B batch, T length, C width.
"""

from __future__ import annotations

from fairseq.modules import FairseqDropout
from torch import Tensor, nn

from seqattn_fairseq.ops.residual import LayerNorm, residual
from seqattn_fairseq.transformer.dropout import Dropout, active_rate


def added(
    x_BTC: Tensor, y_BTC: Tensor, dropout: FairseqDropout, norm: nn.Module | None = None
) -> Tensor:
    """Return ``norm(x + dropout(y))``, or the sum if there is no norm."""
    rate = active_rate(dropout)
    if not isinstance(dropout, Dropout):  # that of whole features
        y_BTC, rate = dropout(y_BTC), 0.0
    if isinstance(norm, nn.LayerNorm):
        return residual(x_BTC, y_BTC, rate, LayerNorm(norm.weight, norm.bias, norm.eps))
    total = residual(x_BTC, y_BTC, rate)
    return total if norm is None else norm(total)
