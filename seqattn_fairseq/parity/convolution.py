"""Goldens of LightConv and DynamicConv: modules, layers, whole models (fairseq's lightconv).

The official layout is T x B x C. Shapes: T length, B sentences, C width, S source length, R rows
(hypotheses).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.official.conversion import Conversion, Keys, OfficialModel
from seqattn_fairseq.official.convolution import (
    ORIGINS,
    VARIANT_OF_TYPE,
    own_options,
    place_convolution,
    place_layer,
)
from seqattn_fairseq.parity.comparison import Comparison, Kind, UninterpretableError
from seqattn_fairseq.parity.golden import Golden
from seqattn_fairseq.parity.modules import build_converted, dictionary_of, with_parameters
from seqattn_fairseq.transformer.attention import AttentionLog, Site
from seqattn_fairseq.transformer.cache import DecodingState, Memory
from seqattn_fairseq.transformer.config import EncoderDecoderConfig
from seqattn_fairseq.transformer.layers import LayerPlace
from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.transformer.registry import get_variant, make_config
from seqattn_fairseq.variants.convolution_layers import (
    Convolution,
    ConvolutionState,
    DynamicConvolution,
    LightweightConvolution,
    TapRules,
)

# fairseq's class since October 2022: softmax over the last T taps if there are more
_HEAD_CLASS = "DynamicConv_scripatable"


def _flip(x: Tensor) -> Tensor:
    """Turn (T, B, ...) into (B, T, ...), or back."""
    return x.transpose(0, 1)


# ---- modules -----------------------------------------------------------------------------------


def _is_module(golden: Golden) -> bool:
    weights = "param/weight" in golden or "param/weight_linear.weight" in golden
    return golden.meta.get("kind") == "module" and "padding_l" in golden.config and weights


@dataclass(frozen=True)
class _OfficialModule:
    """One official convolution with what surrounds it in its file.

    Attributes:
        module: ours.
        state: its parameters, made of the official ones.
        values: with ``in_proj``, the map (weight, bias) that makes what is convolved.
    """

    module: Convolution
    state: dict[str, Tensor]
    values: tuple[Tensor, Tensor] | None = None

    def whole(self, x_TBC: Tensor, query_TBC: Tensor | None) -> Tensor:
        """Return the output (T, B, C); another tensor may predict the taps."""

        def run(module: Convolution) -> Tensor:
            taps, left = module.taps(_flip(x_TBC if query_TBC is None else query_TBC))
            return module.convolve(_flip(self._convolved(x_TBC)), taps, left)

        return _flip(with_parameters(self.module, self.state, run))

    def steps(self, x_TBC: Tensor, query_TBC: Tensor | None, state: ConvolutionState) -> Tensor:
        """Return the outputs (T, B, C) of one step per position."""
        xs = _flip(self._convolved(x_TBC)).split(1, dim=1)
        queries = _flip(x_TBC if query_TBC is None else query_TBC).split(1, dim=1)

        def run(module: Convolution) -> list[Tensor]:
            pairs = zip(xs, queries, strict=True)
            return [module.step(x, state, query_RnC=query) for x, query in pairs]

        return _flip(torch.cat(with_parameters(self.module, self.state, run), dim=1))

    def _convolved(self, x_TBC: Tensor) -> Tensor:
        return x_TBC if self.values is None else F.linear(x_TBC, *self.values)


def _module(
    golden: Golden, leaves: Mapping[str, Tensor], short_softmax: bool = False
) -> _OfficialModule:
    config = golden.config
    heads, size = int(config["num_heads"]), int(config["kernel_size"])
    rules = TapRules(
        bool(config.get("weight_softmax", False)),
        renormalise=bool(config.get("renorm_padding", False)),
        short_softmax=short_softmax or _HEAD_CLASS in str(golden.meta.get("official_class")),
    )
    arguments = (int(config["input_size"]), heads, size, int(config["padding_l"]), rules)
    if "weight" in leaves:
        return _lightweight(Keys(leaves), arguments)
    return _dynamic(leaves, arguments, bool(config.get("conv_bias")))


def _lightweight(keys: Keys, arguments: tuple[int, int, int, int, TapRules]) -> _OfficialModule:
    biased = "bias" in keys
    if biased:
        keys.move("bias", "conv_bias")
    place_convolution(keys, "", "")
    return _OfficialModule(LightweightConvolution(*arguments, biased).eval(), keys.finish())


def _dynamic(
    leaves: Mapping[str, Tensor], arguments: tuple[int, int, int, int, TapRules], conv_bias: bool
) -> _OfficialModule:
    official, values = dict(leaves), None
    channels, heads, size = arguments[:3]
    rows = official["weight_linear.weight"].size(0)
    if rows == channels + heads * size:  # in_proj: first the rows of what is convolved
        weight, official["weight_linear.weight"] = _split(official, "weight", channels)
        bias, official["weight_linear.bias"] = _split(official, "bias", channels)
        values = (weight, bias)
    keys = Keys(official)
    if conv_bias:
        keys.ours["conv_bias"] = keys.take("conv_bias").flatten()
    place_convolution(keys, "", "")
    module = DynamicConvolution(
        *arguments,
        "weight_linear.bias" in official,
        conv_bias,
        official["weight_linear.weight"].size(1),
    )
    return _OfficialModule(module.eval(), keys.finish(), values)


def _split(official: Mapping[str, Tensor], leaf: str, rows: int) -> tuple[Tensor, Tensor]:
    tensor = official[f"weight_linear.{leaf}"]
    return tensor[:rows], tensor[rows:]


def _run_module(golden: Golden, comparison: Comparison) -> None:
    leaves, x = golden.parameters(), golden.leaf("input/x")
    query = golden.leaf("input/query") if "input/query" in golden else None
    official = _module(golden, leaves)
    out = official.whole(x, query)
    (out * golden["input/loss_weight"]).sum().backward()
    comparison.output("out", out)
    inputs = {"x": x} if query is None else {"x": x, "query": query}
    comparison.gradients({**leaves, **inputs})
    with torch.no_grad():
        _run_module_steps(golden, comparison, official, query)
        if "output/head_commit_full_sequence" in golden:
            head = _module(golden, leaves, short_softmax=True)
            comparison.output("head_commit_full_sequence", head.whole(x, query))


def _run_module_steps(
    golden: Golden, comparison: Comparison, official: _OfficialModule, query: Tensor | None
) -> None:
    x = golden["input/x"]
    if "output/incremental" in golden:
        comparison.output("incremental", official.steps(x, query, ConvolutionState()))
    if "output/incremental_after_reorder" in golden:
        state = ConvolutionState()
        before = golden.meta["reorder"]["after_steps"]
        official.steps(x[:before], None if query is None else query[:before], state)
        state.reorder(golden["input/new_order"])
        after = official.steps(
            golden["input/x_after_reorder"],
            None if query is None else golden["input/query_after_reorder"],
            state,
        )
        comparison.output("incremental_after_reorder", after)


# ---- layers ------------------------------------------------------------------------------------


def _is_layer(golden: Golden, side: str) -> bool:
    kind = golden.meta.get("kind") == f"{side}_layer"
    return kind and f"{side}_conv_type" in golden.config


def _layer(golden: Golden, side: str) -> torch.nn.Module:
    """Return our layer for the arguments of the file, in evaluation mode."""
    config = golden.config
    shared = vars(EncoderDecoderConfig())
    options = {k: v for k, v in config.items() if k in shared and v is not None}
    options |= own_options(config)
    if "kernel_size" in config:  # the one of this layer
        options[f"{side}_kernel_size_list"] = [config["kernel_size"]]
    variant = get_variant(VARIANT_OF_TYPE[config[f"{side}_conv_type"]])
    cfg = make_config(variant.name, **options)
    place = LayerPlace(0, getattr(cfg, f"{side}_layers"), companion_read=False)
    make = variant.encoder_layer if side == "encoder" else variant.decoder_layer
    return make(cfg, place).eval()


def _layer_state(leaves: Mapping[str, Tensor], side: str) -> dict[str, Tensor]:
    keys = Keys(leaves)
    place_layer(keys, "", "", side)
    return keys.finish()


def _run_encoder_layer(golden: Golden, comparison: Comparison) -> None:
    layer = _layer(golden, "encoder")
    for name in golden.group("input"):
        if name == "x" or name.startswith("x_"):
            _run_encoder_case(golden, comparison, layer, name.removeprefix("x"))


def _run_encoder_case(
    golden: Golden, comparison: Comparison, layer: torch.nn.Module, case: str
) -> None:
    leaves, x = golden.parameters(), golden.leaf(f"input/x{case}")
    masked = f"input/padding_mask{case}" in golden
    mask_BT = golden[f"input/padding_mask{case}"].bool() if masked else None
    memory = Memory(_flip(x), mask_BT)
    state = _layer_state(leaves, "encoder")
    out = _flip(with_parameters(layer, state, lambda module: module(memory)).x_BSC)
    (out * golden[f"input/loss_weight{case}"]).sum().backward()
    # the official layer's outputs at padding mean nothing
    comparison.output(f"out{case}", out, None if mask_BT is None else ~mask_BT.T)
    comparison.gradients(leaves, f"grad{case}")
    comparison.gradients({f"x{case}": x})


def _run_decoder_layer(golden: Golden, comparison: Comparison) -> None:
    layer, leaves = _layer(golden, "decoder"), golden.parameters()
    state = _layer_state(leaves, "decoder")
    x, source = golden.leaf("input/x"), golden.leaf("input/encoder_out")
    masked = "input/encoder_padding_mask" in golden
    mask_BS = golden["input/encoder_padding_mask"].bool() if masked else None
    log = AttentionLog()
    memory = Memory(_flip(source), mask_BS)
    out, _ = with_parameters(layer, state, lambda module: module(_flip(x), None, memory, log))
    (_flip(out) * golden["input/loss_weight"]).sum().backward()
    comparison.output("out", _flip(out))
    if "output/attn" in golden:
        comparison.output("attn", log.weights[Site.CROSS.value][0].mean(dim=1))
    comparison.gradients({**leaves, "x": x, "encoder_out": source})
    with torch.no_grad():
        with_parameters(layer, state, lambda m: _run_layer_steps(golden, comparison, m, memory))


def _run_layer_steps(golden: Golden, comparison: Comparison, layer: Any, memory: Memory) -> None:
    def steps(x_TRC: Tensor, decoding: DecodingState) -> Tensor:
        cache = decoding.layers[0]
        return _flip(torch.cat([layer.step(x, cache) for x in _flip(x_TRC).split(1, 1)], dim=1))

    sentences = torch.arange(memory.x_BSC.size(0))
    if "output/incremental" in golden:
        state = DecodingState([layer.new_cache(memory)[0]], sentences, 1)
        comparison.output("incremental", steps(golden["input/x"], state))
    if "beam" in golden.meta:
        beam = int(golden.meta["beam"]["beam"])
        rows = sentences.repeat_interleave(beam)
        state = DecodingState([layer.new_cache(memory)[0]], rows, beam)
        for number, part in enumerate("abc"):
            if number:
                state.reorder(golden[f"input/beam_order_{number}"])
            comparison.output(f"beam_{part}", steps(golden[f"input/beam_x_{part}"], state))


# ---- models ------------------------------------------------------------------------------------


def _is_model(golden: Golden) -> bool:
    return golden.meta.get("kind") == "model" and "encoder_conv_type" in golden.config


def _converted(golden: Golden, leaves: Mapping[str, Tensor]) -> Conversion:
    model = OfficialModel(leaves, golden.config)
    origins = [origin for origin in ORIGINS if origin.recognises(model)]
    if len(origins) != 1:
        raise UninterpretableError("parameters of no version of the code that we know")
    return origins[0].convert(model)


def _run_model(golden: Golden, comparison: Comparison) -> None:
    leaves = golden.parameters()
    conversion, special = _converted(golden, leaves), golden.meta.get("special_ids", {})
    ids = special.get("pad", 1), special.get("eos", 2)
    source = dictionary_of(conversion.state["encoder.embed_tokens.weight"].size(0), *ids)
    target = dictionary_of(conversion.state["decoder.embed_tokens.weight"].size(0), *ids)
    shared = conversion.options.get("share_all_embeddings", False)
    model = build_converted(conversion, source, source if shared else target)
    tokens, previous = golden["input/src_tokens_left_pad"], golden["input/prev_output_tokens"]
    real = previous.ne(ids[0])

    def logits(tokens: Tensor) -> Any:
        return with_parameters(model, conversion.state, lambda m: m(tokens, None, previous)[0])

    out = logits(tokens)
    (out * golden["input/loss_weight"]).sum().backward()
    comparison.output("logits", out, real)
    comparison.gradients(leaves)
    with torch.no_grad():
        if "output/logits_right_pad" in golden:
            right = logits(golden["input/src_tokens_right_pad"])
            comparison.output("logits_right_pad", right, real)
        _run_model_steps(golden, comparison, model, tokens, real)


def _run_model_steps(
    golden: Golden, comparison: Comparison, model: SeqAttnModel, tokens: Tensor, real: Tensor
) -> None:
    memory = model.encoder.encode(tokens)
    if "output/encoder_out_left_pad" in golden:
        seen = None if memory.padding_mask_BS is None else ~memory.padding_mask_BS.T
        comparison.output("encoder_out_left_pad", _flip(memory.x_BSC), seen)

    def steps(tokens_RT: Tensor, state: DecodingState) -> Tensor:
        features = [model.decoder.step(token, state) for token in tokens_RT.split(1, dim=1)]
        logits: Tensor = model.decoder.output_layer(torch.cat(features, dim=1))
        return logits

    if "output/incremental_logits" in golden:
        out = steps(golden["input/prev_output_tokens"], model.decoder.start(memory))
        comparison.output("incremental_logits", out, real)
    if "beam" in golden.meta:
        beam, switches = golden.meta["beam"]["beam"], golden.meta["beam"]["switch_after_steps"]
        rows = torch.arange(tokens.size(0)).repeat_interleave(beam)
        state = model.decoder.start(memory, rows)
        both, final = golden["input/beam_tokens_ab"], golden["input/beam_tokens_final"]
        parts = (both[:, : switches[0]], both[:, switches[0] :], final[:, switches[1] :])
        for number, (name, part) in enumerate(zip("abc", parts, strict=True)):
            if number:
                state.reorder(golden[f"input/beam_order_{number}"])
            comparison.output(f"beam_{name}", steps(part, state))


KINDS: tuple[Kind, ...] = (
    Kind("LightConv or DynamicConv module", _is_module, _run_module),
    Kind(
        "LightConv or DynamicConv encoder layer",
        lambda golden: _is_layer(golden, "encoder"),
        _run_encoder_layer,
    ),
    Kind(
        "LightConv or DynamicConv decoder layer",
        lambda golden: _is_layer(golden, "decoder"),
        _run_decoder_layer,
    ),
    Kind("LightConv or DynamicConv model", _is_model, _run_model),
)
