"""``seqattn reproduce``: from archives in miniature to a line of results, by one command."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.experiments import record
from seqattn_fairseq.experiments.plan import load_experiment, plan
from tests.data import miniature
from tests.experiments.test_cost import TINY_MODEL

pytestmark = pytest.mark.xdist_group("commands")

TINY_TRAINING = (
    "batch.tokens=3000 dataset.max_tokens=1500 dataset.num_workers=0 optimization.max_epoch=2 "
    "optimization.max_update=0 optimization.lr=[0.005] evaluation.average=last "
    "evaluation.checkpoints=2 evaluation.beam=1 model.max_target_positions=200 size=tiny"
).split()


@pytest.mark.parametrize(
    "experiment",
    ["iwslt14_de_en/rela_g", pytest.param("iwslt15_en_vi/mega", marks=pytest.mark.slow)],
)
def test_one_command_and_again(
    experiment: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    archives = miniature.write_archives(tmp_path / "Archive öffentlich")
    monkeypatch.chdir(tmp_path)
    command = ["reproduce", f"experiment={experiment}", *TINY_TRAINING, *TINY_MODEL]
    between = [*command[:2], "--from", str(archives), "--dry-run", "--no-probe", *command[2:]]
    assert main(between) == 0
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
    assert line["headline"].removeprefix("headline: ") in card
    assert r"nrefs:1\|case:" in card
    assert f"{line['training']['parameters']:,}" in card

    assert main([*command, "--from", str(archives)]) == 0
    again = capfd.readouterr().out
    assert "nothing to do" in again
    assert "line already there" in again
    assert Path("results.jsonl").read_text(encoding="utf-8") == text

    # the run is finished, and its configuration says 1.0
    words = [*command[1:], "evaluation.length_penalty=[0.5]"]
    assert record.describe(load_experiment(words))["length_penalty"] == 0.5


def test_the_recipe_s_decoding_is_asked_for() -> None:
    words = ["experiment=wmt14_en_de/luna", "evaluation.beam=4", "evaluation.subsets=[test,valid]"]
    wanted = (
        "--average last --checkpoints 10 --beam 4 --length-penalty 0.6 1.0 --subset test valid "
        "--flavour tokenized"
    )
    assert " ".join(plan(load_experiment(words), None)[-1].command).endswith(f" {wanted}")


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


@pytest.fixture(params=[signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1], ids=lambda s: s.name)
def asking(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal in its default state: under nohup, SIGHUP is ignored here and in all children."""
    before = signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, before)


def test_a_stop_reaches_the_step_and_is_handed_back(
    asking: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    step = tmp_path / "step"
    name = asking.name.removeprefix("SIG")
    step.write_text(
        f"#!/usr/bin/env bash\ntrap 'exit 75' {name}\nsleep 0.5\nkill -{name} $PPID\n"
        "for ((i = 0; i < 200; i++)); do sleep 0.05; done\n"
    )
    step.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(step))
    assert main(["reproduce", "experiment=iwslt14_de_en/rela_g"]) == 75
    assert signal.getsignal(asking) == signal.SIG_DFL
    assert "prepare stopped as asked; the same command goes on" in capfd.readouterr().err


def test_damaged_results_are_kept(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text('{"experiment": "a"}\nnonsense\n')
    with pytest.raises(SeqAttnError, match=r"results.jsonl:2: not a line of results"):
        record.read_results(results)
    assert results.read_text().endswith("nonsense\n")
