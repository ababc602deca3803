"""The device that a training is planned for, which need not be here."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from seqattn_fairseq.planning import machine
from seqattn_fairseq.planning.calibration import calibrate
from seqattn_fairseq.planning.machine import Machine

GIB = 2**30
_CARD = re.compile(r"gpu_(\d+)gb")
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Target:
    """A device.

    Attributes:
        name: in words.
        capacity: bytes of its memory; None if that is not known.
        here: the device, if this machine has it.
    """

    name: str
    capacity: int | None
    here: torch.device | None


def target(hardware: str, cpu: bool, gib: float | None = None) -> Target:
    """Return the device that a recipe's hardware stands for.

    Args:
        hardware: the recipe's choice: ``gpu_24gb``, ``cpu``, ``auto``.
        cpu: the recipe trains on the CPU.
        gib: its memory, where the user says that.
    """
    memory = None if gib is None else int(gib * GIB)
    there = torch.cuda.is_available()
    if card := _CARD.fullmatch(hardware):
        here = torch.device("cuda") if there and not cpu else None
        return Target(f"GPU of {card[1]} GB", memory or int(card[1]) * GIB, here)
    if there and not cpu:
        gpu = torch.device("cuda")
        total = torch.cuda.get_device_properties(gpu).total_memory
        return Target(machine.device_name(gpu), memory or total, gpu)
    host = torch.device("cpu")
    return Target(machine.device_name(host), memory or _host_memory(), host)


def _host_memory() -> int:
    """Return the memory of this machine, or of the container that it is."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CONTAINER_LIMIT.read_text().strip() if _CONTAINER_LIMIT.exists() else "max"
    return min(total, int(limit)) if limit.isdecimal() else total


def profile(device: torch.device, dtype: torch.dtype, anew: bool = False) -> Machine:
    """Return the profile of a device that is here; measure it where there is none.

    Args:
        device: what is measured.
        dtype: what models compute in.
        anew: measure in any case.
    """
    path, wanted = machine.profiles(), machine.key(device, dtype)
    known = None if anew else machine.load(wanted, path)
    if known is not None:
        return known
    print(f"measuring {wanted}: some seconds, once", file=sys.stderr, flush=True)
    found = calibrate(device, dtype)
    machine.save(found, path)
    return found
