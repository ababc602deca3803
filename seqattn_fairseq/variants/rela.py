"""``rela_g`` and ``rela_i``: rectified linear attention (Zhang, Titov, Sennrich 2021).

relu(q k) v over the heads joined, normalised by their root mean square, and either gated
(ReLA-g, the released code's form) or with a small initial scale (ReLA-i).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.dataclass import ChoiceEnum
from torch import Tensor, nn

from seqattn_fairseq.ops.rela import ACTIVATIONS, rela_attention, rela_weights, rms_norm
from seqattn_fairseq.transformer.attention import MultiheadAttention, Site, join_heads
from seqattn_fairseq.transformer.config import SIZES, EncoderDecoderConfig, option
from seqattn_fairseq.transformer.registry import Preset, attention_variant
from seqattn_fairseq.variants.sites import check_sites, site_arguments, site_option
from seqattn_fairseq.variants.softmax import make_softmax


class RelaNorm(nn.Module):
    """RMS normalisation of the joined heads, gated or not.

    Parameters: ``weight`` (C,), and ``gate`` (C,) if gated. The gated form starts with weights of
    one and the gate uniform in +-sqrt(3 / C); without a gate the weights start that small.
    """

    eps = 1e-8  # inside the root, as in the release

    def __init__(self, dim: int, gated: bool) -> None:
        super().__init__()
        limit = math.sqrt(3 / dim)
        small = torch.empty(dim).uniform_(-limit, limit)
        self.weight = nn.Parameter(torch.ones(dim) if gated else small)
        self.gate = nn.Parameter(small) if gated else None

    def forward(self, h_BTC: Tensor) -> Tensor:
        """Return the normalised heads (B, T, C) in the parameters' dtype."""
        return rms_norm(h_BTC, self.weight, self.gate, self.eps).to(self.weight.dtype)


class RelaAttention(MultiheadAttention):
    """Rectified linear attention.

    Args:
        gated: ReLA-g (True) or ReLA-i (False).
        activation: what replaces softmax; "relu" is the paper's.
    """

    def __init__(
        self,
        site: Site,
        embed_dim: int,
        num_heads: int,
        memory_dim: int | None = None,
        dropout: float = 0.0,
        gated: bool = True,
        activation: str = "relu",
    ) -> None:
        super().__init__(site, embed_dim, num_heads, memory_dim, dropout)
        self.activation = activation
        self.attn_norm = RelaNorm(embed_dim, gated)
        self._reset_as_released()

    def _reset_as_released(self) -> None:
        # The release has one (C, 3C) matrix for self-attention, whose Glorot limit is that of
        # (C, C) with gain 1/sqrt(2); its cross-attention has three (C, C) matrices, gain 1.
        if self.site is Site.CROSS:
            self.reset_parameters(1.0)
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.zeros_(projection.bias)

    def attend(
        self,
        q_BHTd: Tensor,
        k_BHSd: Tensor,
        v_BHSd: Tensor,
        padding_mask_BS: Tensor | None,
        dropout: float,
    ) -> Tensor:
        """See :class:`MultiheadAttention`; the norm is over all heads, after joining them."""
        h_BHTd = rela_attention(
            q_BHTd, k_BHSd, v_BHSd, padding_mask_BS, self.causal, dropout, self.activation
        )
        normalised: Tensor = self.attn_norm(join_heads(h_BHTd))
        return normalised

    def weights(self, q_BHTd: Tensor, k_BHSd: Tensor, padding_mask_BS: Tensor | None) -> Tensor:
        """See :class:`MultiheadAttention`; rows need not sum to one."""
        return rela_weights(q_BHTd, k_BHSd, padding_mask_BS, self.causal, self.activation)


@dataclass
class RelaConfig(EncoderDecoderConfig):
    """The Transformer with rectified linear attention."""

    attention_sites: str = site_option()
    rela_activation: ChoiceEnum(list(ACTIVATIONS)) = option(  # type: ignore[valid-type]
        "relu", "activation of the scores; only relu and relu2 give exact zeros"
    )


def _make_rela(cfg: RelaConfig, site: Site, gated: bool) -> MultiheadAttention:
    if site not in check_sites(cfg.attention_sites):
        return make_softmax(cfg, site)
    activation = str(cfg.rela_activation)
    return RelaAttention(*site_arguments(cfg, site), gated=gated, activation=activation)


def _make_gated(cfg: RelaConfig, site: Site) -> MultiheadAttention:
    return _make_rela(cfg, site, gated=True)


def _make_initialised(cfg: RelaConfig, site: Site) -> MultiheadAttention:
    return _make_rela(cfg, site, gated=False)


# What the released code does otherwise than the shared stack: one vector added to all embeddings,
# positions from 0 that count padding columns, a zero vector as the start of the target, no mask
# on target padding, and its epsilon. The feed-forward starts as the softmax twin's does, not as the
# release's (Glorot, biases at zero): the attention alone is to differ between the two.
RELEASE: Mapping[str, Any] = {
    "embedding_bias": True,
    "position_start": 0,
    "position_by_column": True,
    "zero_start": True,
    "target_padding_visible": True,
    "layer_norm_eps": 1e-8,
}

# Every translation experiment of the paper is a Transformer base with all dropouts 0.1.
_RELEASED_BASE = Preset(
    "Zhang, Titov, Sennrich 2021, released command for WMT14 En-De; softmax, sparsemax and "
    "1.5-entmax are compared at the same setting",
    {**SIZES["wmt_en_de"], "attention_dropout": 0.1, "activation_dropout": 0.1},
)
PRESETS = {"wmt_en_de": _RELEASED_BASE, "wmt_en_fr": _RELEASED_BASE}

VARIANTS = (
    attention_variant(
        "rela_g",
        "rectified linear attention, gated (ReLA-g)",
        RelaConfig,
        _make_gated,
        presets=PRESETS,
        official=RELEASE,
    ),
    attention_variant(
        "rela_i",
        "rectified linear attention, initialised small (ReLA-i)",
        RelaConfig,
        _make_initialised,
        presets=PRESETS,
        official=RELEASE,
    ),
)
