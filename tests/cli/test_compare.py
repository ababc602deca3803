"""``seqattn compare``: runs and files against a baseline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seqattn_fairseq.cli.main import main
from tests.evaluation import corpus
from tests.evaluation.test_scores import RAW, TEXT


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _compare(*arguments: Any) -> int:
    return main(["compare", *map(str, arguments), "--samples", "50"])


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, reference = _write(tmp_path / "base", TEXT), _write(tmp_path / "ref", RAW)
    other = _write(tmp_path / "other", [line[2:] for line in TEXT])
    options = ["--ref", reference, "--flavour", "detokenized"]
    assert _compare(base, other, *options) == 0
    out = capsys.readouterr().out
    assert out.startswith("sacreBLEU, paired bootstrap: nrefs:1|bs:50|seed:12345|case:mixed|")
    assert [line for line in out.splitlines() if not line.startswith(" ")][3].startswith(
        "sacreBLEU, approximate randomisation: "
    )
    rows = [line for line in out.splitlines() if str(base) in line or str(other) in line]
    assert len(rows) == 2 * 3 * 2
    assert "(95 %)" in rows[0] and rows[0].endswith("baseline")
    assert "(95 %)" not in rows[-1] and "  p = " in rows[-1]
    assert _compare(base, other, *options, "--test", "ar", "--metrics", "bleu", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert [(row["metric"], row["test"]) for row in values] == [("BLEU", "ar")] * 2


def test_plain_files_without_flavour_are_plain_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, reference = _write(tmp_path / "base", TEXT), _write(tmp_path / "ref", RAW)
    other = _write(tmp_path / "other", RAW)
    assert _compare(base, other, "--ref", reference, "--metrics", "bleu", "--test", "bs") == 0
    assert "tok:13a" in capsys.readouterr().out


@pytest.mark.xdist_group("commands")
def test_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [corpus.run_copy(tmp_path, name) for name in ("one run", "two")]
    data = corpus.described(tmp_path)
    for run, beam in zip(runs, ("1", "3"), strict=True):
        arguments = ["--max-len-b", "12", "--cpu", "--beam", beam, "--data", str(data)]
        assert main(["generate", str(run), *arguments]) == 0
    assert _compare(*runs, "--metrics", "bleu") == 0
    out = capsys.readouterr().out
    assert "sacreBLEU (own reference), paired bootstrap" in out
    assert main(["generate", str(runs[1]), *arguments, "--subset", "test2"]) == 0
    capsys.readouterr()
    assert _compare(*runs, "--subset", "test2") == 1
    error = capsys.readouterr().err
    assert f"{runs[0]}: no translation of 'test2'; it has test" in error
    reference = runs[1] / "evaluation" / "test" / "ref.txt"
    lines = reference.read_text(encoding="utf-8").split("\n")
    _write(reference, ["anders", *lines[1:-1]])
    assert _compare(*runs) == 1
    assert f"{runs[1]}: reference 1 differs from {runs[0]}; compare" in capsys.readouterr().err


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, reference = _write(tmp_path / "base", TEXT), _write(tmp_path / "ref", RAW)
    cases: dict[str, list[Any]] = {
        "no such run; plain files need their reference, --ref FILE": [base, base],
        "one system cannot be compared": [base, "--ref", reference],
        "given twice": [base, base, "--ref", reference],
        "a folder; --ref goes with files": [base, tmp_path, "--ref", reference],
        "no such file": [base, tmp_path / "x", "--ref", reference],
    }
    for message, arguments in cases.items():
        assert _compare(*arguments) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_a_negative_number_of_samples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "a", "b", "--samples", "-1"]) == 1
    assert "--samples -1: give a number, or 0 for the default" in capsys.readouterr().err
