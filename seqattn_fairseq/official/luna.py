"""Luna's official code (XuezheMax/fairseq-apollo): its parameters under our names.

Two versions: the one that published the WMT recipe (2021), and the newest (2023), whose LayerNorm
multiplies by weight + 1. Their names are the same; the mean of the norms' weights tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from seqattn_fairseq.official.conversion import Conversion, Keys, OfficialModel, Origin
from seqattn_fairseq.official.fairseq_parts import (
    count_layers,
    place_embeddings,
    place_optional_norms,
    place_positions,
    shared_options,
)
from seqattn_fairseq.transformer.config import SIDES
from seqattn_fairseq.variants.luna import OFFICIAL

_ENCODER_NORM = ("self_atten_proj_layer_norm", "self_attn_proj_layer_norm")
_DECODER_NORM = ("encoder_atten_proj_layer_norm", "encoder_attn_proj_layer_norm")
_NORM_WEIGHT = re.compile(r"(^|\.)\w*layer_?norm\w*\.weight$")
_UNREAD = "normalises a P that nothing reads; never gets a gradient"
_OWN_OPTIONS = (
    "fix_projection_length",
    "encoder_projected_attention_heads",
    "decoder_projected_attention_heads",
    "luna_activation",
)


def norm_weight_offset(state: Mapping[str, Tensor]) -> float:
    """Return what the official code adds to the weights of norms: 1 in the newest, else 0.

    Weights start at 1 in the older version and at 0 in the newest, and stay nearer to that.
    """
    means = [float(t.detach().mean()) for name, t in state.items() if _NORM_WEIGHT.search(name)]
    return 1.0 if means and sum(means) / len(means) < 0.5 else 0.0


def without_offset(state: Mapping[str, Tensor], offset: float) -> dict[str, Tensor]:
    """Return the state with weights of norms as LayerNorm has them: ``offset`` added."""
    return {
        name: tensor + offset if offset and _NORM_WEIGHT.search(name) else tensor
        for name, tensor in state.items()
    }


def place_attention(keys: Keys, official: str, ours: str) -> None:
    """Place the projections of one Luna attention, whichever there are."""
    for name in keys.names(f"{official}."):
        keys.move(name, ours + name[len(official) :])


def place_encoder_layer(keys: Keys, official: str, ours: str) -> None:
    """Place one encoder layer; both are prefixes that end in a dot, or empty."""
    place_attention(keys, f"{official}self_attn", f"{ours}self_attn")
    for module in ("self_attn_layer_norm", "fc1", "fc2", "final_layer_norm"):
        keys.module(official + module, ours + module)
    keys.module(official + _ENCODER_NORM[0], ours + _ENCODER_NORM[1])


def place_decoder_layer(keys: Keys, official: str, ours: str) -> None:
    """Place one decoder layer, except P's norm if it has been dropped."""
    for attention in ("self_attn", "encoder_attn"):
        place_attention(keys, f"{official}{attention}", f"{ours}{attention}")
        keys.module(f"{official}{attention}_layer_norm", f"{ours}{attention}_layer_norm")
    for module in ("fc1", "fc2", "final_layer_norm"):
        keys.module(official + module, ours + module)
    if f"{official}{_DECODER_NORM[0]}.weight" in keys:
        keys.module(official + _DECODER_NORM[0], ours + _DECODER_NORM[1])


def _place_short_sequence(keys: Keys) -> None:
    ours = "encoder.companion"
    keys.move("encoder.projected_embeddings", f"{ours}.projected_embeddings")
    keys.drop("encoder.projected_positions", "a fixed table of sinusoids, made here when needed")
    if "encoder.layernorm_porjected_embedding.weight" in keys:
        norm = f"{ours}.layernorm_projected_embedding"
        keys.module("encoder.layernorm_porjected_embedding", norm)
    if "encoder.proj_layer_norm.weight" in keys:
        keys.module("encoder.proj_layer_norm", f"{ours}.proj_layer_norm")


def _drop_unread(keys: Keys, last: int, pre_norm: bool) -> None:
    for leaf in ("weight", "bias"):
        keys.drop(f"decoder.proj_layer_norm.{leaf}", _UNREAD)
        if not pre_norm:  # a pre-norm layer reads P through this norm
            keys.drop(f"decoder.layers.{last}.{_DECODER_NORM[0]}.{leaf}", _UNREAD)


def _options(model: OfficialModel) -> dict[str, Any]:
    """Return our options: from the arguments, and from names and shapes what these lack."""
    options = shared_options(model)
    state = model.state
    options["projection_length"] = state["encoder.projected_embeddings"].size(0)
    options["untie_luna_kv"] = model.has(".pk_proj.")
    for side in SIDES:
        options[f"{side}_ffn_embed_dim"] = state[f"{side}.layers.0.fc1.weight"].size(0)
        options[f"{side}_normalize_before"] = f"{side}.layer_norm.weight" in state
    options["layernorm_embedding"] = "encoder.layernorm_embedding.weight" in state
    positions = model.has("embed_positions.") or model.has("projected_positions")
    options.setdefault("no_token_positional_embeddings", not positions)
    for name in _OWN_OPTIONS:
        if model.options.get(name) is not None:
            options[name] = model.options[name]
    return {**options, **OFFICIAL}


def _convert(model: OfficialModel, offset: float) -> Conversion:
    options = _options(model)
    keys = Keys(without_offset(model.state, offset))
    place_embeddings(keys, options)
    place_positions(keys)
    place_optional_norms(keys)
    _place_short_sequence(keys)
    layers = {side: count_layers(model.state, side) for side in SIDES}
    _drop_unread(keys, layers["decoder"] - 1, options["decoder_normalize_before"])
    for side, place in zip(SIDES, (place_encoder_layer, place_decoder_layer), strict=True):
        for index in range(layers[side]):
            prefix = f"{side}.layers.{index}."
            place(keys, prefix, prefix)
    return Conversion("luna", options, keys.finish(), keys.dropped)


def _is_luna(model: OfficialModel, offset: float) -> bool:
    own = "encoder.projected_embeddings" in model.state and model.has(_DECODER_NORM[0])
    return own and norm_weight_offset(model.state) == offset


ORIGINS: tuple[Origin, ...] = tuple(
    Origin(
        f"fairseq-apollo, Luna, {version}",
        partial(_is_luna, offset=offset),
        partial(_convert, offset=offset),
        untold=("encoder_attention_heads", "decoder_attention_heads"),
    )
    for version, offset in (("2021", 0.0), ("2023: LayerNorm weights less 1", 1.0))
)
