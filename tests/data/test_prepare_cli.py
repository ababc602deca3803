"""``seqattn prepare`` as the user sees it: summary, one line for every mistake, exit status."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.data import fetch as fetching
from seqattn_fairseq.data.recipes import RECIPES
from seqattn_fairseq.data.workspace import open_workspace
from tests.data.corpus import RECIPE, write_raw, write_text


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "raw files")


@pytest.fixture(autouse=True)
def few_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, RECIPE.name, RECIPE)


def command(*arguments: str | Path) -> int:
    return main(["prepare", *map(str, arguments)])


def assert_one_line(capsys: pytest.CaptureFixture[str], *parts: str | Path) -> None:
    """The last command wrote one line of error that holds ``parts``, and no traceback."""
    lines = capsys.readouterr().err.split("\n")
    errors = [line for line in lines if line.startswith("seqattn prepare: error: ")]
    assert len(errors) == 1
    assert "Traceback" not in "".join(lines)
    for part in parts:
        assert str(part) in errors[0]


def test_summary_and_default_folder(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("multi30k_en_de", "--from", "raw files", "--workers", "1") == 0
    first = capsys.readouterr()
    assert "tokenize: 100%" in first.err
    lines = first.out.strip().split("\n")
    assert lines[0].startswith("multi30k_en_de: data/multi30k_en_de/data-bin, joined dictionary of")
    assert lines[1].split() == ["split", "pairs", "en", "tokens", "de", "tokens"]
    assert [line.split()[:2] for line in lines[2:]] == [
        ["train", "600"],
        ["valid", "20"],
        ["test", "30"],
        ["test1", "25"],
        ["test2", "13"],
    ]
    assert command("multi30k_en_de", "--from", "raw files") == 0
    second = capsys.readouterr()
    assert "complete and unchanged (27 steps verified): nothing to do" in second.out
    assert second.out.endswith(first.out)


def test_unknown_corpus(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("multi30k_ende") == 1
    assert_one_line(capsys, "unknown corpus 'multi30k_ende'", "did you mean multi30k_en_de")


def test_missing_folder_and_file(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("multi30k_en_de", "--from", tmp_path / "nowhere") == 1
    assert_one_line(capsys, tmp_path / "nowhere", "no such folder")
    (raw / "val.de.gz").unlink()
    assert command("multi30k_en_de", "--from", raw, "--to", tmp_path / "to") == 1
    assert_one_line(capsys, "neither val.de.gz nor val.de", raw / "data" / "task1" / "raw")
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.en.gz", "x\n" * 599, "has 599 lines but"),
        ("val.de.gz", b"gut\nStra\xdfe\n", "val.de.gz:2:5: invalid UTF-8 (byte 0xdf)"),
        ("test_2016_flickr.en.gz", "", "test_2016_flickr.en.gz: empty file"),
        ("train.de.gz", "\n" * 600, "train.de.gz: all 600 lines are blank"),
    ],
)
def test_bad_text(
    raw: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str | bytes,
    message: str,
) -> None:
    write_text(raw / name, content)
    arguments = ("multi30k_en_de", "--from", raw, "--to", tmp_path / "to", "--workers", "1")
    assert command(*arguments) == 1
    assert_one_line(capsys, raw / name, message)
    # Nothing is lost: with the file repaired, the same command finishes.
    write_raw(raw)
    assert command(*arguments) == 0


def test_too_little_text_for_bpe(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lang in ("en", "de"):
        write_text(raw / f"train.{lang}.gz", "a b c\n")
    assert command("multi30k_en_de", "--from", raw, "--to", tmp_path / "to") == 1
    assert_one_line(capsys, "train.en", "too little text to learn BPE")


def test_folder_of_something_else(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "to"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    assert command("multi30k_en_de", "--from", raw, "--to", folder) == 1
    assert_one_line(capsys, folder, "not empty", "--to")
    (folder / "manifest.json").write_text('{"corpus": "multi30k_en_fr"}')
    assert command("multi30k_en_de", "--from", raw, "--to", folder) == 1
    assert_one_line(capsys, folder, "holds multi30k_en_fr, not multi30k_en_de")
    (folder / "manifest.json").write_text("{}")
    assert command("multi30k_en_de", "--from", raw, "--to", folder) == 1
    assert_one_line(capsys, folder / "manifest.json", "not a manifest")
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "thesis.tex"]


def test_target_is_a_file(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert command("multi30k_en_de", "--from", raw, "--to", tmp_path / "file") == 1
    assert_one_line(capsys, tmp_path / "file", "Not a directory")


def test_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert command("multi30k_en_de", "--to", tmp_path / "to") == 1
    assert_one_line(capsys, "cannot fetch https://", "train.en.gz", "--from DIR")


def test_workers_must_be_positive(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("multi30k_en_de", "--from", raw, "--workers", "0") == 1
    assert_one_line(capsys, "--workers 0")


def test_two_preparations_in_one_folder(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The lock is one between processes, so that the rival has to be another one.
    folder = tmp_path / "to"
    context = multiprocessing.get_context("fork")
    locked, finish = context.Event(), context.Event()

    def rival() -> None:
        with open_workspace(folder, "multi30k_en_de", {}):
            locked.set()
            finish.wait(60)

    process = context.Process(target=rival)
    process.start()
    assert locked.wait(60)
    assert command("multi30k_en_de", "--from", raw, "--to", folder) == 1
    assert_one_line(capsys, folder, "another seqattn prepare is at work")
    finish.set()
    process.join()


@pytest.mark.parametrize(
    ("script", "arguments", "passed"),
    [
        ("multi30k", [], "multi30k_en_de"),
        ("multi30k", ["en_fr"], "multi30k_en_fr"),
        ("iwslt14", [], "iwslt14_de_en"),
        ("iwslt14", ["en_de", "--final-dot", "old"], "iwslt14_en_de --final-dot old"),
        ("iwslt15", [], "iwslt15_en_vi"),
        ("wmt14_en_de", ["--workers", "2"], "wmt17_en_de --workers 2"),
        ("wmt14_en_de", ["--workers", "2", "--icml17"], "wmt14_en_de --workers 2"),
        ("wmt14_en_fr", ["--joined-dictionary"], "wmt14_en_fr --joined-dictionary"),
        ("wmt16_en_de_bpe32k", ["de_en"], "wmt16_de_en_bpe32k"),
        ("wmt16_en_de_mega", [], "wmt16_en_de_mega"),
    ],
)
def test_scripts_pass_their_arguments_on(
    root: Path, tmp_path: Path, script: str, arguments: list[str], passed: str
) -> None:
    # A copy in a folder with spaces and without a .venv takes seqattn from the path.
    scripts = shutil.copytree(root / "scripts", tmp_path / "check \u00fc out" / "scripts")
    stub = tmp_path / "bin" / "seqattn"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\necho "$#: $@"\n')
    stub.chmod(0o755)
    done = subprocess.run(
        [scripts / f"prepare_{script}.sh", *arguments, "--from", "a b"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{stub.parent}{os.pathsep}{os.environ['PATH']}"},
    )
    count = len(passed.split()) + 3
    assert done.stdout == f"{count}: prepare {passed} --from a b\n"
    corpus = passed.split(maxsplit=1)[0]
    assert corpus in RECIPES


def test_script_without_the_command(root: Path, tmp_path: Path) -> None:
    scripts = shutil.copytree(root / "scripts", tmp_path / "scripts")
    done = subprocess.run(
        [scripts / "prepare_iwslt15.sh"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.defpath},
    )
    assert done.returncode == 1
    assert done.stderr == "prepare_iwslt15.sh: seqattn is not installed; run 'make setup' first\n"
