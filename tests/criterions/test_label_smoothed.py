"""``seqattn_label_smoothed_cross_entropy`` is fairseq's criterion, through whole models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fairseq.logging import metrics

from seqattn_fairseq.errors import SeqAttnError
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
from tests.support.models import PAIRS, SINGLE_VARIANTS

EXACT = 1e-10


def _both(kind: str, batch: dict[str, Any], monkeypatch, **options: Any) -> list[dict[str, Any]]:
    """Return sample size, logging output and gradients of the stock criterion and of ours."""
    keep_double(monkeypatch)
    tied = options.pop("tied", False)
    network = model(kind, share_decoder_input_output_embed=tied)
    found = []
    for name in (STOCK, OURS):
        score = criterion(name, network.decoder.dictionary, **options)
        loss, size, output = score(network, batch)
        assert torch.equal(loss.detach(), output["loss"])
        found.append({"size": size, **output, **gradients(network, loss)})
    return found


@pytest.mark.parametrize("kind", ["stock", *SINGLE_VARIANTS, *PAIRS])
def test_every_model(kind, monkeypatch):
    stock, ours = _both(kind, sample(), monkeypatch, label_smoothing=0.1, report_accuracy=True)
    assert_same(ours, stock, EXACT)


@pytest.mark.parametrize("kind", ["stock", "softmax"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9999])
def test_every_smoothing(kind, smoothing, left, tied, monkeypatch):
    options = {"label_smoothing": smoothing, "tied": tied}
    stock, ours = _both(kind, sample(left), monkeypatch, **options)
    assert_same(ours, stock, EXACT)


@pytest.mark.parametrize("kind", ["stock", "rela_g"])
@pytest.mark.parametrize(
    "options",
    [
        {"ignore_prefix_size": 1, "report_accuracy": True},
        {"ignore_prefix_size": 5},
        {"sentence_avg": True},
    ],
)
@pytest.mark.parametrize("padding", [False, True])
def test_every_option(kind, options, padding, monkeypatch):
    stock, ours = _both(kind, sample(padding=padding), monkeypatch, label_smoothing=0.1, **options)
    assert_same(ours, stock, EXACT)


@pytest.mark.parametrize("kind", ["stock", "entmax15"])
@pytest.mark.parametrize("training", [False, True])
def test_without_reduction_every_token_has_its_loss(kind, training, monkeypatch):
    keep_double(monkeypatch)
    network = model(kind)
    found = []
    for name in (STOCK, OURS):
        score = criterion(name, network.decoder.dictionary, label_smoothing=0.1)
        with torch.set_grad_enabled(training):
            loss, _, output = score(network, sample(), reduce=False)
        found.append({"loss": loss, "nll": output["nll_loss"]})
        if training:
            found[-1] |= gradients(network, loss.square().sum())
    assert found[0]["loss"].shape == found[1]["loss"].shape
    assert found[0]["nll"].shape == found[1]["nll"].shape
    assert_same(found[1], found[0], EXACT)


@pytest.mark.parametrize("kind", ["stock", "luna"])
def test_a_batch_of_padding_gives_zero_and_gradients(kind):
    network = model(kind).train()
    score = criterion(OURS, network.decoder.dictionary, label_smoothing=0.1)
    batch = sample()
    loss, _, _ = score(network, {**batch, "target": torch.ones_like(batch["target"])})
    assert loss == 0
    found = gradients(network, loss)
    assert found.keys() == {name for name, _ in network.named_parameters()}
    assert not any(gradient.any() for gradient in found.values())


def test_same_metrics_from_several_logging_outputs():
    network = model("softmax")
    found = []
    for name in (STOCK, OURS):
        score = criterion(name, network.decoder.dictionary, report_accuracy=True)
        with torch.no_grad():
            outputs = [score(network, sample(seed=seed))[2] for seed in range(3)]
        with metrics.aggregate(new_root=True) as meters:
            score.reduce_metrics(outputs)
        assert score.logging_outputs_can_be_summed()
        found.append(meters.get_smoothed_values())
    assert set(found[1]) == {"loss", "nll_loss", "ppl", "total", "n_correct", "accuracy"}
    assert found[1] == found[0]


@pytest.mark.parametrize("name", [OURS, RDROP])
def test_statistics_of_attention_at_validation_only(name):
    network = model("rela_g")
    score = criterion(name, network.decoder.dictionary, attention_statistics=True)
    with torch.no_grad():
        validated = score(network, sample())[2]
    trained = score(network.train(), sample())[2]
    assert any(key.startswith("attn_cross") for key in validated)
    assert not any(key.startswith("attn") for key in trained)
    with metrics.aggregate(new_root=True) as meters:
        score.reduce_metrics([validated, validated])
    assert 0 < meters["attn_cross_sparsity"].avg < 1


def test_without_the_option_the_model_logs_no_attention():
    network = model("rela_g")
    score = criterion(OURS, network.decoder.dictionary)
    assert not any(key.startswith("attn") for key in score(network, sample())[2])


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (OURS, {"label_smoothing": 1.0}, r"--label-smoothing 1.0 .*must be in \[0, 1\)"),
        (OURS, {"label_smoothing": -0.1}, "--label-smoothing"),
        (OURS, {"ignore_prefix_size": -1}, "--ignore-prefix-size -1 .*must be >= 0"),
        (RDROP, {"rdrop_alpha": -1.0}, "--rdrop-alpha -1.0 .*must be >= 0"),
        (RDROP, {"rdrop_alpha": 0.0}, "use --criterion seqattn_label_smoothed_cross_entropy"),
    ],
)
def test_an_option_out_of_its_range_is_refused(name, options, says):
    with pytest.raises(SeqAttnError, match=says):
        criterion(name, model("softmax").decoder.dictionary, **options)
