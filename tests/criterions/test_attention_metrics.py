"""Statistics of attention as metrics: sums over batches and ranks, and nothing while training."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.logging import metrics
from torch import Tensor, nn

from seqattn_fairseq.criterions import attention_metrics
from seqattn_fairseq.evaluation.attention_statistics import AttentionStatistics, rates
from seqattn_fairseq.transformer.attention import MultiheadAttention, Site
from tests.criterions.support import OURS, RDROP, criterion, model, sample
from tests.launch import support
from tests.support import toy_corpus
from tests.support.models import PAD, small_model, toy_dictionary

ALL = [f"attn_{site.value}" for site in Site]


def logged(*calls: list[dict[str, Any]]) -> dict[str, float]:
    """Return the metrics that several reductions of logging outputs make."""
    with metrics.aggregate(new_root=True) as meters:
        for outputs in calls:
            attention_metrics.reduce(outputs)
    return dict(meters.get_smoothed_values())


def log_of(made: Any, *batches: dict[str, Any]) -> AttentionStatistics:
    """Return one log of several batches."""
    log = AttentionStatistics()
    for batch in batches:
        tokens = batch["net_input"]
        log.begin(tokens["src_tokens"].eq(PAD), tokens["prev_output_tokens"].eq(PAD))
        made(**tokens, attention_log=log)
    return log


def output_of(made: Any, batch: dict[str, Any]) -> dict[str, Any]:
    log = attention_metrics.new_log(made, batch, PAD)
    assert log is not None
    made(**batch["net_input"], attention_log=log)
    return dict(attention_metrics.logged(log))


def batches() -> list[dict[str, Any]]:
    """Return batches of different sizes."""
    return [sample(), sample(left=False, seed=3), sample(padding=False, seed=5)]


@pytest.mark.parametrize("variant", ["rela_g", "luna", "mega", "softmax+luna"])
@torch.no_grad()
def test_metrics_are_ratios_of_sums_over_batches_and_ranks(variant: str) -> None:
    made = small_model(variant)
    outputs = [output_of(made, batch) for batch in batches()]
    one_by_one = logged(*([output] for output in outputs))
    assert one_by_one == logged(outputs) == logged(outputs[:1], outputs[1:])
    log = log_of(made, *batches())
    assert {key.rsplit("_", 1)[0] for key in one_by_one} >= {f"attn_{site}" for site in log.layers}
    for site, sums in log.kinds().items():
        expected = rates(sums)
        for name in ("sparsity", "null", "entropy", "diversity", "diversity_share"):
            value, key = getattr(expected, name), f"attn_{site}_{name}"
            assert one_by_one.get(key) == (
                None if value is None else pytest.approx(value, abs=6e-5)
            )


def weights(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator).sub(0.4).clamp(min=0)


def test_layers_with_other_numbers_of_heads_share_a_metric() -> None:
    none = torch.zeros(2, 3, dtype=torch.bool)
    log = AttentionStatistics()
    log.begin(none, none)
    for heads in (2, 1, 4):
        log.add(Site.CROSS, weights(2, heads, 3, 3, seed=heads))
    found = logged([dict(attention_metrics.logged(log))])
    layers = log.layers["cross"]
    zeros = sum(float(layer.zeros_H.sum()) for layer in layers)
    assert found["attn_cross_sparsity"] == pytest.approx(zeros / (7 * 2 * 3 * 3), abs=5e-5)
    several = float(layers[0].diversity + layers[2].diversity)
    assert found["attn_cross_diversity"] == pytest.approx(several / 12, abs=5e-5)
    bound = 6 * math.log(2) + 6 * math.log(4)
    assert found["attn_cross_diversity_share"] == pytest.approx(several / bound, abs=5e-5)


def test_what_is_the_ratio_of_nothing_is_no_number() -> None:
    none = torch.zeros(1, 2, dtype=torch.bool)
    log = AttentionStatistics()
    log.begin(none, none)
    log.add(Site.CROSS, torch.zeros(1, 1, 2, 2))
    found = logged([dict(attention_metrics.logged(log))])
    assert math.isnan(found.pop("attn_cross_entropy"))
    assert found == {"attn_cross_sparsity": 1.0, "attn_cross_null": 1.0}


@torch.no_grad()
def test_all_batches_have_the_same_keys_of_tensors() -> None:
    """fairseq adds the values of ranks by key and device, so they must not depend on the batch."""
    made = small_model("rela_g")
    outputs = [output_of(made, batch) for batch in batches()]
    assert len({tuple(output) for output in outputs}) == 1
    values = [value for output in outputs for value in output.values()]
    assert all(value.dim() == 0 and value.dtype == torch.float64 for value in values)


class Wrapper(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def test_wrapped_models_are_found() -> None:
    assert attention_metrics.new_log(Wrapper(Wrapper(small_model("topk"))), sample(), PAD)


def test_other_models_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    attention_metrics._say_that_there_are_none.cache_clear()
    wrapped = Wrapper(model("stock").float())
    loss = criterion(OURS, toy_dictionary(), attention_statistics=True).eval()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            _, _, output = loss(wrapped.eval(), sample())
    assert [r.message for r in caplog.records if "statistics of attention" in r.message] == [
        "no statistics of attention: TransformerModel is not a model of this package"
    ]
    assert not [key for key in output if key.startswith("attn_")]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what computes or takes attention weights, for every call."""
    found: list[str] = []

    def counting(owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            found.append(f"{owner.__name__}.{name}")
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    counting(type(small_model("rela_g").decoder.layers[0].encoder_attn), "weights")
    counting(AttentionStatistics, "__init__")
    counting(AttentionStatistics, "add")
    return found


@pytest.mark.parametrize("name", [OURS, RDROP, "seqattn_alignment"])
def test_training_computes_no_weights(name: str, calls: list[str]) -> None:
    made = small_model("rela_g")
    assert isinstance(made.decoder.layers[0].encoder_attn, MultiheadAttention)
    loss = criterion(name, toy_dictionary(), attention_statistics=True)
    _, _, output = loss(made.train(), sample())
    assert calls == [] and not [key for key in output if key.startswith("attn_")]
    with torch.no_grad():
        _, _, output = loss.eval()(made.eval(), sample())
    assert len([call for call in calls if call.endswith(".add")]) == 6  # 2 + 2 * 2 attentions
    assert [key for key in output if key.startswith("attn_")]


def test_without_the_option_validation_computes_none(calls: list[str]) -> None:
    loss = criterion(OURS, toy_dictionary()).eval()
    _, _, output = loss(small_model("rela_g"), sample())
    assert calls == [] and not [key for key in output if key.startswith("attn_")]


def test_validations_log_them_and_a_checkpoint_can_be_chosen_by_them(tmp_path: Path) -> None:
    _, data_bin = toy_corpus.corpus()
    result = toy_corpus.train(
        data_bin, tmp_path / "run", "--max-epoch", "2", "--criterion", OURS,
        "--attention-statistics", "--best-checkpoint-metric", "attn_cross_null",
        arch="seqattn_rela_g",
    )  # fmt: skip
    assert result.status == 0, result.stderr
    lines = (result.stdout + result.stderr).splitlines()
    told = [line for line in lines if "attn_" in line and "| loss" in line]
    assert len(told) == 2
    assert all("'valid' subset" in line for line in told)
    assert all(f"| {site}_sparsity" in line for line in told for site in ALL)
    assert "best_attn_cross_null" in told[1]
    best = torch.load(tmp_path / "run" / "checkpoint_best.pt", weights_only=False)
    assert 0 <= best["extra_state"]["best"] <= 1


def statistics(results: list[toy_corpus.Result]) -> list[str]:
    """Return what rank 0 logs of attention, to the last digit that it prints."""
    parts = [part for line in results[0].stdout.splitlines() for part in line.split("|")]
    return [part.strip() for part in parts if part.startswith(" attn_")]


@pytest.mark.xdist_group("launch")
@pytest.mark.parametrize(
    "wrapper", ["pytorch_ddp", pytest.param("legacy_ddp", marks=pytest.mark.slow)]
)
def test_two_ranks_log_what_one_logs(tmp_path: Path, wrapper: str) -> None:
    """With 30 tokens the valid batches are odd in number: one rank repeats one."""
    recipes = support.recipes(tmp_path / "recipes")
    words = [
        "model._name=seqattn_rela_g", f"criterion._name={OURS}",
        "+criterion.attention_statistics=true", "dataset.max_tokens_valid=30",
        f"distributed_training.ddp_backend={wrapper}",
    ]  # fmt: skip
    freq = "optimization.update_freq=[{}]"
    two = support.train(2, tmp_path / "two", recipes, freq.format(1), *words)
    one = support.train(1, tmp_path / "one", recipes, freq.format(2), *words)
    assert statistics(two) == statistics(one)
    assert len(statistics(one)) == 2 * 3 * 5  # validations, kinds of attention, statistics
