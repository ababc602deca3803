"""The nodes of one training find each other, and refuse to start when they disagree."""

from __future__ import annotations

import json
import socket
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import TCPStore
from torch.distributed import DistNetworkError, DistStoreError

from seqattn_fairseq.errors import SeqAttnError

LOCALHOST = "127.0.0.1"

# Seconds that the nodes have to appear, as in torchrun, and between two notes on who is missing
PATIENCE = 900
_NOTICE = 30

_VERDICT = "seqattn/verdict"
_AGREED = "agreed"


@dataclass(frozen=True)
class Nodes:
    """This node among ``count``, and the address on which node 0 listens."""

    count: int
    rank: int
    host: str
    port: int


def here() -> Nodes:
    """Return this machine as the only node, with a port that is free now."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return Nodes(1, 0, LOCALHOST, int(probe.getsockname()[1]))


def parse(count: int, rank: int, rendezvous: str | None) -> Nodes:
    """Check the options ``--nnodes``, ``--node-rank`` and ``--rendezvous``.

    Raises:
        SeqAttnError: they contradict each other, or there is no such address.
    """
    if count < 1 or not 0 <= rank < count:
        raise SeqAttnError(
            f"--node-rank {rank} --nnodes {count}: nodes are numbered from 0 to NNODES - 1"
        )
    if rendezvous is None:
        if count > 1:
            raise SeqAttnError(
                f"--nnodes {count} needs --rendezvous HOST:PORT, the same on all: node 0's address"
            )
        return here()
    host, _, port = rendezvous.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SeqAttnError(f"--rendezvous {rendezvous}: give HOST:PORT of node 0")
    nodes = Nodes(count, rank, host.strip("[]"), int(port))
    _refuse_bad_address(nodes)
    return nodes


def _refuse_bad_address(nodes: Nodes) -> None:
    """Refuse an unknown host, and on node 0 a port that another program has."""
    try:
        family = socket.getaddrinfo(nodes.host, nodes.port)[0][0]
    except OSError as error:
        raise SeqAttnError(f"--rendezvous {nodes.host}:{nodes.port}: {error.strerror}") from error
    if nodes.rank > 0:
        return
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", nodes.port))
        except OSError as error:
            raise _port_in_use(nodes) from error


def _port_in_use(nodes: Nodes) -> SeqAttnError:
    return SeqAttnError(
        f"port {nodes.port} of {nodes.host} is already in use (another training, or another node "
        "with --node-rank 0 on this machine?); choose another --rendezvous HOST:PORT for all nodes"
    )


def roll_call(nodes: Nodes, patience: float = PATIENCE) -> TCPStore | None:
    """Wait for all nodes; refuse when two have the same rank or another idea of their number.

    The store must live as long as the training: torchrun's own one shares its port.

    Args:
        nodes: this node's view.
        patience: seconds that the others have to appear.

    Returns:
        the store, or ``None`` for a single node.
    """
    if nodes.count == 1:
        return None
    store = _connect(nodes, patience)
    arrival = store.add("seqattn/arrivals", 1)
    report = {"rank": nodes.rank, "count": nodes.count, "host": socket.gethostname()}
    store.set(f"seqattn/arrival{arrival}", json.dumps(report))
    if nodes.rank == 0:
        store.set(_VERDICT, _judge(store, nodes, patience))
    verdict = _verdict(store, nodes, patience)
    if verdict != _AGREED:
        if nodes.rank == 0:
            time.sleep(1)  # this process holds the store that the others read the verdict from
        raise SeqAttnError(verdict)
    return store


def _connect(nodes: Nodes, patience: float) -> TCPStore:
    master = nodes.rank == 0
    try:
        return TCPStore(
            nodes.host,
            nodes.port,
            is_master=master,
            timeout=timedelta(seconds=patience),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except (DistNetworkError, DistStoreError) as error:
        if master:
            raise _port_in_use(nodes) from error
        raise SeqAttnError(_absent(nodes, "node 0")) from error


def _absent(nodes: Nodes, who: str) -> str:
    return (
        f"{who} of {nodes.count} did not come to {nodes.host}:{nodes.port}; start the same command "
        "on every node, each with its own --node-rank"
    )


def _verdict(store: TCPStore, nodes: Nodes, patience: float) -> str:
    try:
        store.wait([_VERDICT], timedelta(seconds=patience))
        return str(store.get(_VERDICT).decode())
    except (DistNetworkError, DistStoreError) as error:
        raise SeqAttnError(_absent(nodes, "node 0")) from error


def _judge(store: TCPStore, nodes: Nodes, patience: float) -> str:
    """Look at every node as it arrives; return what is wrong, or that all agree."""
    seen: dict[int, str] = {}
    deadline = time.monotonic() + patience
    notice = time.monotonic() + _NOTICE
    while len(seen) < nodes.count:
        key = f"seqattn/arrival{len(seen) + 1}"
        if store.check([key]):
            if objection := _objection(json.loads(store.get(key)), nodes, seen):
                return objection
            continue
        missing = ", ".join(str(rank) for rank in range(nodes.count) if rank not in seen)
        if time.monotonic() > deadline:
            return _absent(nodes, f"node {missing}")
        if time.monotonic() > notice:
            print(f"waiting for node {missing} of {nodes.count}", file=sys.stderr, flush=True)
            notice += _NOTICE
        time.sleep(0.1)
    return _AGREED


def _objection(report: dict[str, Any], nodes: Nodes, seen: dict[int, str]) -> str | None:
    """Take a node's report down in ``seen``, or return why it cannot be."""
    rank, host = report["rank"], report["host"]
    if report["count"] != nodes.count:
        return f"{host} was started with --nnodes {report['count']}, node 0 with {nodes.count}"
    if rank in seen:
        return (
            f"{seen[rank]} and {host} both have --node-rank {rank}; number the nodes from 0 to "
            f"{nodes.count - 1}"
        )
    seen[rank] = host
    return None
