"""Whether the run in a folder has reached the end that its recipe sets."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

LAST = "checkpoint_last.pt"


def finished(cfg: DictConfig) -> str | None:
    """Return why a run has nothing left to do (``8,000 updates``), or ``None``.

    Only what the last checkpoint proves counts; a run that is to start otherwise (another file to
    restore, a reset) and an unreadable checkpoint are left to the training itself.

    Args:
        cfg: the composed recipe.
    """
    checkpoint = cfg.checkpoint
    resets = any(value for name, value in checkpoint.items() if name.startswith("reset_"))
    last = Path(checkpoint.save_dir, LAST)
    if resets or checkpoint.restore_file != LAST or not last.is_file():
        return None
    try:
        state = torch.load(last, map_location="cpu", mmap=True, weights_only=True)
        return _end(cfg, state)
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, pickle.UnpicklingError):
        return None


def _end(cfg: DictConfig, state: dict[str, Any]) -> str | None:
    updates = int(state["optimizer_history"][-1]["num_updates"])
    extra = state["extra_state"]
    if 0 < cfg.optimization.max_update <= updates:
        return f"{updates:,} updates"
    if 0 < cfg.optimization.max_epoch < extra["train_iterator"]["epoch"]:
        return f"{cfg.optimization.max_epoch:,} epochs"
    waited = extra.get("seqattn_patience", {}).get("num_runs", 0)
    if 0 < cfg.checkpoint.patience <= waited:
        return f"no improvement in {waited} validations"
    return None
