"""The release of MUSE / PRIME (lancopku/Prime, a fork of fairseq 0.6.2): its models' parameters.

Two codes in it build parallel layers: ``--combine 1``, with matrices apart, and ``--bm 1``, "big
matrix", with some of them stacked. Evaluated, both are the function of our layers, which stack all
of them; trained further, a big-matrix model differs in its dropout (one mask on the sum).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.official.conversion import Conversion, Keys, OfficialModel, Origin
from seqattn_fairseq.official.fairseq_parts import (
    count_layers,
    place_embeddings,
    place_optional_norms,
    place_positions,
    shared_options,
)
from seqattn_fairseq.transformer.config import SIDES

_UNUSED_NORM = "the release makes this norm and never uses it"
_UNUSED_TAPS = "--attn_dynamic_cat 0 computes these convolutions and throws them away"
_LONE_GATE = "the gate of a single kernel is always 1"


@dataclass
class _Branches:
    """The projections of a layer as they come: rows on the way in, columns on the way out."""

    rows: list[Tensor] = field(default_factory=list)
    row_biases: list[Tensor] = field(default_factory=list)
    columns: list[Tensor] = field(default_factory=list)
    biases: list[Tensor | None] = field(default_factory=list)

    def read(self, weight: Tensor, bias: Tensor | None) -> None:
        """Add rows that read the layer's input."""
        self.rows.append(weight)
        self.row_biases.append(weight.new_zeros(weight.size(0)) if bias is None else bias)

    def write(self, weight: Tensor, bias: Tensor | None) -> None:
        """Add the columns and the bias of a branch that writes to the layer's sum."""
        self.columns.append(weight)
        self.biases.append(bias)

    def place(self, keys: Keys, ours: str) -> None:
        """Place them as our two big matrices."""
        zero = self.columns[0].new_zeros(self.columns[0].size(0))
        keys.ours[f"{ours}in_proj.weight"] = torch.cat(self.rows)
        keys.ours[f"{ours}in_proj.bias"] = torch.cat(self.row_biases)
        keys.ours[f"{ours}out_proj.weight"] = torch.cat(self.columns, dim=1)
        biases = [zero if bias is None else bias for bias in self.biases]
        keys.ours[f"{ours}out_proj.bias"] = torch.stack(biases)


def _take(keys: Keys, name: str) -> Tensor | None:
    return keys.take(name) if name in keys else None


def _attention_inputs(keys: Keys, attention: str) -> list[tuple[Tensor, Tensor | None]]:
    """Return weight and bias of query, key and value."""
    if f"{attention}.in_proj_weight" in keys:
        weights = keys.take(f"{attention}.in_proj_weight").chunk(3)
    else:  # keys and values of another width than the queries
        weights = tuple(keys.take(f"{attention}.{part}_proj_weight") for part in "qkv")
    bias = _take(keys, f"{attention}.in_proj_bias")
    biases = (None, None, None) if bias is None else bias.chunk(3)
    return list(zip(weights, biases, strict=True))


def _linear(keys: Keys, module: str) -> tuple[Tensor, Tensor | None]:
    return keys.take(f"{module}.weight"), _take(keys, f"{module}.bias")


def place_combined_layer(keys: Keys, official: str, ours: str) -> None:
    """Place a layer of ``--combine 1``.

    Args:
        keys: the official tensors.
        official: the start of the layer's official names, ending in a dot if not empty.
        ours: the start of our names, likewise.
    """
    branches = _Branches()
    for weight, bias in _attention_inputs(keys, f"{official}self_attn"):
        branches.read(weight, bias)
    out, bias = _linear(keys, f"{official}self_attn.out_proj")
    branches.write(out, bias)
    _place_convolutions(keys, f"{official}self_attn", ours, used=out.size(1) > out.size(0))
    if f"{official}encoder_attn.out_proj.weight" in keys:
        query, *memory = _attention_inputs(keys, f"{official}encoder_attn")
        branches.read(*query)
        _place_memory(keys, memory, ours)
        branches.write(*_linear(keys, f"{official}encoder_attn.out_proj"))
        for leaf in ("weight", "bias"):
            keys.drop(f"{official}encoder_attn_layer_norm.{leaf}", _UNUSED_NORM)
    branches.read(*_linear(keys, f"{official}fc1"))
    branches.write(*_linear(keys, f"{official}fc2"))
    branches.place(keys, ours)
    keys.module(f"{official}self_attn_layer_norm", f"{ours}layer_norm")


def _place_memory(keys: Keys, parts: Sequence[tuple[Tensor, Tensor | None]], ours: str) -> None:
    keys.ours[f"{ours}memory_proj.weight"] = torch.cat([weight for weight, _ in parts])
    biases = [w.new_zeros(w.size(0)) if bias is None else bias for w, bias in parts]
    keys.ours[f"{ours}memory_proj.bias"] = torch.cat(biases)


def _place_convolutions(keys: Keys, attention: str, ours: str, used: bool) -> None:
    names = keys.names(f"{attention}.dynamics.")
    gate = f"{attention}.dynamic_gate_para"
    if not used:
        for name in names:
            keys.drop(name, _UNUSED_TAPS)
        return
    ordered = [f"{attention}.dynamics.{i}.weight_linear.weight" for i in range(len(names))]
    keys.ours[f"{ours}convolution.tap_proj.weight"] = torch.cat([keys.take(n) for n in ordered])
    if gate not in keys:
        return
    weights = keys.take(gate)
    if weights.numel() != len(names):
        raise SeqAttnError(f"{gate} weighs {weights.numel()} kernels, but there are {len(names)}")
    if len(names) == 1:
        keys.dropped[gate] = _LONE_GATE
    else:
        keys.ours[f"{ours}convolution.gate"] = weights


def place_big_matrix_layer(keys: Keys, official: str, ours: str) -> None:
    """Place a layer of ``--bm 1``; the arguments are those of ``place_combined_layer``.

    Its matrices are cut up where they do not stack as ours do: the memory's query (fc3) stands
    before the feed-forward rows, the cross-attention's columns (fc4) before the feed-forward ones.
    """
    encoder = f"{official}self_attn.fc1.weight" in keys
    inside = f"{official}self_attn." if encoder else official
    branches = _Branches()
    ffn = _read_big_matrices(keys, branches, inside, encoder)
    _write_big_matrices(keys, branches, inside, encoder, ffn)
    branches.place(keys, ours)
    if not encoder:
        keys.module(f"{official}encoder_attn.kv_fc", f"{ours}memory_proj")
    taps = f"{official}self_attn.dynamic.weight_linear.weight"
    if taps in keys:
        keys.move(taps, f"{ours}convolution.tap_proj.weight")
    keys.module(f"{official}layer_norm", f"{ours}layer_norm")


def _read_big_matrices(keys: Keys, branches: _Branches, inside: str, encoder: bool) -> int:
    """Read the matrices on the way in; return the feed-forward width."""
    weight, bias = _linear(keys, f"{inside}fc1")
    rows, dim = weight.shape
    apart = f"{inside}fc3.weight" in keys
    ffn = rows - (3 if encoder or apart else 4) * dim
    sizes = [rows - ffn, ffn]
    biases = (None, None) if bias is None else bias.split(sizes)
    for index, part in enumerate(weight.split(sizes)):
        branches.read(part, biases[index])
        if apart and index == 0:
            branches.read(*_linear(keys, f"{inside}fc3"))
    return ffn


def _write_big_matrices(
    keys: Keys, branches: _Branches, inside: str, encoder: bool, ffn: int
) -> None:
    weight, bias = _linear(keys, f"{inside}fc2")
    dim, columns = weight.shape
    apart = f"{inside}fc4.weight" in keys
    cross = [] if encoder or apart else [dim]
    first, *others = weight.split([columns - ffn - sum(cross), *cross, ffn], dim=1)
    branches.write(first, bias)
    if apart:
        branches.write(*_linear(keys, f"{inside}fc4"))
    for part in others:
        branches.write(part, None)  # the first branch has the bias of all


@dataclass(frozen=True)
class LayerShape:
    """What a layer's official tensors tell of it.

    Attributes:
        ffn: feed-forward width.
        kernel_sizes: of the convolutions whose output is used.
        gated: whether they are added up (several) or concatenated.
    """

    ffn: int
    kernel_sizes: tuple[int, ...]
    gated: bool


def layer_shape(layer: Mapping[str, Tensor], heads: int) -> LayerShape:
    """Return the shape of a layer; ``layer`` maps the names within the layer to its tensors."""
    names = sorted((name for name in layer if ".weight_linear." in name), key=_by_number)
    sizes = tuple(layer[name].size(0) // heads for name in names)
    if "self_attn.in_proj_weight" in layer or "self_attn.q_proj_weight" in layer:
        out = layer["self_attn.out_proj.weight"]
        gated = "self_attn.dynamic_gate_para" in layer
        return LayerShape(
            layer["fc1.weight"].size(0), sizes if out.size(1) > out.size(0) else (), gated
        )
    encoder = "self_attn.fc1.weight" in layer
    weight = layer["self_attn.fc1.weight" if encoder else "fc1.weight"]
    blocks = 3 if encoder or "fc3.weight" in layer else 4
    return LayerShape(weight.size(0) - blocks * weight.size(1), sizes, True)


def _by_number(name: str) -> tuple[int, str]:
    return len(name), name  # dynamics.2 before dynamics.10


def _side_shapes(model: OfficialModel, side: str) -> list[LayerShape]:
    heads = int(model.option(f"{side}_attention_heads"))
    return [
        layer_shape(layer_tensors(model.state, f"{side}.layers.{index}."), heads)
        for index in range(count_layers(model.state, side))
    ]


def layer_tensors(state: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, by the rest of their name."""
    return {name[len(start) :]: t for name, t in state.items() if name.startswith(start)}


def _kernel_option(shapes: Sequence[LayerShape]) -> str:
    sizes = [list(shape.kernel_sizes) for shape in shapes]
    same = all(s == sizes[0] for s in sizes)
    return json.dumps(sizes[0] if same else sizes, separators=(",", ":"))


def convolution_options(sides: Mapping[str, Sequence[LayerShape]], leaks: bool) -> dict[str, Any]:
    """Return our options of the convolutions of both sides; empty if there are none."""
    shapes = [shape for layers in sides.values() for shape in layers]
    if not any(shape.kernel_sizes for shape in shapes):
        return {}
    several = [shape.gated for shape in shapes if len(shape.kernel_sizes) > 1]
    return {
        **{f"muse_{side}_kernels": _kernel_option(layers) for side, layers in sides.items()},
        "muse_gate": all(several),
        "muse_padding_leaks": leaks,
    }


def _convert(model: OfficialModel, place_layer: Any, leaks: bool) -> Conversion:
    options = {**_ties(model.state), **shared_options(model), **_padding_options()}
    shapes = {side: _side_shapes(model, side) for side in SIDES}
    for side in SIDES:
        options[f"{side}_ffn_embed_dim"] = shapes[side][0].ffn
        options[f"{side}_normalize_before"] = f"{side}.layer_norm.weight" in model.state
    convolutions = convolution_options(shapes, leaks)
    options |= convolutions
    options["input_dropout"] = float(model.options.get("input_dropout") or 0.0)
    _check_biases(model.state)
    keys = Keys(model.state)
    place_embeddings(keys, options)
    place_optional_norms(keys)
    place_positions(keys)
    for side in SIDES:
        for index in range(len(shapes[side])):
            start = f"{side}.layers.{index}."
            place_layer(keys, start, start)
    variant = "muse" if convolutions else "muse_simple"
    return Conversion(variant, options, keys.finish(), keys.dropped)


def _check_biases(state: Mapping[str, Tensor]) -> None:
    """Make sure that every linear map of a layer has its bias, as all models of the release do."""
    for name, tensor in state.items():
        matrix = ".layers." in name and tensor.dim() == 2 and ".weight_linear." not in name
        bias = f"{name.removesuffix('weight')}bias"
        if matrix and name.endswith("weight") and bias not in state:
            raise SeqAttnError(f"no parameter {bias}: the state dict is not whole")


def _ties(state: Mapping[str, Tensor]) -> dict[str, bool]:
    """Return what the tensors tell of tied embeddings; arguments, if there are any, tell it too."""
    tied = not any(f"decoder.{n}" in state for n in ("embed_out", "output_projection.weight"))
    source = state["encoder.embed_tokens.weight"]
    same = torch.equal(state.get("decoder.embed_tokens.weight", source), source)
    return {"share_decoder_input_output_embed": tied, "share_all_embeddings": tied and same}


def _padding_options() -> dict[str, Any]:
    # the release never hides padding but from the keys of the source
    return {"source_padding_visible": True, "target_padding_visible": True}


def _convert_combined(model: OfficialModel) -> Conversion:
    leaks = not int(model.options.get("dynamic_padding") or 0)
    return _convert(model, place_combined_layer, leaks)


def _convert_big_matrix(model: OfficialModel) -> Conversion:
    return _convert(model, place_big_matrix_layer, leaks=True)


def _is_combined(model: OfficialModel) -> bool:
    names = ("encoder.layers.0.self_attn.in_proj_weight", "decoder.layers.0.fc1.weight")
    one_norm = not model.has("final_layer_norm") and not model.has("layer_norms")
    return all(name in model.state for name in names) and one_norm


def _is_big_matrix(model: OfficialModel) -> bool:
    return model.has("encoder.layers.0.self_attn.fc1.weight", "encoder_attn.kv_fc.weight")


ORIGINS = (
    Origin("MUSE (lancopku/Prime 86a988b, --combine 1)", _is_combined, _convert_combined),
    Origin("MUSE big matrix (lancopku/Prime 86a988b, --bm 1)", _is_big_matrix, _convert_big_matrix),
)
