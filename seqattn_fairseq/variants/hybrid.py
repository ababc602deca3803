"""``hybrid``: one variant in the encoder, another in the decoder.

Its options are those of all variants, at the shared sizes; each side reads its own. A variant that
carries a companion sequence (Luna) makes it in the encoder, whichever side it stands on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, field, fields, make_dataclass
from typing import Any

from fairseq.dataclass import ChoiceEnum
from torch import nn

from seqattn_fairseq.transformer.config import SIDES, EncoderDecoderConfig, option
from seqattn_fairseq.transformer.layers import LayerPlace
from seqattn_fairseq.transformer.registry import Variant, get_variant


def _copied(original: Field[Any]) -> Any:
    return field(default=original.default, metadata=dict(original.metadata))


def hybrid_config(variants: Sequence[Variant]) -> type[EncoderDecoderConfig]:
    """Return the configuration with every option of the given variants.

    An option of several variants has the default of the first.
    """
    shared = {f.name for f in fields(EncoderDecoderConfig)}
    own: dict[str, tuple[str, Any, Any]] = {}
    for variant in variants:
        for f in fields(variant.config):
            if f.name not in shared:
                own.setdefault(f.name, (f.name, f.type, _copied(f)))
    names = ChoiceEnum([variant.name for variant in variants])
    sides = [
        (f"{side}_variant", names, option("softmax", f"variant of the {side}")) for side in SIDES
    ]
    made = make_dataclass(
        "HybridConfig",
        [*sides, *own.values()],
        bases=(EncoderDecoderConfig,),
        namespace={"__doc__": __doc__, "__module__": __name__},
    )
    globals()[made.__name__] = made  # where pickle looks for it
    return made


def _sides(cfg: Any) -> tuple[Variant, Variant]:
    return get_variant(str(cfg.encoder_variant)), get_variant(str(cfg.decoder_variant))


def _encoder_layer(cfg: Any, place: LayerPlace) -> nn.Module:
    return _sides(cfg)[0].encoder_layer(cfg, place)


def _decoder_layer(cfg: Any, place: LayerPlace) -> nn.Module:
    return _sides(cfg)[1].decoder_layer(cfg, place)


def make_hybrid(variants: Sequence[Variant]) -> Variant:
    """Return the variant that combines any two of the given ones."""
    return Variant(
        "hybrid",
        "one variant in the encoder (--encoder-variant), another in the decoder",
        hybrid_config(variants),
        _encoder_layer,
        _decoder_layer,
        sides=_sides,
    )
