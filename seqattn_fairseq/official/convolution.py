"""LightConv and DynamicConv models of fairseq (Wu et al. 2019): the releases' and main's.

The releases (to 0.12.2) name the encoder's norms ``layer_norms.0`` and ``.1`` and the output matrix
``embed_out``; the main branch since October 2022 renamed both, loads no older file, trains a
DynamicConv decoder whose softmax depends on the batch's length, and saves an uninitialised vector
with every DynamicConv.

Shapes: H heads, K taps, c convolved channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from seqattn_fairseq.official.conversion import Conversion, Keys, OfficialModel, Origin
from seqattn_fairseq.official.fairseq_parts import (
    count_layers,
    place_attention,
    place_embeddings,
    place_optional_norms,
    place_positions,
    shared_options,
)
from seqattn_fairseq.transformer.config import SIDES, EncoderDecoderConfig
from seqattn_fairseq.variants.convolution import VARIANTS, ConvolutionConfig

VARIANT_OF_TYPE = {"lightweight": "lightconv", "dynamic": "dynamicconv"}

_OWN = {f.name for f in fields(ConvolutionConfig)} - {f.name for f in fields(EncoderDecoderConfig)}
_SWITCHES = ("encoder_glu", "decoder_glu", "weight_softmax")
_UNUSED_BIAS = "never used and never initialised by fairseq's main branch"


def own_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variants' own options that the official arguments tell."""
    told = {k: v for k, v in arguments.items() if k in _OWN and v is not None}
    return {k: int(v) if k in _SWITCHES else v for k, v in told.items()}


def place_convolution(keys: Keys, official: str, ours: str) -> None:
    """Place the weights of one convolution; LightConv's are (H, 1, K), or (H, K) from CUDA."""
    if f"{official}weight" in keys:
        keys.ours[f"{ours}weight"] = keys.take(f"{official}weight").flatten(1)
        return
    for name in keys.names(f"{official}weight_linear."):
        keys.move(name, ours + name.removeprefix(official))
    keys.drop(f"{official}conv_bias", _UNUSED_BIAS)


def place_layer(keys: Keys, official: str, ours: str, side: str) -> None:
    """Place one layer; the names are prefixes, empty or ending in a dot."""
    place_convolution(keys, f"{official}conv.", f"{ours}self_conv.conv.")
    for name in ("linear1", "linear2"):
        keys.module(f"{official}{name}", f"{ours}self_conv.{name}")
    for name in ("fc1", "fc2"):
        keys.module(f"{official}{name}", f"{ours}{name}")
    if side == "encoder":
        older = f"{official}layer_norms.0.weight" in keys
        first, last = (
            ("layer_norms.0", "layer_norms.1") if older else ("layer_norm1", "layer_norm2")
        )
    else:
        first, last = "conv_layer_norm", "final_layer_norm"
        place_attention(keys, f"{official}encoder_attn", f"{ours}encoder_attn")
        keys.module(f"{official}encoder_attn_layer_norm", f"{ours}encoder_attn_layer_norm")
    keys.module(f"{official}{first}", f"{ours}self_conv_layer_norm")
    keys.module(f"{official}{last}", f"{ours}final_layer_norm")


def _side_variant(model: OfficialModel, side: str) -> str:
    light = f"{side}.layers.0.conv.weight" in model.state
    return VARIANT_OF_TYPE["lightweight" if light else "dynamic"]


def _taps(model: OfficialModel, side: str) -> tuple[int, list[int], bool]:
    """Return the heads of a side, the taps of each layer, and whether CUDA's layer shaped them."""
    layers = [f"{side}.layers.{index}.conv." for index in range(count_layers(model.state, side))]
    if _side_variant(model, side) == "lightconv":
        weights = [model.state[f"{layer}weight"] for layer in layers]
        return weights[0].size(0), [w.size(-1) for w in weights], weights[0].dim() == 2
    heads = int(model.option(f"{side}_attention_heads"))
    rows = [model.state[f"{layer}weight_linear.weight"].size(0) for layer in layers]
    return heads, [count // heads for count in rows], False


def _side_options(model: OfficialModel, side: str) -> dict[str, Any]:
    """Return what the names and shapes of a side tell."""
    state, first = model.state, f"{side}.layers.0"
    channels = state[f"{first}.linear2.weight"].size(1)
    heads, sizes, _ = _taps(model, side)
    return {
        f"{side}_conv_dim": channels,
        f"{side}_glu": int(state[f"{first}.linear1.weight"].size(0) == 2 * channels),
        f"{side}_ffn_embed_dim": state[f"{first}.fc1.weight"].size(0),
        f"{side}_attention_heads": heads,
        f"{side}_kernel_size_list": sizes,
        f"{side}_normalize_before": f"{side}.layer_norm.weight" in state,
    }


def _options(model: OfficialModel) -> dict[str, Any]:
    options = {**shared_options(model), **own_options(model.options), **VARIANTS[0].official}
    for side in SIDES:
        options |= _side_options(model, side)
    options["conv_shared_dropconnect"] = any(_taps(model, side)[2] for side in SIDES)
    # main's DynamicConv cannot be told from a release's but by the vector that it alone saves
    options["conv_head_training"] = any(
        name.startswith("decoder.") and name.endswith(".conv.conv_bias") for name in model.state
    )
    return options


def _convert(model: OfficialModel) -> Conversion:
    options, keys = _options(model), Keys(model.state)
    outputs = ("decoder.embed_out", "decoder.output_projection.weight")
    if not any(name in keys for name in outputs):
        options.setdefault("share_decoder_input_output_embed", True)
    place_embeddings(keys, options)
    place_optional_norms(keys)
    place_positions(keys)
    for side in SIDES:
        for index in range(count_layers(model.state, side)):
            layer = f"{side}.layers.{index}."
            place_layer(keys, layer, layer, side)
    encoder, decoder = (_side_variant(model, side) for side in SIDES)
    if encoder != decoder:
        options |= {"encoder_variant": encoder, "decoder_variant": decoder}
    variant = encoder if encoder == decoder else "hybrid"
    return Conversion(variant, options, keys.finish(), keys.dropped)


ORIGINS = (
    Origin(
        "LightConv or DynamicConv of fairseq 0.6 to 0.12.2",
        lambda model: model.has(".conv.", ".linear1.", ".layer_norms."),
        _convert,
    ),
    Origin(
        "LightConv or DynamicConv of fairseq's main branch since October 2022",
        lambda model: model.has(".conv.", ".linear1.", ".layer_norm1."),
        _convert,
    ),
)
