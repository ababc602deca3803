"""COMET by another interpreter, which a stub stands for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.comet import comet_score
from seqattn_fairseq.evaluation.system import System

SYSTEM = System("a run", text=["Ja.", "„Nein“"], references=["Ja!", "Nein"], sources=["Yes.", "No"])


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    return make_stub(tmp_path)


def make_stub(tmp_path: Path) -> Path:
    """Return an interpreter with a stand-in for the package; it keeps what it was asked."""
    package = tmp_path / "packages"
    (package / "comet").mkdir(parents=True)
    (package / "comet" / "__init__.py").write_text(
        "import json, pathlib, sys\n"
        "def download_model(name):\n"
        "    if 'none' in name: raise OSError('no network')\n"
        "    return name\n"
        "class Model:\n"
        "    def predict(self, data, batch_size, gpus):\n"
        f"        pathlib.Path({str(tmp_path / 'asked')!r}).write_text(json.dumps(data))\n"
        "        print('Predicting: 100%')\n"
        "        return {'system_score': 0.8125}\n"
        "load_from_checkpoint = lambda path: Model()\n",
        encoding="utf-8",
    )
    info = package / "unbabel_comet-2.2.7.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unbabel-comet\nVersion: 2.2.7\n")
    return _interpreter(tmp_path / "a venv" / "python", f"PYTHONPATH='{package}' ")


def _interpreter(path: Path, variables: str = "") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{variables}exec '{sys.executable}' \"$@\"\n")
    path.chmod(0o755)
    return path


def test_score_and_signature(stub: Path, tmp_path: Path) -> None:
    score = comet_score(SYSTEM, str(stub), "Unbabel/wmt22-comet-da")
    assert score.value == 81.25
    assert score.signature == "model:Unbabel/wmt22-comet-da|version:2.2.7"
    asked = json.loads((tmp_path / "asked").read_text())
    assert asked[1] == {"src": "No", "mt": "„Nein“", "ref": "Nein"}


def test_what_is_missing_is_said(stub: Path, tmp_path: Path) -> None:
    with pytest.raises(SeqAttnError, match="COMET failed with none: OSError: no network; a model"):
        comet_score(SYSTEM, str(stub), "none")
    absent = _interpreter(tmp_path / "bare" / "python", "PYTHONNOUSERSITE=1 ")
    with pytest.raises(SeqAttnError, match="it has no unbabel-comet; make an environment for it"):
        comet_score(SYSTEM, str(absent))
    with pytest.raises(SeqAttnError, match="--comet nowhere: no such interpreter; make an env"):
        comet_score(SYSTEM, "nowhere")
    with pytest.raises(SeqAttnError, match="COMET reads source sentences, too"):
        comet_score(System("x", text=["a"], references=["b"]), str(stub))


def test_an_interpreter_that_says_something_else(tmp_path: Path) -> None:
    path = tmp_path / "python"
    for words, message in {
        "echo '[1]'": "it ended with status 0",
        "exit 3": "with status 3",
    }.items():
        path.write_text(f"#!/bin/sh\n{words}\n")
        path.chmod(0o755)
        with pytest.raises(SeqAttnError, match=message):
            comet_score(SYSTEM, str(path))
