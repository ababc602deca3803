"""``seqattn report``: run folders to a page, and every way to ask for it wrongly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seqattn_fairseq.cli import report as command
from seqattn_fairseq.cli.main import main
from seqattn_fairseq.report.data import Report
from seqattn_fairseq.report.page import write_page
from tests.evaluation import corpus
from tests.report.folders import REFERENCES, inner, translated, write
from tests.support import toy_corpus

pytestmark = pytest.mark.xdist_group("commands")

WORSE = [line.replace("roten", "blauen") for line in REFERENCES]


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Return two translated runs in a folder with a space."""
    folders = [tmp_path / "zwei Läufe" / name for name in ("a=1", "b=2")]
    return [translated(run, lines) for run, lines in zip(folders, (REFERENCES, WORSE), strict=True)]


def _report(*arguments: object, samples: int = 20) -> int:
    return main(["report", *map(str, arguments), "--samples", str(samples)])


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Report]:
    """Collect the reports that the command writes, as well as writing them."""
    found: list[Report] = []

    def keep(report: Report, path: Path) -> None:
        found.append(report)
        write_page(report, path)

    monkeypatch.setattr(command, "write_page", keep)
    return found


def test_a_page(
    runs: list[Path], tmp_path: Path, written: list[Report], capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    assert _report(*runs, "-o", page) == 0
    assert capsys.readouterr().out.startswith(f"{page}: 2 runs, 4 sentences, ")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") or text.startswith("<!DOCTYPE html>")
    assert "2 systems on test" in text
    assert [path.name for path in tmp_path.iterdir() if "report" in path.name] == ["report.html"]
    bleu = written[0].runs[1].scores[0]
    assert bleu.key == "tokenized" and bleu.p_value is not None
    stored = runs[1] / "evaluation" / "test" / "scores.json"
    assert json.loads(stored.read_text())["scores"]["tokenized"]["score"] == bleu.value


def test_options(runs: list[Path], tmp_path: Path, written: list[Report]) -> None:
    logs = [write(tmp_path / f"{update}.log", inner(update)) for update in (5, 7)]
    options = ["--baseline", f"{runs[1]}/", "--title", "Titel <b>", "--metrics", "chrf,ter"]
    options += [word for log in logs for word in ("--log", f"{runs[0]}={log}")]
    assert _report(*runs, "-o", tmp_path / "report.html", *options) == 0
    report = written[0]
    assert (report.title, report.baseline, report.runs[0].name) == ("Titel <b>", 1, "a=1")
    tested = {cell.key for cell in report.runs[0].scores if cell.p_value is not None}
    assert tested == {"chrf", "ter"}
    assert report.runs[0].curves[0].x == [5, 7]


def test_no_tests_at_all(runs: list[Path], tmp_path: Path, written: list[Report]) -> None:
    assert _report(*runs, "-o", tmp_path / "report.html", "--metrics", "none") == 0
    assert all(cell.interval is None for run in written[0].runs for cell in run.scores)


def test_another_test_set(
    runs: list[Path], tmp_path: Path, written: list[Report], capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    assert _report(*runs, "-o", page, "--subset", "test1") == 0
    command_line = f"seqattn evaluate '{runs[0]}' --subset test1"
    assert f"no translations of 'test1': run {command_line}" in written[0].runs[0].notes
    page.unlink()
    translated(runs[1], WORSE, [*REFERENCES[:3], "Etwas anderes."])
    capsys.readouterr()
    assert _report(*runs, "-o", page) == 1
    assert f"{runs[1]}: reference 4 differs from {runs[0]}" in capsys.readouterr().err
    assert not page.exists()


def test_analyses_that_cannot_be_done_are_told(
    runs: list[Path], tmp_path: Path, written: list[Report], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _report(runs[0], "-o", tmp_path / "report.html", "--analyse", "--cpu") == 0
    error = capsys.readouterr().err
    for part in ("attention", "maps"):  # the weights are not there, the texts are
        assert f"{runs[0]}: {part} left out: {runs[0]}/checkpoint_best.pt: not there" in error
    assert written[0].runs[0].repetition is not None


def test_mistakes(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, log = tmp_path / "report.html", write(tmp_path / "log", "")
    cases: dict[str, list[Any]] = {
        "nothing to report: give the folders of one run or more": ["-o", page],
        f"{tmp_path / 'x'}: no such folder; give the folder of a run": [tmp_path / "x", "-o", page],
        f"{log}: a file; give the folder of a run": [log, "-o", page],
        f"{runs[0].parent / '.' / 'a=1' / '..' / 'a=1'}: given twice, first as {runs[0]}": [
            runs[0], f"{runs[0]}/../a=1", "-o", page,
        ],
        f"{tmp_path}: a folder; name a file in it, such as {page}": [*runs, "-o", tmp_path],
        f"no such folder {tmp_path / 'x'}; make it first": [*runs, "-o", tmp_path / "x" / "y"],
        f"--baseline {tmp_path}: not among the runs": [*runs, "-o", page, "--baseline", tmp_path],
        "--metrics blue: no such score (did you mean bleu?)": [
            *runs, "-o", page, "--metrics", "blue",
        ],
        f"--log {log}: give RUN=FILE with one of the runs": [*runs, "-o", page, "--log", log],
        f"no such file {tmp_path / 'y'}": [*runs, "-o", page, "--log", f"{runs[0]}={tmp_path}/y"],
        "--cpu is for --analyse": [*runs, "-o", page, "--cpu"],
        "--data is for --analyse": [*runs, "-o", page, "--data", tmp_path],
    }  # fmt: skip
    for message, arguments in cases.items():
        assert _report(*arguments) == 1, arguments
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert _report(*runs, "-o", page, samples=0) == 1
    assert "--samples 0: must be at least 1" in capsys.readouterr().err
    assert not page.exists()


def test_trained_runs(
    tmp_path: Path, written: list[Report], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two real runs of plain fairseq-train: evaluated, analysed, reported."""
    data = corpus.described(tmp_path)
    first = corpus.run_copy(tmp_path, "softmax")
    second = tmp_path / "rela_g"
    done = toy_corpus.train(
        corpus.data_bin(), second, "--max-epoch", "8", "--lr", "0.02", "--log-interval", "5",
        "--share-all-embeddings", "--source-lang", "src", "--target-lang", "tgt",
        arch="seqattn_rela_g",
    )  # fmt: skip
    assert done.status == 0, done.stderr
    write(second / "train.log", done.stderr)
    runs = [first, second]
    for run in runs:
        assert main(["evaluate", str(run), "--data", str(data), *corpus.DECODING]) == 0
    options = ["--analyse", "--cpu", "--data", str(data), "-o", tmp_path / "report.html"]
    assert _report(*runs, *options) == 0
    report = written[0]
    assert report.runs[0].notes == [f"no training log: name it with --log {first}=FILE"]
    _check_trained(report, runs)
    generated = [json.loads((run / "evaluation/test/generation.json").read_text()) for run in runs]
    for shown, record in zip(report.runs, generated, strict=True):
        assert shown.decode_sentences_per_second == 13 / record["search_seconds"]
        assert shown.hardware == f"decoding: {record['hardware']}"
    assert (tmp_path / "report.html").stat().st_size > 10_000


def _check_trained(report: Report, runs: list[Path]) -> None:
    assert [run.variant for run in report.runs] == ["softmax", "rela_g"]
    run = report.runs[1]
    assert run.notes == []
    names = {curve.name for curve in run.curves}
    assert {"train loss", "valid loss", "learning rate", "tokens per second"} <= names
    assert run.tokens_per_second and run.updates == max(curve.x[-1] for curve in run.curves)
    assert {one.site for one in run.attention} == {"encoder_self", "decoder_self", "cross"}
    sparsity = [one.values["sparsity"][0][0] for one in run.attention]
    assert all(value is not None and 0 <= value <= 1 for value in sparsity) and any(sparsity)
    assert len(run.lengths) > 0 and run.repetition and len(report.agreement) == 2
    assert report.maps and all(len(found) == 2 for found in report.maps.values())
    for path, lines in zip(runs, report.hypotheses, strict=True):
        assert lines == (path / "evaluation/test/hyp.txt").read_text("utf-8").splitlines()
    assert len(report.sources) == len(report.references) == 13
