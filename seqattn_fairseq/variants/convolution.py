"""``lightconv`` and ``dynamicconv``: convolutions in place of self-attention (Wu et al. 2019).

Each channel is convolved with the taps of its head, a softmax over K weights: learned ones
(LightConv), or a linear map of the current position (DynamicConv). Cross-attention is softmax.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from torch import nn

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.transformer.attention import Site
from seqattn_fairseq.transformer.config import (
    EncoderDecoderConfig,
    check_probability,
    check_within_positions,
    option,
)
from seqattn_fairseq.transformer.layers import LayerPlace
from seqattn_fairseq.transformer.registry import Preset, PublishedCount, Variant
from seqattn_fairseq.variants.convolution_layers import (
    ConvolutionDecoderLayer,
    ConvolutionEncoderLayer,
    ConvolutionMixer,
    DynamicConvolution,
    LightweightConvolution,
    TapRules,
)

_KERNELS_HELP = (
    'taps of each {} layer, as "[3,7,15,31]"; one number is repeated; default: 3, 7, 15, and 31 '
    "for all further layers, as in the paper"
)


@dataclass
class ConvolutionConfig(EncoderDecoderConfig):
    """The Transformer with convolutions in place of self-attention."""

    encoder_kernel_size_list: Any = option(None, _KERNELS_HELP.format("encoder"))
    decoder_kernel_size_list: Any = option(None, _KERNELS_HELP.format("decoder"))
    encoder_conv_dim: Optional[int] = option(  # noqa: UP045 fairseq's parser needs Optional
        None, "channels that an encoder layer convolves; default: --encoder-embed-dim"
    )
    decoder_conv_dim: Optional[int] = option(  # noqa: UP045
        None, "channels that a decoder layer convolves; default: --decoder-embed-dim"
    )
    encoder_glu: int = option(1, "1: gated linear unit before the encoder's convolutions; 0: none")
    decoder_glu: int = option(1, "1: gated linear unit before the decoder's convolutions; 0: none")
    weight_softmax: int = option(1, "1: softmax over the taps; 0: none")
    weight_dropout: Optional[float] = option(  # noqa: UP045
        None,
        "dropout of normalised convolution taps (DropConnect); default: --attention-dropout, for "
        "muse 0.1",
    )
    input_dropout: float = option(
        0.0, "dropout of the input of self-attention and convolutions (0.1 in the WMT recipes)"
    )
    renorm_padding: bool = option(
        False, "softmax only over taps that fall inside the sentence; the release's models do not"
    )
    conv_shared_dropconnect: bool = option(
        False,
        "lightconv: one mask of --weight-dropout for the whole batch, as the release's CUDA layer "
        "draws; official=true follows its PyTorch layer and does not set this",
    )
    conv_head_training: bool = option(
        False,
        "dynamicconv decoder: with fewer positions than taps the whole pass (training, scoring) "
        "softmaxes over the last T taps only, unlike decoding, and so depends on the batch: "
        "fairseq's main branch since October 2022; official=true follows the releases (to 0.12.2) "
        "and does not set this",
    )


_PAPER_KERNELS = (3, 7, 15, 31)


def kernel_sizes(value: Any, layers: int, flag: str) -> list[int]:
    """Return the number of taps of each layer.

    Args:
        value: a list, its text ("[3,7]", brackets optional), or None for the paper's.
        layers: number of layers of the side.
        flag: name of the option, for messages.

    Raises:
        SeqAttnError: not such a list, or one of another length than 1 or ``layers``.
    """
    if value is None:
        return [_PAPER_KERNELS[min(i, len(_PAPER_KERNELS) - 1)] for i in range(layers)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        items = [str(item) for item in value]
    else:
        items = [item.strip() for item in str(value).strip("[]() ").split(",")]
    if not all(item.isdecimal() and int(item) for item in items):
        raise SeqAttnError(f"{flag} {value}: must be positive numbers, as [3,7,15,31]")
    if len(items) not in {1, layers}:
        raise SeqAttnError(
            f"{flag} {value}: {len(items)} numbers for {layers} layers; give 1 or {layers}"
        )
    return [int(item) for item in items] * (layers if len(items) == 1 else 1)


def _switch(cfg: ConvolutionConfig, name: str) -> bool:
    value = getattr(cfg, name)
    if value not in {0, 1}:
        raise SeqAttnError(f"--{name.replace('_', '-')} is {value}, but must be 0 or 1")
    return bool(value)


def _rules(cfg: ConvolutionConfig) -> TapRules:
    dropout = cfg.attention_dropout if cfg.weight_dropout is None else cfg.weight_dropout
    check_probability("weight_dropout", dropout)
    check_probability("input_dropout", cfg.input_dropout)
    softmax = _switch(cfg, "weight_softmax")
    if cfg.renorm_padding and not softmax:
        raise SeqAttnError("--renorm-padding needs --weight-softmax 1")
    return TapRules(
        softmax,
        dropout,
        cfg.conv_shared_dropconnect,
        cfg.renorm_padding,
        cfg.conv_head_training,
    )


def _channels(cfg: ConvolutionConfig, side: str) -> int:
    channels = getattr(cfg, f"{side}_conv_dim")
    channels = getattr(cfg, f"{side}_embed_dim") if channels is None else int(channels)
    heads = getattr(cfg, f"{side}_attention_heads")
    if channels < 1 or channels % heads:
        raise SeqAttnError(
            f"--{side}-conv-dim {channels} must be a multiple of --{side}-attention-heads {heads}"
        )
    return channels


def _make_mixer(
    cfg: ConvolutionConfig, side: str, place: LayerPlace, dynamic: bool
) -> ConvolutionMixer:
    flag = f"--{side}-kernel-size-list"
    sizes = kernel_sizes(getattr(cfg, f"{side}_kernel_size_list"), place.layers, flag)
    size, channels, rules = sizes[place.index], _channels(cfg, side), _rules(cfg)
    check_within_positions(cfg, side, f"a kernel of {size} taps ({flag})", size)
    causal = side == "decoder"
    # an even number of taps has one more on the right
    left = size - 1 if causal else (size - 1) // 2
    heads = getattr(cfg, f"{side}_attention_heads")
    rules = replace(
        rules,
        shared_dropout=rules.shared_dropout and not dynamic,
        short_softmax=rules.short_softmax and dynamic,
    )
    made = DynamicConvolution if dynamic else LightweightConvolution
    return ConvolutionMixer(
        Site.DECODER_SELF if causal else Site.ENCODER_SELF,
        getattr(cfg, f"{side}_embed_dim"),
        channels,
        _switch(cfg, f"{side}_glu"),
        cfg.input_dropout,
        made(channels, heads, size, left, rules),
    )


_DEPTH = {"encoder_layers": 7, "decoder_layers": 6}
_WMT = {**_DEPTH, "input_dropout": 0.1}
_PLAIN = {"encoder_glu": 0, "decoder_glu": 0}
_IWSLT = {**_DEPTH, **_PLAIN, "attention_dropout": 0.1}


def _presets(tiny_ffn: int) -> dict[str, Preset]:
    ffn = {"encoder_ffn_embed_dim": tiny_ffn, "decoder_ffn_embed_dim": tiny_ffn}
    tiny = {**ffn, **_PLAIN}
    big = {**_WMT, "attention_dropout": 0.1}
    paper = "Wu et al. 2019, fairseq's lightconv_"
    return {
        "tiny": Preset(
            "ours: no GLU, as on IWSLT; FFN as wide as softmax's parameters allow", tiny
        ),
        "iwslt_de_en": Preset(f"{paper}iwslt_de_en", _IWSLT),
        "iwslt_en_vi": Preset("ours: as iwslt_de_en", _IWSLT),
        "wmt_en_de": Preset(f"{paper}wmt_en_de (base)", _WMT),
        "wmt_en_de_big": Preset(f"{paper}wmt_en_de_big", big),
        "wmt_en_fr": Preset(f"{paper}wmt_en_fr_big", big),
    }


# size, source and target types (shared if one number), of the official architectures; the
# dictionaries other than En-De's are assumptions that only the counts below share
_COUNTED = (
    ("wmt_en_de_big", (32768,)),
    ("wmt_en_fr", (44512,)),
    ("wmt_en_de_big", (43008, 32768)),  # lightconv_wmt_zh_en_big
    ("iwslt_de_en", (8848, 6632)),
    ("wmt_en_de", (32768,)),
)
# parameters in millions, with GLU and without
_Millions = tuple[tuple[float, float], ...]
_LIGHT: _Millions = (
    (208.87, 195.22),
    (220.89, 207.25),
    (286.46, 272.82),
    (41.55, 38.14),
    (60.66, 57.24),
)
_DYNAMIC: _Millions = (
    (213.24, 199.59),
    (225.26, 211.62),
    (290.83, 277.19),
    (42.10, 38.69),
    (61.75, 58.33),
)


def _published(millions: _Millions) -> tuple[PublishedCount, ...]:
    return tuple(
        PublishedCount(
            size,
            types[0],
            types[-1],
            round(count * 1_000_000),
            rounding=10_000,
            why="counted by running the official code",
            options={
                "encoder_glu": glu,
                "decoder_glu": glu,
                "share_all_embeddings": len(types) == 1,
            },
        )
        for (size, types), counts in zip(_COUNTED, millions, strict=True)
        for glu, count in zip((1, 0), counts, strict=True)
    )


# A decoder without target padding mask: padding on the left would enter its windows. Not set, as
# other versions of the code than the releases have it: --conv-head-training (the main branch) and
# --conv-shared-dropconnect (the CUDA layer). No option brings back what nobody can want: zeros
# where the CUDA layer does not support a kernel size, a bias of uninitialised memory that the
# main branch saves.
OFFICIAL = {"target_padding_visible": True}


def _variant(name: str, summary: str, dynamic: bool, tiny_ffn: int, millions: _Millions) -> Variant:
    def encoder_layer(cfg: ConvolutionConfig, place: LayerPlace) -> nn.Module:
        return ConvolutionEncoderLayer(cfg, "encoder", _make_mixer(cfg, "encoder", place, dynamic))

    def decoder_layer(cfg: ConvolutionConfig, place: LayerPlace) -> nn.Module:
        return ConvolutionDecoderLayer(cfg, "decoder", _make_mixer(cfg, "decoder", place, dynamic))

    return Variant(
        name,
        summary,
        ConvolutionConfig,
        encoder_layer,
        decoder_layer,
        presets=_presets(tiny_ffn),
        official=OFFICIAL,
        published=_published(millions),
    )


VARIANTS = (
    _variant(
        "lightconv",
        "lightweight convolutions: each head has one softmax-normalised kernel",
        dynamic=False,
        tiny_ffn=384,
        millions=_LIGHT,
    ),
    _variant(
        "dynamicconv",
        "dynamic convolutions: each position predicts its kernels",
        dynamic=True,
        tiny_ffn=352,
        millions=_DYNAMIC,
    ),
)
