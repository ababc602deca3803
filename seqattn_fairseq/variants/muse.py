"""``muse_simple`` and ``muse``: parallel attention, convolution and feed-forward (PRIME).

Zhao et al. 2019, "MUSE: Parallel Multi-Scale Attention" (later "Unified Transformer"). A layer has
one residual connection and one norm; all its branches read the same input, and their outputs are
added. ``muse`` puts dynamic convolutions of several widths beside the self-attention; they read its
values.
"""

import json
from dataclasses import dataclass
from typing import Any, Optional

from torch import nn

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.transformer.config import (
    SIDES,
    EncoderDecoderConfig,
    check_probability,
    check_within_positions,
    option,
    stack_config,
)
from seqattn_fairseq.transformer.layers import LayerPlace
from seqattn_fairseq.transformer.registry import Preset, PublishedCount, Variant
from seqattn_fairseq.variants.muse_layers import (
    MultiScaleConvolution,
    MuseDecoderLayer,
    MuseEncoderLayer,
)


@dataclass
class MuseSimpleConfig(EncoderDecoderConfig):
    """The parallel Transformer without convolutions."""

    input_dropout: float = option(
        0.0, "dropout of the input of self-attention and convolutions (0.1 in the WMT recipes)"
    )


_KERNELS = "one list, as [3,15], for all layers, or a list of such lists, one for each layer"


@dataclass
class MuseConfig(MuseSimpleConfig):
    """The parallel Transformer with convolutions of several widths."""

    muse_encoder_kernels: str = option(
        "[3,15]", f"kernel sizes of the encoder's convolutions: {_KERNELS}; [] for none"
    )
    muse_decoder_kernels: str = option(
        "[3,15]", f"kernel sizes of the decoder's convolutions: {_KERNELS}; [] for none"
    )
    muse_gate: bool = option(
        True, "add the convolutions of a layer up, weighed by a gate; else they are concatenated"
    )
    weight_dropout: Optional[float] = option(  # noqa: UP045 fairseq's parser needs Optional
        None,
        "dropout of normalised convolution taps (DropConnect); default: --attention-dropout, for "
        "muse 0.1",
    )
    muse_padding_leaks: bool = option(
        False,
        "convolutions read the values at padding, as in the authors' code: a sentence then depends "
        "on its batch",
    )


def kernel_sizes(text: str, place: LayerPlace, side: str) -> tuple[int, ...]:
    """Return the kernel sizes of a layer from the option of its side.

    Raises:
        SeqAttnError: the text is neither a list of sizes nor a list of them for each layer.
    """
    try:
        sizes = json.loads(text)
    except ValueError:
        sizes = None
    if isinstance(sizes, list) and sizes and all(isinstance(s, list) for s in sizes):
        sizes = sizes[place.index] if len(sizes) == place.layers else None
    if not isinstance(sizes, list) or not all(type(s) is int and s > 0 for s in sizes):
        raise SeqAttnError(f"--muse-{side}-kernels {text}: give {_KERNELS} of {place.layers}")
    return tuple(sizes)


def make_convolution(cfg: MuseConfig, side: str, place: LayerPlace) -> MultiScaleConvolution | None:
    """Return the convolutions of a layer, None if it has none.

    Raises:
        SeqAttnError: wrong kernel sizes, or a probability not in 0 to 1.
    """
    sizes = kernel_sizes(getattr(cfg, f"muse_{side}_kernels"), place, side)
    for size in sizes:
        what = f"a kernel of {size} taps (--muse-{side}-kernels)"
        check_within_positions(cfg, side, what, size)
    stack = stack_config(cfg, side)
    dropout = 0.1 if cfg.weight_dropout is None else cfg.weight_dropout
    check_probability("weight_dropout", dropout)
    if not sizes:
        return None
    return MultiScaleConvolution(
        stack.embed_dim,
        stack.attention_heads,
        sizes,
        causal=side == "decoder",
        gated=cfg.muse_gate,
        dropout=dropout,
        padding_leaks=cfg.muse_padding_leaks,
    )


def _simple_encoder_layer(cfg: MuseSimpleConfig, _: LayerPlace) -> nn.Module:
    return MuseEncoderLayer(cfg, None, cfg.input_dropout)


def _simple_decoder_layer(cfg: MuseSimpleConfig, _: LayerPlace) -> nn.Module:
    return MuseDecoderLayer(cfg, None, cfg.input_dropout)


def _encoder_layer(cfg: MuseConfig, place: LayerPlace) -> nn.Module:
    convolution = make_convolution(cfg, "encoder", place)
    return MuseEncoderLayer(cfg, convolution, cfg.input_dropout)


def _decoder_layer(cfg: MuseConfig, place: LayerPlace) -> nn.Module:
    convolution = make_convolution(cfg, "decoder", place)
    return MuseDecoderLayer(cfg, convolution, cfg.input_dropout)


def _size(dim: int, ffn: int, heads: int, layers: int = 12) -> dict[str, int]:
    values = {"layers": layers, "embed_dim": dim, "ffn_embed_dim": ffn, "attention_heads": heads}
    return {f"{side}_{name}": value for side in SIDES for name, value in values.items()}


def _dropouts(dropout: float, attention: float, inputs: float) -> dict[str, float]:
    return {"dropout": dropout, "attention_dropout": attention, "input_dropout": inputs}


def _presets(tiny_ffn: int, base_ffn: int, big_inner_dropout: float) -> dict[str, Preset]:
    iwslt, big = _size(384, 768, 4), _size(768, 3072, 16)
    inner = big_inner_dropout
    return {
        "tiny": Preset(
            "ours: the feed-forward width gives the parameters of Transformer-Tiny",
            _size(128, tiny_ffn, 4, layers=4),
        ),
        "iwslt_de_en": Preset(
            "PRIME, README of the release, IWSLT14 De-En", {**iwslt, **_dropouts(0.4, 0.0, 0.0)}
        ),
        "iwslt_en_vi": Preset(
            "PRIME, section 3.1.4: as De-En, less dropout", {**iwslt, **_dropouts(0.3, 0.0, 0.0)}
        ),
        "wmt_en_de": Preset(
            "ours: the paper has the big size only; its rule (twice the layers, "
            "3/4 of the width) at the parameters of the base Transformer",
            _size(384, base_ffn, 8),
        ),
        "wmt_en_de_big": Preset(
            "PRIME, README of the release, WMT En-De", {**big, **_dropouts(0.3, inner, inner)}
        ),
        "wmt_en_fr": Preset(
            "PRIME, README of the release, WMT En-Fr", {**big, **_dropouts(0.1, 0.1, 0.1)}
        ),
    }


_NORM = "encoder_attn_layer_norm of every decoder layer; "
_UNTIED, _TIED = {"share_all_embeddings": False}, {"share_all_embeddings": True}


def _count(
    size: str, types: tuple[int, int], parameters: int, unused: int, why: str, **options: Any
) -> PublishedCount:
    return PublishedCount(
        size, *types, parameters, without_gradient=unused, why=_NORM + why, options=options
    )


_DE_EN, _EN_FR, _EN_DE = (8848, 6632), (44512, 44512), (32768, 32768)
PUBLISHED_SIMPLE = (
    _count("iwslt_de_en", _DE_EN, 43_991_040, 9_216, "release, built", **_UNTIED),
    _count(
        "iwslt_de_en",
        _DE_EN,
        42_852_352,
        6_144,
        "release, built at 6 x 512",
        **_UNTIED,
        **_size(512, 1024, 4, layers=6),
    ),
    _count("wmt_en_fr", _EN_FR, 232_624_128, 18_432, "release, built", **_TIED),
    _count("wmt_en_de_big", _EN_DE, 223_604_736, 18_432, "release, built", **_TIED),
)
PUBLISHED = (
    _count("iwslt_de_en", _DE_EN, 48_193_584, 9_216, "training log", **_UNTIED),
    _count(
        "iwslt_de_en",
        _DE_EN,
        45_646_896,
        9_216,
        "release, built with a tied output",
        **_UNTIED,
        share_decoder_input_output_embed=True,
    ),
    _count("wmt_en_fr", _EN_FR, 252_088_368, 18_432, "training log", **_TIED),
    _count("wmt_en_de_big", _EN_DE, 243_068_976, 18_432, "release, built", **_TIED),
)

# Padding in the release: source positions keep their embedding, targets see padding like any token.
# No option brings back: softmaxes of taps and gate in half precision, which only round more; taps
# cut before their softmax where a causal kernel exceeds a target of more than 512 tokens, wider
# than any it has; initialisations other than its default (xavier, fixup, xi), which no recipe uses.
_OFFICIAL = {"source_padding_visible": True, "target_padding_visible": True}

VARIANTS = (
    Variant(
        "muse_simple",
        "parallel attention and feed-forward (MUSE-simple, PRIME)",
        MuseSimpleConfig,
        _simple_encoder_layer,
        _simple_decoder_layer,
        # its recipe for WMT En-De has no other dropout
        presets=_presets(tiny_ffn=256, base_ffn=1536, big_inner_dropout=0.0),
        official=_OFFICIAL,
        published=PUBLISHED_SIMPLE,
    ),
    Variant(
        "muse",
        "parallel attention, gated dynamic convolutions and feed-forward (MUSE, PRIME)",
        MuseConfig,
        _encoder_layer,
        _decoder_layer,
        presets=_presets(tiny_ffn=160, base_ffn=1280, big_inner_dropout=0.1),
        # the release drops taps at this rate whatever its --weight-dropout says
        official={**_OFFICIAL, "muse_padding_leaks": True, "weight_dropout": 0.1},
        published=PUBLISHED,
    ),
)
