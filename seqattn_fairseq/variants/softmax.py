"""``softmax``: the Transformer of Vaswani et al. 2017, the twin every variant is compared with.

Its parameters and mathematics are those of fairseq's ``transformer``; stock weights load as they
are.
"""

from dataclasses import dataclass

from torch import Tensor

from seqattn_fairseq.ops.softmax import softmax_attention, softmax_weights
from seqattn_fairseq.transformer.attention import MultiheadAttention, Site, join_heads
from seqattn_fairseq.transformer.config import EncoderDecoderConfig
from seqattn_fairseq.transformer.registry import attention_variant
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


VARIANTS = (
    attention_variant(
        "softmax", "the Transformer, with softmax attention", SoftmaxConfig, make_softmax
    ),
)
