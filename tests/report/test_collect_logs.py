"""Learning curves from logs: all formats, restarts, damage, and a size that a page can hold."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path

import pytest
from fairseq.logging.progress_bar import TqdmProgressBar

from seqattn_fairseq.report.curves import (
    MAX_POINTS,
    curves,
    devices,
    find_logs,
    hours,
    memory_mib,
    read_logs,
    thin,
    tokens_per_second,
    updates,
)
from seqattn_fairseq.report.training_log import Series, TrainingLog, parse
from tests.report.folders import inner, loaded, valid, write
from tests.support import toy_corpus

JSON = "2026-11-20 09:38:43 | INFO | "
BAR = (
    "epoch 005:  50%|█████     | 5/10 [00:01<00:01,  3.30it/s, loss=5.954, ppl=27.5, "
    "num_updates=800, lr=0.0015]"
)


def _read(*texts: str, folder: Path) -> TrainingLog:
    """Return what the logs of several starts say."""
    return read_logs([[write(folder / f"{i}.log", text)] for i, text in enumerate(texts)])


def _points(log: TrainingLog, name: str) -> dict[float, float]:
    found = {curve.name: curve for curve in curves(log)}[name]
    return dict(zip(found.x, found.y, strict=True))


@pytest.mark.parametrize(
    ("line", "kind", "name", "value"),
    [
        (inner(800, 5.954), "train_inner", "loss", 5.954),
        (f"\x1b[A{BAR}\n", "train_inner", "loss", 5.954),
        (valid(800, 5.442), "valid", "loss", 5.442),
        (valid(800, subset="valid1"), "valid1", "bleu", 30.5),
        ("epoch 004 | loss 6.071 | ppl 30.25 | num_updates 800\n", "train", "loss", 6.071),
        (
            f'{JSON}train_inner | {{"epoch": 1, "update": 0.5, "loss": "5.5", '
            '"num_updates": "800"}\n',
            "train_inner",
            "loss",
            5.5,
        ),
        (
            f'{JSON}train | {{"epoch": 1, "train_loss": "5.5", "train_train_wall": "3", '
            '"train_num_updates": "800"}\n',
            "train",
            "train_wall",
            3.0,
        ),
        (
            '{"epoch": 1, "valid1_bleu": "5.5", "valid1_num_updates": "800"}\n',
            "valid1",
            "bleu",
            5.5,
        ),
    ],
)
def test_a_line(line: str, kind: str, name: str, value: float) -> None:
    found = parse(line)
    assert found is not None
    assert (found[0], found[1], found[2][name]) == (kind, 800, value)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "num_updates\n",
        "Stopping training due to num_updates: 1000 >= max_update: 1000\n",
        "epoch 005 | valid on 'valid' subset:  50%|█████     | 5/10 [00:01<00:01, 3.30it/s]\n",
        inner(800).replace("=800", "=8[2026-11-20 09:38:43]"),
        BAR.replace("=800, lr=0.0015]", "=8"),  # cut by a narrow terminal
        '{"num_updates": \n',
        '{"num_updates": "nan"}\n',
        '{"a": {"num_updates": 3}}\n',
    ],
)
def test_a_line_without_figures(line: str) -> None:
    assert parse(line) is None


def test_names_of_curves(tmp_path: Path) -> None:
    log = _read(inner(10) + valid(10) + valid(10, subset="valid1"), folder=tmp_path)
    names = {curve.name for curve in curves(log)}
    sides = {f"{side} {name}" for side in ("valid", "valid1") for name in ("loss", "ppl", "bleu")}
    sides |= {"valid attn_cross_sparsity", "valid1 attn_cross_sparsity"}
    of_training = {"train loss", "train nll", "train ppl", "learning rate", "tokens per second"}
    assert names == sides | of_training | {"gradient norm"}


def test_a_resumed_start_replaces_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    first = "".join(inner(update, 1.0) for update in (10, 20, 30, 40)) + valid(35, 1.0)
    second = loaded(30) + inner(40, 2.0) + inner(50, 2.0)
    assert _points(_read(first, second, folder=tmp_path), "train loss") == {
        10: 1.0, 20: 1.0, 30: 1.0, 40: 2.0, 50: 2.0,
    }  # fmt: skip
    assert "valid loss" not in {c.name for c in curves(_read(first, second, folder=tmp_path))}


def test_a_start_that_says_nothing_of_a_checkpoint_counts_from_its_first_update(
    tmp_path: Path,
) -> None:
    first = "".join(inner(update, 1.0) for update in (10, 20, 30))
    log = _read(first, inner(20, 2.0), folder=tmp_path)
    assert _points(log, "train loss") == {10: 1.0, 20: 2.0}
    again = "[x] No existing checkpoint found /run/checkpoint_last.pt\n" + inner(15, 3.0)
    assert _points(_read(first, again, folder=tmp_path), "train loss") == {15: 3.0}


def test_two_starts_in_one_file(tmp_path: Path) -> None:
    text = "".join(inner(update, 1.0) for update in (10, 20, 30)) + valid(30) + inner(20, 2.0)
    log = _read(text, folder=tmp_path)
    assert _points(log, "train loss") == {10: 1.0, 20: 2.0}
    assert not [curve for curve in curves(log) if curve.name.startswith("valid")]


def test_a_line_that_is_cut_short_says_nothing(tmp_path: Path) -> None:
    whole = inner(10) + inner(20)
    cut = inner(900)[: inner(900).index("900") + 1]  # ... num_updates=9
    log = _read(whole + cut, folder=tmp_path)
    assert list(_points(log, "train loss")) == [10, 20]


def test_foreign_bytes_and_bars(tmp_path: Path) -> None:
    path = tmp_path / "log"
    bars = [BAR.replace("800", str(update)) for update in (801, 801, 802)]
    path.write_bytes(b"\xff\xfe num_updates \x80\n" + "\r".join(["", *bars, "\n"]).encode())
    assert list(_points(read_logs([[path]]), "train loss")) == [801, 802]


def test_a_training_that_logs_epochs_only(tmp_path: Path) -> None:
    line = "epoch 004 | loss 6.071 | wps 50 | num_updates 800 | wall 7200\n"
    log = _read(line, folder=tmp_path)
    assert _points(log, "train loss") == {800: 6.071}
    assert (tokens_per_second(log), hours(log), updates(log)) == (50, 2, 800)


def test_divergence(tmp_path: Path) -> None:
    log = _read(inner(10) + inner(20, "nan") + inner(30, "inf"), folder=tmp_path)
    assert list(_points(log, "train loss")) == [10] and log.diverged == 20
    assert (
        _read(inner(10) + inner(20, "nan"), loaded(10) + inner(20), folder=tmp_path).diverged
        is None
    )


def test_speed_is_that_of_the_steady_state(tmp_path: Path) -> None:
    speeds = [1, 2, 1000, 1100, 1300]
    start = "".join(inner(10 * i, wps=speed) for i, speed in enumerate(speeds, start=1))
    later = loaded(50) + "".join(inner(50 + 10 * i, wps=speed) for i, speed in enumerate([3, 4], 1))
    log = _read(start, later, folder=tmp_path)
    assert tokens_per_second(log) == 1100
    assert hours(log) == pytest.approx(140 / 3600)
    assert tokens_per_second(_read(inner(10, wps=7), folder=tmp_path)) == 7
    assert tokens_per_second(TrainingLog()) is None and hours(TrainingLog()) is None


def test_memory_and_devices(tmp_path: Path) -> None:
    gpu = "rank {:3d}: capabilities =  9.0  ; total memory = 80.000 GB ; name = H9      \n"
    text = "".join(gpu.format(rank) for rank in range(2))
    text += inner(10, more=", gb_free=70.5") + inner(20, more=", gb_free=60.5")
    log = _read(text, folder=tmp_path)
    assert memory_mib(log) == pytest.approx(19.5 * 1024)
    assert devices(log) == "2 x H9"
    assert memory_mib(_read(inner(10), folder=tmp_path)) is None
    assert devices(TrainingLog()) is None


def test_thinning_keeps_ends_and_extremes() -> None:
    series = Series()
    for update in range(100_000):
        series.add(update, math.sin(update / 1000))
    series.y[50_001], series.y[70_002] = 9.0, -9.0
    x, y = thin(series)
    assert len(x) <= MAX_POINTS and len(x) > MAX_POINTS / 2
    assert (x[0], x[-1]) == (0, 99_999) and x == sorted(x)
    assert {50_001: 9.0, 70_002: -9.0}.items() <= dict(zip(x, y, strict=True)).items()
    short = Series()
    for update in range(MAX_POINTS):
        short.add(update, 1.0)
    assert len(thin(short)[0]) == MAX_POINTS


def test_where_logs_are(tmp_path: Path) -> None:
    assert find_logs(tmp_path) == []
    newer, older = (write(tmp_path / name, "") for name in ("a.log", "b.log"))
    os.utime(older, (1, 1))
    assert find_logs(tmp_path) == [[older], [newer]]
    hydra = write(tmp_path / "hydra" / "hydra_train.log", "")
    assert find_logs(tmp_path) == [[hydra]]
    write(tmp_path / "logs" / "lock", "")
    for start in ("20260102-000000", "20260101-000000"):
        for stream in ("err", "out"):
            write(tmp_path / "logs" / start / f"rank0.{stream}", "")
        write(tmp_path / "logs" / start / "rank1.out", "")
    names = [
        [str(p.relative_to(tmp_path / "logs")) for p in start] for start in find_logs(tmp_path)
    ]
    assert names == [
        ["20260101-000000/rank0.out", "20260101-000000/rank0.err"],
        ["20260102-000000/rank0.out", "20260102-000000/rank0.err"],
    ]


def test_the_bar_that_fairseq_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("fairseq.logging.progress_bar").setLevel(logging.INFO)
    bar = TqdmProgressBar(range(4), epoch=5)
    bar.tqdm.mininterval = 0
    for update in bar:
        bar.log({"loss": 2.0 - update, "num_updates": update}, tag="train_inner", step=update)
    log = _read(capsys.readouterr().err + "\n", folder=tmp_path)
    assert _points(log, "train loss").items() >= {0: 2.0, 1: 1.0, 2: 0.0}.items()


@pytest.mark.parametrize("form", ["simple", "json"])
def test_what_fairseq_logs(form: str, tmp_path: Path) -> None:
    options = ["--max-epoch", "2", "--log-interval", "2", "--log-format", form]
    log_file = tmp_path / "train.log"
    done = toy_corpus.train(
        toy_corpus.corpus()[1], tmp_path / "run", *options, "--log-file", str(log_file),
        arch="seqattn_softmax",
    )  # fmt: skip
    assert done.status == 0, done.stderr
    # the same by the logger's stream, with its prefix, and by the file, which has none
    stream = write(tmp_path / "stream", done.stderr)
    found = [read_logs([[path]]) for path in (stream, log_file)]
    assert found[0].series == found[1].series
    assert found[0].parameters == 5184
    assert list(_points(found[0], "train loss")) == [2, 4, 6, 8, 10, 12, 14]
    assert list(_points(found[0], "valid ppl")) == [7, 14]
    text = json.dumps([curve.name for curve in curves(found[0])])
    assert "learning rate" in text and "tokens per second" in text
