"""``seqattn plan``: a table, JSON, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.experiments.cost import cost
from seqattn_fairseq.experiments.plan import load_experiment
from seqattn_fairseq.planning import machine, prediction
from seqattn_fairseq.planning.machine import Machine, Rate
from tests.experiments.test_cost import TINY_MODEL

RECIPE = ["multi30k_en_de", "task.data=nothing", "size=tiny", *TINY_MODEL]
BUDGET = "dataset.max_tokens=500 batch.tokens=1500 optimization.max_update=3600".split()
ARCH = "--arch seqattn_rela_g_tiny --vocabulary 1000 --max-tokens 600".split()


@pytest.fixture(autouse=True)
def _measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile of this machine, so that nothing is measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(prediction, "MOST_TOKENS", 3000)
    for dtype in (torch.float32, torch.bfloat16):
        key = machine.key(torch.device("cpu"), dtype)
        profile = Machine(key, {}, Rate(1e-5, 0.0, 0.0), 1.0, 0.0)
        machine.save(profile, machine.profiles())


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["plan", "--json", *words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*RECIPE, *BUDGET, "hardware=cpu", "dataset.max_tokens=500"]
    found = planned(capsys, *words, "--source-length", "25", "--target-length", "20")
    assert found["parameters"] == cost(load_experiment(words)).parameters
    # 500 tokens hold 20 sentences of 25, of which fairseq takes two times eight
    assert (found["sentences"], found["passes"]) == (16, 3)
    assert found["tokens_per_update"] == 16 * 20 * 3
    parts = found["bytes"]
    assert parts["peak"] == parts["parameters"] + parts["optimizer"] + parts["activations"]
    assert found["fits"] is True
    seconds = found["tokens_per_update"] / found["tokens_per_second"]
    assert found["hours"] == pytest.approx(3600 * seconds / 3600)


def test_a_card_that_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, *RECIPE, *BUDGET, "hardware=gpu_24gb", "dataset.max_tokens=500")
    assert found["capacity"] == 24 * 2**30
    assert found["dtype"] == "bfloat16"
    if not torch.cuda.is_available():
        assert found["tokens_per_second"] is None


def test_an_architecture_and_the_memory_that_it_would_need(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = planned(capsys, *ARCH, "--memory", "0.05")
    assert found["dtype"] == "float32"
    assert found["sentences"] == 16  # of 18
    limit = found["largest_max_tokens"]
    assert limit > 0
    at_limit = planned(capsys, *ARCH[:-1], str(limit), "--memory", "0.05")
    beyond = planned(capsys, *ARCH[:-1], str(int(1.1 * limit) + 8 * 32), "--memory", "0.05")
    assert at_limit["fits"] is True
    assert beyond["fits"] is False


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *ARCH, "--bf16", "--memory", "0.01"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines]
    assert (
        names
        == (
            "model batch weights gradients optimiser activations peak device largest speed time"
        ).split()
    )
    assert "DOES NOT FIT" in lines[names.index("device")]
    assert "bfloat16" in lines[0]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "what is to be planned"),
        (["--arch", "seqattn_sofmax", *ARCH[2:]], "did you mean"),
        (["--arch", "seqattn_softmax"], "needs --vocabulary"),
        ([*ARCH, "--target-length", "601"], "no sentence of 601 tokens"),
        ([*ARCH[:3], "4", *ARCH[4:]], "fairseq's own 4 symbols"),
        ([*ARCH, "--optimizer", "adma"], "did you mean"),
        ([*RECIPE, "--bf16"], "as option=value"),
        ([*RECIPE, "common.amp=true"], "cannot be planned"),
        ([*RECIPE, "dataset.max_tokens=null"], "needs dataset.max_tokens"),
        ([*RECIPE, "dataset.max_tokens=null", "batch.tokens=null"], "how large is a batch"),
        ([*ARCH, "--source-length", "0"], "--source-length 0: must be more than 0"),
        ([*ARCH, "--memory", "-1"], "--memory -1: must be more than 0"),
    ],
)
def test_what_is_refused(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
