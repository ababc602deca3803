"""Key map of the ReLA release (bzhangGo/zero, a TensorFlow code; commit d97e2c2).

TensorFlow's matrices are (in, out), torch's (out, in). Self-attention has one matrix for queries,
keys and values; embeddings may be one table, two, or three with the output's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.official.conversion import Conversion, Keys, OfficialModel, Origin
from seqattn_fairseq.transformer.config import SIDES
from seqattn_fairseq.variants.rela import RELEASE

# a variable that no other code has
_MARK = "encoder/layer_0/self_attention/dot_attention/post/scale"
_LAYER = re.compile(r"(encoder|decoder)/layer_(\d+)/")
_ATTENTIONS = {"self_attention": "self_attn", "cross_attention": "encoder_attn"}
_DROPOUTS = ("dropout", "attention_dropout", "relu_dropout")  # and ours
_OURS = {"relu_dropout": "activation_dropout"}


def _linear(keys: Keys, official: str, ours: str) -> None:
    """Place a dense map of the release."""
    keys.ours[f"{ours}.weight"] = keys.take(f"{official}/W_0_0").t()
    keys.move(f"{official}/b_0", f"{ours}.bias")


def _joined_projections(keys: Keys, official: str, ours: str) -> None:
    weights = keys.take(f"{official}/W_0_0").chunk(3, dim=1)
    biases = keys.take(f"{official}/b_0").chunk(3)
    for name, weight, bias in zip("qkv", weights, biases, strict=True):
        keys.ours[f"{ours}{name}_proj.weight"] = weight.t()
        keys.ours[f"{ours}{name}_proj.bias"] = bias


def place_attention(keys: Keys, official: str = "", ours: str = "") -> None:
    """Place one rectified linear attention; the prefixes end with "/" and ".", or are empty."""
    if f"{official}qkv_map/W_0_0" in keys:
        _joined_projections(keys, f"{official}qkv_map", ours)
    else:
        for name in "qkv":
            _linear(keys, f"{official}{name}_map", f"{ours}{name}_proj")
    _linear(keys, f"{official}o_map", f"{ours}out_proj")
    keys.move(f"{official}post/scale", f"{ours}attn_norm.weight")
    if f"{official}post/gate" in keys:
        keys.move(f"{official}post/gate", f"{ours}attn_norm.gate")


def _layer_norm(keys: Keys, official: str, ours: str) -> None:
    keys.move(f"{official}/layer_norm/scale", f"{ours}.weight")
    keys.move(f"{official}/layer_norm/offset", f"{ours}.bias")


def _place_layer(keys: Keys, official: str, ours: str) -> None:
    for theirs, name in _ATTENTIONS.items():
        if keys.names(f"{official}{theirs}/"):
            place_attention(keys, f"{official}{theirs}/dot_attention/", f"{ours}{name}.")
            _layer_norm(keys, f"{official}{theirs}", f"{ours}{name}_layer_norm")
    for theirs, name in (("enlarge", "fc1"), ("output", "fc2")):
        _linear(keys, f"{official}feed_forward/ffn_layer/{theirs}", f"{ours}{name}")
    _layer_norm(keys, f"{official}feed_forward", f"{ours}final_layer_norm")


def _place_embeddings(keys: Keys) -> dict[str, bool]:
    """Place the one, two or three tables of embeddings; return how they are tied."""
    shared, output = "embedding" in keys, "softmax_embedding" in keys
    tables = ["embedding"] * 3 if shared else ["src_embedding", "tgt_embedding", "tgt_embedding"]
    if output and not shared:
        tables[2] = "softmax_embedding"
    taken = {name: keys.take(name) for name in dict.fromkeys(tables)}
    ours = [*(f"{side}.embed_tokens.weight" for side in SIDES), "decoder.output_projection.weight"]
    keys.ours.update(zip(ours, (taken[name] for name in tables), strict=True))
    bias = keys.take("bias")
    keys.ours.update({f"{side}.embed_bias": bias for side in SIDES})
    return {
        "share_all_embeddings": shared,
        "share_decoder_input_output_embed": not shared and not output,
    }


def _layers(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the number of layers of each side."""
    found = {(m[1], int(m[2])) for name in state if (m := _LAYER.match(name))}
    return {f"{side}_layers": sum(name == side for name, _ in found) for side in SIDES}


def _one_of(model: OfficialModel, *names: str) -> Any:
    """Return an argument that the release and the golden files call differently."""
    return model.option(next((name for name in names if name in model.options), names[0]))


def _options(model: OfficialModel, state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, ffn = state["encoder.layers.0.fc1.weight"].t().shape
    sizes = {"embed_dim": width, "ffn_embed_dim": ffn}
    sizes["attention_heads"] = int(_one_of(model, "num_heads", "H"))
    dropouts = {_OURS.get(n, n): model.options[n] for n in _DROPOUTS if n in model.options}
    return {
        **{f"{side}_{name}": value for side in SIDES for name, value in sizes.items()},
        **_layers(model.state),
        **{name: float(value) for name, value in dropouts.items()},
        **RELEASE,
        "layer_norm_eps": float(model.options.get("eps", RELEASE["layer_norm_eps"])),
    }


def _without_scope(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the variables without the scope that a training run puts before every name."""
    scope = next(name.removesuffix(_MARK) for name in state if name.endswith(_MARK))
    return {name.removeprefix(scope): tensor for name, tensor in state.items()}


def is_rela(state: Mapping[str, Tensor]) -> bool:
    """Tell whether these are the variables of a ReLA model."""
    return any(name.endswith(_MARK) for name in state)


def convert(model: OfficialModel) -> Conversion:
    """Return the release's model, or one with its ungated norm, in our terms.

    Raises:
        SeqAttnError: a variable is missing or has no place here, or the number of heads or the
            ids of padding and end of sentence are not told.
    """
    for name in ("pad", "eos"):
        model.option(name)  # not fairseq's: whoever uses the model needs them
    model = OfficialModel(_without_scope(model.state), model.options)
    keys = Keys(model.state)
    tied = _place_embeddings(keys)
    for side, layers in zip(SIDES, _layers(model.state).values(), strict=True):
        for index in range(layers):
            _place_layer(keys, f"{side}/layer_{index}/", f"{side}.layers.{index}.")
    state = keys.finish()
    gates = [name for name in state if name.endswith("attn_norm.gate")]
    norms = [name for name in state if name.endswith("attn_norm.weight")]
    if gates and len(gates) != len(norms):
        raise SeqAttnError("some attentions have post/gate and some have not: no ReLA model")
    options = {**_options(model, state), **tied}
    return Conversion("rela_g" if gates else "rela_i", options, state, keys.dropped)


ORIGINS = (
    Origin("ReLA release (bzhangGo/zero, TensorFlow)", lambda model: is_rela(model.state), convert),
)
