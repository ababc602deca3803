"""The table of variants: what each brings to the shared stack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ValidationError
from torch import nn

from seqattn_fairseq.errors import SeqAttnError, nearest
from seqattn_fairseq.transformer.attention import MultiheadAttention, Site
from seqattn_fairseq.transformer.config import SIZES, EncoderDecoderConfig
from seqattn_fairseq.transformer.layers import DecoderLayer, EncoderLayer

# makes the attention of one site from the configuration
MakeAttention = Callable[[Any, Site], MultiheadAttention]


@dataclass(frozen=True)
class Variant:
    """One attention variant.

    Attributes:
        name: the word used everywhere: ``seqattn_<name>``, ``variant=<name>``.
        summary: one line for lists of variants.
        config: its options, a subclass of :class:`EncoderDecoderConfig`.
        encoder_layer: makes one encoder layer from the configuration.
        decoder_layer: makes one decoder layer from the configuration.
    """

    name: str
    summary: str
    config: type[EncoderDecoderConfig]
    encoder_layer: Callable[[Any], nn.Module]
    decoder_layer: Callable[[Any], nn.Module]


VARIANTS: dict[str, Variant] = {}


def add_variant(variant: Variant) -> None:
    """Add a variant to the table."""
    VARIANTS[variant.name] = variant


def get_variant(name: str) -> Variant:
    """Return the variant of that name.

    Raises:
        SeqAttnError: no such variant; names the nearest.
    """
    if name not in VARIANTS:
        raise SeqAttnError(f"unknown variant '{name}'{nearest(name, VARIANTS)}")
    return VARIANTS[name]


def make_config(variant: str, size: str = "wmt_en_de", **options: Any) -> EncoderDecoderConfig:
    """Return the configuration of a variant at a size, with further options set.

    Raises:
        SeqAttnError: unknown variant, size or option (names the nearest), or a value of the wrong
            kind.
    """
    if size not in SIZES:
        raise SeqAttnError(f"unknown size '{size}'{nearest(size, SIZES)}")
    config = get_variant(variant).config
    known = [name for name in vars(config()) if not name.startswith("_")]
    for name in options:
        if name not in known:
            raise SeqAttnError(f"{variant} has no option '{name}'{nearest(name, known)}")
    try:
        typed = OmegaConf.merge(OmegaConf.structured(config), dict(SIZES[size]), options)
    except ValidationError as error:
        line = str(error).partition("\n")[0]
        raise SeqAttnError(f"{variant}, option '{error.full_key}': {line}") from error
    values = OmegaConf.to_container(typed, enum_to_str=True)
    assert isinstance(values, dict)
    return config(**{name: values[name] for name in known})


def attention_variant(
    name: str, summary: str, config: type[EncoderDecoderConfig], make: MakeAttention
) -> Variant:
    """Return a variant whose layers are the standard ones around its own attention."""

    def encoder_layer(cfg: EncoderDecoderConfig) -> nn.Module:
        return EncoderLayer(cfg, make(cfg, Site.ENCODER_SELF))

    def decoder_layer(cfg: EncoderDecoderConfig) -> nn.Module:
        return DecoderLayer(cfg, make(cfg, Site.DECODER_SELF), make(cfg, Site.CROSS))

    return Variant(name, summary, config, encoder_layer, decoder_layer)
