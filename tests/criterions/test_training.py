"""Whole trainings with our criterions, by the command line and by Hydra, against fairseq's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.criterions.support import OURS, RDROP, STOCK
from tests.support import toy_corpus
from tests.support.interruption import training_state

pytestmark = pytest.mark.xdist_group("commands")

SMOOTHING = ["--label-smoothing", "0.1", "--report-accuracy", "--max-epoch", "2"]
# Adam makes steps of what is nothing but rounding, where a gradient is zero
SGD = ["--optimizer", "sgd", "--lr", "0.1"]
LAYERDROP = ["--encoder-layers", "2", "--decoder-layers", "2", "--decoder-layerdrop", "0.5"]
NUMBERS = r"\b(loss|nll_loss|ppl|accuracy|n_correct|gnorm) ([0-9.]+)"

# name: (architecture, options, largest difference of a parameter)
WAYS: dict[str, tuple[str, list[str], float]] = {
    "ours": ("seqattn_softmax", [*SGD, "--share-decoder-input-output-embed"], 1e-6),
    "stock": ("transformer", SGD, 1e-6),
    "fp16": ("seqattn_softmax", [*SGD, "--fp16", "--fp16-no-flatten-grads"], 2**-8),
}
MORE: dict[str, tuple[str, list[str], float]] = {
    "layerdrop, update_freq": ("seqattn_topk", [*SGD, *LAYERDROP, "--update-freq", "2"], 1e-6),
    "bf16": ("seqattn_softmax", [*SGD, "--bf16"], 2**-6),
    "stock, tied": ("transformer", [*SGD, "--share-all-embeddings"], 1e-6),
    "amp": ("seqattn_softmax", [*SGD, "--amp"], 1e-6),
    "mega": ("seqattn_mega", SGD, 1e-6),
    "luna": ("seqattn_luna", SGD, 1e-6),
    "muse": ("seqattn_muse", SGD, 1e-6),
    "dynamicconv": ("seqattn_dynamicconv", SGD, 1e-6),
    "sentence_avg": ("transformer", [*SGD, "--sentence-avg", "--lr", "0.01"], 1e-6),
    "prefix": ("transformer", [*SGD, "--ignore-prefix-size", "1"], 1e-6),
}
CASES = [
    *(pytest.param(*way, id=name) for name, way in WAYS.items()),
    *(pytest.param(*way, id=name, marks=pytest.mark.slow) for name, way in MORE.items()),
]


def _log(result: toy_corpus.Result) -> list[str]:
    return (result.stdout + result.stderr).splitlines()


def _numbers(result: toy_corpus.Result) -> list[tuple[str, str]]:
    """Return what was logged of losses, to the last digit that was printed."""
    lines = [line for line in _log(result) if re.search(r"train_inner|train:epoch|valid on", line)]
    return [found for line in lines for found in re.findall(NUMBERS, line.replace("|", " "))]


def _train(folder: Path, name: str, arch: str, *options: str) -> toy_corpus.Result:
    result = toy_corpus.train(
        toy_corpus.corpus()[1], folder, "--criterion", name, *SMOOTHING, *options, arch=arch
    )
    assert result.status == 0, result.stderr
    return result


def _both(folder: Path, arch: str, *options: str) -> tuple[Any, Any, Any, Any]:
    """Train with fairseq's criterion and with ours; return both logs and both models."""
    logs = [_train(folder / name, name, arch, *options) for name in (STOCK, OURS)]
    states = [training_state(folder / name / "checkpoint_last.pt") for name in (STOCK, OURS)]
    return *logs, *(state["model"] for state in states)


@pytest.mark.parametrize(("arch", "options", "tolerance"), CASES)
def test_trains_as_fairseqs_criterion_does(arch, options, tolerance, tmp_path):
    stock_log, ours_log, stock, ours = _both(tmp_path, arch, *options)
    assert stock.keys() == ours.keys()
    for key, value in stock.items():
        error = (value.double() - ours[key].double()).abs().max()
        assert error <= tolerance * max(1.0, float(value.abs().max())), key
    assert _numbers(stock_log)
    if tolerance == 1e-6:
        assert _numbers(ours_log) == _numbers(stock_log)


@pytest.mark.slow
def test_adam_logs_the_same_losses(tmp_path):
    stock_log, ours_log, _, _ = _both(tmp_path, "seqattn_softmax")
    assert _numbers(ours_log) == _numbers(stock_log) != []


@pytest.mark.parametrize(
    "arch", ["seqattn_rela_i", pytest.param("transformer", marks=pytest.mark.slow)]
)
def test_r_drop_trains_and_averages(arch, tmp_path):
    options = ["--dropout", "0.2", "--store-ema", "--ema-decay", "0.9", "--attention-statistics"]
    result = _train(tmp_path / "run", RDROP, arch, *options)
    assert any("rdrop_kl_loss" in line for line in _log(result))
    valid = [line for line in _log(result) if "valid on" in line]
    assert len(valid) == 2
    assert not any("rdrop_kl_loss" in line for line in valid)
    assert all(("attn_cross_sparsity" in line) == (arch != "transformer") for line in valid)
    state = torch.load(tmp_path / "run" / "checkpoint_last.pt", weights_only=True)
    mean = state["extra_state"]["ema"]
    assert mean.keys() == state["model"].keys()
    assert any((mean[key] != state["model"][key]).any() for key in mean)


def _resume(tmp_path: Path, *options: str) -> toy_corpus.Result:
    return toy_corpus.train(
        toy_corpus.corpus()[1], tmp_path, "--criterion", OURS, *options, "--max-epoch", "2"
    )


def test_a_run_of_fairseqs_criterion_goes_on_with_ours_only_if_told_to(tmp_path):
    _train(tmp_path, STOCK, "transformer", "--max-epoch", "1")
    refused = _resume(tmp_path)
    assert refused.status == 1
    assert "Criterion does not match; please reset the optimizer (--reset-optimizer)" in (
        refused.stderr
    )
    told = _resume(tmp_path, "--reset-optimizer")
    assert told.status == 0, told.stderr
    assert (tmp_path / "checkpoint2.pt").exists()


HYDRA = """\
# @package _global_
common: {{user_dir: "{user_dir}", cpu: true, log_format: simple}}
task: {{_name: seqattn_translation, data: "{data}"}}
model:
  _name: seqattn_entmax15
  encoder_layers: 1
  decoder_layers: 1
  encoder_embed_dim: 16
  decoder_embed_dim: 16
criterion: {{_name: {criterion}, label_smoothing: 0.1, report_accuracy: true}}
lr_scheduler: {{_name: fixed, lr: [0.001]}}
optimizer: {{_name: adam, lr: [0.001]}}
dataset: {{max_tokens: 200, num_workers: 0}}
optimization: {{max_epoch: 1, lr: [0.001]}}
checkpoint: {{save_dir: "{save_dir}"}}
hydra: {{job: {{chdir: false}}, run: {{dir: "{save_dir}"}}}}
"""


def _by_hydra(folder: Path, criterion: str) -> toy_corpus.Result:
    folder.mkdir()
    text = HYDRA.format(
        user_dir=toy_corpus.USER_DIR, data=toy_corpus.corpus()[1], save_dir=folder / "run",
        criterion=criterion,
    )  # fmt: skip
    (folder / "toy.yaml").write_text(text)
    result = toy_corpus.run("hydra_train", "--config-dir", str(folder), "--config-name", "toy")
    assert result.status == 0, result.stderr
    return result


def test_hydra_trains_the_same(tmp_path):
    stock, ours = (_by_hydra(tmp_path / name, name) for name in (STOCK, OURS))
    assert _numbers(ours) == _numbers(stock) != []


def test_options_out_of_range_are_one_line(tmp_path):
    result = toy_corpus.train(
        toy_corpus.corpus()[1], tmp_path, "--criterion", OURS, "--label-smoothing", "1.5"
    )
    assert result.status == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("fairseq-train: error: --label-smoothing 1.5 ")
