"""The goldens of Mega's release: its modules and whole models.

Its sequences are (T, B, C); its padding masks (B, T), True at padding.

Shapes: B batch, T length, S source length, C width, K chunks, D channels, N states.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from seqattn_fairseq.official.conversion import Keys, OfficialModel
from seqattn_fairseq.official.mega import ORIGINS, bias_type, norm_type, place_part
from seqattn_fairseq.ops.ema import ema_kernel
from seqattn_fairseq.ops.mega import ELEMENTWISE
from seqattn_fairseq.parity.comparison import Comparison, Kind
from seqattn_fairseq.parity.golden import Golden
from seqattn_fairseq.parity.modules import build_converted, dictionary_of, with_parameters
from seqattn_fairseq.transformer.attention import AttentionLog
from seqattn_fairseq.transformer.cache import DecodingState, Memory
from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.transformer.registry import make_config
from seqattn_fairseq.variants.mega import OFFICIAL, mega_side
from seqattn_fairseq.variants.mega_modules import (
    AverageCache,
    MegaSide,
    MovingAverage,
    NormalizedFeedForward,
    RotaryBias,
    SimpleBias,
)
from seqattn_fairseq.variants.mega_units import GatedCrossAttention, GatedSelfAttention, SelfCache

_DROPOUTS = ("dropout", "attention_dropout", "hidden_dropout", "activation_dropout")


def _turn(x: Tensor) -> Tensor:
    return x.transpose(0, 1)


def _of_class(*names: str) -> Callable[[Golden], bool]:
    def recognises(golden: Golden) -> bool:
        return str(golden.meta.get("cls", "")).rpartition(".")[2] in names

    return recognises


def _state(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    keys = Keys(leaves)
    for name in keys.names():
        if name.endswith("_float_tensor"):
            keys.drop(name, "an empty buffer")
    place_part(keys)
    return keys.finish()


def _config(golden: Golden, side: str) -> tuple[Any, MegaSide]:
    """Return our configuration of one module of the release; the other side has the same sizes."""
    theirs = golden.config
    options: dict[str, Any] = {
        "norm_type": norm_type(golden.group("param")),
        "rel_pos_bias": theirs.get("rel_pos_bias", bias_type(golden.group("param"))),
        "attention_activation_fn": theirs.get("attention_activation", "softmax"),
        "mega_activation_fn": theirs.get("activation", "silu"),
        "truncation_length": theirs.get("truncation"),
        "max_source_positions": theirs.get("max_positions", 1024),
        "max_target_positions": theirs.get("max_positions", 1024),
        **dict.fromkeys(_DROPOUTS, 0.0),
    }
    sizes = {
        "embed_dim": theirs["embed_dim"],
        "z_dim": theirs.get("zdim", 2),
        "hidden_dim": theirs.get("hdim", 1),
        "n_dim": theirs.get("ndim", 1),
        "ffn_embed_dim": theirs.get("ffn_hidden_dim", 0),
        "normalize_before": theirs.get("prenorm", True),
        "chunk_size": theirs.get("chunk_size", -1),
    }
    options |= {
        f"{s}_{name}": value for s in ("encoder", "decoder") for name, value in sizes.items()
    }
    cfg = make_config("mega", **options | OFFICIAL)
    return cfg, mega_side(cfg, side)


def _real(golden: Golden, name: str = "padding_mask") -> Tensor | None:
    """Return (T, B): True at positions that are no padding; None if all are."""
    if f"input/{name}" not in golden:
        return None
    return ~_turn(golden[f"input/{name}"].bool())


def _mask(golden: Golden, name: str = "padding_mask") -> Tensor | None:
    return golden[f"input/{name}"].bool() if f"input/{name}" in golden else None


def _whole(
    golden: Golden,
    comparison: Comparison,
    module: nn.Module,
    run: Callable[[Any, dict[str, Tensor]], Tensor],
    inputs: Sequence[str] = ("x",),
    where: Tensor | None = None,
) -> None:
    """Compare the output (T, B, C) of whole sequences, and all gradients."""
    leaves = golden.parameters()
    variables = {name: golden.leaf(f"input/{name}") for name in inputs}
    out = with_parameters(module, _state(leaves), lambda m: run(m, variables))
    (out * golden["input/loss_weight"]).sum().backward()
    for name in ("out", "out_eval"):
        if f"output/{name}" in golden:
            comparison.output(name, out, where)
    comparison.gradients({**leaves, **variables})


def _loaded(golden: Golden, module: nn.Module) -> Any:
    module.load_state_dict(_state(golden.group("param")))
    return module.eval()


def _stepped(step: Callable[[Tensor], Tensor], x_TBC: Tensor, sizes: int | list[int] = 1) -> Tensor:
    parts: Any = sizes
    return _turn(torch.cat([step(x) for x in _turn(x_TBC).split(parts, dim=1)], dim=1))


def _block_sizes(golden: Golden, length: int) -> list[int]:
    found = re.search(r"block sizes \[([\d, ]+)\]", str(golden.meta.get("incremental")))
    return [int(n) for n in found[1].split(",")] if found else [length]


def _run_average(golden: Golden, comparison: Comparison) -> None:
    config = golden.config
    truncation = config.get("truncation") or 0
    module = MovingAverage(
        config["embed_dim"], config["ndim"], bool(config.get("bidirectional")), truncation
    )

    def run(m: MovingAverage, inputs: dict[str, Tensor]) -> Tensor:
        return _turn(m(_turn(inputs["x"]), _mask(golden)))

    real = _real(golden)
    _whole(golden, comparison, module, run, where=real)
    with torch.no_grad():
        loaded, x = _loaded(golden, module), golden["input/x"]
        if real is not None:
            # the release masks steps too; ours never see padding
            x = x.masked_fill(~real.unsqueeze(-1), 0.0)
        _compare_coefficients(golden, comparison, loaded)
        if "output/incremental" in golden:
            _average_steps(golden, comparison, loaded, x)
        if "output/incremental_blocks" in golden:
            cache = AverageCache(loaded)
            blocks = _stepped(cache.step, x, _block_sizes(golden, x.size(0)))
            comparison.output("incremental_blocks", blocks, real)
            assert cache.state_RDN is not None
            comparison.output("state_after_blocks", cache.state_RDN)


def _compare_coefficients(golden: Golden, comparison: Comparison, module: MovingAverage) -> None:
    c = module.coefficients()
    if "output/kernel" in golden:
        comparison.output("kernel", ema_kernel(c, golden["output/kernel"].size(1)))
    if "output/coeff_p" in golden:
        comparison.output("coeff_p", (c.input_EN / module.beta.squeeze(-1)).unsqueeze(-1))
        comparison.output("coeff_q", c.log_decay_EN.exp().unsqueeze(-1))


def _average_steps(
    golden: Golden, comparison: Comparison, module: MovingAverage, x_TBD: Tensor
) -> None:
    cache, states = AverageCache(module), []

    def step(x_BnD: Tensor) -> Tensor:
        y = cache.step(x_BnD)
        assert cache.state_RDN is not None
        states.append(cache.state_RDN)
        return y

    comparison.output("incremental", _stepped(step, x_TBD), _real(golden))
    if "output/incremental_state_per_step" in golden:
        comparison.output("incremental_state_per_step", torch.stack(states))


def _reordered(
    step: Callable[[Tensor], Tensor], reorder: Callable[[Tensor], None], golden: Golden
) -> Tensor:
    outputs = []
    for t, x_BC in enumerate(golden["input/x"]):
        if t:
            reorder(golden["input/new_order"][t])
        outputs.append(step(x_BC.unsqueeze(1)))
    return _turn(torch.cat(outputs, dim=1))


def _run_self_attention(golden: Golden, comparison: Comparison) -> None:
    cfg, side = _config(golden, "encoder" if golden.config["bidirectional"] else "decoder")
    module, log = GatedSelfAttention(cfg, side), AttentionLog()

    def run(m: GatedSelfAttention, inputs: dict[str, Tensor]) -> Tensor:
        return _turn(m(_turn(inputs["x"]), _mask(golden), log))

    real = _real(golden)
    _whole(golden, comparison, module, run, where=real)
    if "output/attn_weights" in golden:
        weights = _in_chunks(log.weights[module.site.value][0], golden["output/attn_weights"])
        where = None if real is None else _turn(real).reshape(weights.shape[:3])
        comparison.output("attn_weights", weights, where)
    if "output/incremental" in golden:
        with torch.no_grad():
            _self_attention_steps(golden, comparison, _loaded(golden, module))


def _in_chunks(weights_B1TT: Tensor, like_BKCC: Tensor) -> Tensor:
    """Return the (B, K, C, C) blocks on the diagonal."""
    chunks, size = like_BKCC.shape[1:3]
    starts = range(0, chunks * size, size)
    return torch.stack([weights_B1TT[:, 0, s : s + size, s : s + size] for s in starts], dim=1)


def _self_attention_steps(
    golden: Golden, comparison: Comparison, module: GatedSelfAttention
) -> None:
    cache = SelfCache(module)
    comparison.output("incremental", _stepped(lambda x: module.step(x, cache), golden["input/x"]))
    if "output/state_ema" in golden:
        assert cache.average.state_RDN is not None
        comparison.output("state_ema", cache.average.state_RDN)
    if "output/state_prev_key" in golden:
        none = (golden["output/state_prev_key"][:, :0], golden["output/state_prev_value"][:, :0])
        key, value = cache.append(*none)
        comparison.output("state_prev_key", key)
        comparison.output("state_prev_value", value)
    if "output/incremental_reordered" in golden:
        fresh = SelfCache(module)
        out = _reordered(lambda x: module.step(x, fresh), fresh.reorder, golden)
        comparison.output("incremental_reordered", out)


def _run_cross_attention(golden: Golden, comparison: Comparison) -> None:
    module, log = GatedCrossAttention(*_config(golden, "decoder")), AttentionLog()
    mask = _mask(golden, "key_padding_mask")

    def run(m: GatedCrossAttention, inputs: dict[str, Tensor]) -> Tensor:
        memory = Memory(_turn(inputs["key"]), mask)
        return _turn(m(_turn(inputs["query"]), None, memory, log))

    _whole(golden, comparison, module, run, ("query", "key"))
    comparison.output("attn_weights", log.weights["cross"][0][:, 0])
    if "output/incremental" not in golden:
        return
    with torch.no_grad():
        loaded = _loaded(golden, module)
        cache = loaded.memory_cache(Memory(_turn(golden["input/key"]), mask))
        steps = _stepped(lambda x: loaded.step(x, cache), golden["input/query"])
    comparison.output("incremental", steps)
    if "output/state_prev_key" in golden:
        comparison.output("state_prev_key", cache.key_BSZ)
        comparison.output("state_prev_value", cache.value_BSD)
    if "output/state_prev_num_steps" in golden:
        # the release counts from 0 at the first step
        comparison.equal("output/state_prev_num_steps", torch.tensor(cache.length - 1))


def _run_feed_forward(golden: Golden, comparison: Comparison) -> None:
    module = NormalizedFeedForward(*_config(golden, "encoder"))
    _whole(golden, comparison, module, lambda m, inputs: m(inputs["x"]))


def _bias_matrix(length: int, module: nn.Module) -> Tensor:
    matrix: Tensor = module(length, length)
    return matrix


def _run_bias(golden: Golden, comparison: Comparison) -> None:
    config = golden.config
    rotary = bias_type({f"rel_pos_bias.{name}": t for name, t in golden.group("param").items()})
    module: nn.Module = (
        RotaryBias(config["embed_dim"])
        if rotary == "rotary"
        else SimpleBias(config["max_positions"])
    )
    leaves = golden.parameters()
    state = _state(leaves)
    for name in golden.group("output"):
        if name.startswith("len"):
            length = int(name.removeprefix("len"))
            matrix = with_parameters(module, state, partial(_bias_matrix, length))
            comparison.output(name, matrix)
    _compare_activations(golden, comparison)
    if "input/loss_weight" in golden:
        weight = golden["input/loss_weight"]
        out = with_parameters(module, state, lambda m: m(*weight.shape))
        (out * weight).sum().backward()
        comparison.gradients(leaves)


def _compare_activations(golden: Golden, comparison: Comparison) -> None:
    for name, function in ELEMENTWISE.items():
        if f"output/{name}" in golden:
            x = golden.leaf("input/act_x")
            out = function(x)
            out.sum().backward()
            comparison.output(name, out)
            if f"grad/{name}_wrt_act_x" in golden:
                comparison.gradient(f"grad/{name}_wrt_act_x", x.grad)


def _run_model(golden: Golden, comparison: Comparison) -> None:
    leaves = golden.parameters()
    conversion = ORIGINS[0].convert(OfficialModel(leaves, golden.config))
    symbols = golden.meta.get("vocab", {})
    sizes = [leaves[f"{side}.embed_tokens.weight"].size(0) for side in ("encoder", "decoder")]
    special = (symbols.get("pad", 1), symbols.get("eos", 2))
    source = dictionary_of(sizes[0], *special)
    shared = conversion.options.get("share_all_embeddings")
    target = source if shared else dictionary_of(sizes[1], *special)
    model = build_converted(conversion, source, target)
    with_parameters(model, conversion.state, lambda m: _model_whole(golden, comparison, m))
    comparison.gradients(leaves)
    with torch.no_grad():
        _model_steps(golden, comparison, model)
        if "output/beam_tokens" in golden:
            _model_beam(golden, comparison, model)


def _tokens(golden: Golden) -> tuple[Tensor, Tensor]:
    return golden["input/src_tokens"], golden["input/prev_output_tokens"]


def _model_whole(golden: Golden, comparison: Comparison, model: SeqAttnModel) -> None:
    source, target = _tokens(golden)
    last = len(model.decoder.layers) - 1
    logits, extra = model(source, None, target, alignment_layer=last)
    (logits * golden["input/loss_weight"]).sum().backward()
    real = target.ne(model.decoder.padding_idx)
    for name in ("logits", "logits_eval"):
        if f"output/{name}" in golden:
            comparison.output(name, logits, real)
    if "output/attn" in golden:
        comparison.output("attn", extra["attn"][0], real)
    if "output/encoder_out" in golden:
        memory = model.encoder.encode(source)
        kept = _turn(source.ne(model.encoder.padding_idx))
        comparison.output("encoder_out", _turn(memory.x_BSC), kept)


def _model_steps(golden: Golden, comparison: Comparison, model: SeqAttnModel) -> None:
    source, target = _tokens(golden)
    real = target.ne(model.decoder.padding_idx)
    for name in ("logits_incremental", "logits_incremental_reordered"):
        if f"output/{name}" in golden:
            order = golden["input/new_order"] if name.endswith("reordered") else None
            state = model.decoder.start(model.encoder.encode(source))
            comparison.output(name, _model_stepped(model, state, target, order), real)


def _model_stepped(
    model: SeqAttnModel, state: DecodingState, target_BT: Tensor, orders_TB: Tensor | None
) -> Tensor:
    logits = []
    for t, tokens_B1 in enumerate(target_BT.split(1, dim=1)):
        if orders_TB is not None and t:
            state.reorder(orders_TB[t])
        logits.append(model.decoder.output_layer(model.decoder.step(tokens_B1, state)))
    return torch.cat(logits, dim=1)


def _model_beam(golden: Golden, comparison: Comparison, model: SeqAttnModel) -> None:
    from fairseq.sequence_generator import SequenceGenerator

    beam, source = golden.meta["beam"], golden["input/src_tokens"]
    search = SequenceGenerator(
        [model],
        model.decoder.dictionary,
        beam_size=beam["beam"],
        max_len_a=beam.get("max_len_a", 0),
        max_len_b=beam.get("max_len_b", 200),
        len_penalty=beam.get("lenpen", 1.0),
    )
    lengths = source.ne(model.encoder.padding_idx).sum(1)
    sample = {"net_input": {"src_tokens": source, "src_lengths": lengths}}
    tokens = torch.full_like(golden["output/beam_tokens"], -1)
    scores = torch.full_like(golden["output/beam_scores"], float("nan"))
    for row, hypotheses in enumerate(search.generate([model], sample)):
        for rank, found in enumerate(hypotheses[: tokens.size(1)]):
            tokens[row, rank, : len(found["tokens"])] = found["tokens"]
            scores[row, rank] = found["score"]
    comparison.equal("output/beam_tokens", tokens)
    comparison.output("beam_scores", scores)


KINDS: tuple[Kind, ...] = (
    Kind("Mega moving average", _of_class("MultiHeadEMA"), _run_average),
    Kind("Mega self-attention", _of_class("MovingAverageGatedAttention"), _run_self_attention),
    Kind("Mega cross-attention", _of_class("GatedCrossAttention"), _run_cross_attention),
    Kind("Mega feed-forward", _of_class("NormalizedFeedForwardNetwork"), _run_feed_forward),
    Kind(
        "Mega distance bias",
        _of_class("SimpleRelativePositionalBias", "RotaryRelativePositionalBias"),
        _run_bias,
    ),
    Kind("Mega model", _of_class("MegaModel"), _run_model),
)
