"""``softmax``: the Transformer of Vaswani et al. 2017, the twin every variant is compared with.

Its parameters and mathematics are those of fairseq's ``transformer``; stock weights load as they
are.
"""

from dataclasses import dataclass

from torch import Tensor

from seqattn_fairseq.ops.softmax import softmax_attention, softmax_weights
from seqattn_fairseq.transformer.attention import MultiheadAttention, Site, join_heads
from seqattn_fairseq.transformer.config import EncoderDecoderConfig
from seqattn_fairseq.transformer.registry import Preset, PublishedCount, attention_variant
from seqattn_fairseq.variants.sites import site_arguments


class SoftmaxAttention(MultiheadAttention):
    """Scaled dot-product attention."""

    def attend(
        self,
        q_BHTd: Tensor,
        k_BHSd: Tensor,
        v_BHSd: Tensor,
        padding_mask_BS: Tensor | None,
        dropout: float,
    ) -> Tensor:
        """See :class:`MultiheadAttention`."""
        return join_heads(
            softmax_attention(q_BHTd, k_BHSd, v_BHSd, padding_mask_BS, self.causal, dropout)
        )

    def weights(self, q_BHTd: Tensor, k_BHSd: Tensor, padding_mask_BS: Tensor | None) -> Tensor:
        """See :class:`MultiheadAttention`."""
        return softmax_weights(q_BHTd, k_BHSd, padding_mask_BS, self.causal)


@dataclass
class SoftmaxConfig(EncoderDecoderConfig):
    """The Transformer with softmax attention."""


def make_softmax(cfg: EncoderDecoderConfig, site: Site) -> SoftmaxAttention:
    """Return the softmax attention of one site."""
    return SoftmaxAttention(*site_arguments(cfg, site))


PRESETS = {
    "tiny": Preset("Transformer-Tiny, Wu et al. 2021"),
    "iwslt_de_en": Preset("fairseq transformer_iwslt_de_en"),
    "iwslt_en_vi": Preset("ours: the size of iwslt_de_en"),
    "wmt_en_de": Preset("base, Vaswani et al. 2017"),
    "wmt_en_de_big": Preset("big, Vaswani et al. 2017"),
    "wmt_en_fr": Preset("big, Vaswani et al. 2017"),
}

_APART = {"share_all_embeddings": False}
_TIED = {"share_all_embeddings": True}
PUBLISHED = (
    PublishedCount("tiny", 9712, 9712, 2_568_192, why="stock fairseq, Multi30k", options=_TIED),
    PublishedCount(
        "iwslt_de_en", 8848, 6632, 42_864_640, why="stock fairseq 0.6.2", options=_APART
    ),
    PublishedCount(
        "wmt_en_de_big", 32768, 32768, 209_911_808, why="stock fairseq 0.6.2", options=_TIED
    ),
    PublishedCount(
        "wmt_en_fr", 44512, 44512, 221_937_664, why="stock fairseq 0.6.2", options=_TIED
    ),
)

VARIANTS = (
    attention_variant(
        "softmax",
        "the Transformer, with softmax attention",
        SoftmaxConfig,
        make_softmax,
        presets=PRESETS,
        published=PUBLISHED,
    ),
)
