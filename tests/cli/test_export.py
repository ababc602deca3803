"""``seqattn export``: a folder whose ``translate()`` equals the command line."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.data.prepare import prepare
from seqattn_fairseq.transformer.model import SeqAttnModel
from tests.data.corpus import RECIPE, write_raw
from tests.support import toy_corpus

RAW = ["The Small dog's house runs .", "", 'Two green "trees" in the U.S.A.']


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A few updates on a corpus prepared from raw text: the data-bin and the run's folder."""
    folder = tmp_path_factory.mktemp("corpus with spaces")
    data_bin = prepare(RECIPE, folder / "to", write_raw(folder / "from"), workers=1).data_bin
    result = toy_corpus.train(
        data_bin, folder / "run", "--task", "seqattn_translation", "--max-update", "30",
        "--share-all-embeddings", "--max-tokens", "1000", "-s", "en", "-t", "de",
        arch="seqattn_rela_g",
    )  # fmt: skip
    assert result.status == 0, result.stderr
    return data_bin, folder / "run"


@pytest.fixture(scope="module")
def exported(run: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "exported model"
    assert main(["export", str(run[1]), str(folder)]) == 0
    return folder


def test_the_folder_is_complete_and_speaks_of_no_other(exported: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    expected = "model.pt dict.en.txt dict.de.txt bpecodes text_chain.json corpus.json"
    assert names == {*expected.split(), "README.en-de.txt"}
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]
    state = torch.load(exported / "model.pt", weights_only=True)
    assert state["cfg"]["task"]["data"] == "."
    assert "last_optimizer_state" not in state
    assert json.loads((exported / "corpus.json").read_text())["bpe"]["file"] == "bpecodes"


def test_translate_equals_the_command_line(run: tuple[Path, Path], exported: Path) -> None:
    hub = SeqAttnModel.from_pretrained(str(exported))
    data_bin = run[0]
    files = {
        "bpe-codes": data_bin / "bpe.codes",
        "seqattn-text-chain": data_bin / "text_chain.json",
    }
    options = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    result = toy_corpus.run(
        "interactive", str(data_bin), "--user-dir", toy_corpus.USER_DIR, "--path",
        str(run[1] / "checkpoint_best.pt"), "--cpu", "--bpe", "subword_nmt", "--tokenizer",
        "seqattn_text", *options, stdin="".join(f"{line}\n" for line in RAW).encode(),
    )  # fmt: skip
    assert result.status == 0, result.stderr
    by_command = result.lines("D")
    assert [by_command[i] for i in range(3)] == hub.translate(RAW)
    assert by_command[1] == ""
    assert any(by_command.values())


def test_the_command_in_its_readme_translates(
    exported: Path,
) -> None:
    readme = (exported / "README.en-de.txt").read_text(encoding="utf-8")
    command = next(line for line in readme.splitlines() if "fairseq-interactive" in line)
    command = command.replace("$(seqattn path)", toy_corpus.USER_DIR)
    program, *arguments = shlex.split(command)
    assert program == "fairseq-interactive"
    text = "".join(f"{line}\n" for line in RAW).encode()
    result = toy_corpus.run("interactive", *arguments, "--cpu", stdin=text, folder=exported)
    assert result.status == 0, result.stderr
    translations = SeqAttnModel.from_pretrained(str(exported)).translate(RAW)
    assert [result.lines("D")[i] for i in range(3)] == translations


def test_exports_again_from_the_exported_folder(exported: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert main(["export", str(exported / "model.pt"), str(again)]) == 0
    assert {p.name for p in again.iterdir()} == {p.name for p in exported.iterdir()}
    assert SeqAttnModel.from_pretrained(str(again)).translate(RAW) == (
        SeqAttnModel.from_pretrained(str(exported)).translate(RAW)
    )


def _changed(exported: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Copy the exported folder and change its checkpoint."""
    shutil.copytree(exported, folder)
    state = torch.load(folder / "model.pt", weights_only=True)
    change(state)
    torch.save(state, folder / "model.pt")
    return folder / "model.pt"


def _poison(state: dict[str, Any]) -> None:
    state["model"]["decoder.layers.0.fc1.weight"][0, 0] = float("nan")


UNUSABLE: dict[str, Callable[[dict[str, Any]], object]] = {
    "decoder.layers.0.fc1.weight holds NaN or infinity": _poison,
    'Missing key(s) in state_dict: "decoder.layers.0.fc1.bias"': lambda state: state["model"].pop(
        "decoder.layers.0.fc1.bias"
    ),
    'Unexpected key(s) in state_dict: "extra"': lambda state: state["model"].update(
        extra=torch.ones(1)
    ),
    "cannot be loaded": lambda state: state["cfg"]["model"].update(_name="none_such"),
    "task names no data": lambda state: state["cfg"]["task"].pop("data"),
}


@pytest.mark.parametrize(("message", "change"), UNUSABLE.items(), ids=range(len(UNUSABLE)))
def test_unusable_checkpoints_leave_nothing_behind(
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    message: str,
    change: Callable[[dict[str, Any]], object],
) -> None:
    checkpoint = _changed(exported, tmp_path / "bad", change)
    (tmp_path / "out").mkdir()
    assert main(["export", str(checkpoint), str(tmp_path / "out" / "x")]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1] and str(checkpoint) in error[-1]
    assert list((tmp_path / "out").iterdir()) == []


def _swap(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([lines[1], lines[0], *lines[2:]]), encoding="utf-8")


@pytest.mark.parametrize("digests", [True, False])
def test_dictionaries_of_another_corpus_are_refused(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], digests: bool
) -> None:
    """With digests an order of words is told from another; without, sizes are compared."""
    old = _changed(exported, tmp_path / "old", lambda s: digests or s.update(task_state={}))
    dictionary = old.parent / "dict.de.txt"
    if digests:
        _swap(dictionary)
    else:
        dictionary.write_text(dictionary.read_text(encoding="utf-8") + "more 1\n")
    assert main(["export", str(old), str(tmp_path / "x")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{dictionary}: not the target dictionary that {old} was trained with" in error
    dictionary.write_text("no dictionary\n")
    assert main(["export", str(old), str(tmp_path / "x")]) == 1
    assert f"{dictionary}: no dictionary;" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_language_codes_with_a_hyphen_are_named_in_the_readme(
    exported: Path, tmp_path: Path
) -> None:
    old = _changed(
        exported, tmp_path / "old", lambda s: s["cfg"]["task"].update(target_lang="de-AT")
    )
    state = torch.load(old, weights_only=True)
    state["task_state"] = {}
    torch.save(state, old)
    (old.parent / "dict.de.txt").rename(old.parent / "dict.de-AT.txt")
    assert main(["export", str(old), str(tmp_path / "x")]) == 0
    readme = (tmp_path / "x" / "README.en-de-AT.txt").read_text(encoding="utf-8")
    assert " --source-lang en --target-lang de-AT " in readme


def test_a_checkpoint_of_before_the_digests_is_exported(exported: Path, tmp_path: Path) -> None:
    old = _changed(exported, tmp_path / "old", lambda state: state.pop("task_state"))
    assert main(["export", str(old), str(tmp_path / "x")]) == 0


@pytest.mark.parametrize("kind", ["subword_nmt", "sentencepiece"])
@pytest.mark.parametrize("content", ["", "one two three four\n", "\x00\xff"])
def test_foreign_subword_files_are_refused(
    run: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    content: str,
) -> None:
    codes = tmp_path / "codes"
    codes.write_text(content, encoding="latin-1")
    arguments = ["--bpe", kind, "--bpe-file", str(codes)]
    assert main(["export", str(run[1]), str(tmp_path / "x"), *arguments]) == 1
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(f"{codes}: no {kind} file; give the one that the corpus was made with")
    )


def test_a_stock_model_becomes_a_folder_for_the_command_line(tmp_path: Path) -> None:
    trained = toy_corpus.trained("transformer")
    assert main(["export", str(trained.checkpoint), str(tmp_path / "stock")]) == 0
    state = torch.load(tmp_path / "stock" / "model.pt", weights_only=True)
    assert state["cfg"]["task"]["data"] == "."
    assert state["cfg"]["task"]["source_lang"] == "src"  # inferred in training, too


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nothing", "{tmp}/x"], "no checkpoint, and no folder with"),
        (["{run}", "{run}"], "exists and is not an empty folder"),
        (["{run}", "{tmp}/x", "--data", "{tmp}"], "dict.en.txt: no such dictionary"),
        (["{run}", "{tmp}/x", "--bpe", "sentencepiece"], "--bpe and --bpe-file go together"),
        (["{run}", "{tmp}/x", "--text-chain", "{tmp}/no.json"], "no.json: no such file"),
        (["{run}", "{tmp}/x", "--text-chain", "{run}/empty.json"], "not a text chain file"),
        (["{run}", "/proc/x"], "/proc/x: cannot be written"),
        (["{run}", "."], "is the current folder"),
    ],
)
def test_mistakes_are_one_line(
    run: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    (run[1] / "empty.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    filled = [a.format(tmp=tmp_path, run=run[1]) for a in arguments]
    assert main(["export", *filled]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]
