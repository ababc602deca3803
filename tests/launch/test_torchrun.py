"""Plain fairseq under torchrun trains as one, or says in one line why it does not."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from seqattn_fairseq.evaluation.checkpoints import load_checkpoint
from tests.launch import support
from tests.support import toy_corpus

pytestmark = pytest.mark.xdist_group("launch")


def fairseq_train(arguments: Sequence[str]) -> None:
    """Be the console script ``fairseq-train``."""
    sys.argv = ["fairseq-train", *arguments]
    importlib.import_module("fairseq_cli.train").cli_main()


def torchrun(folder: Path, *words: str) -> list[toy_corpus.Result]:
    """Run ``fairseq-train`` as torchrun's two processes."""
    arguments = [
        str(toy_corpus.corpus()[1]), "--user-dir", toy_corpus.USER_DIR, "--arch",
        "seqattn_softmax", *toy_corpus.TINY, *toy_corpus.TRAINING, "--max-epoch", "1",
        "--dropout", "0", "--save-dir", str(folder / "run"), *words,
    ]  # fmt: skip
    return support.run_programs(fairseq_train, [arguments] * 2, folder)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--distributed-world-size", "2"),
        ("--distributed-world-size", "2", "--distributed-init-method", "env://"),
    ],
    ids=["nothing", "world size", "init method without no-spawn"],
)
def test_fairseq_train_becomes_one_training(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Stock: two trainings in one folder; a division by zero; no training and status 0."""
    results = torchrun(tmp_path, *words)
    assert [result.status for result in results] == [0, 0], results[0].stderr
    assert "torchrun: rank 0 of 2" in results[0].stdout + results[0].stderr
    state = load_checkpoint(tmp_path / "run" / "checkpoint_last.pt")
    assert state["cfg"]["distributed_training"]["distributed_world_size"] == 2
    assert state["cfg"]["distributed_training"]["distributed_backend"] == "gloo"
    alone = toy_corpus.train(
        toy_corpus.corpus()[1], tmp_path / "alone", "--max-epoch", "1", "--dropout", "0",
        arch="seqattn_softmax",
    )  # fmt: skip
    assert alone.status == 0
    updates = load_checkpoint(tmp_path / "alone" / "checkpoint_last.pt")["optimizer_history"][-1]
    assert state["optimizer_history"][-1]["num_updates"] == (updates["num_updates"] + 1) // 2


def test_another_world_size_is_refused(tmp_path: Path) -> None:
    for result in torchrun(tmp_path, "--distributed-world-size", "4"):
        assert result.status == 1
        last = result.stderr.strip().splitlines()[-1]
        assert last == (
            "fairseq-train: error: --distributed-world-size 4, but 2 processes were started; leave "
            "it out"
        )


def test_an_address_without_a_gpu_is_not_a_finished_training(tmp_path: Path) -> None:
    result = toy_corpus.train(
        toy_corpus.corpus()[1], tmp_path, "--distributed-init-method", "tcp://localhost:1",
        "--distributed-world-size", "2", arch="seqattn_softmax",
    )  # fmt: skip
    assert result.status == 1
    assert "without a GPU would start no process at all" in result.stderr


def test_hydra_ranks_that_would_train_alone_refuse(tmp_path: Path) -> None:
    """In a new interpreter: the plugin comes with the recipe, when Hydra has begun."""
    recipe_dir = support.recipes(tmp_path / "recipes")
    done = subprocess.run(
        [
            Path(sys.executable).with_name("fairseq-hydra-train"), "--config-dir", recipe_dir,
            "--config-name", "toy", support.save_dir(tmp_path / "run"),
        ],
        env={**os.environ, **support.environ(1, 2, 29500)},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("fairseq-hydra-train: error: WORLD_SIZE=2, but this process would train")
    assert not list((tmp_path / "run").glob("*.pt"))
