"""``seqattn export``: a folder whose ``translate()`` equals the command line."""

from __future__ import annotations

import json
from pathlib import Path

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
    assert names == set(expected.split())
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


def test_exports_again_from_the_exported_folder(exported: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    arguments = ["export", str(exported / "model.pt"), str(again), "--data", str(exported)]
    assert main(arguments) == 0
    assert SeqAttnModel.from_pretrained(str(again)).translate(RAW) == (
        SeqAttnModel.from_pretrained(str(exported)).translate(RAW)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nothing", "{tmp}/x"], "no checkpoint, and no folder with"),
        (["{run}", "{run}"], "exists and is not an empty folder"),
        (["{run}", "{tmp}/x", "--data", "{tmp}"], "dict.en.txt: no such dictionary"),
        (["{run}", "{tmp}/x", "--bpe", "sentencepiece"], "--bpe and --bpe-file go together"),
        (["{run}", "{tmp}/x", "--text-chain", "{tmp}/no.json"], "no.json: no such file"),
    ],
)
def test_mistakes_are_one_line(
    run: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    filled = [a.format(tmp=tmp_path, run=run[1]) for a in arguments]
    assert main(["export", *filled]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]
