"""Two ranks (gloo, CPU) are one training: equal weights, whole epochs, resuming, failing."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.launch import programs, support
from tests.support import toy_corpus
from tests.support.interruption import differences

pytestmark = pytest.mark.xdist_group("launch")

SAVING = "checkpoint.save_interval_updates=2"


def freq(value: int) -> str:
    """Return the override of a number of batches an update."""
    return f"optimization.update_freq=[{value}]"


def comparable(run: Path) -> dict[str, Any]:
    """Return a run's state without the number of ranks that it was saved by."""
    state = support.state(run)
    del state["iterator"]["seqattn_shards"]
    return state


def losses(results: list[toy_corpus.Result]) -> list[str]:
    """Return what rank 0 logs of losses, to the last digit that it prints."""
    parts = [line.split("|") for line in results[0].stdout.splitlines() if "| loss" in line]
    return [part.strip() for line in parts for part in line if part.startswith(" loss")]


@pytest.fixture(scope="module")
def recipe_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.recipes(tmp_path_factory.mktemp("recipes") / "with a space")


@pytest.mark.parametrize(
    ("max_tokens", "wrapper"), [(200, "pytorch_ddp"), (150, "pytorch_ddp"), (150, "legacy_ddp")]
)
def test_two_ranks_equal_one_with_update_freq_2(
    recipe_dir: Path, tmp_path: Path, max_tokens: int, wrapper: str
) -> None:
    """With 150 tokens the number of batches is odd: see the next test."""
    words = (f"dataset.max_tokens={max_tokens}", f"distributed_training.ddp_backend={wrapper}")
    two = support.train(2, tmp_path / "two", recipe_dir, freq(1), *words)
    one = support.train(1, tmp_path / "one", recipe_dir, freq(2), *words)
    assert differences(comparable(tmp_path / "two"), comparable(tmp_path / "one")) == []
    assert losses(two) == losses(one) != []


def records(scratch: Path, rank: int, key: str) -> list[dict[str, Any]]:
    lines = (scratch / f"rank{rank}.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if key in entry]


def recorded(recipe_dir: Path, folder: Path, *words: str) -> Path:
    """Train one epoch with two recording ranks; return the folder of their records."""
    support.train(
        2, folder / "run", recipe_dir, "optimization.max_epoch=1", *words,
        program=programs.recording,
    )  # fmt: skip
    return folder / "run scratch"


def test_the_shards_are_disjoint_and_cover_the_epoch(recipe_dir: Path, tmp_path: Path) -> None:
    """200 sentences; with an odd number of batches, rank 1 repeats one that does not count."""
    scratch = recorded(recipe_dir, tmp_path, "dataset.max_tokens=150")
    batches = [records(scratch, rank, "ids") for rank in (0, 1)]
    assert len(batches[0]) == len(batches[1])
    assert [batch["dummy"] for batch in batches[1]].count(True) == 1
    seen = [
        ident for rank in batches for batch in rank if not batch["dummy"] for ident in batch["ids"]
    ]
    assert sorted(seen) == list(range(200))


def test_every_rank_draws_its_own_random_numbers(recipe_dir: Path, tmp_path: Path) -> None:
    scratch = recorded(recipe_dir, tmp_path, "model.dropout=0.3")
    first, second = ([b["noise"] for b in records(scratch, rank, "ids")] for rank in (0, 1))
    assert not set(first) & set(second)
    valid_loss, _ = support.state(tmp_path / "run")["valid"]
    assert 0 < valid_loss < 10


def test_only_rank_0_writes_checkpoints(recipe_dir: Path, tmp_path: Path) -> None:
    scratch = recorded(recipe_dir, tmp_path, SAVING)
    assert len(records(scratch, 0, "saved")) >= 2
    assert records(scratch, 1, "saved") == []


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2)])
def test_resuming_on_any_number_of_ranks_changes_nothing(
    recipe_dir: Path, tmp_path: Path, before: int, after: int
) -> None:
    calm, resumed = tmp_path / "calm", tmp_path / "resumed"
    words = (SAVING, f"model.dropout={0.1 if before == after else 0.0}")
    support.train(before, calm, recipe_dir, freq(2 // before), *words)
    resumed.mkdir()
    shutil.copy(calm / "checkpoint_1_2.pt", resumed / "checkpoint_last.pt")
    results = support.train(after, resumed, recipe_dir, freq(2 // after), *words)
    assert "Loaded checkpoint" in results[0].stdout
    assert "@ 2 updates" in results[0].stdout
    assert differences(comparable(calm), comparable(resumed)) == []


def failed(recipe_dir: Path, folder: Path, program: Any, *words: str) -> list[toy_corpus.Result]:
    """Train with two ranks of which one fails; return what both left."""
    return support.run_ranks(2, folder / "run", recipe_dir, *words, program=program)


def test_a_rank_without_memory_ends_all_with_a_hint(recipe_dir: Path, tmp_path: Path) -> None:
    begin = time.monotonic()
    results = failed(recipe_dir, tmp_path, programs.out_of_memory)
    assert time.monotonic() - begin < 30
    assert all(result.status for result in results)
    last = results[1].stderr.strip().splitlines()[-1]
    assert last.startswith("fairseq-hydra-train: error: rank 1 is out of memory at update 3; lower")
    assert "max_tokens (now 200)" in last
    assert "update_freq" in last


def test_a_hanging_rank_is_ended_by_the_heartbeat(recipe_dir: Path, tmp_path: Path) -> None:
    words = "distributed_training.heartbeat_timeout=2"
    results = failed(recipe_dir, tmp_path, programs.hanging, words)
    assert all(result.status for result in results)
    assert "Killing job for not making progress in 2 seconds" in results[1].stdout


def test_ranks_with_different_recipes_refuse(recipe_dir: Path, tmp_path: Path) -> None:
    own = [[f"model.dropout=0.{rank}"] for rank in (1, 2)]
    results = support.run_ranks(2, tmp_path / "run", recipe_dir, own_words=own)
    assert all(result.status for result in results)
    last = results[1].stderr.strip().splitlines()[-1]
    assert "rank 1 has model.dropout=0.2, rank 0 has 0.1; start every node with the same" in last
