"""A training that is asked to stop ends after its update, with a checkpoint of that update."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from functools import wraps
from types import FrameType
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq_cli import train

logger = logging.getLogger(__name__)

# The signal that asks a rank to stop, and the exit status of a training that wants to be resumed
# (EX_TEMPFAIL of sysexits.h: try again).
STOP = signal.SIGUSR1
RESUME_ME = 75

_requested = threading.Event()


def _request(signum: int, frame: FrameType | None) -> None:
    _requested.set()


def _agreed() -> bool:
    """Tell whether any rank was asked to stop: they have to leave after the same update."""
    distributed = torch.distributed
    if not (distributed.is_initialized() and distributed.get_world_size() > 1):
        return _requested.is_set()
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    flag = torch.tensor(int(_requested.is_set()), device=device)
    distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return bool(flag)


def _save_and_leave(cfg: Any, trainer: Any, epoch_itr: Any) -> None:
    logger.info("asked to stop: saving, to be resumed by the same command")
    checkpoint_utils.save_checkpoint(cfg.checkpoint, trainer, epoch_itr, None)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # torchrun ends all ranks as soon as one has ended
    sys.exit(RESUME_ME)


def stop_when_asked() -> None:
    """Let this process's training answer :data:`STOP`, and end at once at an interrupt.

    Within an epoch only: at its end fairseq validates and saves anyway, and what it does there
    must not be done twice.
    """
    signal.signal(STOP, _request)
    # Python's own handler waits for a rank to come back from a collective that never ends, and
    # it is by an interrupt that fairseq's heartbeat ends such a rank.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    original = train.validate_and_save

    @wraps(original)
    def validate_and_save(
        cfg: Any, trainer: Any, task: Any, epoch_itr: Any, subsets: Any, end_of_epoch: bool
    ) -> Any:
        losses, should_stop = original(cfg, trainer, task, epoch_itr, subsets, end_of_epoch)
        if not end_of_epoch and not should_stop and _agreed():
            _save_and_leave(cfg, trainer, epoch_itr)
        return losses, should_stop

    train.validate_and_save = validate_and_save


def end_with_parent() -> None:
    """End this process when the one that started it has gone: two trainings in a folder clash."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
