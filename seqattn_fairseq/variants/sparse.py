"""``topk``, ``sparsemax``, ``entmax15``: attention whose weights are a sparse distribution.

Explicit Sparse Transformer (Zhao et al. 2019), sparsemax (Martins and Astudillo 2016), 1.5-entmax
(Peters et al. 2019). They have the parameters of softmax attention, so that the weights of any of
them, and of the twin, load into any other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops.masking import visible_counts
from seqattn_fairseq.ops.sparse import masked_scores, sparse_attention, sparse_weights
from seqattn_fairseq.transformer.attention import MultiheadAttention, Site, join_heads
from seqattn_fairseq.transformer.config import SIDES, EncoderDecoderConfig, option
from seqattn_fairseq.transformer.registry import Preset, attention_variant
from seqattn_fairseq.variants.rela import PRESETS as COMPARED_WITH_RELA
from seqattn_fairseq.variants.sites import check_sites, site_arguments, site_option
from seqattn_fairseq.variants.softmax import make_softmax


class SparseAttention(MultiheadAttention):
    """Attention by a row map of ``ops.sparse`` that needs nothing but the scores."""

    method: str

    def weights(self, q_BHTd: Tensor, k_BHSd: Tensor, padding_mask_BS: Tensor | None) -> Tensor:
        """See :class:`MultiheadAttention`."""
        scores = masked_scores(q_BHTd, k_BHSd, padding_mask_BS, self.causal)
        arguments = self.row_arguments(q_BHTd, k_BHSd, padding_mask_BS)
        return sparse_weights(self.method, scores, *arguments)

    def row_arguments(
        self, q_BHTd: Tensor, k_BHSd: Tensor, padding_mask_BS: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return what the row map takes besides the masked scores."""
        return ()

    def attend(
        self,
        q_BHTd: Tensor,
        k_BHSd: Tensor,
        v_BHSd: Tensor,
        padding_mask_BS: Tensor | None,
        dropout: float,
    ) -> Tensor:
        """See :class:`MultiheadAttention`."""
        arguments = self.row_arguments(q_BHTd, k_BHSd, padding_mask_BS)
        out_BHTd = sparse_attention(
            self.method, q_BHTd, k_BHSd, v_BHSd, padding_mask_BS, self.causal, dropout, *arguments
        )
        return join_heads(out_BHTd)


class SparsemaxAttention(SparseAttention):
    """Attention by projection onto the simplex."""

    method = "sparsemax"


class Entmax15Attention(SparseAttention):
    """Attention by 1.5-entmax."""

    method = "entmax15"


@dataclass(frozen=True)
class TopK:
    """How many keys a query keeps: ``count``, or a share of those it sees.

    Attributes:
        count: k; 0 if a share is wanted.
        divisor: n keeps ceil(visible / n), at least ``least``.
        least: lower bound of a share.
        padded: the share is of all keys, padding and future included, as in the authors' code; it
            then depends on the rest of the batch, and a step differs from the whole pass.
    """

    count: int
    divisor: int
    least: int
    padded: bool

    def rows(
        self, q_BHTd: Tensor, k_BHSd: Tensor, padding_mask_BS: Tensor | None, causal: bool
    ) -> Tensor:
        """Return the kept number of each row, at least 1, broadcastable to (B, H, T, 1)."""
        if self.count:
            return torch.full((1, 1, 1, 1), self.count, device=k_BHSd.device)
        if self.padded:
            padding_mask_BS, causal = None, False
        visible = visible_counts(q_BHTd, k_BHSd, padding_mask_BS, causal)
        share = (visible + self.divisor - 1).div(self.divisor, rounding_mode="floor")
        return share.clamp(min=max(1, self.least))


class TopKAttention(SparseAttention):
    """Softmax over the k largest scores of each row, all of them that equal the k-th included.

    Args:
        keep: how many a row keeps; the other arguments are :class:`MultiheadAttention`'s.
    """

    method = "top-k"

    def __init__(self, *args: Any, keep: TopK, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keep = keep

    def row_arguments(
        self, q_BHTd: Tensor, k_BHSd: Tensor, padding_mask_BS: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return how many entries each row keeps."""
        return (self.keep.rows(q_BHTd, k_BHSd, padding_mask_BS, self.causal),)


@dataclass
class SparseConfig(EncoderDecoderConfig):
    """The Transformer with sparse attention weights."""

    attention_sites: str = site_option()


@dataclass
class TopKConfig(SparseConfig):
    """The Explicit Sparse Transformer."""

    topk: int = option(8, "number of keys each query keeps; 0 keeps the share --topk-divisor")
    topk_divisor: int = option(0, "n keeps ceil(visible keys / n) of each row; needs --topk 0")
    topk_least: int = option(1, "lower bound of the number that --topk-divisor keeps")
    topk_padded_share: bool = option(
        False,
        "--topk-divisor counts padding and future keys, as the authors' code does: "
        "a sentence then depends on its batch",
    )


def _make(
    cfg: SparseConfig, site: Site, attention: Callable[..., SparseAttention]
) -> MultiheadAttention:
    if site not in check_sites(cfg.attention_sites):
        return make_softmax(cfg, site)
    return attention(*site_arguments(cfg, site))


def _make_topk(cfg: TopKConfig, site: Site) -> MultiheadAttention:
    if (cfg.topk > 0) == (cfg.topk_divisor > 0) or min(cfg.topk, cfg.topk_divisor) < 0:
        raise SeqAttnError(
            f"--topk {cfg.topk} and --topk-divisor {cfg.topk_divisor}: one of them must be "
            "positive and the other 0"
        )
    if cfg.topk_least < 1:
        raise SeqAttnError(f"--topk-least is {cfg.topk_least}, but must be at least 1")
    keep = TopK(cfg.topk, cfg.topk_divisor, cfg.topk_least, cfg.topk_padded_share)
    return _make(cfg, site, partial(TopKAttention, keep=keep))


def _make_sparsemax(cfg: SparseConfig, site: Site) -> MultiheadAttention:
    return _make(cfg, site, SparsemaxAttention)


def _make_entmax15(cfg: SparseConfig, site: Site) -> MultiheadAttention:
    return _make(cfg, site, Entmax15Attention)


TOPK_PRESETS = {
    "iwslt_de_en": Preset(
        "Zhao et al. 2019, released script for IWSLT14 De-En", {"topk": 8, "dropout": 0.4}
    ),
    # The released Tensor2Tensor code leaves its cross-attention dense; the paper's text does not.
    "iwslt_en_vi": Preset(
        "Zhao et al. 2019, released script for IWSLT15 En-Vi (Tensor2Tensor's base), with the "
        "paper's three sites; the script's: attention_sites=encoder_self,decoder_self",
        {
            "topk": 6,
            "attention_dropout": 0.1,
            "activation_dropout": 0.1,
            **{f"{side}_ffn_embed_dim": 2048 for side in SIDES},
            **{f"{side}_attention_heads": 8 for side in SIDES},
            **{f"{side}_normalize_before": True for side in SIDES},
        },
    ),
    "wmt_en_de_big": Preset("Zhao et al. 2019: fairseq's big Transformer, k = 8", {"topk": 8}),
}

VARIANTS = (
    attention_variant(
        "topk",
        "softmax over the k largest scores (Explicit Sparse)",
        TopKConfig,
        _make_topk,
        presets=TOPK_PRESETS,
        official={"topk_padded_share": True},
    ),
    attention_variant(
        "sparsemax",
        "sparsemax attention",
        SparseConfig,
        _make_sparsemax,
        presets=COMPARED_WITH_RELA,
    ),
    attention_variant(
        "entmax15",
        "1.5-entmax attention",
        SparseConfig,
        _make_entmax15,
        presets=COMPARED_WITH_RELA,
    ),
)
