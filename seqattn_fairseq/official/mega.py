"""The release of Mega (facebookresearch/mega, a fork of fairseq 0.10): its translation models.

Our parameters are named as its are, except that its norms are wrapped (``norm.norm.weight``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.official.conversion import Conversion, Keys, OfficialModel, Origin
from seqattn_fairseq.official.fairseq_parts import (
    LIMITS,
    drop_buffers,
    place_embeddings,
    shared_options,
)
from seqattn_fairseq.transformer.config import SIDES
from seqattn_fairseq.variants.mega import OFFICIAL

# its stacks' norms, by our names
_STACK_NORMS = {"final_norm": "layer_norm", "embed_norm": "layernorm_embedding"}
# what an argument is that the checkpoint does not hold
_DEFAULTS = {
    "activation_fn": "silu",
    "attention_activation_fn": "softmax",
    "hidden_dropout": 0.0,
    "feature_dropout": False,
    "truncation_length": 1024,
    "encoder_chunk_size": -1,
}
_OUR_NAMES = {"activation_fn": "mega_activation_fn"}


def place_part(keys: Keys, official: str = "", ours: str = "") -> None:
    """Place everything whose name begins with ``official``: a unit, a layer or all layers."""
    drop_buffers(keys)
    for name in keys.names(official):
        if name.endswith("running_mean"):
            raise SeqAttnError("batch normalisation: only layernorm, scalenorm, rmsnorm are here")
        keys.move(name, ours + name.removeprefix(official).replace("norm.norm.", "norm."))


def norm_type(state: Mapping[str, Tensor]) -> str:
    """Return the type of the norms in a state dict, as ``--norm-type`` has it."""
    leaves = {name.rpartition(".")[2] for name in state if "norm.norm." in name}
    if "scalar" in leaves:
        return "scalenorm"
    return "layernorm" if "bias" in leaves else "rmsnorm"


def bias_type(state: Mapping[str, Tensor]) -> str:
    """Return the type of the distance biases in a state dict, as ``--rel-pos-bias`` has it."""
    return "rotary" if any(name.endswith("rel_pos_bias.alpha") for name in state) else "simple"


def _side_options(model: OfficialModel, side: str) -> dict[str, Any]:
    state, layer = model.state, f"{side}.layers.0"
    feed_forward = state.get(f"{layer}.nffn.fc1.weight")
    options = {
        "attention_heads": 1,
        "hidden_dim": state[f"{layer}.mega_layer.v_proj.weight"].size(0),
        "z_dim": state[f"{layer}.mega_layer.gamma"].size(1),
        "n_dim": state[f"{layer}.mega_layer.move.gamma"].size(1),
        "ffn_embed_dim": 0 if feed_forward is None else feed_forward.size(0),
        "normalize_before": model.has(f"{side}.final_norm."),
    }
    return {f"{side}_{name}": value for name, value in options.items()}


def _longest(model: OfficialModel, unit: str) -> int | None:
    """Return the longest sequence that the simple bias of a unit has distances for."""
    bias = model.state.get(f"{unit}.rel_pos_bias.rel_pos_bias")
    return None if bias is None else (bias.numel() + 1) // 2


def _limits(model: OfficialModel, options: Mapping[str, Any]) -> dict[str, int]:
    """Return the limits of both sides, as far as simple biases tell them.

    Self-attention over whole sequences tells its side's; in chunks it tells the chunk. What the
    cross-attention tells is the larger of both limits.
    """
    either = _longest(model, "decoder.layers.0.cross_attn")
    if either is None:
        return {}
    told, open_sides = {}, []
    for side, limit in LIMITS.items():
        longest = _longest(model, f"{side}.layers.0.mega_layer")
        if longest is None or options[f"{side}_chunk_size"] > 0:
            open_sides.append(limit)
        else:
            told[limit] = longest
    found = {**told, **{limit: min(options.get(limit, either), either) for limit in open_sides}}
    if max(found.values()) < either:  # the arguments are missing or of another model
        found.update(dict.fromkeys(open_sides, either))
    return found


def _options(model: OfficialModel) -> dict[str, Any]:
    options = shared_options(model)
    for name, default in _DEFAULTS.items():
        options.pop(name, None)
        options[_OUR_NAMES.get(name, name)] = model.options.get(name, default)
    chunk = model.options.get("decoder_chunk_size")
    options["decoder_chunk_size"] = options["encoder_chunk_size"] if chunk is None else chunk
    options["norm_type"] = norm_type(model.state)
    options["rel_pos_bias"] = bias_type(model.state)
    options["layernorm_embedding"] = model.has("encoder.embed_norm.")
    # the stacks add none, whatever the checkpoint's arguments say
    options["no_token_positional_embeddings"] = True
    for side in SIDES:
        options |= _side_options(model, side)
    return {**options, **_limits(model, options), **OFFICIAL}


def convert(model: OfficialModel) -> Conversion:
    """Return a translation model of the release in our terms.

    Raises:
        SeqAttnError: parameters that its models do not have.
    """
    keys, options = Keys(model.state), _options(model)
    place_embeddings(keys, options)
    for side in SIDES:
        for theirs, ours in _STACK_NORMS.items():
            place_part(keys, f"{side}.{theirs}.norm.", f"{side}.{ours}.")
        place_part(keys, f"{side}.layers.", f"{side}.layers.")
    chunked = all(options[f"{side}_chunk_size"] > 0 for side in SIDES)
    variant = "mega_chunk" if chunked else "mega"
    return Conversion(variant, options, keys.finish(), keys.dropped)


def _recognises(model: OfficialModel) -> bool:
    return model.has(".mega_layer.move.delta", ".cross_attn.q_proj.", "encoder.embed_tokens.")


ORIGINS = (
    Origin(
        "Mega (facebookresearch/mega)",
        _recognises,
        convert,
        untold=("attention_activation_fn", "encoder_chunk_size"),
    ),
)
