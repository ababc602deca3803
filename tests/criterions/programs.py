"""A rank that trains and then writes down what it has learnt."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq.trainer import Trainer

from seqattn_fairseq.launch import worker


def remembering(arguments: Sequence[str]) -> None:
    """Train; write the rank's parameters to ``rankN.pt``."""
    trainers: list[Any] = []
    original = Trainer.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        trainers.append(self)

    Trainer.__init__ = init
    worker.main(arguments)
    (trainer,) = trainers
    torch.save(trainer.model.state_dict(), Path(f"rank{os.environ['RANK']}.pt"))
