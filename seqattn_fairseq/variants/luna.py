"""``luna``: Linear Unified Nested Attention (Ma et al. 2021).

Every attention goes through a short sequence P: P reads the context (pack), the queries read P
(unpack), and what P read renews it for the next layer. P is the memory's companion: the encoder's
layers renew it, then the decoder's do, from the source alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops.luna import ACTIVATIONS
from seqattn_fairseq.transformer.config import EncoderDecoderConfig, option
from seqattn_fairseq.transformer.layers import LayerPlace
from seqattn_fairseq.transformer.registry import Preset, PublishedCount, Variant
from seqattn_fairseq.variants.luna_layers import (
    LunaDecoderLayer,
    LunaEncoderLayer,
    ShortSequence,
)


@dataclass
class LunaConfig(EncoderDecoderConfig):
    """The Transformer with Luna attention."""

    projection_length: int = option(32, "rows of P, the short sequence attention goes through")
    fix_projection_length: bool = option(
        False, "all sentences use all rows of P (default: no more than they have tokens)"
    )
    untie_luna_kv: bool = option(
        False, "keys and values of an attention are two projections (default: one)"
    )
    encoder_projected_attention_heads: Optional[int] = option(  # noqa: UP045
        None, "heads of P's attention in the encoder; default: --encoder-attention-heads"
    )
    decoder_projected_attention_heads: Optional[int] = option(  # noqa: UP045
        None,
        "heads of P's attention to the source in the decoder; default: --decoder-attention-heads",
    )
    luna_activation: ChoiceEnum(list(ACTIVATIONS)) = option(  # type: ignore[valid-type]
        "softplus2", "positive activation of the causal pack: log2(1 + 2^x), or elu(x) + 1"
    )
    luna_low_precision_sums: bool = option(
        False,
        "under half precision, running sums and the position count of decoding are in half "
        "precision too (official code): in bfloat16 the count sticks at 256",
    )


# What the official code does and this project does only if asked to. No option brings back: the
# pack's softmax in half precision (its result is rounded to that anyway); weights of the decoder
# over the rows of P in place of the source, which no alignment can use; a search cache of the
# source that keeps its sentences' order, right only while hypotheses stay within theirs.
OFFICIAL: Mapping[str, Any] = {
    # padding enters sums and counts: moves targets that are padded on the left
    "target_padding_visible": True,
    "luna_low_precision_sums": True,
}


def _make_decoder_layer(cfg: LunaConfig, place: LayerPlace) -> LunaDecoderLayer:
    if cfg.encoder_embed_dim != cfg.decoder_embed_dim:
        raise SeqAttnError(
            f"--decoder-embed-dim {cfg.decoder_embed_dim} must be --encoder-embed-dim "
            f"{cfg.encoder_embed_dim} in Luna, whose P goes through both sides"
        )
    return LunaDecoderLayer(cfg, place)


_REGULARISED = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1}
_NOT_REPORTED = "ours: no paper reports Luna at this size; the shared table, keys and values tied"
_PRESETS = {
    "tiny": Preset(
        "ours: no paper reports Luna at this size; feed-forward narrowed to the parameters of the "
        "softmax twin",
        {"encoder_ffn_embed_dim": 160, "decoder_ffn_embed_dim": 160},
    ),
    "wmt_en_de": Preset(
        "Ma et al. 2021, table 2, the best row (27.8 BLEU): Luna-32, softplus, untied; official "
        "arch luna_base_untied with the dropouts of examples/luna/README.wmt.md",
        {"untie_luna_kv": True, **_REGULARISED},
    ),
    **dict.fromkeys(
        ("iwslt_de_en", "iwslt_en_vi", "wmt_en_de_big", "wmt_en_fr"), Preset(_NOT_REPORTED)
    ),
}

# joined dictionary of the author's log; the paper rounds these to 0.1M
_DICTIONARY = 40_624


def _published(length: int, untied: bool, parameters: int) -> PublishedCount:
    options = {
        "projection_length": length,
        "untie_luna_kv": untied,
        "share_all_embeddings": True,
    }
    return PublishedCount(
        "wmt_en_de",
        _DICTIONARY,
        _DICTIONARY,
        parameters,
        without_gradient=1024,
        why="official code, Ma et al. 2021, table 2; the last decoder layer's norm of a P that "
        "nothing reads gets no gradient and is not built here",
        options=options,
    )


VARIANTS = (
    Variant(
        "luna",
        "attention through a short sequence, linear in length (Luna)",
        LunaConfig,
        LunaEncoderLayer,
        _make_decoder_layer,
        presets=_PRESETS,
        official=OFFICIAL,
        companion=ShortSequence,
        published=(
            _published(16, False, 69_686_272),
            _published(32, False, 69_694_464),
            _published(16, True, 77_565_952),
            _published(32, True, 77_574_144),
        ),
    ),
)
