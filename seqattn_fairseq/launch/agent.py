"""torchrun's agent, which starts this node's ranks, watches them and ends them together."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, launch_agent

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.launch.logs import RankLogs, is_consequence
from seqattn_fairseq.launch.nodes import Nodes, roll_call
from seqattn_fairseq.launch.stopping import RESUME_ME, STOP

# Seconds that the ranks have to save when they are asked to stop. SLURM is told to ask 120
# seconds before it kills.
GRACE = 100

_ENDED_BY_AGENT = -signal.SIGTERM


def _config(nodes: Nodes, processes: int, logs: RankLogs) -> LaunchConfig:
    options: dict[str, Any] = {
        "min_nodes": nodes.count,
        "max_nodes": nodes.count,
        "nproc_per_node": processes,
        "run_id": "seqattn",
        "rdzv_backend": "static",
        "rdzv_endpoint": f"{nodes.host}:{nodes.port}",
        "rdzv_configs": {"rank": nodes.rank},
        "max_restarts": 0,
        "logs_specs": logs,
        "log_line_prefix_template": "[rank ${rank}] ",
        "shutdown_timeout": GRACE,
        "signals_to_handle": "SIGINT,SIGQUIT",
    }
    # the last two are younger than the oldest torch that serves
    known = {field.name for field in fields(LaunchConfig)}
    return LaunchConfig(**{name: value for name, value in options.items() if name in known})


def _ask_to_stop(signum: int, frame: FrameType | None) -> NoReturn:
    """Let the agent pass :data:`STOP` on to the ranks, whichever signal it got."""
    raise SignalException("asked to stop", STOP)


def launch(nodes: Nodes, processes: int, arguments: Sequence[str], folder: Path) -> int:
    """Run one rank per process until all have ended; return the exit status.

    Args:
        nodes: this node among the others.
        processes: ranks of this node.
        arguments: what follows ``python`` on the command line of a rank.
        folder: where the logs of all starts of this run are kept.

    Returns:
        0, or :data:`~seqattn_fairseq.launch.stopping.RESUME_ME` after a stop on SIGTERM, SIGHUP or
        SIGUSR1.

    Raises:
        SeqAttnError: a rank failed; the line names it, its last words and its log.
    """
    for asking in (signal.SIGTERM, signal.SIGHUP, STOP):
        if signal.getsignal(asking) != signal.SIG_IGN:  # nohup
            signal.signal(asking, _ask_to_stop)
    _quieten_torchrun()
    if processes > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does
    logs = RankLogs(folder)
    try:
        store = roll_call(nodes)
        launch_agent(_config(nodes, processes, logs), sys.executable, list(arguments))
        del store
    except SignalException as stop:
        if stop.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        return RESUME_ME
    except ChildFailedError as error:
        if _were_asked_to_stop(error.failures):
            return RESUME_ME
        raise SeqAttnError(explain(error.failures, logs)) from error
    return 0


def _were_asked_to_stop(failures: dict[int, ProcessFailure]) -> bool:
    """Tell whether the ranks stopped on request: torchrun ends the later ones after the first."""
    statuses = {failure.exitcode for failure in failures.values()}
    return RESUME_ME in statuses and statuses <= {RESUME_ME, _ENDED_BY_AGENT}


def _quieten_torchrun() -> None:
    """Leave it to :func:`explain` to say what happened; torchrun says it in forty lines."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _culprit(failures: dict[int, ProcessFailure], logs: RankLogs) -> int:
    """Return the rank that failed of itself: others lose their connection or are ended."""

    def innocence(rank: int) -> tuple[bool, bool, bool, int]:
        failure = failures[rank]
        killed = failure.exitcode < 0
        return (
            failure.exitcode == _ENDED_BY_AGENT,
            not killed and is_consequence(logs.last_words(rank)),
            not killed,
            failure.timestamp,
        )

    return min(failures, key=innocence)


def explain(failures: dict[int, ProcessFailure], logs: RankLogs) -> str:
    """Return one line on the rank that failed first: how, why, and what to do.

    Args:
        failures: torchrun's findings, by rank.
        logs: the logs of this start.
    """
    rank = _culprit(failures, logs)
    failure, words = failures[rank], logs.last_words(rank)
    where = f"rank {rank} on {socket.gethostname()}"
    if failure.exitcode < 0:
        how = f"was killed by {failure.signal_name()}"
        remedy = "repeat the command to resume"
        if failure.exitcode == -signal.SIGKILL:
            remedy += "; if nobody killed it, the memory ran out: lower dataset.max_tokens"
    else:
        how = f"failed with exit status {failure.exitcode}"
        remedy = "mend that and repeat the command to resume"
    if is_consequence(words):
        how, remedy = "lost another rank", "the log of that rank's node says why"
    reason = f": {words.rstrip('.')}" if words else ""
    return f"{where} {how}{reason}; {remedy}; its log: {logs.path(rank, 'err')}"
