"""TensorBoard and Weights & Biases: what they are sent, and what is said where they are missing."""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.logging import progress_bar
from fairseq.logging.meters import AverageMeter
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from seqattn_fairseq import compat  # noqa: F401 applies the workarounds
from seqattn_fairseq.launch import worker
from tests.launch import support
from tests.support import toy_corpus

pytestmark = pytest.mark.xdist_group("commands")

TAGS = {"train", "train_inner", "valid"}
TRAIN = [
    "--user-dir", toy_corpus.USER_DIR, "--arch", "seqattn_softmax", *toy_corpus.TINY,
    *toy_corpus.TRAINING, "--no-epoch-checkpoints", "--log-interval", "2",
]  # fmt: skip


def curves(folder: Path) -> dict[str, dict[int, float]]:
    """Return update -> value of every curve in a folder of event files."""
    events = EventAccumulator(str(folder)).Reload()
    return {
        name: {event.step: event.value for event in events.Scalars(name)}
        for name in events.Tags()["scalars"]
    }


# ---- TensorBoard -------------------------------------------------------------------------------


def _logged(output: str, tag: str) -> dict[int, float]:
    """Return update -> loss as the log of a training has them."""
    lines = [line for line in output.splitlines() if re.search(rf"INFO(:| \| ){tag}\b", line)]
    rows = [re.search(r"loss[= ]([\d.]+).*num_updates[= ](\d+)", line) for line in lines]
    return {int(row[2]): float(row[1]) for row in rows if row}


def test_tensorboard_holds_every_curve_also_after_a_resume(tmp_path: Path) -> None:
    logdir, said = tmp_path / "events", ""
    for epochs in ("2", "3"):
        result = toy_corpus.run(
            "train", str(toy_corpus.corpus()[1]), *TRAIN, "--save-dir", str(tmp_path / "run"),
            "--max-epoch", epochs, "--tensorboard-logdir", str(logdir),
        )  # fmt: skip
        assert result.status == 0, result.stderr
        said += result.stdout + result.stderr
    assert {path.name for path in logdir.iterdir()} == TAGS
    for tag in TAGS:
        found = curves(logdir / tag)
        assert found["loss"] == pytest.approx(_logged(said, tag), abs=6e-4)
        assert list(found["loss"]) == sorted(found["loss"])
    assert set(curves(logdir / "valid")["loss"]) == {7, 14, 21}
    assert {"lr", "gnorm", "wps"} <= curves(logdir / "train_inner").keys()
    assert "no effect" not in said


def test_odd_statistics_reach_tensorboard(tmp_path: Path) -> None:
    bar = progress_bar.TensorboardProgressBarWrapper(
        SimpleNamespace(print=lambda *_, **__: None), str(tmp_path)
    )
    meter = AverageMeter()
    meter.update(torch.tensor(2.5))
    stats = {"tensor": torch.tensor(1.5), "nan": math.nan, "inf": torch.tensor(math.inf)}
    bar.print({**stats, "meter": meter, "words": "no number"}, tag="odd", step=3)
    progress_bar._tensorboard_writers.pop("odd").close()
    found = {name: values[3] for name, values in curves(tmp_path / "odd").items()}
    assert math.isnan(found.pop("nan"))
    assert found == {"tensor": 1.5, "inf": math.inf, "meter": 2.5}


def test_only_rank_0_writes(tmp_path: Path) -> None:
    logdir, recipes = tmp_path / "events", support.recipes(tmp_path / "recipes")
    support.train(2, tmp_path / "run", recipes, f"common.tensorboard_logdir='{logdir}'")
    for tag in TAGS:
        assert len(list((logdir / tag).iterdir())) == 1
        steps = list(curves(logdir / tag)["loss"])
        assert steps == sorted(set(steps))
        assert steps


# ---- without the packages ----------------------------------------------------------------------


def _without_packages(arguments: Sequence[str]) -> None:
    progress_bar.SummaryWriter = progress_bar.wandb = None
    if arguments[0] == "train":
        sys.argv = ["fairseq-train", *arguments[1:]]
        importlib.import_module("fairseq_cli.train").cli_main()
    else:
        worker.main(arguments)


def _check_said_once(output: str) -> None:
    for flag, package in (("tensorboard-logdir", "tensorboard"), ("wandb-project", "wandb")):
        said = [line for line in output.splitlines() if f"pip install {package}" in line]
        assert len(said) == 1, output
        assert f"--{flag} " in said[0]
        assert "has no effect" in said[0]
        assert output.index(said[0]) < output.index("Start iterating over samples")
    assert "please install" not in output
    assert "wandb not found" not in output


def test_a_missing_package_is_said_once(tmp_path: Path) -> None:
    words = [
        "train", str(toy_corpus.corpus()[1]), *TRAIN, "--save-dir", str(tmp_path / "run"),
        "--max-epoch", "2", "--tensorboard-logdir", "events", "--wandb-project", "toy",
    ]  # fmt: skip
    (result,) = support.run_programs(_without_packages, [words], tmp_path)
    assert result.status == 0, result.stderr
    _check_said_once(result.stdout + result.stderr)


def test_a_missing_package_is_said_by_rank_0_alone(tmp_path: Path) -> None:
    words = ["common.tensorboard_logdir=events", "common.wandb_project=toy"]
    recipes = support.recipes(tmp_path / "recipes")
    first, second = support.train(2, tmp_path / "run", recipes, *words, program=_without_packages)
    _check_said_once(first.stdout + first.stderr)
    assert "pip install" not in second.stdout + second.stderr


# ---- Weights & Biases --------------------------------------------------------------------------


class StandIn:
    """Takes down what Weights & Biases would be told."""

    def __init__(self) -> None:
        self.run: object | None = None
        self.calls: list[tuple[str, Any]] = []
        self.config = SimpleNamespace(update=self._update)

    def init(self, **options: Any) -> None:
        assert self.run is None
        self.run = object()
        self.calls.append(("init", options))

    def finish(self) -> None:
        self.run = None
        self.calls.append(("finish", None))

    def log(self, values: dict[str, Any], step: int) -> None:
        assert self.run is not None
        self.calls.append(("log", [step, values]))

    def _update(self, values: Any, allow_val_change: bool = False) -> None:
        self.calls.append(("config", allow_val_change))


def _train_in_turn(arguments: Sequence[str]) -> None:
    """Train once for each save_dir after the first two arguments, in this process."""
    data, record, *runs = arguments
    wandb = progress_bar.wandb = StandIn()
    for run in runs:
        sys.argv = [
            "fairseq-train", data, *TRAIN, "--save-dir", run, "--max-epoch", "2",
            "--wandb-project", "toy", "--tensorboard-logdir", f"{run}/events",
        ]  # fmt: skip
        importlib.import_module("fairseq_cli.train").cli_main()
    Path(record).write_text(json.dumps(wandb.calls))


@pytest.fixture(scope="module")
def two_trainings(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Any]]:
    """Return the folders of two trainings of one process, and what W&B was told."""
    folder = tmp_path_factory.mktemp("in turn")
    runs, record = [folder / name for name in ("one", "two")], folder / "calls.json"
    words = [str(toy_corpus.corpus()[1]), str(record), *map(str, runs)]
    (result,) = support.run_programs(_train_in_turn, [words], folder)
    assert result.status == 0, result.stderr
    return runs, json.loads(record.read_text())


def test_a_training_is_one_run(two_trainings: tuple[list[Path], list[Any]]) -> None:
    calls = two_trainings[1]
    names = [name for name, _ in calls if name in ("init", "finish")]
    assert names == ["init", "finish", "init"]
    begun = [options for name, options in calls if name == "init"]
    assert begun == [{"project": "toy", "name": name} for name in ("one", "two")]
    assert all(changeable for name, changeable in calls if name == "config")
    second = calls.index(["finish", None])
    for told in (calls[:second], calls[second:]):
        logged = [value for name, value in told if name == "log"]
        steps = [step for step, _ in logged]
        assert steps == sorted(steps)  # W&B drops what goes back
        keys = {key for _, values in logged for key in values}
        assert {f"{tag}/loss" for tag in TAGS} <= keys


def test_each_training_has_its_own_curves(two_trainings: tuple[list[Path], list[Any]]) -> None:
    for run in two_trainings[0]:
        assert set(curves(run / "events" / "valid")["loss"]) == {7, 14}


def test_tensors_reach_wandb_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = StandIn()
    wandb.run = object()  # the user's own: no other is begun
    monkeypatch.setattr(progress_bar, "wandb", wandb)
    bar = progress_bar.WandBProgressBarWrapper(SimpleNamespace(print=lambda *_, **__: None), "toy")
    stats = {"tensor": torch.tensor([1.5]), "inf": math.inf, "words": "no number", "n": 2}
    bar.print({**stats, "many": torch.ones(2), "num_updates": 5}, tag="valid")
    told = {key: value for _, (step, values) in wandb.calls for key, value in values.items()}
    assert told == {"valid/tensor": 1.5, "valid/inf": math.inf, "valid/n": 2}
    assert [value[0] for _, value in wandb.calls] == [5, 5, 5]
