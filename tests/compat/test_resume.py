"""Interrupted training: ``kill -9`` at random moments, and damaged checkpoints."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import torch

from tests.support import toy_corpus
from tests.support.interruption import differences, train_and_kill, training_state

pytestmark = pytest.mark.xdist_group("commands")

SAVING = (
    "--max-epoch 4 --save-interval-updates 2 --keep-interval-updates 2 --keep-last-epochs 2 "
    "--dropout 0.1 --seed 7"
).split()


def arguments(data_bin: Path, save_dir: Path, arch: str) -> list[str]:
    return [
        str(data_bin), "--user-dir", toy_corpus.USER_DIR, "--arch", arch, *toy_corpus.TINY,
        *toy_corpus.TRAINING, *SAVING, "--save-dir", str(save_dir),
    ]  # fmt: skip


def straight_run(tmp_path: Path, arch: str) -> tuple[Path, float]:
    """Train without interruption; return the checkpoints' folder and the seconds it took."""
    save_dir = tmp_path / "straight run"
    begin = time.monotonic()
    result = toy_corpus.run("train", *arguments(toy_corpus.corpus()[1], save_dir, arch))
    assert result.status == 0, result.stderr
    return save_dir, time.monotonic() - begin


def test_stock_training_killed_at_random_moments_ends_bit_equal(tmp_path: Path) -> None:
    """Our own models: tests/test_end_to_end.py."""
    straight, seconds = straight_run(tmp_path, "transformer")
    again = arguments(toy_corpus.corpus()[1], tmp_path / "killed run", "transformer")
    assert train_and_kill(again, tmp_path, kills=3, seconds=seconds / 10) > 0
    result = toy_corpus.run("train", *again)
    assert result.status == 0, result.stderr
    assert "RESUMED FROM" not in result.stdout + result.stderr
    calm, killed = (
        training_state(folder / "checkpoint_last.pt")
        for folder in (straight, tmp_path / "killed run")
    )
    assert differences(calm, killed) == []


def test_states_that_differ_in_one_bit_are_told_apart(tmp_path: Path) -> None:
    state = training_state(toy_corpus.trained().checkpoint)
    other = training_state(toy_corpus.trained().checkpoint)
    assert differences(state, other) == []
    name = next(iter(other["model"]))
    other["model"][name].view(-1)[0] += 1e-6
    assert differences(state, other) == [f".model.{name}"]


def damage(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    if kind == "truncated":
        del data[len(data) // 2 :]
    elif kind == "empty":
        data.clear()
    else:
        weights = torch.load(path, weights_only=True)["model"]["encoder.embed_tokens.weight"]
        data[data.index(weights.numpy().tobytes())] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["truncated", "empty", "bit flipped"])
def test_resume_falls_back_to_the_newest_good_checkpoint(tmp_path: Path, kind: str) -> None:
    straight, _ = straight_run(tmp_path, "seqattn_softmax")
    broken = tmp_path / "broken"
    shutil.copytree(straight, broken)
    damage(broken / "checkpoint_last.pt", kind)
    again = arguments(toy_corpus.corpus()[1], broken, "seqattn_softmax")
    result = toy_corpus.run("train", *again, "--max-epoch", "5")
    assert result.status == 0, result.stderr
    log = result.stdout + result.stderr
    assert f"{broken / 'checkpoint_last.pt'}: " in log
    assert f"RESUMED FROM {broken / 'checkpoint4.pt'} instead" in log  # no update is lost
    assert training_state(broken / "checkpoint_last.pt")["iterator"]["epoch"] > 4


def test_resume_without_any_good_checkpoint_says_so(tmp_path: Path) -> None:
    for name in ("checkpoint_last.pt", "checkpoint1.pt"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 no more")
    result = toy_corpus.train(toy_corpus.corpus()[1], tmp_path, arch="seqattn_softmax")
    assert result.status == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"fairseq-train: error: {tmp_path / 'checkpoint_last.pt'}: truncated")
    assert "Traceback" not in result.stderr


def test_another_models_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    shutil.copy(toy_corpus.trained().checkpoint, tmp_path / "checkpoint_last.pt")
    result = toy_corpus.train(
        toy_corpus.corpus()[1], tmp_path, "--encoder-layers", "2", arch="seqattn_softmax"
    )
    assert result.status == 1
    assert "parameters do not fit this model" in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_patience_survives_an_interruption(tmp_path: Path) -> None:
    """A learning rate of nearly nothing never improves: patience 2 ends the third epoch."""
    data_bin = toy_corpus.corpus()[1]
    for name, interruptions in (("calm", []), ("interrupted", ["2"])):
        for extra in [*(["--max-epoch", epoch] for epoch in interruptions), []]:
            result = toy_corpus.train(
                data_bin, tmp_path / name, "--patience", "2", "--lr", "1e-30", *extra,
                arch="seqattn_softmax",
            )  # fmt: skip
            assert result.status == 0, result.stderr
    epochs = {
        name: sorted(p.name for p in (tmp_path / name).glob("checkpoint[0-9]*.pt"))
        for name in ("calm", "interrupted")
    }
    assert epochs["interrupted"] == epochs["calm"]
    assert epochs["calm"] == [f"checkpoint{epoch}.pt" for epoch in (1, 2, 3)]

    # the model of a run that lost patience is a fine start for another run
    result = toy_corpus.train(
        data_bin, tmp_path / "tuned", "--patience", "2", "--max-epoch", "1",
        "--finetune-from-model", str(tmp_path / "calm/checkpoint_last.pt"), arch="seqattn_softmax",
    )  # fmt: skip
    assert result.status == 0, result.stderr
    assert (tmp_path / "tuned/checkpoint1.pt").exists()
