"""The table of variants: what each brings to the shared stack."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ValidationError
from torch import nn

from seqattn_fairseq.errors import SeqAttnError, nearest
from seqattn_fairseq.transformer.attention import MultiheadAttention, Site
from seqattn_fairseq.transformer.config import SIZES, EncoderDecoderConfig
from seqattn_fairseq.transformer.encoder import Companion
from seqattn_fairseq.transformer.layers import DecoderLayer, EncoderLayer, LayerPlace

# makes the attention of one site from the configuration
MakeAttention = Callable[[Any, Site], MultiheadAttention]


# makes one layer of a side (an EncoderBlock or a DecoderBlock)
MakeLayer = Callable[[Any, LayerPlace], nn.Module]


@dataclass(frozen=True)
class Preset:
    """What a variant sets at one size, over the shared table of sizes.

    Attributes:
        source: the paper that defines it, or "ours".
        options: option -> value.
    """

    source: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedCount:
    """A number of parameters that a paper, log or official code gives, to compare ours with.

    Attributes:
        size: the preset.
        source_types: size of the source dictionary.
        target_types: size of the target dictionary; equal and shared where the preset ties all.
        parameters: the published number.
        rounding: unit the number is rounded to.
        without_gradient: official parameters among them that never get a gradient; ours has none.
        why: what those are, and where the number is from.
        options: further options of the configuration that was counted.
    """

    size: str
    source_types: int
    target_types: int
    parameters: int
    rounding: int = 1
    without_gradient: int = 0
    why: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """One attention variant.

    Attributes:
        name: the word used everywhere: ``seqattn_<name>``, ``variant=<name>``.
        summary: one line for lists of variants.
        config: its options, a subclass of :class:`EncoderDecoderConfig`.
        encoder_layer: makes one encoder layer from the configuration and its place.
        decoder_layer: makes one decoder layer from the configuration and its place.
        presets: size -> what the variant sets there; a size not named is the shared one, ours.
        official: option -> value, what ``official=true`` sets: the conventions and defects of the
            official code that are not the default here.
        companion: makes the module of the second sequence that its layers carry, if they do, from
            the configuration and whether the decoder reads it.
        published: numbers of parameters to compare ours with.
        sides: for a variant made of two, the variants of encoder and decoder.
    """

    name: str
    summary: str
    config: type[EncoderDecoderConfig]
    encoder_layer: MakeLayer
    decoder_layer: MakeLayer
    presets: Mapping[str, Preset] = field(default_factory=dict)
    official: Mapping[str, Any] = field(default_factory=dict)
    companion: Callable[[Any, bool], Companion] | None = None
    published: tuple[PublishedCount, ...] = ()
    sides: Callable[[Any], tuple[Variant, Variant]] | None = None

    def encoder_and_decoder(self, cfg: Any) -> tuple[Variant, Variant]:
        """Return the variants of the two sides: this one, unless it is made of two."""
        return (self, self) if self.sides is None else self.sides(cfg)

    def preset(self, size: str) -> Preset:
        """Return the preset of a size."""
        return self.presets.get(size, Preset("ours"))

    def options(self, size: str) -> dict[str, Any]:
        """Return every option that a size sets for this variant."""
        return {**SIZES[size], **self.preset(size).options}


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


def resolve_official(cfg: Any, variants: tuple[Variant, ...]) -> Any:
    """Return the configuration with what ``official=true`` stands for, if it is set."""
    if not cfg.official:
        return cfg
    resolved = copy.deepcopy(cfg)
    for variant in variants:
        for name, value in variant.official.items():
            setattr(resolved, name, value)
    return resolved


def make_config(variant: str, size: str = "wmt_en_de", **options: Any) -> EncoderDecoderConfig:
    """Return the configuration of a variant at a size, with further options set.

    Raises:
        SeqAttnError: unknown variant, size or option (names the nearest), or a value of the wrong
            kind.
    """
    if size not in SIZES:
        raise SeqAttnError(f"unknown size '{size}'{nearest(size, SIZES)}")
    found = get_variant(variant)
    config = found.config
    known = [name for name in vars(config()) if not name.startswith("_")]
    for name in options:
        if name not in known:
            raise SeqAttnError(f"{variant} has no option '{name}'{nearest(name, known)}")
    try:
        typed = OmegaConf.merge(OmegaConf.structured(config), found.options(size), options)
    except ValidationError as error:
        line = str(error).partition("\n")[0]
        raise SeqAttnError(f"{variant}, option '{error.full_key}': {line}") from error
    values = OmegaConf.to_container(typed, enum_to_str=True)
    assert isinstance(values, dict)
    return config(**{name: values[name] for name in known})


def attention_variant(
    name: str,
    summary: str,
    config: type[EncoderDecoderConfig],
    make: MakeAttention,
    **fields: Any,
) -> Variant:
    """Return a variant whose layers are the standard ones around its own attention.

    ``fields`` are further attributes of :class:`Variant`.
    """

    def encoder_layer(cfg: EncoderDecoderConfig, _: LayerPlace) -> nn.Module:
        return EncoderLayer(cfg, make(cfg, Site.ENCODER_SELF))

    def decoder_layer(cfg: EncoderDecoderConfig, _: LayerPlace) -> nn.Module:
        return DecoderLayer(cfg, make(cfg, Site.DECODER_SELF), make(cfg, Site.CROSS))

    return Variant(name, summary, config, encoder_layer, decoder_layer, **fields)
