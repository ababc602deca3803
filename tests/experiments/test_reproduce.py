"""``seqattn reproduce``: from archives in miniature to a line of results, by one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.experiments import record
from tests.data import miniature
from tests.experiments.test_cost import TINY_MODEL

pytestmark = pytest.mark.xdist_group("commands")

TINY_TRAINING = (
    "batch.tokens=3000 dataset.max_tokens=1500 dataset.num_workers=0 optimization.max_epoch=2 "
    "optimization.max_update=0 optimization.lr=[0.005] evaluation.average=last "
    "evaluation.checkpoints=2 evaluation.beam=1 model.max_target_positions=200 size=tiny"
).split()


@pytest.mark.parametrize("experiment", ["iwslt14_de_en/rela_g", "iwslt15_en_vi/mega"], ids=str)
def test_one_command_and_again(
    experiment: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    archives = miniature.write_archives(tmp_path / "Archive öffentlich")
    monkeypatch.chdir(tmp_path)
    command = ["reproduce", f"experiment={experiment}", *TINY_TRAINING, *TINY_MODEL]
    assert main([*command, "--from", str(archives), "--dry-run", "--no-probe"]) == 0
    planned = [line for line in capfd.readouterr().out.splitlines() if line.startswith("seqattn ")]
    assert not Path("data").exists()

    assert main([*command, "--from", str(archives)]) == 0
    first = capfd.readouterr().out
    assert [line.partition(": ")[2] for line in first.splitlines() if "== " in line] == planned
    text = Path("results.jsonl").read_text(encoding="utf-8")
    (line,) = map(json.loads, text.splitlines())
    assert line["experiment"] == experiment
    assert line["training"]["epochs"] == 2
    assert line["subsets"]["test"]["n"] > 0
    card = Path("runs", experiment, "seed1", "model_card.md").read_text(encoding="utf-8")
    assert line["headline"] in card
    assert f"{line['training']['parameters']:,}" in card

    assert main([*command, "--from", str(archives)]) == 0
    again = capfd.readouterr().out
    assert "nothing to do" in again
    assert "line already there" in again
    assert Path("results.jsonl").read_text(encoding="utf-8") == text


def test_a_step_that_fails_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["reproduce", "experiment=iwslt14_de_en/rela_g", "--from", str(tmp_path)]
    assert main(command) == 1
    errors = capfd.readouterr().err
    assert "de-en.tgz" in errors
    assert "prepare ended with status 1" in errors
    assert not Path("runs").exists()


def test_damaged_results_are_kept(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text('{"experiment": "a"}\nnonsense\n')
    with pytest.raises(SeqAttnError, match=r"results.jsonl:2: not a line of results"):
        record.read_results(results)
    assert results.read_text().endswith("nonsense\n")
