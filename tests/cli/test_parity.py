"""``seqattn parity``: a row a file, exit status 0, 1 or 2."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from seqattn_fairseq.cli.main import main
from tests.support.goldens import GOLDENS, Arrays, changed

NAME = "rela_sparse/est_topk3_cross_right.npz"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str]]:
    status = main(["parity", *map(str, arguments)])
    return status, capsys.readouterr().out.splitlines()


def off(by: float) -> Any:
    def change(arrays: Arrays, _: Any) -> None:
        arrays["output/out"] = arrays["output/out"] + by

    return change


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one file that agrees."""
    (tmp_path / "in" / "it").mkdir(parents=True)
    shutil.copyfile(GOLDENS / NAME, tmp_path / "in" / "it" / "x.npz")
    return tmp_path / "in"


def test_agreement(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = run(capsys, folder)
    assert status == 0
    assert lines[0].startswith(f"{folder / 'it' / 'x.npz'}  Explicit Sparse attention  arrays 15")
    assert lines[0].endswith("  ok")
    assert lines[1] == "1 files: 1 passed, 0 missed, 0 not interpreted; 15 arrays checked"


def test_a_miss(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed(NAME, folder, off(1e-3))
    status, lines = run(capsys, folder)
    assert status == 1
    assert "  MISS: output/out off by 0.001 (allowed 2e-05)" in lines[0]
    assert lines[-1] == "2 files: 1 passed, 1 missed, 0 not interpreted; 30 arrays checked"


def test_something_else_counts_more_than_a_miss(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(NAME, folder, off(1e-3))
    (folder / "it" / "y.npz").write_text("nothing")
    status, lines = run(capsys, folder)
    assert status == 2
    assert any("y.npz  CANNOT INTERPRET: " in line for line in lines)
    assert lines[-1].startswith("3 files: 1 passed, 1 missed, 1 not interpreted")


def test_tolerances(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = changed(NAME, tmp_path, off(1e-3))
    assert run(capsys, outputs, "--atol", "2e-3")[0] == 0
    assert run(capsys, outputs, "--atol", "5e-4")[0] == 1

    def change(arrays: Arrays, _: Any) -> None:
        arrays["grad/query"] = arrays["grad/query"] * arrays["grad/query"].dtype.type(1.001)

    gradients = changed(NAME, tmp_path, change)
    assert run(capsys, gradients)[0] == 1
    assert run(capsys, gradients, "--rtol", "2e-3")[0] == 0


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, message in ((tmp_path, "no golden files"), (tmp_path / "x", "no such file")):
        assert main(["parity", str(path)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("value", ["-1", "nan"])
def test_a_tolerance_is_not_negative(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", "x.npz", "--atol", value]) == 1
    assert "--atol is" in capsys.readouterr().err
