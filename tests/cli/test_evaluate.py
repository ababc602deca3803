"""``seqattn evaluate`` and ``scripts/evaluate.sh``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from seqattn_fairseq.cli.main import main
from tests.evaluation import corpus

pytestmark = pytest.mark.xdist_group("commands")


def test_table_and_headline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = corpus.run_copy(tmp_path), corpus.described(tmp_path)
    arguments = ["evaluate", str(run), "--data", str(data), *corpus.DECODING]
    choice = ["--average", "last", "--checkpoints", "2", "--length-penalty", "0.5", "1"]
    assert main([*arguments, *choice, "--flavour", "compound_split"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("checkpoint_average_last2.pt, beam 2, length penalty ")
    assert lines[1].startswith("chosen on valid: ") and "selection.json" in lines[1]
    assert lines[2] == "test: 13 sentences"
    assert lines[3].startswith("  compound-split BLEU")
    assert lines[-1].startswith("headline: test, compound-split BLEU ")
    assert main([*arguments, *choice, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["subsets"]["test"]["headline"]["flavour"] == "tokenized"


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = corpus.trained() / "checkpoint_best.pt"
    for path, message in {
        checkpoint: "a file; give the folder of a run, or use seqattn generate",
        tmp_path / "none": "no such run folder or checkpoint",
    }.items():
        assert main(["evaluate", str(path)]) == 1
        assert capsys.readouterr().err == f"seqattn evaluate: error: {path}: {message}\n"


@pytest.mark.slow
def test_script_from_another_folder(tmp_path: Path, root: Path) -> None:
    run = corpus.run_copy(tmp_path, "läuft weiter")
    script = str(root / "scripts" / "evaluate.sh")
    for _ in range(2):
        done = subprocess.run(
            [script, run.name, *corpus.DECODING],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith("headline: test, tokenised BLEU ")
    assert "translate" not in done.stderr
    wrong = subprocess.run([script, "nowhere"], cwd=tmp_path, capture_output=True, check=False)
    assert (wrong.returncode, wrong.stderr.count(b"\n")) == (1, 1)
