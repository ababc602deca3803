"""The GPU's script, on the CPU: it runs, notes what it finds, and survives what goes wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import measure
from benchmarks.gpu import __main__ as script
from benchmarks.gpu import kernels, training
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.record import BrokenDeviceError, Record
from benchmarks.measure import OURS
from seqattn_fairseq.transformer.registry import VARIANTS

CLOCK = Clock("cpu", 1, 0.0)


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    made = Record(tmp_path / "found.json", 600)
    yield made
    assert json.loads(made.path.read_text()) == made.data  # whole at any moment


# those that the interpreter is quick with
QUICK = ("lightconv", "luna_causal")


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in kernels.MECHANISMS],
)
def test_a_mechanism_is_compared_and_timed(
    name: str, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    scale = kernels.TINY._replace(lengths=(16,), positions=16)
    kernels.check(name, record, scale, "cpu")
    assert record.data["failures"] == []
    mechanism = kernels.MECHANISMS[name]
    assert len(record.data["errors"]) == 1 + len(mechanism.more)
    assert all(row["right"] for row in record.data["errors"])
    kernels.time_all(name, record, scale, CLOCK)
    assert record.data["failures"] == []
    names = kernels.contenders(mechanism.make(1, 16))
    assert [row["contender"] for row in record.data["rows"]] == names
    assert record.data["rows"][0]["error"] < 1e-4
    assert all(row["seconds"] > 0 for row in record.data["rows"])


def test_a_wrong_kernel_is_a_failure(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels._results

    def wrong(case: Any, name: str, *rest: Any) -> list[torch.Tensor]:
        out, *gradients = right(case, name, *rest)
        return [out + (1e-3 if name == OURS else 0.0), *gradients]

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(kernels, "_results", wrong)
    kernels.check("muse", record, kernels.TINY, "cpu")
    assert [row["right"] for row in record.data["errors"]] == [False]
    assert "errors (output, gradients)" in record.data["failures"][0]["why"]


def test_errors_are_allowed_that_torch_makes_too() -> None:
    both = {"kernel": 0.019, "torch": 0.01}
    assert kernels.within([both], torch.bfloat16)
    assert not kernels.within([both, {"kernel": 0.021, "torch": 0.01}], torch.bfloat16)
    assert not kernels.within([{"kernel": float("nan"), "torch": 0.01}], torch.bfloat16)
    assert kernels.within([{"kernel": 1e-6, "torch": 0.0}], torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_step_is_timed(dtype: torch.dtype, record: Record) -> None:
    setting = training.TINY[0]._replace(dtype=dtype, contenders=(training.NAIVE, OURS))
    training.measure_all(setting, record, CLOCK, 0.0)
    assert record.data["failures"] == []
    naive, ours = record.data["rows"]
    assert naive["loss"] == pytest.approx(ours["loss"], rel=1e-5 if dtype.itemsize == 4 else 0.02)
    assert ours["ratio"] == 1 and naive["tokens_per_second"] > 0


def test_settings_of_the_gpu_name_what_there_is() -> None:
    known = {*training._ALL}
    names = [setting.name for setting in training.FULL]
    assert len(set(names)) == len(names)
    assert all(set(setting.contenders) <= known for setting in training.FULL)
    measured = {setting.variant for setting in training.FULL}
    assert measured == {*VARIANTS} - {"hybrid"}


# ---- what goes wrong ---------------------------------------------------------------------------


def test_a_failure_is_noted_and_the_rest_goes_on(record: Record) -> None:
    with record.attempt("first"), record.attempt("first: form"):
        _ = 1 / 0
    (failure,) = record.data["failures"]
    assert failure["what"] == "first: form" and "ZeroDivisionError" in failure["why"]


def test_a_broken_device_ends_the_process(record: Record) -> None:
    with pytest.raises(BrokenDeviceError), record.attempt("part"), record.attempt("kernel"):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    assert [failure["what"] for failure in record.data["failures"]] == ["kernel"]


def test_what_there_is_no_time_for_is_skipped(tmp_path: Path) -> None:
    record = Record(tmp_path / "found.json", 0)
    assert list(record.parts(["first"])) == []
    assert record.data["skipped"] == ["first"]


def test_what_was_begun_is_not_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    parts = Record(path, 600).parts(["first", "second"])
    assert next(parts) == "first"  # and here its process dies
    assert list(Record(path, 600).parts(["first", "second"])) == ["second"]


# ---- the whole ---------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Run some parts, tiny, with this process in front; gives the results and the exit status."""
    previous = signal.getsignal(signal.SIGTERM)
    path = tmp_path / "found.json"

    def main(*parts: str) -> dict[str, Any]:
        options = ["--device", "cpu", "--tiny", "--json", str(path), "--parts", *parts]
        status = script.main(options)
        return {**json.loads(path.read_text()), "status": status, "path": path}

    yield main
    signal.signal(signal.SIGTERM, previous)


def test_the_script_writes_json_and_csv(run: Callable[..., dict[str, Any]]) -> None:
    parts = ["environment", "roofline", training.TINY[1].name, "no such part"]
    found = run(*parts)
    assert found["done"] == parts
    (failure,) = found["failures"]
    assert failure["what"] == "no such part" and "KeyError" in failure["why"]
    assert found["status"] == 1
    assert found["roofline"]["gemm_tflops"] > 0
    rows = measure.read_rows(found["path"].with_suffix(".csv"))
    assert {row["mechanism"] for row in rows} == {"training step, rela_g"}
    assert {(row["dtype"], row["device"]) for row in rows} == {("bfloat16", "cpu")}


def test_a_dead_or_hanging_worker_is_replaced(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = (
        "import sys, time; from pathlib import Path; from benchmarks.gpu.record import Record\n"
        "record = Record(Path(sys.argv[1]), 600)\n"
        "for name in record.parts(['first', 'second', 'third']):\n"
        "    sys.exit(9) if name == 'first' else None\n"
        "    time.sleep(60) if name == 'second' else record.end(name)\n"
    )
    path = tmp_path / "found.json"
    monkeypatch.setattr(script, "PART_SECONDS", 1.0)
    monkeypatch.setattr(script, "again", lambda *_: [sys.executable, "-c", dying, str(path)])
    names = ["first", "second", "third"]
    found = run(*names)
    assert found["begun"] == names and found["status"] == 1
    assert [(failure["what"], failure["why"].split()[-1]) for failure in found["failures"]] == [
        ("first", "9"),
        ("second", "-9"),
    ]


@pytest.mark.slow
def test_a_killed_script_leaves_what_it_found(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    options = ["--device", "cpu", "--tiny", "--json", str(path), "--parts", "environment"]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.gpu", *options, "rela", "topk"])
    end = time.monotonic() + 200
    while not (path.exists() and "environment" in json.loads(path.read_text())["done"]):
        assert time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert json.loads(path.read_text())["environment"]["torch"] == torch.__version__
    assert not list(tmp_path.glob("*.partial"))
