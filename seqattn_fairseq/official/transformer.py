"""Key maps of stock fairseq's ``transformer``, of any age, and of the Explicit Sparse fork of it.

The fork (lancopku/Explicit-Sparse-Transformer, commit fa0841d, of fairseq 0.9) has the same
parameters; its arguments ``--div``, ``--lb``, ``--use_att`` and ``--entmax`` tell the variant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.official.conversion import Conversion, Keys, OfficialModel, Origin
from seqattn_fairseq.official.fairseq_parts import (
    count_layers,
    place_attention,
    place_embeddings,
    place_optional_norms,
    place_positions,
    shared_options,
)
from seqattn_fairseq.transformer.attention import Site
from seqattn_fairseq.transformer.config import SIDES

_ATTENTIONS = {"encoder": ("self_attn",), "decoder": ("self_attn", "encoder_attn")}
_NORMS = {  # before 0.6 the norms of a layer were a list
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}
_IN_LAYER = re.compile(
    r"(?:encoder|decoder)\.layers\.\d+\.(?:"
    r"(?:self_attn|encoder_attn)\.(?:in_proj_(?:weight|bias)|[qkv]_proj_weight"
    r"|(?:[qkv]|out)_proj\.(?:weight|bias))"
    r"|(?:(?:self_attn|encoder_attn|final)_layer_norm|layer_norms\.\d|fc1|fc2)\.(?:weight|bias))"
)
_LISTED_NORM = re.compile(r"((encoder|decoder)\.layers\.\d+)\.layer_norms\.(\d)\.(\w+)")
_SHARE_ALL = "share_all_embeddings"
# options of stock fairseq that compute something else with the same parameters
_REFUSED = ("adaptive_input", "cross_self_attention", "layer_wise_attention", "no_cross_attention")

# ---- the fork's arguments ----------------------------------------------------------------------

_ENTMAX = {1: "sparsemax", 2: "entmax15", 3: "entmax15"}  # 3: by bisection, the same map
SITES = {"es": Site.ENCODER_SELF, "ds": Site.DECODER_SELF, "dc": Site.CROSS}


def sparse_variant(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return our variant and its options for the fork's arguments; they may be missing.

    ``--div -k`` keeps k keys; ``--div n`` keeps ceil(keys / n) of all keys, padding included, and
    at least ``--lb``; ``--entmax`` replaces both and ignores ``--use_att``.

    Raises:
        SeqAttnError: an unknown ``--entmax``.
    """
    div, entmax = int(options.get("div") or 0), int(options.get("entmax") or 0)
    if entmax:
        if entmax not in _ENTMAX:
            raise SeqAttnError(f"entmax {entmax}: the code knows 0 to 3")
        return _ENTMAX[entmax], {}
    used = options.get("use_att")
    sites = [site.value for name, site in SITES.items() if used is None or name in used]
    if not div or not sites:
        return "softmax", {}
    chosen = {"attention_sites": ",".join(sites)}
    if div < 0:
        return "topk", {"topk": -div, **chosen}
    least = max(int(options.get("lb") or 0), 1)
    share = {"topk": 0, "topk_divisor": div, "topk_least": least, "topk_padded_share": True}
    return "topk", {**share, **chosen}


# ---- older names -------------------------------------------------------------------------------


def _modern(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state under the names of fairseq 0.9 and later, fused projections left fused."""
    renamed = dict(state)
    for name in state:
        if match := re.fullmatch(
            r"((encoder|decoder)\.layers\.\d+)\.layer_norms\.(\d)\.(.*)", name
        ):
            layer, side, number, leaf = match.groups()
            if int(number) < len(_NORMS[side]):
                renamed[f"{layer}.{_NORMS[side][int(number)]}.{leaf}"] = renamed.pop(name)
        elif name.endswith(".q_proj_weight"):  # 0.7 and 0.8, where the memory has its own width
            attention = name.removesuffix(".q_proj_weight")
            biases = renamed.pop(f"{attention}.in_proj_bias").chunk(3)
            for projection, bias in zip("qkv", biases, strict=True):
                weight = renamed.pop(f"{attention}.{projection}_proj_weight")
                renamed[f"{attention}.{projection}_proj.weight"] = weight
                renamed[f"{attention}.{projection}_proj.bias"] = bias
    return renamed


# ---- options -----------------------------------------------------------------------------------


def _ties(state: Mapping[str, Tensor]) -> dict[str, bool]:
    """Return what the tensors tell of tied embeddings; a missing output is tied."""
    source, target = (state[f"{side}.embed_tokens.weight"] for side in SIDES)
    outputs = (state.get(f"decoder.{n}") for n in ("output_projection.weight", "embed_out"))
    output = next((tensor for tensor in outputs if tensor is not None), target)
    tied_output = torch.equal(output, target)
    return {
        _SHARE_ALL: tied_output and torch.equal(source, target),
        "share_decoder_input_output_embed": tied_output,
    }


def _check_ties(options: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    found = _ties(state)
    for name, tied in found.items():
        if options.get(name) and not tied:
            raise SeqAttnError(f"{name} is set, but the embeddings differ")


def _norms(options: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, bool]:
    """Return where the norms stand, as the arguments say or, without them, the names."""
    final = {side: f"{side}.layer_norm.weight" in state for side in SIDES}
    before = {side: bool(options.get(f"{side}_normalize_before", final[side])) for side in SIDES}
    if before["encoder"] and not final["encoder"]:
        raise SeqAttnError(
            "a pre-norm encoder without a norm after it (fairseq before 0.5): no "
            "variant here computes that"
        )
    return {
        **{f"{side}_normalize_before": value for side, value in before.items()},
        "no_decoder_final_norm": before["decoder"] and not final["decoder"],
        "layernorm_embedding": "encoder.layernorm_embedding.weight" in state,
    }


def _options(model: OfficialModel) -> dict[str, Any]:
    """Return the options of the shared stack."""
    for name in _REFUSED:
        if model.options.get(name):
            raise SeqAttnError(f"{name} is set: no variant here computes that")
    options = shared_options(model)
    for side in SIDES:
        options[f"{side}_attention_heads"] = model.option(f"{side}_attention_heads")
        options[f"{side}_ffn_embed_dim"] = model.state[f"{side}.layers.0.fc1.weight"].size(0)
    _check_ties(options, model.state)
    return {**_ties(model.state), **options, **_norms(model.options, model.state)}


# ---- the maps ----------------------------------------------------------------------------------


def _place_layer(keys: Keys, side: str, layer: str) -> None:
    for attention in _ATTENTIONS[side]:
        place_attention(keys, f"{layer}.{attention}", f"{layer}.{attention}")
    for module in (*_NORMS[side], "fc1", "fc2"):
        keys.module(f"{layer}.{module}", f"{layer}.{module}")


def convert(model: OfficialModel) -> Conversion:
    """Return a model of stock fairseq, or of the Explicit Sparse fork, in our terms.

    Raises:
        SeqAttnError: a parameter is missing or has no place here, an argument is not told, or one
            asks for what no variant here computes.
    """
    state = _modern(model.state)
    tied = {}
    if "decoder.embed_tokens.weight" not in state and model.options.get(_SHARE_ALL, True):
        tied["decoder.embed_tokens.weight"] = state["encoder.embed_tokens.weight"]
    model = OfficialModel({**state, **tied}, model.options)
    variant, sparse = sparse_variant(model.options)
    options = _options(model)
    keys = Keys(model.state)
    place_embeddings(keys, options)
    place_optional_norms(keys)
    place_positions(keys)
    for side in SIDES:
        keys.drop(f"{side}.embed_positions.weights", "sinusoids, which are computed")
        for index in range(count_layers(model.state, side)):
            _place_layer(keys, side, f"{side}.layers.{index}")
    dropped = {name: why for name, why in keys.dropped.items() if name in state}
    return Conversion(variant, {**options, **sparse}, keys.finish(), dropped)


def _is_transformer(model: OfficialModel) -> bool:
    layers = [name for name in model.state if ".layers." in name]
    last_norms = ("final_layer_norm.weight", "layer_norms.1.weight")  # MUSE's layers have none
    two_norms = any(f"encoder.layers.0.{name}" in model.state for name in last_norms)
    return two_norms and all(_IN_LAYER.fullmatch(name) for name in layers)


def _is_sparse(model: OfficialModel) -> bool:
    return bool(model.options.get("div") or model.options.get("entmax"))


ORIGINS = (
    Origin(
        "fairseq transformer",
        lambda model: _is_transformer(model) and not _is_sparse(model),
        convert,
    ),
    Origin(
        "Explicit Sparse Transformer (fork of fairseq 0.9)",
        lambda model: _is_transformer(model) and _is_sparse(model),
        convert,
    ),
)
