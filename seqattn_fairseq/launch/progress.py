"""Whether the run in a folder has reached the end that its recipe sets."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from seqattn_fairseq.errors import SeqAttnError

LAST = "checkpoint_last.pt"

Wanted = Mapping[str, tuple[str, ...] | None]

# What makes two trainings different runs; None stands for the whole section.
DECISIVE: Wanted = {
    "batch": ("tokens",),
    "model": None,
    "criterion": None,
    "optimizer": None,
    "lr_scheduler": None,
    "common": ("seed",),
    "optimization": ("lr", "clip_norm"),
}


def finished(cfg: DictConfig) -> str | None:
    """Return why a run has nothing left to do (``8,000 updates``), or ``None``.

    Only what the last checkpoint proves counts; a run that is to start otherwise (another file to
    restore, a reset) and an unreadable checkpoint are left to the training itself.

    Args:
        cfg: the composed recipe.

    Raises:
        SeqAttnError: the run has come to that end with another recipe.
    """
    checkpoint = cfg.checkpoint
    resets = any(value for name, value in checkpoint.items() if name.startswith("reset_"))
    last = Path(checkpoint.save_dir, LAST)
    if resets or checkpoint.restore_file != LAST or not last.is_file():
        return None
    try:
        state = torch.load(last, map_location="cpu", mmap=True, weights_only=True)
        end = _end(cfg, state)
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, pickle.UnpicklingError):
        return None
    if end and "cfg" in state:
        wanted = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
        refuse_another_run(checkpoint.save_dir, decisive(state["cfg"]), decisive(wanted))
    return end


def decisive(cfg: Any, wanted: Wanted = DECISIVE) -> dict[str, Any]:
    """Return the options of a configuration that make it a run of its own, by full name."""
    return {
        f"{section}.{name}": value
        for section, names in wanted.items()
        for name, value in (cfg.get(section) or {}).items()
        if names is None or name in names
    }


def refuse_another_run(folder: str, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to take the run in a folder for one with other :func:`decisive` options.

    Raises:
        SeqAttnError: they differ.
    """
    for name in sorted(saved.keys() & wanted.keys()):
        if saved[name] != wanted[name]:
            raise SeqAttnError(
                f"{folder} holds a run with {name}={saved[name]}, not {wanted[name]}; "
                "give this one a folder of its own with checkpoint.save_dir=FOLDER"
            )


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
