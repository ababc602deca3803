"""The ReLA release's names: embeddings tied in any way, scopes, what must be told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.official.conversion import OfficialModel
from seqattn_fairseq.official.rela import ORIGINS, convert
from seqattn_fairseq.parity.golden import Golden
from seqattn_fairseq.parity.modules import build_converted, dictionary_of
from tests.support.goldens import GOLDENS


def released() -> tuple[dict[str, Tensor], dict[str, Any]]:
    golden = Golden(GOLDENS / "rela_sparse" / "rela_g_model_right.npz")
    return golden.group("param"), golden.config


def logits(state: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    conversion = convert(OfficialModel(state, options))
    size = conversion.state["encoder.embed_tokens.weight"].size(0)
    dictionary = dictionary_of(size, options["pad"], options["eos"])
    model = build_converted(conversion, dictionary, dictionary)
    tokens = torch.tensor([[5, 6, 7, 1], [9, 8, 1, 0]])
    with torch.no_grad():
        out: Tensor = model(tokens, None, tokens)[0]
    return out


def test_embeddings_may_be_one_table_two_or_three() -> None:
    state, options = released()
    expected = logits(state, options)
    apart = {name: tensor for name, tensor in state.items() if name != "embedding"}
    ties = {}
    for names in (("src", "tgt"), ("src", "tgt", "softmax")):
        tables = {f"{name}_embedding": state["embedding"].clone() for name in names}
        ties[names] = convert(OfficialModel({**apart, **tables}, options)).options
        torch.testing.assert_close(logits({**apart, **tables}, options), expected)
    assert ties["src", "tgt"]["share_decoder_input_output_embed"]
    assert not ties["src", "tgt", "softmax"]["share_decoder_input_output_embed"]
    assert not ties["src", "tgt"]["share_all_embeddings"]
    assert convert(OfficialModel(state, options)).options["share_all_embeddings"]


def test_a_scope_before_every_name_does_not_matter() -> None:
    state, options = released()
    scoped = {f"transformer_rela/{name}": tensor for name, tensor in state.items()}
    assert ORIGINS[0].recognises(OfficialModel(scoped, options))
    assert torch.equal(logits(scoped, options), logits(state, options))


def test_names_of_a_training_run() -> None:
    state, options = released()
    trained = {"num_heads": options["H"], "pad": 0, "eos": 1, "relu_dropout": 0.3}
    conversion = convert(OfficialModel(state, trained))
    assert conversion.options["activation_dropout"] == 0.3
    assert conversion.options["layer_norm_eps"] == 1e-8
    assert torch.equal(logits(state, trained), logits(state, options))


def test_without_gates_it_is_rela_i() -> None:
    state, options = released()
    ungated = {n: t for n, t in state.items() if not n.endswith("post/gate")}
    assert convert(OfficialModel(ungated, options)).variant == "rela_i"
    some = {n: t for n, t in state.items() if n.startswith("decoder") or "gate" not in n}
    with pytest.raises(SeqAttnError, match="some attentions have post/gate and some have not"):
        convert(OfficialModel(some, options))


@pytest.mark.parametrize(("name", "told"), [("H", "num_heads"), ("pad", "pad"), ("eos", "eos")])
def test_what_the_variables_do_not_tell_must_be_told(name: str, told: str) -> None:
    state, options = released()
    del options[name]
    with pytest.raises(SeqAttnError, match=f"does not tell {told}; --set {told}=VALUE does"):
        convert(OfficialModel(state, options))


def test_other_variables_are_refused() -> None:
    state, options = released()
    with pytest.raises(SeqAttnError, match="without a place here: encoder/layer_0/more"):
        convert(OfficialModel({**state, "encoder/layer_0/more": torch.ones(1)}, options))
