"""A sweep through submitit, with its local executor standing for SLURM."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.evaluation.checkpoints import load_checkpoint
from tests.launch import support
from tests.support import toy_corpus

pytestmark = pytest.mark.xdist_group("launch")


def sweep(root: Path, folder: Path, *words: str) -> toy_corpus.Result:
    """Run a sweep of the recipe ``toy`` with this project's launchers."""
    recipe_dir = support.recipes(folder / "recipes")
    shutil.copytree(root / "configs/launcher", recipe_dir / "launcher")
    return toy_corpus.run(
        "hydra_train", "--config-dir", str(recipe_dir), "--config-name", "toy", "-m",
        "checkpoint.save_dir=runs/seed${common.seed}", "optimization.max_epoch=1", *words,
        folder=folder,
    )  # fmt: skip


def test_every_job_of_a_sweep_is_a_process_with_a_run_of_its_own(
    root: Path, tmp_path: Path
) -> None:
    result = sweep(root, tmp_path, "launcher=local", "common.seed=1,2")
    assert result.status == 0, result.stderr
    for seed in (1, 2):
        state = load_checkpoint(tmp_path / f"runs/seed{seed}/checkpoint_last.pt")
        assert state["cfg"]["common"]["seed"] == seed
    assert len(list((tmp_path / "runs/sweep/slurm").glob("*/*_result.pkl"))) == 2


def test_the_command_for_one_training_sends_sweeps_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_dir = support.recipes(tmp_path / "recipes")
    words = ["train", "toy", "launcher=slurm", "--config-dir", str(recipe_dir)]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "fairseq-hydra-train --config-dir configs --config-name toy -m launcher=..." in error
