"""Golden files of the MUSE / PRIME release: attentions, convolutions, layers, models.

Shapes: B batch, T target length, S source length, C width, F feed-forward width, H heads,
d = C / H, K taps, V vocabulary. The official layout is (T, B, C).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.official.conversion import Conversion, Keys, OfficialModel
from seqattn_fairseq.official.muse import (
    ORIGINS,
    LayerShape,
    convolution_options,
    layer_shape,
    layer_tensors,
    place_big_matrix_layer,
    place_combined_layer,
)
from seqattn_fairseq.parity.comparison import Comparison, Kind
from seqattn_fairseq.parity.golden import Golden
from seqattn_fairseq.parity.modules import build_converted, dictionary_of, with_parameters
from seqattn_fairseq.transformer.attention import AttentionLog, Site, join_heads
from seqattn_fairseq.transformer.cache import KeyValueCache, Memory
from seqattn_fairseq.transformer.config import SIDES
from seqattn_fairseq.transformer.layers import LayerPlace
from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.transformer.registry import get_variant, make_config
from seqattn_fairseq.variants.muse_layers import (
    MultiScaleConvolution,
    MuseCache,
    MuseDecoderLayer,
    MuseEncoderLayer,
)

_PLACE = LayerPlace(0, 1, companion_read=False)
Step = Callable[[Tensor], Tensor]


def _official_class(golden: Golden) -> str:
    official = golden.meta.get("official", {})
    return f"{official.get('repo', '')} {official.get('class', '')}"


def _mask(golden: Golden, name: str) -> Tensor | None:
    array = f"input/{name}"
    return golden[array].bool() if array in golden else None


def _padding_leaks(golden: Golden) -> bool:
    return not int(golden.config.get("dynamic_padding") or 0)


def _stepped(step: Step, x_BTC: Tensor) -> Tensor:
    """Return (T, B, C): one step per position."""
    return torch.cat([step(x) for x in x_BTC.split(1, dim=1)], dim=1).transpose(0, 1)


def _values(cache: KeyValueCache, like_BTC: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Return the cached keys and values (B, H, t, d)."""
    nothing = like_BTC[:, :0].unflatten(2, (heads, -1)).transpose(1, 2)
    return cache.append(nothing, nothing)


def _input_buffer(values_BHtd: Tensor, kernel_size: int) -> Tensor:
    """Return the convolution state of the release, (1, B, C, at most K - 1), of the values."""
    last = join_heads(values_BHtd[:, :, max(0, values_BHtd.size(2) - kernel_size + 1) :])
    return last.transpose(1, 2).unsqueeze(0)


# ---- one layer ---------------------------------------------------------------------------------


def _side_options(
    side: str, shape: LayerShape, dim: int, heads: int, golden: Golden
) -> dict[str, Any]:
    """Return the options of one side that a layer and the file's arguments tell."""
    before = golden.config.get(f"{side}_normalize_before", False)
    return {
        f"{side}_embed_dim": dim,
        f"{side}_attention_heads": heads,
        f"{side}_ffn_embed_dim": shape.ffn,
        f"{side}_normalize_before": bool(before),
    }


def _heads(golden: Golden, side: str) -> int:
    config = golden.config
    name = f"{side}_attention_heads"
    return int(config[name if name in config else "H"])


def _layer_config(
    golden: Golden, layers: Mapping[str, Mapping[str, Tensor]], dims: Mapping[str, int], leaks: bool
) -> tuple[str, Any]:
    """Return the variant and configuration of the file's layers (side -> official tensors)."""
    options: dict[str, Any] = {
        f"{side}_{name}": 2 for side in SIDES for name in ("embed_dim", "attention_heads")
    }
    options |= {f"{side}_embed_dim": dim for side, dim in dims.items()}
    shapes = {side: layer_shape(layer, _heads(golden, side)) for side, layer in layers.items()}
    for side, shape in shapes.items():
        options |= _side_options(side, shape, dims[side], _heads(golden, side), golden)
    options["activation_fn"] = golden.config.get("activation_fn", "relu")
    convolutions = convolution_options({side: [s] for side, s in shapes.items()}, leaks)
    variant = "muse" if convolutions else "muse_simple"
    return variant, make_config(variant, **options, **convolutions)


# ---- one attention -----------------------------------------------------------------------------


def _site(golden: Golden) -> Site:
    if "input/encoder_out" in golden:
        return Site.CROSS
    return Site.DECODER_SELF if "input/attn_mask" in golden else Site.ENCODER_SELF


def _silent_attention(dim: int, memory_dim: int) -> dict[str, Tensor]:
    """Return an official attention whose output is zero."""
    widths = {"q": dim, "k": memory_dim, "v": memory_dim}
    projections = {f"{p}_proj_weight": torch.zeros(dim, width) for p, width in widths.items()}
    return {**projections, "out_proj.weight": torch.zeros(dim, dim)}


def _around(golden: Golden, leaves: Mapping[str, Tensor], site: Site) -> dict[str, Tensor]:
    """Return an official layer with the file's attention, all other branches of which are zero."""
    dim = golden["input/query"].size(-1)
    memory = golden["input/encoder_out"] if site is Site.CROSS else golden["input/query"]
    attentions = {"self_attn": _silent_attention(dim, dim)}
    if site is not Site.ENCODER_SELF:
        attentions["encoder_attn"] = _silent_attention(dim, memory.size(-1))
    attentions["encoder_attn" if site is Site.CROSS else "self_attn"] = dict(leaves)
    layer = {f"{a}.{name}": t for a, tensors in attentions.items() for name, t in tensors.items()}
    layer |= {"fc1.weight": torch.zeros(1, dim), "fc2.weight": torch.zeros(dim, 1)}
    norm = {"weight": torch.ones(dim), "bias": torch.zeros(dim)}
    return layer | {f"self_attn_layer_norm.{leaf}": t for leaf, t in norm.items()}


@dataclass
class _Attention:
    """One attention of the release, as the only branch of one of our layers that is not zero."""

    golden: Golden
    site: Site
    layer: MuseEncoderLayer | MuseDecoderLayer
    leaves: Mapping[str, Tensor]
    state: Mapping[str, Tensor]

    def compare(self, comparison: Comparison) -> None:
        """Compare everything in the file."""
        names = [n for n in ("query", "encoder_out") if f"input/{n}" in self.golden]
        inputs = {name: self.golden.leaf(f"input/{name}") for name in names}
        log = AttentionLog()
        out = with_parameters(self.layer, self.state, lambda m: self._whole(m, inputs, log))
        (out * self.golden["input/loss_weight"]).sum().backward()
        comparison.output("attn", out)
        if "output/attn_weights_headmean" in self.golden:
            comparison.output("attn_weights_headmean", log.weights[self.site.value][0].mean(dim=1))
        collected = {f"input.{name}": leaf for name, leaf in inputs.items()}
        comparison.gradients({**self.leaves, **collected})
        if "output/incremental" in self.golden:
            with torch.no_grad():
                with_parameters(self.layer, self.state, lambda m: self._steps(m, comparison))

    def _whole(self, layer: Any, inputs: Mapping[str, Tensor], log: AttentionLog) -> Tensor:
        query = inputs["query"].transpose(0, 1)
        mask = _mask(self.golden, "key_padding_mask")
        if self.site is Site.ENCODER_SELF:
            out: Tensor = layer.branches(query, mask, log)
        else:
            cross = layer.memory_cache(self._memory(inputs))
            own = None if self.site is Site.CROSS else mask
            out = layer.branches(query, own, cross, log)
        return out.transpose(0, 1)

    def _memory(self, inputs: Mapping[str, Tensor]) -> Memory:
        if self.site is Site.CROSS:
            mask = _mask(self.golden, "key_padding_mask")
            return Memory(inputs["encoder_out"].transpose(0, 1), mask)
        return Memory(torch.zeros_like(inputs["query"][:1]).transpose(0, 1), None)

    def _steps(self, layer: Any, comparison: Comparison) -> None:
        inputs = self.golden.group("input")
        query = inputs["query"].transpose(0, 1)
        cache, _ = layer.new_cache(self._memory(inputs))
        out = _stepped(lambda x: layer.branches_step(x, cache), query)
        comparison.output("incremental", out)
        self._compare_state(layer, cache, comparison)
        if "output/incremental_reordered" in self.golden:
            before = int(self.golden["input/reorder_after_steps"])
            cache, _ = layer.new_cache(self._memory(inputs))
            out = _reordered(layer.branches_step, cache, query, before, inputs["new_order"])
            comparison.output("incremental_reordered", out)

    def _compare_state(self, layer: Any, cache: MuseCache, other: Comparison) -> None:
        keys = _values(cache.target, self.golden["input/query"].transpose(0, 1), layer.heads)
        if self.site is Site.CROSS:
            keys = (cache.cross.key_BHSd, cache.cross.value_BHSd)
        for name in self.golden.group("output"):
            if name in {"state.prev_key", "state.prev_value"}:
                other.output(name, keys[name == "state.prev_value"])
            elif name.startswith("state.dynamics."):
                module = name.removeprefix("state.").removesuffix(".input_buffer")
                taps = self.leaves[f"{module}.weight_linear.weight"]
                other.output(name, _input_buffer(keys[1], taps.size(0) // layer.heads))


def _reordered(
    step: Callable[[Tensor, Any], Tensor],
    cache: MuseCache,
    x_BTC: Tensor,
    before: int,
    order_B: Tensor,
) -> Tensor:
    """Return (T, B, C) of steps, the state reordered after ``before`` of them."""
    first = [_stepped(lambda x: step(x, cache), x_BTC[:, :before])] if before else []
    cache.reorder(order_B.long())
    cache.reorder_memory(order_B.long())
    if before < x_BTC.size(1):
        first.append(_stepped(lambda x: step(x, cache), x_BTC[:, before:]))
    return torch.cat(first)


def _run_attention(golden: Golden, comparison: Comparison) -> None:
    leaves, site = golden.parameters(), _site(golden)
    side = "encoder" if site is Site.ENCODER_SELF else "decoder"
    official = _around(golden, leaves, site)
    dim = golden["input/query"].size(-1)
    memory = golden["input/encoder_out"] if site is Site.CROSS else golden["input/query"]
    dims = {"encoder": memory.size(-1), side: dim}
    # the release never clears the decoder's padding
    leaks = side == "decoder" or _padding_leaks(golden)
    variant, cfg = _layer_config(golden, {side: official}, dims, leaks)
    make: Any = getattr(get_variant(variant), f"{side}_layer")
    keys = Keys(official)
    place_combined_layer(keys, "", "")
    layer = make(cfg, _PLACE).eval()
    _Attention(golden, site, layer, leaves, keys.finish()).compare(comparison)


# ---- one convolution ---------------------------------------------------------------------------


def _convolution(golden: Golden) -> MultiScaleConvolution:
    config, taps = golden.config, golden["param/weight_linear.weight"]
    if not config.get("weight_softmax", True):
        raise SeqAttnError("taps without a softmax: no model of the release has them")
    heads = int(config["H"])
    sizes = [taps.size(0) // heads]
    module = MultiScaleConvolution(taps.size(1), heads, sizes, causal=bool(config["causal"]))
    module.lefts = (int(config.get("padding_l", module.lefts[0])),)
    return module.eval()


def _run_convolution(golden: Golden, comparison: Comparison) -> None:
    leaves, x = golden.parameters(), golden.leaf("input/x")
    module = _convolution(golden)
    state = {"tap_proj.weight": leaves["weight_linear.weight"]}
    out = with_parameters(module, state, lambda m: m(x.transpose(0, 1), None)).transpose(0, 1)
    (out * golden["input/loss_weight"]).sum().backward()
    comparison.output("y", out)
    comparison.gradients({**leaves, "input.x": x})
    if "output/incremental" in golden:
        with torch.no_grad():
            with_parameters(module, state, lambda m: _convolution_steps(m, golden, comparison))


def _convolution_steps(
    module: MultiScaleConvolution, golden: Golden, comparison: Comparison
) -> None:
    x_BTC = golden["input/x"].transpose(0, 1)
    comparison.output("incremental", _convolution_stepped(module, KeyValueCache(), x_BTC))
    cache = KeyValueCache()
    _convolution_stepped(module, cache, x_BTC)
    if "output/state.input_buffer" in golden:
        values = _values(cache, x_BTC, module.heads)[1]
        comparison.output("state.input_buffer", _input_buffer(values, module.kernel_sizes[0]))
    if "output/incremental_reordered" in golden:
        before, cache = int(golden["input/reorder_after_steps"]), KeyValueCache()
        out = [_convolution_stepped(module, cache, x_BTC[:, :before])]
        cache.reorder(golden["input/new_order"].long())
        out.append(_convolution_stepped(module, cache, x_BTC[:, before:]))
        comparison.output("incremental_reordered", torch.cat(out))


def _convolution_stepped(
    module: MultiScaleConvolution, cache: KeyValueCache, x_BTC: Tensor
) -> Tensor:
    """Return (T, B, C) of steps that find their past among cached values, as in a layer."""

    def step(x_B1C: Tensor) -> Tensor:
        heads = x_B1C.unflatten(2, (module.heads, -1)).transpose(1, 2)
        values = cache.append(heads, heads)[1]
        return module.step(join_heads(values[:, :, :-1]), x_B1C)

    return _stepped(step, x_BTC)


# ---- an encoder layer and a decoder layer ------------------------------------------------------


def _run_layers(golden: Golden, comparison: Comparison) -> None:
    leaves = golden.parameters()
    official = {side: layer_tensors(leaves, f"{side}_layer.") for side in SIDES}
    big = "self_attn.fc1.weight" in official["encoder"]
    dims = {"encoder": golden["input/src"].size(-1), "decoder": golden["input/tgt"].size(-1)}
    variant, cfg = _layer_config(golden, official, dims, big or _padding_leaks(golden))
    keys, place_layer = Keys(leaves), place_big_matrix_layer if big else place_combined_layer
    layers = nn.ModuleDict()
    for side in SIDES:
        layers[f"{side}_layer"] = getattr(get_variant(variant), f"{side}_layer")(cfg, _PLACE)
        place_layer(keys, f"{side}_layer.", f"{side}_layer.")
    layers.eval()
    inputs = {name: golden.leaf(f"input/{name}") for name in ("src", "tgt")}
    state = keys.finish()
    with_parameters(layers, state, lambda m: _compare_layers(m, golden, inputs, comparison))
    collected = {f"input.{name}": leaf for name, leaf in inputs.items()}
    comparison.gradients({**leaves, **collected})
    if "output/incremental" in golden:
        with torch.no_grad():
            with_parameters(layers, state, lambda m: _layer_steps(m, golden, comparison))


def _encoded(layers: Any, golden: Golden, src_SBC: Tensor) -> Memory:
    mask = _mask(golden, "encoder_padding_mask")
    memory: Memory = layers["encoder_layer"](Memory(src_SBC.transpose(0, 1), mask))
    return memory


def _compare_layers(
    layers: Any, golden: Golden, inputs: Mapping[str, Tensor], comparison: Comparison
) -> None:
    log = AttentionLog()
    memory = _encoded(layers, golden, inputs["src"])
    out, _ = layers["decoder_layer"](inputs["tgt"].transpose(0, 1), None, memory, log)
    encoded, decoded = memory.x_BSC.transpose(0, 1), out.transpose(0, 1)
    loss = (decoded * golden["input/loss_weight"]).sum()
    (loss + (encoded * golden["input/loss_weight_encoder"]).sum()).backward()
    comparison.output("encoder_layer", encoded)
    comparison.output("decoder_layer", decoded)
    if "output/cross_attn_weights_headmean" in golden:
        weights = log.weights[Site.CROSS.value][0]
        comparison.output("cross_attn_weights_headmean", weights.mean(dim=1))


def _layer_steps(layers: Any, golden: Golden, comparison: Comparison) -> None:
    memory = _encoded(layers, golden, golden["input/src"])
    layer, x = layers["decoder_layer"], golden["input/tgt"].transpose(0, 1)
    cache, _ = layer.new_cache(memory)
    comparison.output("incremental", _stepped(lambda y: layer.step(y, cache), x))
    if "output/incremental_reordered" in golden:
        before = int(golden["input/reorder_after_steps"])
        cache, _ = layer.new_cache(memory)
        out = _reordered(layer.step, cache, x, before, golden["input/new_order"])
        comparison.output("incremental_reordered", out)


# ---- whole models ------------------------------------------------------------------------------


def _convert(golden: Golden, leaves: Mapping[str, Tensor]) -> tuple[Conversion, SeqAttnModel]:
    official = OfficialModel(leaves, golden.config)
    conversion = next(o for o in ORIGINS if o.recognises(official)).convert(official)
    sizes = [conversion.state[f"{side}.embed_tokens.weight"].size(0) for side in SIDES]
    padding, eos = golden.meta.get("pad", 1), golden.meta.get("eos", 2)
    source, target = (dictionary_of(size, padding, eos) for size in sizes)
    if conversion.options.get("share_all_embeddings"):
        target = source
    return conversion, build_converted(conversion, source, target)


def _run_model(golden: Golden, comparison: Comparison) -> None:
    leaves = golden.parameters()
    conversion, model = _convert(golden, leaves)
    source, target = golden["input/src_tokens"], golden["input/prev_output_tokens"]

    def whole(m: SeqAttnModel) -> tuple[Tensor, Tensor]:
        return m(source, None, target)[0], m.encoder.encode(source).x_BSC.transpose(0, 1)

    logits, memory = with_parameters(model, conversion.state, whole)
    (logits * golden["input/loss_weight"]).sum().backward()
    comparison.output("logits", logits, target.ne(model.decoder.padding_idx))
    comparison.output("encoder_out", memory)
    comparison.gradients(leaves)
    with torch.no_grad():
        with_parameters(model, conversion.state, lambda m: _other_batches(m, golden, comparison))
        with_parameters(model, conversion.state, lambda m: _model_steps(m, golden, comparison))


def _other_batches(model: SeqAttnModel, golden: Golden, comparison: Comparison) -> None:
    """Compare the same sentences padded on the right, and alone."""
    source, target = golden["input/src_tokens"], golden["input/prev_output_tokens"]
    padding = model.decoder.padding_idx
    if "output/logits_rightpad" in golden:
        logits, _ = model(golden["input/src_tokens_rightpad"], None, target)
        comparison.output("logits_rightpad", logits, target.ne(padding))
    for row in range(source.size(0)):
        if f"output/logits_alone_{row}" in golden:
            pair = [tokens[row][tokens[row].ne(padding)][None] for tokens in (source, target)]
            comparison.output(f"logits_alone_{row}", model(pair[0], None, pair[1])[0])


def _model_steps(model: SeqAttnModel, golden: Golden, comparison: Comparison) -> None:
    source, target = golden["input/src_tokens"], golden["input/prev_output_tokens"]
    real = target.ne(model.decoder.padding_idx)
    orders: dict[str, Tensor | None] = {"incremental_logits": None}
    if "output/incremental_reordered_logits" in golden:
        orders["incremental_reordered_logits"] = golden["input/new_order"].long()
    for name, order in orders.items():
        if f"output/{name}" not in golden:
            continue
        state = model.decoder.start(model.encoder.encode(source))
        steps = []
        for t, tokens in enumerate(target.split(1, dim=1)):
            if order is not None and t == int(golden["input/reorder_after_steps"]):
                state.reorder(order)
            steps.append(model.decoder.step(tokens, state))
        comparison.output(name, model.decoder.output_layer(torch.cat(steps, dim=1)), real)


# ---- which file is what ------------------------------------------------------------------------


def _is_attention(golden: Golden) -> bool:
    return "ParallelMultiheadAttention" in _official_class(golden) and "input/query" in golden


def _is_convolution(golden: Golden) -> bool:
    official = _official_class(golden)
    return "MUSE" in official and "DynamicConv1dTBC" in official


def _is_layers(golden: Golden) -> bool:
    own = ("param/encoder_layer.self_attn.in_proj_weight", "param/encoder_layer.layer_norm.weight")
    return "input/src" in golden and "input/tgt" in golden and any(n in golden for n in own)


def _is_model(golden: Golden) -> bool:
    official = OfficialModel(golden.group("param"), golden.config)
    return "input/src_tokens" in golden and any(o.recognises(official) for o in ORIGINS)


KINDS = (
    Kind("MUSE attention", _is_attention, _run_attention),
    Kind("MUSE convolution", _is_convolution, _run_convolution),
    Kind("MUSE layers", _is_layers, _run_layers),
    Kind("MUSE model", _is_model, _run_model),
)
