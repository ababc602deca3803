"""What all forks of fairseq have in common: embeddings, buffers, names of arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from seqattn_fairseq.official.conversion import Keys, OfficialModel
from seqattn_fairseq.transformer.config import SIDES, EncoderDecoderConfig

_SHARED = frozenset(f.name for f in fields(EncoderDecoderConfig) if not f.name.startswith("_"))
# what a checkpoint's arguments say of a file, or of layers pruned away, that are not here
_NOT_TAKEN = {
    "official",
    *(f"{side}_{name}" for side in SIDES for name in ("embed_path", "layers_to_keep")),
}
# by side, the option that limits its length
LIMITS = dict(zip(SIDES, ("max_source_positions", "max_target_positions"), strict=True))
_POSITIONS = "embed_positions.weight"
_OUTPUTS = ("decoder.output_projection.weight", "decoder.embed_out")


def shared_options(model: OfficialModel) -> dict[str, Any]:
    """Return the options of the shared stack that the official arguments and shapes tell.

    Widths, numbers of layers and learned positions are read off the tensors, the rest off the
    arguments; one that is missing or None stays at our default, which is fairseq's.
    """
    options: dict[str, Any] = {}
    for name, value in model.options.items():
        if name in _SHARED - _NOT_TAKEN and value is not None and not isinstance(value, dict):
            options[name] = value
    # newer arguments may hold both names, one of them 0
    rate = model.options.get("activation_dropout") or model.options.get("relu_dropout")
    options["activation_dropout"] = float(rate or 0.0)
    for side in SIDES:
        options[f"{side}_embed_dim"] = model.state[f"{side}.embed_tokens.weight"].size(1)
        options[f"{side}_layers"] = count_layers(model.state, side)
        learned = model.state.get(f"{side}.{_POSITIONS}")
        options[f"{side}_learned_pos"] = learned is not None
        if learned is not None:  # rows: those up to padding, then one a position
            options[LIMITS[side]] = learned.size(0) - 2
    return options


def place_positions(keys: Keys) -> None:
    """Place learned positions, where there are any."""
    for side in SIDES:
        if f"{side}.{_POSITIONS}" in keys:
            keys.move(f"{side}.{_POSITIONS}")


def count_layers(state: Mapping[str, Tensor], side: str) -> int:
    """Return the number of layers of a side."""
    pattern = re.compile(rf"{side}\.layers\.(\d+)\.")
    return 1 + max((int(m[1]) for name in state if (m := pattern.match(name))), default=-1)


def place_embeddings(keys: Keys, options: Mapping[str, Any]) -> None:
    """Place both embeddings and the output projection, tied as the options say; drop buffers."""
    tied_sides = bool(options.get("share_all_embeddings"))
    tied_output = tied_sides or bool(options.get("share_decoder_input_output_embed"))
    keys.move("encoder.embed_tokens.weight")
    if tied_sides:
        keys.ours["decoder.embed_tokens.weight"] = keys.ours["encoder.embed_tokens.weight"]
        keys.drop_tied("decoder.embed_tokens.weight", "encoder.embed_tokens.weight")
    else:
        keys.move("decoder.embed_tokens.weight")
    if tied_output:
        keys.ours[_OUTPUTS[0]] = keys.ours["decoder.embed_tokens.weight"]
        for name in _OUTPUTS:
            keys.drop_tied(name, "decoder.embed_tokens.weight")
    else:
        keys.move(next((n for n in _OUTPUTS if n in keys), _OUTPUTS[0]), _OUTPUTS[0])
    drop_buffers(keys)


def drop_buffers(keys: Keys) -> None:
    """Drop fairseq's buffers that hold nothing."""
    for side in SIDES:
        keys.drop(f"{side}.version", "a version number")
        keys.drop(f"{side}.embed_positions._float_tensor", "an empty buffer")
    for name in keys.names():
        if name.endswith("._float_tensor"):
            keys.drop(name, "an empty buffer")


def place_optional_norms(keys: Keys) -> None:
    """Place the norms of embeddings and stacks that only some options create."""
    for side in SIDES:
        for norm in (f"{side}.layernorm_embedding", f"{side}.layer_norm"):
            if f"{norm}.weight" in keys:
                keys.module(norm, norm)


def split_in_projection(keys: Keys, official: str, ours: str) -> None:
    """Place ``in_proj_weight`` and ``in_proj_bias`` (rows q, k, v) as three projections."""
    for leaf, name in (("weight", "in_proj_weight"), ("bias", "in_proj_bias")):
        parts = keys.take(f"{official}.{name}").chunk(3)
        for projection, part in zip("qkv", parts, strict=True):
            keys.ours[f"{ours}.{projection}_proj.{leaf}"] = part


def place_attention(keys: Keys, official: str, ours: str) -> None:
    """Place fairseq's multi-head attention, its input projections fused (before 0.8) or apart."""
    if f"{official}.in_proj_weight" in keys:
        split_in_projection(keys, official, ours)
    else:
        for projection in "qkv":
            keys.module(f"{official}.{projection}_proj", f"{ours}.{projection}_proj")
    keys.module(f"{official}.out_proj", f"{ours}.out_proj")
