"""Stock fairseq's transformer of any age, and the Explicit Sparse fork of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.official.conversion import OfficialModel
from seqattn_fairseq.official.transformer import ORIGINS, convert, sparse_variant
from seqattn_fairseq.parity.modules import build_converted
from seqattn_fairseq.transformer.config import SIDES
from tests.support.baseline import STOCK_OPTIONS, stock_arguments, stock_model
from tests.support.models import PAD, batch, shifted, small_config, toy_dictionary

State = dict[str, Tensor]
OPTIONS: dict[str, dict[str, Any]] = {
    **STOCK_OPTIONS,
    "other decoder": {"decoder_embed_dim": 24, "decoder_attention_heads": 2, "decoder_layers": 3},
    "pruned": {"encoder_layers_to_keep": "0", "decoder_layers_to_keep": "1"},
}


def stock(**options: Any) -> tuple[Any, State, dict[str, Any]]:
    """Return a stock model, its state dict and its arguments."""
    torch.manual_seed(1)
    cfg = small_config("softmax", max_source_positions=50, max_target_positions=40, **options)
    model = stock_model(cfg, toy_dictionary()).eval()
    return model, model.state_dict(), vars(stock_arguments(cfg))


def assert_same_function(theirs: Any, state: State, options: dict[str, Any]) -> None:
    ours = build_converted(convert(OfficialModel(state, options)), toy_dictionary())
    source, target = batch([7, 5, 1]), shifted([6, 3, 5])
    with torch.no_grad():
        expected, _ = theirs(source, source.ne(PAD).sum(1), target)
        actual, _ = ours(source, None, target)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_current_checkpoints(options: dict[str, Any]) -> None:
    model, state, arguments = stock(**options)
    assert_same_function(model, state, arguments)


# ---- older ones --------------------------------------------------------------------------------

LISTED = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}


def fuse(state: State, part: Callable[[str], str], whole: str) -> None:
    """Stack the query, key and value of every attention that has them of one width."""
    for name in [n for n in state if n.endswith(part("q"))]:
        start = name.removesuffix(part("q"))
        parts = [state[f"{start}{part(p)}"] for p in "qkv"]
        if len({p.shape for p in parts}) == 1:
            state[f"{start}{whole}"] = torch.cat(parts)
            for p in "qkv":
                del state[f"{start}{part(p)}"]


def fused(state: State) -> None:
    fuse(state, lambda p: f"{p}_proj.weight", "in_proj_weight")
    fuse(state, lambda p: f"{p}_proj.bias", "in_proj_bias")
    for name in [n for n in state if re.search(r"\.[qkv]_proj\.weight", n)]:
        state[name.replace("_proj.weight", "_proj_weight")] = state.pop(name)


def listed_norms(state: State) -> None:
    for side, norms in LISTED.items():
        for name in [n for n in state if n.startswith(f"{side}.layers.")]:
            for index, norm in enumerate(norms):
                if f".{norm}." in name:
                    state[name.replace(f".{norm}.", f".layer_norms.{index}.")] = state.pop(name)


def embed_out(state: State) -> None:
    state["decoder.embed_out"] = state.pop("decoder.output_projection.weight")


def sinusoids(state: State) -> None:
    for side in SIDES:
        state.pop(f"{side}.version")
        state[f"{side}.embed_positions.weights"] = torch.ones(5, 16)


AGES: dict[str, tuple[Callable[[State], object], dict[str, Any]]] = {
    "fused projections": (fused, {}),
    "fused where widths agree": (fused, {"decoder_embed_dim": 24, "decoder_attention_heads": 2}),
    "norms in a list": (listed_norms, {}),
    "embed_out": (embed_out, {}),
    "saved sinusoids": (sinusoids, {}),
    "no output projection": (
        lambda s: s.pop("decoder.output_projection.weight"),
        {"share_decoder_input_output_embed": True},
    ),
    "all of a shared model": (
        lambda s: [s.pop(f"decoder.{n}.weight") for n in ("output_projection", "embed_tokens")],
        {"share_all_embeddings": True},
    ),
    "oldest": (lambda s: [age(s) for age in (fused, listed_norms, embed_out, sinusoids)], {}),
}


@pytest.mark.parametrize(("age", "options"), AGES.values(), ids=list(AGES))
def test_older_checkpoints(age: Callable[[State], object], options: dict[str, Any]) -> None:
    model, state, arguments = stock(**options)
    aged = dict(state)
    age(aged)
    (origin,) = [o for o in ORIGINS if o.recognises(OfficialModel(aged, arguments))]
    assert origin.name == "fairseq transformer"
    assert_same_function(model, aged, arguments)


@pytest.mark.parametrize("name", [n for n in OPTIONS if n not in ("no positions", "gelu")])
def test_a_bare_state_dict_tells_all_but_the_heads(name: str) -> None:
    options = {"no_scale_embedding": True} if name == "layernorm embedding" else {}
    model, state, arguments = stock(**OPTIONS[name])
    heads = {f"{side}_attention_heads": arguments[f"{side}_attention_heads"] for side in SIDES}
    if "final" in name:  # a decoder without it looks like a post-norm one
        options |= {"decoder_normalize_before": True}
    assert_same_function(model, state, {**heads, **options})
    with pytest.raises(SeqAttnError, match="does not tell encoder_attention_heads; --set"):
        convert(OfficialModel(state, options))


def test_older_dropout_argument() -> None:
    _, state, arguments = stock()
    arguments |= {"relu_dropout": 0.2, "activation_dropout": 0.0}
    assert convert(OfficialModel(state, arguments)).options["activation_dropout"] == 0.2


def test_what_is_dropped_has_a_reason() -> None:
    _, state, arguments = stock(share_all_embeddings=True)
    dropped = convert(OfficialModel(state, arguments)).dropped
    assert dropped["decoder.embed_tokens.weight"] == "tied to encoder.embed_tokens.weight"
    assert dropped["encoder.version"] == "a version number"
    assert dropped.keys() <= state.keys()


# ---- refusals ----------------------------------------------------------------------------------

Change = Callable[[State, dict[str, Any]], object]
REFUSED: dict[str, Change] = {
    "cross_self_attention is set": lambda _, a: a.update(cross_self_attention=True),
    "layer_wise_attention is set": lambda _, a: a.update(layer_wise_attention=True),
    "adaptive_input is set": lambda _, a: a.update(adaptive_input=True),
    "no parameter decoder.layers.1.fc2.bias": lambda s, _: s.pop("decoder.layers.1.fc2.bias"),
    "without a place here: decoder.project_out_dim.weight": lambda s, _: s.update(
        {"decoder.project_out_dim.weight": torch.ones(2, 2)}
    ),
    "share_all_embeddings is set, but the embeddings differ": lambda _, a: a.update(
        share_all_embeddings=True
    ),
    "pre-norm encoder without a norm after it": lambda _, a: a.update(
        encoder_normalize_before=True
    ),
    "entmax 4: the code knows 0 to 3": lambda _, a: a.update(entmax=4),
}


@pytest.mark.parametrize(("message", "change"), REFUSED.items(), ids=list(REFUSED))
def test_what_no_variant_computes_is_refused(message: str, change: Change) -> None:
    _, state, arguments = stock()
    state = dict(state)
    change(state, arguments)
    with pytest.raises(SeqAttnError, match=message):
        convert(OfficialModel(state, arguments))


def test_other_layers_are_not_recognised() -> None:
    _, state, arguments = stock()
    more = {**state, "encoder.layers.0.self_attn.bias_k": torch.ones(1, 1, 16)}
    assert not any(o.recognises(OfficialModel(more, arguments)) for o in ORIGINS)


# ---- the fork ----------------------------------------------------------------------------------

ALL_SITES = "encoder_self,decoder_self,cross"
FORK: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({}, "softmax", {}),
    ({"div": 0, "lb": 3, "entmax": 0}, "softmax", {}),
    ({"div": -8}, "topk", {"topk": 8, "attention_sites": ALL_SITES}),
    ({"div": -8, "use_att": ["ds", "dc"]}, "topk", {"attention_sites": "decoder_self,cross"}),
    ({"div": -8, "use_att": []}, "softmax", {}),
    ({"div": 3, "lb": 2}, "topk", {"topk": 0, "topk_divisor": 3, "topk_least": 2}),
    ({"div": 3}, "topk", {"topk_least": 1, "topk_padded_share": True}),
    ({"entmax": 1, "div": -8}, "sparsemax", {}),
    ({"entmax": 2, "use_att": ["es"]}, "entmax15", {}),
    ({"entmax": 3}, "entmax15", {}),
]


@pytest.mark.parametrize(("arguments", "variant", "options"), FORK)
def test_arguments_of_the_fork(
    arguments: dict[str, Any], variant: str, options: dict[str, Any]
) -> None:
    found, chosen = sparse_variant(arguments)
    assert found == variant
    assert options.items() <= chosen.items()
    _, state, stock_options = stock()
    model = OfficialModel(state, {**stock_options, **arguments})
    (origin,) = [o for o in ORIGINS if o.recognises(model)]
    assert origin.name.startswith(
        "fairseq"
        if not model.options.get("div") and not model.options.get("entmax")
        else "Explicit"
    )
    build_converted(origin.convert(model), toy_dictionary())
