"""``seqattn train`` as a process: ends together, stops on request, resumes, several nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from seqattn_fairseq.launch import nodes
from tests.launch import support
from tests.launch.support import Command
from tests.support.interruption import differences

pytestmark = pytest.mark.xdist_group("launch")

ENDLESS = "optimization.max_epoch=1000000"


@pytest.fixture(scope="module")
def recipe_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.recipes(tmp_path_factory.mktemp("recipes") / "mit Ümlaut")


@pytest.fixture
def start(recipe_dir: Path, tmp_path: Path) -> Callable[..., Command]:
    """Return a function that starts ``seqattn train toy`` in ``tmp_path/run`` with two ranks."""

    def started(*words: str, name: str = "command", nproc: int = 2) -> Command:
        return Command(
            tmp_path / name, "toy", "--config-dir", str(recipe_dir), "--nproc", str(nproc),
            support.save_dir(tmp_path / "run"), *words,
        )  # fmt: skip

    return started


def rank_pid(command: Command, rank: int) -> int:
    """Return the process of a rank: torchrun starts them in this order."""
    listing = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(command.process.pid)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sorted(map(int, listing.stdout.split()))[rank]


def last_line(command: Command) -> str:
    return command.err.strip().splitlines()[-1]


def test_a_killed_rank_ends_the_other_with_a_line_that_names_it(
    start: Callable[..., Command], tmp_path: Path
) -> None:
    command = start(ENDLESS)
    command.wait_for("epoch 001 |")
    other, victim = (rank_pid(command, rank) for rank in (0, 1))
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    while Path(f"/proc/{other}").exists():  # its agent collects it
        assert time.monotonic() - killed < 10
        time.sleep(0.05)
    assert command.wait() == 1
    assert last_line(command).startswith("seqattn train: error: rank 1 on ")
    assert " was killed by SIGKILL; repeat the command to resume; " in last_line(command)
    assert "the memory ran out: lower dataset.max_tokens; its log: " in last_line(command)
    logs = sorted(path.name for path in (tmp_path / "run/logs").rglob("rank*"))
    assert logs == ["rank0.err", "rank0.out", "rank1.err", "rank1.out"]


@pytest.mark.slow
def test_a_stopped_run_resumes_and_ends_as_if_it_had_not_been(
    start: Callable[..., Command], recipe_dir: Path, tmp_path: Path
) -> None:
    """On two nodes: tests/launch/test_slurm.py."""
    words = ("optimization.max_epoch=60", "checkpoint.no_epoch_checkpoints=true")
    first = start(*words)
    first.wait_for("epoch 002 |")
    first.process.send_signal(signal.SIGUSR1)
    assert first.wait() == 75
    assert "stopped as asked; the same command goes on where it was" in last_line(first)
    stopped_at = support.state(tmp_path / "run")["history"]["num_updates"]
    assert not list((tmp_path / "run").glob("*.tmp"))
    second = start(*words, name="again")
    assert second.wait() == 0
    assert f"@ {stopped_at} updates)" in second.out
    support.train(2, tmp_path / "calm", recipe_dir, *words)
    assert differences(support.state(tmp_path / "calm"), support.state(tmp_path / "run")) == []
    third = start(*words, name="third")
    assert third.wait() == 0
    assert third.out == f"{tmp_path / 'run'} is finished (60 epochs): nothing to do\n"


def test_one_process_trains_without_a_group(start: Callable[..., Command], tmp_path: Path) -> None:
    command = start(nproc=1)
    assert command.wait() == 0, command.err
    assert "distributed init" not in command.out
    assert (tmp_path / "run/hydra/.hydra/config.yaml").exists()
    assert (tmp_path / "run/checkpoint2.pt").exists()


def test_two_agents_stand_for_two_nodes(start: Callable[..., Command], tmp_path: Path) -> None:
    address = f"localhost:{nodes.here().port}"
    agents = [
        start("--nnodes", "2", "--node-rank", str(rank), "--rendezvous", address,
              name=f"node {rank}", nproc=1)
        for rank in (1, 0)
    ]  # fmt: skip
    assert [agent.wait() for agent in agents] == [0, 0], [agent.err for agent in agents]
    assert "distributed init (rank 0): env://" in agents[1].out
    assert "[rank 0]" not in agents[0].out
    assert (tmp_path / "run/checkpoint2.pt").exists()


def test_what_contradicts_the_ranks_is_refused_before_training(
    start: Callable[..., Command], tmp_path: Path
) -> None:
    command = start("distributed_training.distributed_world_size=4")
    assert command.wait() == 1
    assert "distributed_world_size=4, but the processes were started with 2" in last_line(command)
    assert "Traceback" not in command.err
    assert not list((tmp_path / "run").glob("*.pt"))
