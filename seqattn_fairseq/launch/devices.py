"""Which devices a training runs on, and what follows from that for fairseq's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.launch.environment import given

# What training without a GPU needs
_ON_CPU = {"common.cpu": "true", "distributed_training.distributed_backend": "gloo"}

# Every option that chooses a precision
PRECISIONS = ("fp16", "bf16", "amp", "memory_efficient_fp16", "memory_efficient_bf16")

_AMPERE = (8, 0)


def processes(wanted: str, cpu: bool) -> int:
    """Return how many processes to start on this node.

    Args:
        wanted: a number, or ``auto``: one for each GPU, one in all without.
        cpu: train on the CPU.
    """
    devices = 0 if cpu else torch.cuda.device_count()
    if wanted == "auto":
        return max(1, devices)
    if not wanted.isdecimal() or int(wanted) < 1:
        raise SeqAttnError(f"--nproc {wanted}: give a number of processes, or auto")
    refuse_too_many(int(wanted), cpu)
    return int(wanted)


def refuse_too_many(local_world_size: int, cpu: bool | None) -> None:
    """Refuse more processes on this node than it has visible GPUs."""
    devices = torch.cuda.device_count()
    if not cpu and local_world_size > max(1, devices):
        raise SeqAttnError(
            f"{local_world_size} processes on this node, but {devices} GPUs are visible; lower "
            "--nproc, or look at CUDA_VISIBLE_DEVICES"
        )


def says_cpu(words: Sequence[str]) -> bool | None:
    """Return what overrides say of training on the CPU, if anything."""
    value = given(words).get("common.cpu")
    return None if value is None else value.lower() == "true"


def on_cpu(words: Sequence[str], recipe_says_so: bool) -> bool:
    """Tell whether to train on the CPU: the recipe or the user wants it, or there is no GPU."""
    if says_cpu(words) is False and torch.cuda.device_count() == 0:
        raise SeqAttnError("common.cpu=false, but no GPU is visible; leave it out")
    return recipe_says_so or torch.cuda.device_count() == 0


def cpu_words(words: Sequence[str]) -> list[str]:
    """Return the overrides that training on the CPU needs beside those of the user.

    Raises:
        SeqAttnError: the user chose something that does not work there.
    """
    chosen = given(words)
    for name, value in _ON_CPU.items():
        if chosen.get(name, value) != value:
            raise SeqAttnError(
                f"{name}={chosen[name]} does not work on the CPU; leave it out ({value} is chosen)"
            )
    return [f"{name}={value}" for name, value in _ON_CPU.items() if name not in chosen]


def chooses_precision(common: Mapping[str, object], words: Sequence[str]) -> bool:
    """Tell whether the recipe, the user or a named kind of hardware has settled the precision.

    Args:
        common: the section ``common`` of the composed recipe.
        words: the user's overrides.
    """
    chosen = given(words)
    by_hand = any(f"common.{name}" in chosen for name in PRECISIONS)
    return by_hand or chosen.get("hardware", "auto") != "auto" or any(map(common.get, PRECISIONS))


def precision_words(local_world_size: int) -> list[str]:
    """Choose bf16 where all GPUs of this node have it, and float32 elsewhere.

    fp16 is never chosen: its loss scale makes a training depend on luck.
    """
    # on the node's GPUs only: the ranks compare their choices later
    devices = range(min(local_world_size, torch.cuda.device_count()))
    capable = all(torch.cuda.get_device_capability(device) >= _AMPERE for device in devices)
    return ["common.bf16=true"] if devices and capable else []
