"""``seqattn generate``: the files, what they hold, and when they are made again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.data.description import Reference
from seqattn_fairseq.data.files import read_lines
from seqattn_fairseq.evaluation import generate as module
from tests.evaluation import corpus

pytestmark = pytest.mark.xdist_group("commands")

FILES = {"hyp.txt", "hyp.tok.txt", "ref.txt", "ref.tok.txt", "translations.jsonl"}


def _generate(*arguments: Any) -> int:
    return main(["generate", *map(str, arguments), *corpus.DECODING])


def _lines(folder: Path) -> dict[str, list[str]]:
    return {path.name: list(read_lines(path)) for path in folder.iterdir()}


def _raw(folder: Path, count: int) -> dict[str, Reference]:
    text = "".join(f"Satz {number}.\n" for number in range(count))
    (folder / "raw.de").write_text(text, encoding="utf-8")
    return {"test": Reference("raw.de", None)}


def test_files_in_corpus_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = corpus.run_copy(tmp_path)
    data = corpus.described(tmp_path, _raw(tmp_path, 13))
    assert _generate(run, "--data", data, "--subset", "test", "test4") == 0
    assert "test: translated with checkpoint_best.pt" in capsys.readouterr().out
    files = _lines(run / "evaluation" / "test")
    assert set(files) == {*FILES, "generation.json"}
    assert all(len(files[name]) == 13 for name in FILES)
    assert not any("@@" in line for name in FILES for line in files[name])
    assert files["ref.txt"] == [f"Satz {number}." for number in range(13)]
    targets = read_lines(corpus.data_bin().parent / "test.tgt")
    assert files["ref.tok.txt"] == [line.replace("@@ ", "") for line in targets]
    assert files["hyp.txt"] == [corpus.chain().decode(line) for line in files["hyp.tok.txt"]]
    rows = [json.loads(line) for line in files["translations.jsonl"]]
    assert list(rows[0]) == ["id", "source", "tokens", "text", "reference", "score"]
    assert [row["id"] for row in rows] == list(range(13))
    for key, name in {"tokens": "hyp.tok.txt", "text": "hyp.txt", "reference": "ref.txt"}.items():
        assert [row[key] for row in rows] == files[name]
    sources = read_lines(corpus.data_bin().parent / "test.src")
    assert [row["source"] for row in rows] == [corpus.plain(line) for line in sources]
    # no raw reference is known of this one: the tokens, detokenised
    own = _lines(run / "evaluation" / "test4")
    assert own["ref.txt"] == [corpus.chain().decode(line) for line in own["ref.tok.txt"]]


def test_done_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = corpus.run_copy(tmp_path), corpus.described(tmp_path)
    arguments = [run, "--data", data, "--subset", "test1"]

    def did(*more: Any) -> str:
        assert _generate(*arguments, *more) == 0
        return capsys.readouterr().out.split(": ")[1].split(" with")[0]

    assert did() == "translated"
    (run / "evaluation" / "test1" / "scores.json").write_text("{}")
    assert did() == "done before"
    assert did("--length-penalty", "0.5") == "translated"
    assert not (run / "evaluation" / "test1" / "scores.json").exists()  # of other translations
    assert did("--length-penalty", "0.5") == "done before"
    assert did("--length-penalty", "0.5", "--average", "last", "--checkpoints", 2) == "translated"
    assert did() == "translated"
    (run / "evaluation" / "test1" / "hyp.txt").unlink()
    assert did() == "translated"
    corpus.change(run / "checkpoint_best.pt", "common", "seed", 2, noise=0.01)
    assert did() == "translated"
    raw = {"test1": Reference("raw.de", None)}
    (tmp_path / "raw.de").write_text("Ein Satz.\n", encoding="utf-8")
    shutil.rmtree(data)
    corpus.described(tmp_path, raw)
    assert did() == "translated"
    assert did() == "done before"
    (data / "raw.de").write_text("Noch ein Satz.\n", encoding="utf-8")
    assert did() == "translated"
    chains = data / "text_chain.json"
    chains.write_text(chains.read_text().replace('"lowercase": false', '"lowercase": true'))
    assert did() == "translated"
    (data / "corpus.json").write_text(
        (data / "corpus.json").read_text().replace('"subword_nmt"', '"sentencepiece"')
    )
    assert did() == "translated"


def test_a_failure_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = corpus.run_copy(tmp_path)
    arguments = [run, "--subset", "test1"]
    assert _generate(*arguments) == 0
    before = _lines(run / "evaluation" / "test1")

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "translate", interrupted)
    assert _generate(*arguments, "--length-penalty", 2) == 130
    assert _lines(run / "evaluation" / "test1") == before


def test_a_set_without_its_record_is_void(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = corpus.run_copy(tmp_path)
    write = module._write_lines

    def killed(path: Path, lines: Any) -> None:
        if path.name == "translations.jsonl":
            raise KeyboardInterrupt
        write(path, lines)

    assert _generate(run, "--subset", "test1") == 0
    monkeypatch.setattr(module, "_write_lines", killed)
    assert _generate(run, "--subset", "test1", "--length-penalty", 2) == 130
    assert main(["score", str(run), "--subset", "test1"]) == 1
    assert "no translation of 'test1'; run seqattn evaluate" in capsys.readouterr().err
    monkeypatch.setattr(module, "_write_lines", write)
    assert _generate(run, "--subset", "test1", "--length-penalty", 2) == 0
    assert main(["score", str(run), "--subset", "test1"]) == 0


@pytest.mark.slow
def test_a_killed_command_leaves_nothing_half_written(tmp_path: Path) -> None:
    run = corpus.run_copy(tmp_path)
    command = [
        sys.executable, "-m", "seqattn_fairseq.cli.main", "generate", str(run), "--subset",
        "test4", "--max-tokens", "20", *corpus.DECODING,
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    while b"line/s" not in (process.stderr.read() or b"") and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (run / "evaluation").exists() or not list((run / "evaluation").rglob("*.t*"))
    assert subprocess.run(command, check=False).returncode == 0
    assert len(list(read_lines(run / "evaluation" / "test4" / "hyp.txt"))) == 461


def test_a_checkpoint_and_another_folder(tmp_path: Path) -> None:
    run = corpus.run_copy(tmp_path)
    checkpoint = run / "checkpoint23.pt"
    assert _generate(checkpoint, "--subset", "test1", "--output", tmp_path / "out") == 0
    assert (tmp_path / "out" / "test1" / "hyp.txt").is_file()
    assert not (run / "evaluation").exists()
    assert _generate(checkpoint, "--subset", "test1") == 0
    assert (run / "evaluation" / "test1" / "hyp.txt").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "nowhere: no such data-bin; give it with --data"),
        (["--beam", "0"], "beam is 0; it must be at least 1"),
        (["--length-penalty", "1", "2"], "--length-penalty: the recipe leaves a choice of 1.0, 2"),
        (["--average", "best", "last"], "--average: the recipe leaves a choice of best, last"),
        (["--average", "best", "--checkpoints", "3"], "3 best checkpoints"),
        (["--processes", "0"], "--processes 0: must be at least 1"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(corpus.trained()), "--cpu", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_no_such_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(tmp_path / "x")]) == 1
    assert f"{tmp_path / 'x'}: no such run folder or checkpoint" in capsys.readouterr().err
    assert main(["generate", str(tmp_path)]) == 1
    assert "no checkpoint, and no folder with" in capsys.readouterr().err


def test_a_raw_reference_of_another_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.described(tmp_path, _raw(tmp_path, 12))
    assert _generate(corpus.trained(), "--data", data, "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the raw reference has 12 lines, the test set 13; prepare the corpus again" in error
    assert not (tmp_path / "out").exists()
