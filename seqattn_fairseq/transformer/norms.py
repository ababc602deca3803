"""The normalisations a stack can be built with: LayerNorm, ScaleNorm, RMSNorm.

Shapes: C width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqattn_fairseq.transformer.config import EncoderDecoderConfig


class ScaleNorm(nn.Module):
    """One learned scale times x / rms(x) (Nguyen and Salazar 2019, in Mega's parametrisation).

    Parameter: ``scalar`` (1,), starting at one.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.dim = dim
        self.eps = eps
        self.scalar = nn.Parameter(torch.ones(1))

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Return the normalised (B, T, C)."""
        return self.scalar * F.rms_norm(x_BTC, (self.dim,), eps=self.eps)


NORMS = {"layernorm": nn.LayerNorm, "scalenorm": ScaleNorm, "rmsnorm": nn.RMSNorm}


def make_norm(cfg: EncoderDecoderConfig, dim: int) -> nn.Module:
    """Return the configured normalisation over vectors of width ``dim``."""
    norm: nn.Module = NORMS[str(cfg.norm_type)](dim, eps=cfg.layer_norm_eps)
    return norm
