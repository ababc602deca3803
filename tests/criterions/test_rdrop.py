"""``seqattn_rdrop`` against equation 4 of its paper, written down naively."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fairseq.logging import metrics
from torch import Tensor
from torch.nn import functional as F

from tests.criterions.support import (
    OURS,
    RDROP,
    assert_same,
    criterion,
    gradients,
    keep_double,
    model,
    sample,
)
from tests.support.models import PAD

SMOOTHING = 0.1
DROPOUT = {"dropout": 0.2}


def _cross_entropy(lprobs_NV: Tensor, target_N: Tensor) -> Tensor:
    vocabulary = lprobs_NV.size(1)
    wanted = torch.full_like(lprobs_NV, SMOOTHING / (vocabulary - 1))
    wanted.scatter_(1, target_N[:, None], 1 - SMOOTHING)
    return -(wanted * lprobs_NV).sum()


def _naive(network: Any, batch: dict[str, Any], alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, the mean -log p_y of both passes, and the divergence."""
    twice = {name: value.repeat_interleave(2, 0) for name, value in batch["net_input"].items()}
    logits, _ = network(**twice)
    counts = batch["target"].ne(PAD)
    first, second = (F.log_softmax(logits[k::2][counts], -1) for k in range(2))
    target = batch["target"][counts]
    divergence = (
        F.kl_div(first, second, log_target=True, reduction="sum")
        + F.kl_div(second, first, log_target=True, reduction="sum")
    ) / 2
    entropy = _cross_entropy(first, target) + _cross_entropy(second, target)
    nll = sum(F.nll_loss(half, target, reduction="sum") for half in (first, second)) / 2
    return entropy + alpha * divergence, torch.as_tensor(nll), divergence


@pytest.mark.parametrize("kind", ["stock", "softmax", "topk", "luna", "mega", "muse"])
@pytest.mark.parametrize("alpha", [5.0, 0.5])
def test_it_is_equation_4(kind, alpha):
    network, batch = model(kind, **DROPOUT).train(), sample()
    torch.manual_seed(5)
    loss, nll, divergence = _naive(network, batch, alpha)
    wanted = {"loss": loss.detach(), **gradients(network, loss)}
    score = criterion(
        RDROP, network.decoder.dictionary, label_smoothing=SMOOTHING, rdrop_alpha=alpha
    )
    torch.manual_seed(5)
    loss, size, output = score(network, batch)
    assert size == output["sample_size"] == output["ntokens"] == batch["ntokens"]
    assert output["nsentences"] == 3
    assert_same({"loss": loss, **gradients(network, loss)}, wanted, 1e-10)
    assert_same(
        {name: output[name] for name in ("loss", "nll_loss", "rdrop_kl_loss")},
        {"loss": wanted["loss"], "nll_loss": nll, "rdrop_kl_loss": divergence},
        1e-10,
    )
    assert divergence > 0


def test_alpha_is_that_of_the_papers_translation():
    network = model("softmax")
    assert criterion(RDROP, network.decoder.dictionary).rdrop_alpha == 5.0


@pytest.mark.parametrize("kind", ["stock", "rela_i"])
def test_validation_is_plain_label_smoothing(kind, monkeypatch):
    keep_double(monkeypatch)
    network = model(kind, **DROPOUT)
    found = []
    for name in (OURS, RDROP):
        score = criterion(name, network.decoder.dictionary, label_smoothing=SMOOTHING)
        with torch.no_grad():
            _, size, output = score(network, sample())
        found.append({"size": size, **output})
    assert_same(found[1], found[0], 0.0)


def test_without_dropout_it_is_twice_label_smoothing():
    network = model("softmax").train()
    for module in network.modules():
        if isinstance(getattr(module, "p", None), float):
            module.p = 0.0
    outputs = []
    for name in (OURS, RDROP):
        score = criterion(name, network.decoder.dictionary, report_accuracy=True)
        outputs.append(score(network, sample())[2])
    plain, twice = outputs
    torch.testing.assert_close(twice["loss"], 2 * plain["loss"])
    torch.testing.assert_close(twice["nll_loss"], plain["nll_loss"])
    assert abs(twice["rdrop_kl_loss"]) < 1e-12
    assert twice["total"] == 2 * plain["total"]
    assert twice["n_correct"] == 2 * plain["n_correct"]


def test_the_divergence_is_logged_for_each_token_in_bits():
    network = model("softmax", **DROPOUT).train()
    score = criterion(RDROP, network.decoder.dictionary)
    outputs = [score(network, sample(seed=seed))[2] for seed in range(2)]
    with metrics.aggregate(new_root=True) as meters:
        score.reduce_metrics(outputs)
    total = sum(float(output["rdrop_kl_loss"]) for output in outputs)
    tokens = sum(output["ntokens"] for output in outputs)
    wanted = total / tokens / math.log(2)
    assert meters["rdrop_kl_loss"].avg == pytest.approx(wanted, rel=1e-9)


def test_prefixes_count_neither_as_entropy_nor_as_divergence():
    network = model("softmax", **DROPOUT).train()
    batch = sample()
    options = {"label_smoothing": SMOOTHING, "rdrop_alpha": 2.0}
    shortened = {**batch, "target": batch["target"].clone()}
    shortened["target"][:, :2] = PAD
    found = []
    for prefix, given in ((2, batch), (0, shortened)):
        score = criterion(RDROP, network.decoder.dictionary, ignore_prefix_size=prefix, **options)
        torch.manual_seed(5)
        loss, _, output = score(network, given)
        found.append({"loss": loss, "kl": output["rdrop_kl_loss"], **gradients(network, loss)})
    assert_same(found[0], found[1], 1e-10)
