"""Golden files of Luna's official code: its attentions, layers and models.

Shapes: B batch, T target length, S source length, L length of P, C width, H heads. Official
activations are sequence first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqattn_fairseq.official.conversion import Conversion, Keys, OfficialModel
from seqattn_fairseq.official.luna import (
    ORIGINS,
    place_decoder_layer,
    place_encoder_layer,
    without_offset,
)
from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.luna import causal_mean, counted, softmax_over_p
from seqattn_fairseq.parity.comparison import Comparison, Kind, UninterpretableError
from seqattn_fairseq.parity.golden import Golden
from seqattn_fairseq.parity.luna_records import RECORD_KINDS
from seqattn_fairseq.parity.modules import build_converted, dictionary_of, with_parameters
from seqattn_fairseq.transformer.attention import Site
from seqattn_fairseq.transformer.cache import Memory, group_size
from seqattn_fairseq.transformer.layers import LayerPlace
from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.transformer.registry import get_variant, make_config
from seqattn_fairseq.variants.luna_attention import (
    LunaAttention,
    LunaCausalAttention,
    RunningSums,
)
from seqattn_fairseq.variants.luna_layers import LunaDecoderLayer, companion_of

# the official code had elu(x) + 1 first, without an option, and softplus from the next commit on
_LAST_COMMIT_WITH_ELU = "3b6e9058"


def _official_class(*names: str) -> Callable[[Golden], bool]:
    def recognises(golden: Golden) -> bool:
        found = str(golden.meta.get("official_class", ""))
        return any(name in found for name in names)

    return recognises


def _swap(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1)


def _mask(golden: Golden, name: str) -> Tensor | None:
    return golden[name].bool() if name in golden else None


def _leaf(golden: Golden, name: str) -> Tensor:
    """Return an input that collects a gradient."""
    return golden.leaf(f"input/{name}")


def _weighted(golden: Golden, outputs: dict[str, Tensor]) -> Tensor:
    """Return the loss: every output, in the official layout, times its weight if it has one."""
    products = [(golden[n] * out).sum() for n, out in outputs.items() if n in golden]
    return torch.stack(products).sum()


def _used(golden: Golden, weight: str) -> Tensor | None:
    """Return where an output matters: (T, B), True where its loss weight is not 0."""
    return golden[weight].ne(0).any(dim=-1) if weight in golden else None


def _compare_inputs(comparison: Comparison, inputs: dict[str, Tensor]) -> None:
    for name, leaf in inputs.items():
        if f"grad/input/{name}" in comparison.golden:
            comparison.gradient(f"grad/input/{name}", leaf.grad)


def _compare_weights(
    comparison: Comparison, name: str, weights_BHTL: Tensor, where_TB: Tensor | None = None
) -> None:
    """Compare weights over P: (H, B, T, L), or (B, T, L) if the file has their mean."""
    where = None if where_TB is None else _swap(where_TB)
    if comparison.golden[f"output/{name}"].dim() == 3:
        comparison.output(name, weights_BHTL.mean(dim=1), where)
    else:
        if where is not None:
            where = where.expand(weights_BHTL.size(1), -1, -1)
        comparison.output(name, _swap(weights_BHTL), where)


def _attention(golden: Golden, comparison: Comparison) -> None:
    config, leaves = golden.config, golden.parameters()
    cross = "input/context" in golden
    module = LunaAttention(
        Site.CROSS if cross else Site.ENCODER_SELF,
        config["embed_dim"],
        config["num_heads"],
        config["num_pheads"],
        tie_kv=config["tie_kv"],
        bias=config.get("bias", True),
    ).eval()
    names = ("query", "pquery", "context") if cross else ("query", "pquery")
    inputs = {name: _leaf(golden, name) for name in names}
    query, p = _swap(inputs["query"]), _swap(inputs["pquery"])
    context = _swap(inputs["context"]) if cross else query
    mask_P = _mask(golden, "input/pcontext_padding_mask")

    def run(attn: LunaAttention) -> dict[str, Tensor]:
        packed = attn.pack(p, context, _mask(golden, "input/context_padding_mask"))
        key, value = attn.read(packed)
        steps = [attn.unpack(x, key, value, mask_P) for x in query.split(1, dim=1)]
        return {
            "attn": _swap(attn.unpack(query, key, value, mask_P)),
            "pcontext": _swap(packed),
            "incremental_attn": _swap(torch.cat(steps, dim=1)),
            "attn_weights": attn.unpack_weights(query, key, mask_P),
            "state/prev_key": key,
            "state/prev_value": value,
            "state/prev_pcontext": packed,
        }

    out = with_parameters(module, leaves, run)
    weights = {"input/loss_weight": out["attn"], "input/loss_weight_pcontext": out["pcontext"]}
    _weighted(golden, weights).backward()
    real = _used(golden, "input/loss_weight")
    _compare_weights(comparison, "attn_weights", out.pop("attn_weights"), real)
    where = {
        "attn": real,
        "incremental_attn": real,
        "pcontext": _used(golden, "input/loss_weight_pcontext"),
    }
    for name, tensor in out.items():
        if f"output/{name}" in golden:
            comparison.output(name, tensor, where.get(name))
    comparison.gradients(leaves)
    _compare_inputs(comparison, inputs)


def activation_of(golden: Golden) -> str:
    """Return the activation of the causal pack, by our name."""
    named = str(golden.config.get("pack_activation", golden.meta.get("official_class", "")))
    before = str(golden.meta.get("official_commit", "")).startswith(_LAST_COMMIT_WITH_ELU)
    return "elu" if "elu+1" in named or before else "softplus2"


def _causal_attention(golden: Golden, comparison: Comparison) -> None:
    config, leaves = golden.config, golden.parameters()
    module = LunaCausalAttention(
        config["embed_dim"],
        config["num_heads"],
        tie_kv=config["tie_kv"],
        bias=config.get("bias", True),
        activation=activation_of(golden),
    ).eval()
    inputs = {name: _leaf(golden, name) for name in ("query", "pquery")}
    x, mask_P = _swap(inputs["query"]), _mask(golden, "input/pkey_padding_mask")

    def run(attn: LunaCausalAttention) -> dict[str, Tensor]:
        pquery = attn.pack_query(_swap(inputs["pquery"]))
        out = attn(x, pquery, mask_P)  # padding is read like any other position
        with backend("reference"):
            recurrent = attn(x, pquery, mask_P)
        pack, (k, _) = attn.pack_weights(x, pquery), attn.keys_and_values(("c", "k", "v"), x)
        scores = causal_mean(attn.queries("q", x), k, pack, counted(None, x.size(1), x))
        return {
            "attn": _swap(out),
            "attn_sequential": _swap(recurrent),
            "attn_weights": softmax_over_p(scores, mask_P),
            **_causal_steps(attn, x.detach(), pquery.detach(), mask_P, golden),
        }

    out = with_parameters(module, leaves, run)
    _weighted(golden, {"input/loss_weight": out["attn"]}).backward()
    _compare_weights(comparison, "attn_weights", out.pop("attn_weights"))
    for name, tensor in out.items():
        if f"output/{name}" in golden:
            comparison.output(name, tensor)
    comparison.gradients(leaves)
    _compare_inputs(comparison, inputs)


def _causal_steps(
    attn: LunaCausalAttention, x: Tensor, pquery: Tensor, mask_P: Tensor | None, golden: Golden
) -> dict[str, Tensor]:
    """Return the outputs step by step, the last state, and the outputs around a reordering."""
    sums = RunningSums()
    steps = [attn.step(column, pquery, mask_P, sums) for column in x.split(1, dim=1)]
    assert sums.key_RHdL is not None
    assert sums.value_RHLd is not None
    found = {
        "incremental_attn": _swap(torch.cat(steps, dim=1)),
        "state/prev_pquery": pquery,
        "state/prev_key_accum_mat": sums.key_RHdL,
        "state/prev_value_accum_mat": sums.value_RHLd,
        "state/prev_num_steps": torch.full(sums.key_RHdL.shape[:2], sums.length),
    }
    if "input/new_order" not in golden:
        return found
    order, sums = golden["input/new_order"].long(), RunningSums()
    before = golden["output/reordered_before"].size(0)
    steps = [attn.step(c, pquery, mask_P, sums) for c in x[:, :before].split(1, dim=1)]
    found["reordered_before"] = _swap(torch.cat(steps, dim=1))
    sums.reorder(order)
    pquery, mask_P = pquery[order], None if mask_P is None else mask_P[order]
    steps = [attn.step(c, pquery, mask_P, sums) for c in x[order, before:].split(1, dim=1)]
    found["reordered_after"] = _swap(torch.cat(steps, dim=1))
    return found


def _operation(golden: Golden, comparison: Comparison) -> None:
    inputs = {name: _leaf(golden, name) for name in "xyz"}
    x, y, z = (inputs[name].unsqueeze(1) for name in "xyz")
    count = counted(None, x.size(2), x)
    out = causal_mean(x, y, z, count).squeeze(1)
    _weighted(golden, {"input/loss_weight": out}).backward()
    comparison.output("parallel", out)
    with backend("reference"), torch.no_grad():
        comparison.output("sequential", causal_mean(x, y, z, count).squeeze(1))
    exact = causal_mean(x.double(), y.double(), z.double(), count.double())
    comparison.output("naive_float64", exact.squeeze(1))
    _compare_inputs(comparison, inputs)


def _layer(golden: Golden, side: str, place: Callable[[Keys, str, str], None]) -> Any:
    """Return the layer, the official leaves and the state made of them."""
    config, leaves = golden.config, golden.parameters()
    cfg = make_config(
        "luna",
        **{f"{s}_embed_dim": config["embed_dim"] for s in ("encoder", "decoder")},
        **{
            f"{side}_ffn_embed_dim": config["ffn"],
            f"{side}_attention_heads": config["heads"],
            f"{side}_projected_attention_heads": config["pheads"],
            f"{side}_normalize_before": config["normalize_before"],
        },
        activation_fn=config.get("activation_fn", "relu"),
        untie_luna_kv=not config["tie_kv"],
        luna_activation=activation_of(golden),
    )
    make = getattr(get_variant("luna"), f"{side}_layer")
    keys = Keys(without_offset(leaves, golden.meta.get("ln_weight_offset", 0.0)))
    place(keys, "", "")
    return make(cfg, LayerPlace(0, 2, companion_read=True)).eval(), leaves, keys.finish()


def _layer_memory(golden: Golden, x: Tensor, p: Tensor) -> Memory:
    companion = Memory(_swap(p), _mask(golden, "input/encoder_projected_padding_mask"))
    return Memory(_swap(x), _mask(golden, "input/encoder_padding_mask"), companion)


def _encoder_layer(golden: Golden, comparison: Comparison) -> None:
    module, leaves, state = _layer(golden, "encoder", place_encoder_layer)
    inputs = {name: _leaf(golden, name) for name in ("x", "px")}
    memory = _layer_memory(golden, inputs["x"], inputs["px"])
    after = with_parameters(module, state, lambda layer: layer(memory))
    x, p = _swap(after.x_BSC), _swap(companion_of(after).x_BSC)
    _finish_layer(golden, comparison, x, p)
    comparison.gradients(leaves)
    _compare_inputs(comparison, inputs)


def _finish_layer(golden: Golden, comparison: Comparison, x: Tensor, p: Tensor) -> None:
    _weighted(golden, {"input/loss_weight": x, "input/loss_weight_px": p}).backward()
    comparison.output("x", x, _used(golden, "input/loss_weight"))
    comparison.output("px", p, _used(golden, "input/loss_weight_px"))


def _decoder_layer(golden: Golden, comparison: Comparison) -> None:
    module, leaves, state = _layer(golden, "decoder", place_decoder_layer)
    inputs = {name: _leaf(golden, name) for name in ("x", "px", "encoder_out")}
    memory = _layer_memory(golden, inputs["encoder_out"], inputs["px"])
    target = _swap(inputs["x"])

    def run(layer: LunaDecoderLayer) -> Any:
        out, after = layer(target, None, memory)
        cache, _ = layer.new_cache(memory)
        steps = [layer.step(column, cache) for column in target.split(1, dim=1)]
        return out, after, torch.cat(steps, dim=1), _weights_over_p(layer, target, memory)

    out, after, stepped, weights = with_parameters(module, state, run)
    _finish_layer(golden, comparison, _swap(out), _swap(companion_of(after).x_BSC))
    real = _used(golden, "input/loss_weight")
    if "output/incremental_x" in golden:
        comparison.output("incremental_x", _swap(stepped), real)
    if "output/attn" in golden:
        _compare_weights(comparison, "attn", weights, real)
    comparison.gradients(leaves)
    _compare_inputs(comparison, inputs)


def _weights_over_p(layer: LunaDecoderLayer, x_BTC: Tensor, memory: Memory) -> Tensor:
    """Return the weights of the target over P, which the official code gives as attention."""
    source, _ = layer.read_source(memory)
    mask = source.padding_mask_BL
    x_BTC = layer.residual(
        x_BTC,
        layer.self_attn_layer_norm,
        lambda x: layer.self_attn(x, source.pquery_BHLd, mask),
    )
    x_BTC = layer.entered(x_BTC, layer.encoder_attn_layer_norm)
    return layer.encoder_attn.unpack_weights(x_BTC, source.key_BHLd, mask)


def _converted(golden: Golden, leaves: dict[str, Tensor]) -> tuple[SeqAttnModel, Conversion]:
    options = {**golden.config, "luna_activation": activation_of(golden)}
    official = OfficialModel(leaves, options)
    origin = next((o for o in ORIGINS if o.recognises(official)), None)
    if origin is None:
        raise UninterpretableError("not the parameters of a Luna model")
    conversion = origin.convert(official)
    special = {"padding": golden.meta.get("pad", 1), "eos": golden.meta.get("eos", 2)}
    sizes = [conversion.state[f"{s}.embed_tokens.weight"].size(0) for s in ("encoder", "decoder")]
    source, target = (dictionary_of(size, **special) for size in sizes)
    return build_converted(conversion, source, target), conversion


def _model(golden: Golden, comparison: Comparison) -> None:
    leaves = golden.parameters()
    model, conversion = _converted(golden, leaves)
    source, target = golden["input/src_tokens_right_padded"], golden["input/prev_output_tokens"]

    def run(ours: SeqAttnModel) -> tuple[Memory, Tensor]:
        memory = ours.encoder.encode(source)
        return memory, ours.decoder.output_layer(ours.decoder.decode(target, memory)[0])

    memory, logits = with_parameters(model, conversion.state, run)
    _weighted(golden, {"input/loss_weight": logits}).backward()
    real_BT = target.ne(model.decoder.padding_idx)
    comparison.output("logits", logits, real_BT)
    _compare_memory(comparison, memory, source.eq(model.encoder.padding_idx))
    comparison.gradients(leaves)
    with torch.no_grad():
        _left_padded(golden, comparison, model, real_BT)


def _compare_memory(comparison: Comparison, memory: Memory, padding_BS: Tensor) -> None:
    golden, p = comparison.golden, companion_of(memory)
    comparison.output("encoder_out_right_padded", _swap(memory.x_BSC), _swap(~padding_BS))
    unused = p.padding_mask_BS
    if unused is None:
        unused = torch.zeros(p.x_BSC.shape[:2], dtype=torch.bool)
    comparison.output("encoder_projected_out", _swap(p.x_BSC), _swap(~unused))
    for name, mask in (
        ("encoder_padding_mask_right_padded", padding_BS),
        ("encoder_projected_padding_mask", unused),
    ):
        if f"output/{name}" in golden:
            comparison.equal(f"output/{name}", mask)


def _left_padded(
    golden: Golden, comparison: Comparison, model: SeqAttnModel, real_BT: Tensor
) -> None:
    decoder, target = model.decoder, golden["input/prev_output_tokens"]
    memory = model.encoder.encode(golden["input/src_tokens_left_padded"])
    logits = decoder.output_layer(decoder.decode(target, memory)[0])
    comparison.output("logits_left_padded", logits, real_BT)
    state = decoder.start(memory)
    steps = [decoder.output_layer(decoder.step(c, state)) for c in target.split(1, dim=1)]
    comparison.output("incremental_logits_left_padded", torch.cat(steps, dim=1), real_BT)
    if "input/beam_tokens" in golden:
        _beams(golden, comparison, model, memory)


def _beams(golden: Golden, comparison: Comparison, model: SeqAttnModel, memory: Memory) -> None:
    """Step through segments; between two of them the hypotheses are reordered."""
    decoder, tokens = model.decoder, golden["input/beam_tokens"]
    expand = golden["input/beam_expand"].long()
    group = group_size(expand)
    sentence = torch.arange(expand.numel() // group).repeat_interleave(group)
    state = decoder.start(memory.select(expand[::group]), sentence)
    for segment in range(sum(name.startswith("output/beam_logits_seg") for name in golden.arrays)):
        if segment:
            order = golden[f"input/beam_order{segment}"].long()
            tokens = tokens[order]
            state.reorder(order)
        name = f"beam_logits_seg{segment}"
        length = golden[f"output/{name}"].size(1)
        columns = tokens[:, state.length : state.length + length].split(1, dim=1)
        steps = [decoder.output_layer(decoder.step(column, state)) for column in columns]
        comparison.output(name, torch.cat(steps, dim=1))


KINDS: tuple[Kind, ...] = (
    Kind("Luna attention", _official_class("LunarMultiheadAttention"), _attention),
    Kind("Luna causal attention", _official_class("LunarCausalAttention"), _causal_attention),
    Kind("Luna causal mean", _official_class("efficient_causal_attention"), _operation),
    Kind("Luna encoder layer", _official_class("LunaEncoderLayer"), _encoder_layer),
    Kind("Luna decoder layer", _official_class("LunaDecoderLayer"), _decoder_layer),
    Kind("Luna model", _official_class("LunaModel"), _model),
    *RECORD_KINDS,
)
