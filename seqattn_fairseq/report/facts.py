"""What the checkpoints of a run say about it: variant, size, length of the training."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqattn_fairseq.checkpoint_files import read_checkpoint
from seqattn_fairseq.evaluation.checkpoints import architecture
from seqattn_fairseq.transformer.registry import VARIANTS

_PREFIX = "seqattn_"
# of stock fairseq: what stands among the weights and is none
_NO_WEIGHTS = ("version", "_float_tensor")
# what torch raises of a file that cannot be mapped, or that is no checkpoint
_UNREADABLE = (
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
_FILES = ("checkpoint_last.pt", "checkpoint_best.pt")


@dataclass(frozen=True)
class Facts:
    """What a checkpoint says; None or empty for what it does not."""

    variant: str = ""
    parameters: int | None = None
    updates: int | None = None
    seconds: float | None = None


def checkpoint_of(run: Path) -> Path | None:
    """Return the checkpoint that tells most of a training: the last, best, or newest one."""
    named = [run / name for name in _FILES if (run / name).is_file()]
    others = sorted(run.glob("*.pt"), key=lambda path: path.stat().st_mtime)
    return named[0] if named else next(reversed(others), None)


def read_facts(checkpoint: Path) -> Facts:
    """Read a checkpoint without its weights, which stay on disk.

    Raises:
        SeqAttnError: the file is damaged, refused, or no fairseq checkpoint.
    """
    state = _load(checkpoint)
    history = state.get("optimizer_history") or [{}]
    extra = state.get("extra_state") or {}
    return Facts(
        variant=variant_of(architecture(state)),
        parameters=_parameters(state["model"]),
        updates=history[-1].get("num_updates"),
        seconds=extra.get("previous_training_time"),
    )


def _load(checkpoint: Path) -> dict[str, Any]:
    try:
        state = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
    except _UNREADABLE:
        state = None
    # An old format cannot be mapped, and what is wrong with a file is told by this reader.
    whole = isinstance(state, dict) and isinstance(state.get("model"), dict)
    return state if whole else read_checkpoint(checkpoint)


def _parameters(model: Mapping[str, Any]) -> int:
    """Return the number of weights, tied tensors once."""
    tensors = {
        tensor.data_ptr(): tensor.numel()
        for name, tensor in model.items()
        if isinstance(tensor, torch.Tensor) and name.rpartition(".")[2] not in _NO_WEIGHTS
    }
    return sum(tensors.values())


def variant_of(model: Mapping[str, Any]) -> str:
    """Return the variant of a model's options; for a foreign model fairseq's name of it."""
    name = str(model.get("_name") or model.get("arch") or "")
    own = name.removeprefix(_PREFIX)
    known = [variant for variant in VARIANTS if own == variant or own.startswith(f"{variant}_")]
    if name == own or not known:
        return name
    sides = [model.get(f"{side}_variant") for side in ("encoder", "decoder")]
    return " + ".join(map(str, sides)) if all(sides) else max(known, key=len)
