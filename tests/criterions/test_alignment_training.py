"""Guided alignment in real trainings: commands, several ranks, half precision, resuming."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.criterions import programs
from tests.criterions.test_alignment import GUIDED
from tests.launch import support
from tests.support import toy_corpus
from tests.support.alignments import write_pharaoh
from tests.support.interruption import differences, training_state

pytestmark = pytest.mark.xdist_group("launch")


@pytest.fixture
def links(tmp_path: Path) -> Path:
    """The links of reversed sentences; of every sixth only, so that some batches have none."""
    lines = (toy_corpus.corpus()[0] / "train.src").read_text().splitlines()
    pairs = []
    for number, line in enumerate(lines):
        last = len(line.split()) - 1
        pairs.append([] if number % 6 else [(last - i, i) for i in range(last + 1)])
    path = tmp_path / "links of words"
    write_pharaoh(path, pairs)
    return path


def options(links: Path) -> list[str]:
    return [
        "--task", "seqattn_translation", "--word-alignments", str(links),
        "--word-alignments-subwords", "none", "--criterion", GUIDED,
    ]  # fmt: skip


def train(folder: Path, links: Path, *extra: str, arch: str) -> toy_corpus.Result:
    data_bin = toy_corpus.corpus()[1]
    return toy_corpus.train(data_bin, folder, *options(links), *extra, arch=arch)


@pytest.mark.parametrize("arch", ["seqattn_rela_g", "transformer", "transformer_align"])
def test_every_kind_of_model_is_trained(arch: str, links: Path, tmp_path: Path) -> None:
    own = ["--alignment-layer", "0"] if arch == "transformer_align" else []
    result = train(tmp_path / "run", links, "--max-epoch", "2", *own, arch=arch)
    assert result.status == 0, result.stderr
    lines = (result.stdout + result.stderr).splitlines()
    told = [line for line in lines if "| loss" in line]
    in_training = [line for line in told if "alignment_loss" in line]
    assert len(in_training) == 2 and not any("valid" in line for line in in_training)
    assert sum("valid" in line for line in told) == 2


def test_a_file_of_another_text_ends_training_in_one_line(links: Path, tmp_path: Path) -> None:
    lines = links.read_text().splitlines()
    links.write_text("\n".join([*lines[:99], "0-77", *lines[100:], ""]))
    result = train(tmp_path / "run", links, arch="seqattn_rela_g")
    assert result.status == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"fairseq-train: error: {links}:100: a link to target word 77 (from 0)")


@pytest.mark.parametrize("task", ["translation", "seqattn_translation"])
def test_training_without_alignments_is_refused(task: str, tmp_path: Path) -> None:
    words = ["--task", task, "--criterion", GUIDED]
    result = toy_corpus.train(toy_corpus.corpus()[1], tmp_path, *words, arch="seqattn_rela_g")
    assert result.status == 1
    assert "error: --criterion seqattn_alignment: there are no alignments" in result.stderr


def test_a_model_without_attention_weights_is_named(links: Path, tmp_path: Path) -> None:
    small = [
        f"--{side}-{key}" for side in ("encoder", "decoder") for key in ("embed-dim", "layers")
    ]
    sizes = [word for flag in small for word in (flag, "1" if "layers" in flag else "8")]
    result = toy_corpus.run(
        "train", str(toy_corpus.corpus()[1]), "--user-dir", toy_corpus.USER_DIR, "--arch", "lstm",
        *toy_corpus.TRAINING, "--save-dir", str(tmp_path), *options(links), *sizes,
    )  # fmt: skip
    assert result.status == 1
    assert "error: --criterion seqattn_alignment: LSTMModel returns no" in result.stderr


def test_a_resumed_training_ends_as_one_in_one_go(links: Path, tmp_path: Path) -> None:
    words = ["--max-epoch", "2", "--save-interval-updates", "3", "--dropout", "0.1"]
    calm, resumed = tmp_path / "calm", tmp_path / "resumed"
    assert train(calm, links, *words, arch="seqattn_rela_g").status == 0
    resumed.mkdir()
    shutil.copy(calm / "checkpoint_1_3.pt", resumed / "checkpoint_last.pt")
    result = train(resumed, links, *words, arch="seqattn_rela_g")
    assert "Loaded checkpoint" in result.stdout + result.stderr
    first, second = (training_state(run / "checkpoint_last.pt") for run in (calm, resumed))
    assert differences(first, second) == []


WRAPPER = "distributed_training.ddp_backend"
WAYS = {
    "pytorch_ddp": [],
    "legacy_ddp": [f"{WRAPPER}=legacy_ddp"],
    "unused": ["distributed_training.find_unused_parameters=true"],
    "bf16": ["common.bf16=true"],
    "statistics": ["+criterion.attention_statistics=true"],
}
QUICK = ("pytorch_ddp", "bf16")


def ranks(count: int, run: Path, recipes: Path, links: Path, freq: int, *words: str) -> list[Any]:
    """Train one epoch with small batches; return what each rank has learnt."""
    support.train(
        count, run, recipes, "model._name=seqattn_rela_g", f"criterion._name={GUIDED}",
        f"+task.word_alignments='{links}'", "+task.word_alignments_subwords=none",
        "optimization.max_epoch=1", "dataset.max_tokens=40", f"optimization.update_freq=[{freq}]",
        *words, program=programs.remembering,
    )  # fmt: skip
    scratch = run.with_name(f"{run.name} scratch")
    return [torch.load(scratch / f"rank{rank}.pt", weights_only=True) for rank in range(count)]


@pytest.mark.parametrize(
    "way",
    [way if way in QUICK else pytest.param(way, marks=pytest.mark.slow) for way in WAYS],
)
def test_two_ranks_equal_one(way: str, links: Path, tmp_path: Path) -> None:
    """Batches are small: now and then only one of the two has links."""
    recipes = support.recipes(tmp_path / "recipes")
    two = ranks(2, tmp_path / "two", recipes, links, 1, *WAYS[way])
    assert differences(*two) == []
    (one,) = ranks(1, tmp_path / "one", recipes, links, 2, *WAYS[way])
    for key, value in one.items():
        error = (value.double() - two[0][key].double()).abs().max()
        assert error <= (2**-7 * value.abs().max() if way == "bf16" else 0), key


@pytest.mark.slow
def test_two_ranks_do_r_drop(links: Path, tmp_path: Path) -> None:
    recipes = support.recipes(tmp_path / "recipes")
    words = ["+criterion.rdrop_alpha=2.0", "model.dropout=0.2"]
    assert differences(*ranks(2, tmp_path / "two", recipes, links, 2, *words)) == []
