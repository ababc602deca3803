"""The loss inside the model's forward: which models, what it leaves behind, what it refuses."""

from __future__ import annotations

import argparse
import copy
import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from torch import nn
from torch.nn.utils import parametrizations

from seqattn_fairseq.criterions import projection
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops import cross_entropy
from tests.criterions.support import (
    OURS,
    RDROP,
    STOCK,
    assert_same,
    criterion,
    gradients,
    keep_double,
    model,
    sample,
)
from tests.support.models import PAIRS, SINGLE_VARIANTS, toy_dictionary

EXACT = 1e-10
SMALL = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {
        "embed_dim": 16,
        "hidden_size": 16,
        "ffn_embed_dim": 24,
        "conv_dim": 16,
        "attention_heads": 4,
        "kernel_size_list": [3, 3],
    }.items()
}
OTHERS: dict[str, dict[str, Any]] = {
    "lstm": {
        "criterion": "",
        "decoder_out_embed_dim": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
    },
    "fconv": {
        "encoder_layers": "[(16, 3)] * 2",
        "decoder_layers": "[(16, 3)] * 2",
        "decoder_out_embed_dim": 16,
        "max_source_positions": 50,
        "max_target_positions": 50,
        "share_input_output_embed": False,
    },
    "lightconv": {
        "encoder_layers": 2,
        "decoder_layers": 2,
        "max_source_positions": 50,
        "max_target_positions": 50,
        "decoder_output_dim": 16,
        "decoder_input_dim": 16,
    },
}


def _other_stock_model(arch: str) -> Any:
    """Return a model of fairseq's that projects in its own way."""
    dictionary = toy_dictionary()
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    ARCH_MODEL_REGISTRY[arch].add_args(parser)
    args = parser.parse_args([], argparse.Namespace(**{**SMALL, **OTHERS[arch]}))
    ARCH_CONFIG_REGISTRY[arch](args)
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, task).double().eval()


@pytest.fixture
def calls(monkeypatch) -> list[Any]:
    """Collect the calls of the fused loss."""
    seen: list[Any] = []
    original = cross_entropy.projected_cross_entropy

    def spy(*args: Any) -> Any:
        seen.append(args)
        return original(*args)

    monkeypatch.setattr(projection, "projected_cross_entropy", spy)
    return seen


@pytest.mark.parametrize("kind", ["stock", *SINGLE_VARIANTS, *PAIRS])
def test_no_model_of_ours_makes_logits(kind, calls):
    network = model(kind)
    outputs = []
    network.register_forward_hook(lambda module, inputs, output: outputs.append(output[0]))
    criterion(OURS, network.decoder.dictionary)(network, sample())
    assert len(calls) == len(outputs) == 1
    # what data-parallel wrappers look for tensors in
    assert type(outputs[0]) is tuple
    assert all(isinstance(value, torch.Tensor) for value in outputs[0])


@pytest.mark.parametrize("kind", ["stock", "rela_g"])
@pytest.mark.parametrize("name", [OURS, RDROP])
def test_nothing_stays_on_the_model(kind, name):
    network = model(kind).train()
    before = set(vars(network.decoder))
    score = criterion(name, network.decoder.dictionary)
    loss, _, _ = score(network, sample())
    assert set(vars(network.decoder)) == before
    loss.backward()
    twin = copy.deepcopy(network)
    logits = [each.eval()(**sample()["net_input"])[0] for each in (network, twin)]
    assert logits[0].shape[-1] == len(network.decoder.dictionary)
    assert torch.equal(*logits)


@pytest.mark.parametrize("kind", ["stock", "softmax"])
def test_nothing_stays_on_a_model_that_fails(kind, monkeypatch):
    network = model(kind)
    score = criterion(OURS, network.decoder.dictionary)

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(projection, "projected_cross_entropy", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        score(network, sample())
    assert "output_layer" not in vars(network.decoder)


@pytest.mark.parametrize("arch", sorted(OTHERS))
def test_others_project_themselves_and_it_is_said_once(arch, calls, caplog, monkeypatch):
    keep_double(monkeypatch)
    network = _other_stock_model(arch)
    projection._say_that_logits_are_made.cache_clear()
    found = []
    with caplog.at_level(logging.INFO):
        for name in (STOCK, OURS, OURS):
            score = criterion(
                name, network.decoder.dictionary, label_smoothing=0.1, report_accuracy=True
            )
            loss, _, output = score(network, sample())
            found.append({**output, **gradients(network, loss)})
    assert_same(found[1], found[0], EXACT)
    assert not calls
    assert [line for line in caplog.messages if "in its own way" in line] == [
        f"{type(network).__name__} projects in its own way: "
        "all logits of a batch are held in memory"
    ]


@pytest.mark.parametrize("arch", sorted(OTHERS))
def test_others_can_do_r_drop(arch, monkeypatch):
    keep_double(monkeypatch)
    network = _other_stock_model(arch).train()
    score = criterion(RDROP, network.decoder.dictionary, label_smoothing=0.1, rdrop_alpha=3.0)
    plain = criterion(STOCK, network.decoder.dictionary, label_smoothing=0.1)
    torch.manual_seed(3)
    loss, size, output = score(network, sample())
    twice = {key: value.repeat_interleave(2, 0) for key, value in sample()["net_input"].items()}
    batch = {**sample(), "net_input": twice, "target": sample()["target"].repeat_interleave(2, 0)}
    torch.manual_seed(3)
    entropy, _, _ = plain(network, batch)
    assert output["rdrop_kl_loss"] > 0
    assert float(loss) == pytest.approx(float(entropy) + 3.0 * float(output["rdrop_kl_loss"]))
    assert size == sample()["ntokens"]


def test_a_decoder_with_an_output_layer_of_its_own_keeps_it(calls, monkeypatch):
    keep_double(monkeypatch)
    network = model("softmax")
    decoder = type(network.decoder)

    class Cooler(decoder):  # type: ignore[misc, valid-type]
        def output_layer(self, features):
            return super().output_layer(features) / 2

    network.decoder.__class__ = Cooler
    found = []
    for name in (STOCK, OURS):
        loss, _, _ = criterion(name, network.decoder.dictionary)(network, sample())
        found.append({"loss": loss.detach(), **gradients(network, loss)})
    assert_same(found[1], found[0], EXACT)
    assert not calls


def test_an_output_layer_of_one_decoder_alone_is_kept(calls, monkeypatch):
    keep_double(monkeypatch)
    network = model("softmax")
    plain = network.decoder.output_layer

    def cooler(features: torch.Tensor) -> Any:
        return plain(features) / 2

    network.decoder.output_layer = cooler
    found = []
    for name in (STOCK, OURS):
        loss, _, _ = criterion(name, network.decoder.dictionary)(network, sample())
        found.append({"loss": loss.detach(), **gradients(network, loss)})
    assert_same(found[1], found[0], EXACT)
    assert network.decoder.output_layer is cooler
    assert not calls


class _Sharper(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 3 * super().forward(input)


def _with_projection(change: Any) -> Any:
    network = model("stock")
    network.decoder.output_projection = change(network.decoder.output_projection)
    return network.double()


CHANGES = {
    "bias": (lambda old: nn.Linear(old.in_features, old.out_features), True),
    "weight norm": (parametrizations.weight_norm, True),
    "another product": (lambda old: _Sharper(old.in_features, old.out_features), False),
}


@pytest.mark.parametrize(("change", "fused"), CHANGES.values(), ids=list(CHANGES))
def test_a_changed_projection_is_the_one_that_counts(change, fused, calls, monkeypatch):
    keep_double(monkeypatch)
    network = _with_projection(change)
    found = []
    for name in (STOCK, OURS):
        score = criterion(name, network.decoder.dictionary, label_smoothing=0.1)
        loss, _, _ = score(network, sample())
        found.append({"loss": loss.detach(), **gradients(network, loss)})
    assert_same(found[1], found[0], EXACT)
    assert bool(calls) is fused


@pytest.mark.parametrize("name", [OURS, RDROP])
def test_an_adaptive_softmax_is_refused(name):
    network = model("softmax")
    network.decoder.adaptive_softmax = nn.Identity()
    with pytest.raises(SeqAttnError, match="--criterion adaptive_loss"):
        criterion(name, network.decoder.dictionary)(network, sample())


class _Wrapper(nn.Module):
    """What data-parallel wrappers have in common."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def test_a_wrapped_model_is_found_inside(calls):
    network = model("softmax")
    score = criterion(OURS, network.decoder.dictionary)
    losses = [score(each, sample())[0] for each in (network, _Wrapper(_Wrapper(network)))]
    assert torch.equal(*losses)
    assert len(calls) == 2


def test_copies_of_a_row_follow_one_another_and_the_rest_stays():
    inputs = {"tokens": torch.arange(4).view(2, 2), "none": None, "flag": True}
    found = projection.repeated(inputs, 2)
    assert found["tokens"].tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert found["none"] is None
    assert found["flag"] is True
    assert projection.repeated(inputs, 1)["tokens"] is inputs["tokens"]
