"""Checkpoint averaging: which files, whether they fit together, and their exact mean."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqattn_fairseq.checkpoint_files import non_finite, printable, read_checkpoint
from seqattn_fairseq.errors import SeqAttnError

State = dict[str, Any]

_EPOCH = re.compile(r"checkpoint(\d+)\.pt")
_UPDATE = re.compile(r"checkpoint_\d+_(\d+)\.pt")
_BEST = re.compile(r"checkpoint\.best_.+_(\d+\.?\d*)\.pt")
_KINDS = {
    "last": (_EPOCH, "epoch checkpoints (checkpoint<epoch>.pt)"),
    "last-updates": (_UPDATE, "update checkpoints (checkpoint_<epoch>_<update>.pt)"),
    "best": (_BEST, "best checkpoints (checkpoint.best_<metric>_<value>.pt)"),
}
_KEEP_OPTIONS = {
    "last": "--keep-last-epochs",
    "last-updates": "--save-interval-updates and --keep-interval-updates",
    "best": "--keep-best-checkpoints",
}
# options of a legacy argparse checkpoint that decide what the model computes
_MODEL_OPTIONS = ("encoder_", "decoder_", "share_", "activation_fn", "layernorm_", "no_")


def load_checkpoint(path: Path) -> State:
    """Load a fairseq checkpoint on the CPU; nothing in the file is executed.

    Raises:
        SeqAttnError: the file is missing, damaged or refused, or its model is not all tensors.
    """
    state = read_checkpoint(path)
    for key, value in state["model"].items():
        if not isinstance(value, Tensor):
            raise SeqAttnError(
                f"{path}: parameter {key} is a {type(value).__name__}, not a tensor; leave this "
                "checkpoint out"
            )
    return state


def find_checkpoint(run: Path) -> Path:
    """Return the checkpoint that ``run`` (a file or a run's folder) stands for.

    Raises:
        SeqAttnError: nothing there.
    """
    if run.is_file():
        return run
    for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
        if (run / name).is_file():
            return run / name
    raise SeqAttnError(f"{run}: no checkpoint, and no folder with a checkpoint_best.pt or _last.pt")


def _maximized(path: Path) -> bool:
    """Whether the run that wrote ``path`` wants its metric high."""
    config = load_checkpoint(path).get("cfg") or {}
    return bool((config.get("checkpoint") or {}).get("maximize_best_checkpoint_metric", False))


def select(run: Path, kind: str, count: int) -> list[Path]:
    """Return ``count`` checkpoints of a run folder, oldest (or worst) first.

    Args:
        run: the ``--save-dir`` of a training.
        kind: ``last`` (epochs), ``last-updates`` or ``best``.
        count: how many.

    Raises:
        SeqAttnError: the folder does not exist or holds fewer.
    """
    if not run.is_dir():
        raise SeqAttnError(f"{run}: no such run folder")
    pattern, description = _KINDS[kind]
    matches = {path: pattern.fullmatch(path.name) for path in run.iterdir()}
    found = sorted((float(match[1]), path) for path, match in matches.items() if match)
    paths = [path for _, path in found]
    if len(paths) < count:
        raise SeqAttnError(
            f"{run}: {count} {description} wanted, {len(paths)} found; ask for fewer, "
            f"or train with {_KEEP_OPTIONS[kind]}"
        )
    if kind == "best" and not _maximized(paths[0]):
        paths.reverse()
    return paths[-count:]


def architecture(state: State) -> dict[str, Any]:
    """Return the configuration values that decide what the model computes."""
    config = (state.get("cfg") or {}).get("model") or state.get("args")
    if isinstance(config, Namespace):
        values = vars(config)
        return {k: v for k, v in values.items() if k == "arch" or k.startswith(_MODEL_OPTIONS)}
    items = config.items() if isinstance(config, Mapping) else ()
    return {printable(str(key)): value for key, value in items}


def _check_config(first: State, other: State, names: tuple[Path, Path]) -> None:
    ours, theirs = architecture(first), architecture(other)
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            raise SeqAttnError(
                f"{names[1]}: model option {key} is {theirs.get(key)!r}, but {ours.get(key)!r} in "
                f"{names[0]}; average checkpoints of one run"
            )


def _check_tensors(
    first: dict[str, Tensor], other: dict[str, Tensor], names: tuple[Path, Path]
) -> None:
    if first.keys() != other.keys():
        key = min(first.keys() ^ other.keys())
        holder, lacker = names if key in first else names[::-1]
        raise SeqAttnError(f"{lacker}: no parameter {key}, which {holder} has; the models differ")
    for key, tensor in first.items():
        if (tensor.shape, tensor.dtype) != (other[key].shape, other[key].dtype):
            ours, theirs = (f"{tuple(t.shape)} {t.dtype}" for t in (tensor, other[key]))
            raise SeqAttnError(f"{names[1]}: {key} is {theirs}, but {ours} in {names[0]}")
        if not tensor.is_floating_point() and not torch.equal(tensor, other[key]):
            raise SeqAttnError(f"{names[1]}: {key} holds other integers than {names[0]}")


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Return what two tied tensors have in common and no others."""
    storage = tensor.untyped_storage().data_ptr()
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride()


class _Mean:
    """Running sum in float64 over the models, one entry per distinct tensor."""

    def __init__(self, model: dict[str, Tensor]) -> None:
        self.model = model
        # tied parameters are one tensor under several names: summed once, written once
        self.owner: dict[str, str] = {}
        owners: dict[tuple[Any, ...], str] = {}
        for key, tensor in model.items():
            self.owner[key] = owners.setdefault(_place(tensor), key)
        names = [key for key in owners.values() if model[key].is_floating_point()]
        self.sums = {key: torch.zeros(model[key].shape, dtype=torch.float64) for key in names}
        self.count = 0

    def add(self, model: dict[str, Tensor]) -> None:
        for key in self.sums:
            self.sums[key] += model[key].double()
        self.count += 1

    def result(self) -> dict[str, Tensor]:
        means = {k: (v / self.count).to(self.model[k].dtype) for k, v in self.sums.items()}
        return {key: means.get(self.owner[key], tensor) for key, tensor in self.model.items()}


def _untied(first: dict[str, Tensor], other: dict[str, Tensor], owner: dict[str, str]) -> str:
    """Return a name whose values are tied in ``first`` but not in ``other``, or nothing."""
    for key, name in owner.items():
        if key != name and not torch.equal(other[key], other[name]):
            return key
    return ""


def average(paths: Sequence[Path]) -> State:
    """Return a checkpoint whose floating-point tensors are the mean of those in ``paths``.

    Sums are taken in float64 and rounded once, to the dtype of the tensor. Everything else comes
    from the last checkpoint, without the optimizer's state.

    Raises:
        SeqAttnError: a file cannot be loaded, or the models do not have the same parameters,
            shapes and model options, or the mean would not be finite.
    """
    first = load_checkpoint(paths[0])
    mean = _Mean(first["model"])
    state = first
    for path in paths:
        state = first if path == paths[0] else load_checkpoint(path)
        names = (paths[0], path)
        _check_config(first, state, names)
        _check_tensors(first["model"], state["model"], names)
        mean.add(state["model"])
        if key := non_finite(mean.sums):
            raise SeqAttnError(
                f"{path}: {key} holds NaN or infinity, and so would the mean; leave this "
                "checkpoint out"
            )
        if key := _untied(first["model"], state["model"], mean.owner):
            raise SeqAttnError(f"{path}: {key} is not tied as it is in {paths[0]}")
    return {**_without_optimizer(state), "model": mean.result()}


def _without_optimizer(state: State) -> State:
    extra = {k: v for k, v in (state.get("extra_state") or {}).items() if k != "ema"}
    return {**state, "last_optimizer_state": None, "extra_state": extra}


def save_checkpoint(state: State, path: Path) -> None:
    """Write a checkpoint; the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def distinct(paths: Iterable[Path]) -> list[Path]:
    """Return the paths, refusing one that is given twice.

    Raises:
        SeqAttnError: two paths lead to the same file.
    """
    seen: dict[Path, Path] = {}
    for path in paths:
        if (resolved := path.resolve()) in seen:
            raise SeqAttnError(f"{path}: given twice")
        seen[resolved] = path
    return list(seen.values())
