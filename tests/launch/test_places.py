"""What the launcher believes, chooses and refuses, without starting anything."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.launch import agent, devices, environment, nodes, progress
from seqattn_fairseq.launch.environment import Place
from seqattn_fairseq.launch.lock import alone
from seqattn_fairseq.launch.logs import RankLogs
from seqattn_fairseq.launch.nodes import Nodes
from tests.launch import support
from tests.support import toy_corpus

pytestmark = pytest.mark.xdist_group("launch")


def test_a_place_is_read_as_torchrun_gives_it() -> None:
    assert environment.read(support.environ(1, 2, 29500)) == Place(1, 1, 2, 2)
    assert environment.read(support.environ(1, 2, 29500, local=False)) == Place(1, 0, 2, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": "2"}, "RANK is 2, WORLD_SIZE is 2"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is -1"),
        ({"RANK": "0"}, "LOCAL_RANK is 1, RANK + 1 is 1"),
        ({"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE - 1 is 2, WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two is no number"),
        ({"MASTER_PORT": "0"}, "MASTER_ADDR=127.0.0.1 MASTER_PORT=0 is no address"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR= MASTER_PORT=29500 is no address"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(
    change: dict[str, str], message: str
) -> None:
    with pytest.raises(SeqAttnError) as caught:
        environment.read({**support.environ(1, 2, 29500), **change})
    assert message in str(caught.value)


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(SeqAttnError, match="LOCAL_RANK is not set; start with `seqattn train`"):
        environment.read({"RANK": "0"})


def test_fairseq_is_told_everything_it_would_guess() -> None:
    alone, second = (environment.fairseq_options(Place(r, 0, r + 1, 1)) for r in (0, 1))
    assert alone["distributed_init_method"] is None  # no process group
    assert second["distributed_init_method"] == "env://"  # also with one GPU on each node
    assert second["device_id"] == 0
    assert second["distributed_rank"] == 1
    assert second["distributed_no_spawn"] is True


@pytest.mark.parametrize(
    ("word", "refused"),
    [
        ("distributed_training.distributed_world_size=2", False),
        ("distributed_training.distributed_world_size=8", True),
        ("+distributed_training.distributed_rank=0", True),
        ("distributed_training.ddp_backend=legacy_ddp", False),
        ("distributed_training.distributed_no_spawn=False", True),
        ("optimization.lr=[1]", False),
    ],
)
def test_words_that_contradict_the_place(word: str, refused: bool) -> None:
    options = environment.fairseq_options(Place(1, 1, 2, 2))
    if refused:
        with pytest.raises(SeqAttnError, match="leave it out, and choose with --nproc"):
            environment.refuse_contradictions([word], options)
    else:
        environment.refuse_contradictions([word], options)


@pytest.mark.parametrize("text", ["plain", "a b", "it's", "ü/ö = {x}, [y]", "null"])
def test_quoted_words_reach_hydra_as_they_are(text: str) -> None:
    override = OverridesParser.create().parse_override(f"a.b={environment.quoted(text)}")
    value: Any = override.value()
    assert value == (None if text == "null" else text)


# ---- devices -----------------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that pretends GPUs of these capabilities."""

    def pretend(*capabilities: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: capabilities[i])

    return pretend


def test_one_process_for_each_gpu(gpus: Any) -> None:
    gpus((9, 0), (9, 0))
    assert devices.processes("auto", cpu=False) == 2
    assert devices.processes("auto", cpu=True) == 1
    assert devices.processes("4", cpu=True) == 4
    with pytest.raises(SeqAttnError, match="4 processes on this node, but 2 GPUs are visible"):
        devices.processes("4", cpu=False)
    for wrong in ("0", "-1", "all"):
        with pytest.raises(SeqAttnError, match="give a number of processes, or auto"):
            devices.processes(wrong, cpu=False)


def test_without_a_gpu_the_cpu_is_chosen(gpus: Any) -> None:
    gpus()
    assert devices.on_cpu([], recipe_says_so=False)
    assert devices.cpu_words([]) == [
        "common.cpu=true",
        "distributed_training.distributed_backend=gloo",
    ]
    with pytest.raises(SeqAttnError, match="no GPU is visible"):
        devices.on_cpu(["common.cpu=false"], recipe_says_so=False)
    with pytest.raises(SeqAttnError, match="backend=nccl does not work on the CPU; leave it out"):
        devices.cpu_words(["distributed_training.distributed_backend=nccl"])


def test_bf16_on_ampere_and_newer_only(gpus: Any) -> None:
    gpus((8, 0), (9, 0))
    assert devices.precision_words(2) == ["common.bf16=true"]
    gpus((8, 0), (7, 5))
    assert devices.precision_words(1) == ["common.bf16=true"]
    assert devices.precision_words(2) == []
    gpus()
    assert devices.precision_words(1) == []


@pytest.mark.parametrize(
    ("common", "words", "settled"),
    [
        ({}, [], False),
        ({"fp16": False, "bf16": False}, ["hardware=auto"], False),
        ({"fp16": True}, [], True),
        ({}, ["common.bf16=false"], True),
        ({}, ["hardware=gpu_11gb"], True),
    ],
)
def test_a_precision_that_is_settled_stays(
    common: dict[str, object], words: list[str], settled: bool
) -> None:
    assert devices.chooses_precision(common, words) is settled


# ---- nodes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 2, "localhost:1"), "nodes are numbered from 0 to NNODES - 1"),
        ((0, 0, None), "--nnodes 0"),
        ((2, 0, None), "--nnodes 2 needs --rendezvous HOST:PORT"),
        ((2, 1, "localhost"), "give HOST:PORT of node 0"),
        ((2, 1, "localhost:99999"), "give HOST:PORT of node 0"),
        ((2, 1, "no such host.invalid:29500"), "--rendezvous no such host.invalid:29500: "),
    ],
)
def test_wrong_nodes_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(SeqAttnError) as caught:
        nodes.parse(*arguments)
    assert message in str(caught.value)


def roll_call(*views: Nodes, patience: float = 20) -> list[str]:
    """Return what every node hears: an error, or ``agreed``."""
    heard = [""] * len(views)
    stores: list[Any] = []

    def come(index: int) -> None:
        try:
            stores.append(nodes.roll_call(views[index], patience))
            heard[index] = "agreed"
        except SeqAttnError as error:
            heard[index] = str(error)

    threads = [threading.Thread(target=come, args=(index,)) for index in range(len(views))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return heard


def test_nodes_that_agree_begin() -> None:
    port = nodes.here().port
    assert roll_call(*(Nodes(3, rank, "127.0.0.1", port) for rank in (2, 0, 1))) == ["agreed"] * 3


def test_nodes_that_disagree_are_told() -> None:
    port = nodes.here().port
    views = [Nodes(2, 0, "127.0.0.1", port), Nodes(3, 2, "127.0.0.1", port)]
    assert all("was started with --nnodes 3, node 0 with 2" in text for text in roll_call(*views))


def test_nodes_with_the_same_rank_are_told() -> None:
    port = nodes.here().port
    heard = roll_call(*(Nodes(3, rank, "127.0.0.1", port) for rank in (1, 1, 0)))
    assert all("both have --node-rank 1; number the nodes from 0 to 2" in text for text in heard)


def test_a_port_in_use_is_said() -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(SeqAttnError) as caught:
            nodes.parse(2, 0, f"localhost:{port}")
        assert nodes.parse(2, 1, f"localhost:{port}").rank == 1  # only node 0 listens
    assert str(caught.value).startswith(f"port {port} of localhost is already in use")
    assert "choose another --rendezvous HOST:PORT for all nodes" in str(caught.value)


def test_a_missing_node_is_named() -> None:
    views = [Nodes(3, rank, "127.0.0.1", nodes.here().port) for rank in (0,)]
    heard = roll_call(*views, patience=1)
    assert heard[0].startswith("node 1, 2 of 3 did not come to 127.0.0.1:")
    assert "start the same command on every node, each with its own --node-rank" in heard[0]


def test_a_run_is_trained_by_one_command_at_a_time(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with alone(run), pytest.raises(SeqAttnError, match="is at work there; wait"), alone(run):
        pass
    with alone(run):
        pass


def test_fp16_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "multi30k_en_de", "common.cpu=true", "hardware=gpu_16gb"]) == 1
    assert capsys.readouterr().err.endswith("leave it out, or take common.bf16=true\n")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"optimization.max_epoch": 2}, "2 epochs"),
        ({"optimization.max_update": 1}, r"[\d,]+ updates"),
        ({"optimization.max_epoch": 3}, None),
        ({"optimization.max_epoch": 2, "checkpoint.reset_optimizer": True}, None),
        ({"optimization.max_epoch": 2, "checkpoint.restore_file": "x.pt"}, None),
        ({"optimization.max_epoch": 2, "checkpoint.save_dir": "elsewhere"}, None),
    ],
)
def test_a_finished_run_is_recognised(change: dict[str, Any], reason: str | None) -> None:
    """The toy run has two epochs."""
    cfg = OmegaConf.create(
        {
            "checkpoint": {
                "save_dir": str(toy_corpus.trained().save_dir),
                "restore_file": "checkpoint_last.pt",
                "patience": -1,
                "reset_optimizer": False,
            },
            "optimization": {"max_epoch": 0, "max_update": 0},
        }
    )
    for name, value in change.items():
        OmegaConf.update(cfg, name, value)
    found = progress.finished(cfg)
    assert (found is None) if reason is None else re.fullmatch(reason, str(found))


@pytest.mark.parametrize(
    ("name", "value"), [("model.dropout", 0.77), ("optimization.lr", [1.0]), ("common.seed", 7)]
)
def test_a_finished_run_is_not_taken_for_another_training(name: str, value: Any) -> None:
    folder = str(toy_corpus.trained().save_dir)
    checkpoint = {"save_dir": folder, "restore_file": "checkpoint_last.pt", "patience": -1}
    limits = {"max_epoch": 2, "max_update": 0}
    cfg = OmegaConf.create({"checkpoint": checkpoint, "optimization": limits})
    OmegaConf.update(cfg, name, value)
    with pytest.raises(SeqAttnError) as caught:
        progress.finished(cfg)
    assert str(caught.value).startswith(f"{folder} holds a run with {name}=")
    assert f", not {value}; give this one a folder of its own" in str(caught.value)


# ---- explanations ------------------------------------------------------------------------------


class Failure:
    """What torchrun says of a rank that failed."""

    def __init__(self, exitcode: int) -> None:
        self.exitcode = exitcode
        self.timestamp = 1

    def signal_name(self) -> str:
        return {-9: "SIGKILL", -15: "SIGTERM"}[self.exitcode]


def explained(tmp_path: Path, *ranks: tuple[int, str]) -> str:
    """Explain ranks with these exit statuses and last lines of their logs."""
    logs = RankLogs(tmp_path)
    logs.folder.mkdir()
    for rank, (_, words) in enumerate(ranks):
        logs.path(rank, "err").write_text(f"some warning\n{words}\n")
    failures: Any = {rank: Failure(status) for rank, (status, _) in enumerate(ranks)}
    return agent.explain(failures, logs)


@pytest.mark.parametrize(
    ("statuses", "asked"),
    [((75, 75), True), ((75, -15), True), ((75, 1), False), ((-9, -15), False)],
)
def test_a_stop_is_told_from_a_failure(statuses: tuple[int, ...], asked: bool) -> None:
    failures: Any = {rank: Failure(status) for rank, status in enumerate(statuses)}
    assert agent._were_asked_to_stop(failures) is asked


LOST = "RuntimeError: [pair.cc:553] Connection closed by peer [127.0.0.1]:1. GLHF!"


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([(1, LOST), (-9, "")], ["rank 1 on", "was killed by SIGKILL; repeat the command"]),
        ([(1, LOST), (1, "ValueError: odd")], ["rank 1", "exit status 1: ValueError: odd; mend"]),
        ([(-15, ""), (1, "fairseq-hydra-train: error: no data")], ["rank 1", "1: no data; mend"]),
        ([(1, LOST)], ["rank 0 on", "lost another rank", "the log of that rank's node says why"]),
    ],
)
def test_the_rank_that_failed_of_itself_is_named(
    tmp_path: Path, ranks: list[tuple[int, str]], words: list[str]
) -> None:
    message = explained(tmp_path, *ranks)
    assert "\n" not in message
    assert all(word in message for word in words), message
