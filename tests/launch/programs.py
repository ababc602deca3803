"""What ranks of tests do besides training: keep records, or fail in a chosen way."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.tasks.fairseq_task import FairseqTask

from seqattn_fairseq.launch import worker

FAILING_UPDATE = 2


def _before_every_batch(action: Callable[[dict[str, Any], int, bool], None]) -> None:
    original = FairseqTask.train_step

    def train_step(
        self: Any, sample: Any, model: Any, criterion: Any, optimizer: Any, update_num: int,
        ignore_grad: bool = False, **extra: Any,
    ) -> Any:  # fmt: skip
        action(sample, update_num, ignore_grad)
        return original(self, sample, model, criterion, optimizer, update_num, ignore_grad, **extra)

    FairseqTask.train_step = train_step


def recording(arguments: Sequence[str]) -> None:
    """Write every batch's sentences and a random number, and every file saved, as JSON lines."""
    record = Path(f"rank{os.environ['RANK']}.jsonl")

    def write(**values: Any) -> None:
        with record.open("a") as stream:
            stream.write(json.dumps(values) + "\n")

    def note(sample: dict[str, Any], update: int, dummy: bool) -> None:
        noise = torch.rand(1).item()
        write(update=update, ids=sample["id"].tolist(), dummy=dummy, noise=noise)

    save = checkpoint_utils.torch_persistent_save

    def torch_persistent_save(state: Any, filename: str, *args: Any, **kwargs: Any) -> None:
        write(saved=filename)
        save(state, filename, *args, **kwargs)

    _before_every_batch(note)
    checkpoint_utils.torch_persistent_save = torch_persistent_save
    worker.main(arguments)


def _on_rank_1(failure: Callable[[], None]) -> None:
    def action(sample: dict[str, Any], update: int, dummy: bool) -> None:
        if os.environ["RANK"] == "1" and update == FAILING_UPDATE:
            failure()

    _before_every_batch(action)


def out_of_memory(arguments: Sequence[str]) -> None:
    """Train, but run out of memory on rank 1."""

    def fail() -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    _on_rank_1(fail)
    worker.main(arguments)


def hanging(arguments: Sequence[str]) -> None:
    """Train, but do nothing any more on rank 1."""
    _on_rank_1(lambda: time.sleep(1000))
    worker.main(arguments)
