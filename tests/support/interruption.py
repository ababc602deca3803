"""Training that is killed with SIGKILL at random moments, and its comparison with a calm one."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import seqattn_fairseq  # noqa: F401 lets checkpoints of stock architectures load
from tests.support import toy_corpus


def _wait_for_training(process: Any, output: Path) -> None:
    """Wait until the process trains (or has ended)."""
    while process.exitcode is None:
        logs = [output.with_suffix(suffix) for suffix in (".out", ".err")]
        if any(log.exists() and "Start iterating over samples" in log.read_text() for log in logs):
            return
        time.sleep(0.005)


def train_and_kill(
    arguments: Sequence[str], scratch: Path, kills: int, seconds: float, seed: int = 1
) -> int:
    """Start ``fairseq-train`` ``kills`` times, killing it 0 to ``seconds`` into the training.

    Returns how many processes died of the signal rather than of having finished.
    """
    moments = random.Random(seed)
    killed = 0
    for attempt in range(kills):
        output = scratch / f"killed-{attempt}"
        process = toy_corpus.start("train", *arguments, output=output)
        _wait_for_training(process, output)
        time.sleep(moments.uniform(0, seconds))
        process.kill()
        process.join()
        killed += process.exitcode == -9
    return killed


def differences(first: Any, second: Any, place: str = "") -> list[str]:
    """Return where two nested states differ in any bit, tensors compared by their bytes."""
    if type(first) is not type(second):
        return [f"{place}: {type(first).__name__} / {type(second).__name__}"]
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [place]
    if isinstance(first, dict):
        if list(first) != list(second):
            return [f"{place}: keys"]
        return [d for key in first for d in differences(first[key], second[key], f"{place}.{key}")]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [f"{place}: length"]
        pairs = enumerate(zip(first, second, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{place}[{i}]")]
    return [] if first == second else [place]


def training_state(checkpoint: Path) -> dict[str, Any]:
    """Return what must not depend on interruptions: parameters, optimizer, progress, losses."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return {
        "model": state["model"],
        "optimizer": state["last_optimizer_state"],
        "history": state["optimizer_history"][-1],  # fairseq adds one entry per start
        "iterator": state["extra_state"]["train_iterator"],
        "valid": (state["extra_state"]["val_loss"], state["extra_state"]["best"]),
    }
