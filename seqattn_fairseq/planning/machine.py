"""A machine in a few numbers for each operator: a call, a byte, a floating-point operation.

Profiles are kept as JSON in the user's cache folder, one for each device, precision, number of
threads and version of torch.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.planning.work import Work

_FORM = 1  # of the file; other ones are not read
_CPU_INFO = Path("/proc/cpuinfo")


class Rate(NamedTuple):
    """Seconds of an operator: of a call, of a byte moved, of a floating-point operation."""

    call: float
    byte: float
    flop: float

    def seconds(self, work: Work) -> float:
        """Return the time of one call."""
        return self.call + self.byte * work.bytes + self.flop * work.flops


class Sample(NamedTuple):
    """One measured call."""

    work: Work
    seconds: float


def fit(samples: Sequence[Sample]) -> Rate:
    """Return the rate, of numbers not below 0, that is nearest to the samples.

    Errors count relative to the root of a time: neither the many short calls nor the few long ones
    settle it alone.
    """
    features = np.array([(1.0, s.work.bytes, s.work.flops) for s in samples])
    times = np.array([max(s.seconds, 1e-9) for s in samples])
    scale = np.maximum(features.max(0), 1e-30)
    weight = 1 / np.sqrt(times)
    x, y = features / scale * weight[:, None], times * weight
    gram, target = x.T @ x, x.T @ y
    found = _non_negative(gram, target)
    return Rate(*(float(v) for v in found / scale))


def _non_negative(gram: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the least squares among numbers not below 0: of all subsets, the best that are."""
    size = len(target)
    best, lowest = np.zeros(size), 0.0
    for subset in range(1, 2**size):
        chosen = [i for i in range(size) if subset >> i & 1]
        part = np.linalg.lstsq(gram[np.ix_(chosen, chosen)], target[chosen], rcond=None)[0]
        x = np.zeros(size)
        x[chosen] = part
        error = x @ gram @ x - 2 * target @ x
        if (part >= 0).all() and error < lowest:
            best, lowest = x, error
    return best


@dataclass(frozen=True)
class Machine:
    """What a device takes for what.

    Attributes:
        key: which device, precision, threads and version were measured.
        rates: operator -> its rate.
        other: of operators that were not measured.
        factor: what operators take among others, over what they take while watched.
        operator: seconds that every operator costs besides, in autograd and in Python, less what
            watching it did.
    """

    key: str
    rates: Mapping[str, Rate]
    other: Rate
    factor: float
    operator: float

    def seconds(self, works: Mapping[Work, int]) -> float:
        """Return the time of so many calls of each work."""
        kernels = sum(
            count * self.rates.get(work.name, self.other).seconds(work)
            for work, count in works.items()
        )
        return self.factor * kernels + self.operator * sum(works.values())


def key(device: torch.device, dtype: torch.dtype) -> str:
    """Return what a profile is valid for, in words."""
    precision = str(dtype).removeprefix("torch.")
    return f"{device_name(device)}, {precision}, torch {torch.__version__}"


def device_name(device: torch.device) -> str:
    """Return the device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu()}, {threads} thread{'s' if threads > 1 else ''}"


def _cpu() -> str:
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def profiles() -> Path:
    """Return the file of this user's profiles."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "seqattn_fairseq" / "machines.json"


def load(wanted: str, path: Path) -> Machine | None:
    """Return the profile of a key; None if there is none.

    Raises:
        SeqAttnError: the file is no file of profiles.
    """
    known = _read(path)
    if wanted not in known:
        return None
    entry = known[wanted]
    rates = {name: Rate(*rate) for name, rate in entry["rates"].items()}
    return Machine(wanted, rates, Rate(*entry["other"]), entry["factor"], entry["operator"])


def keys(path: Path) -> list[str]:
    """Return what a file has profiles of."""
    return sorted(_read(path))


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
        if found["form"] != _FORM:
            return {}
        return dict(found["machines"])
    except (ValueError, KeyError, TypeError) as error:
        raise SeqAttnError(f"{path}: no file of machine profiles; remove it") from error


def save(machine: Machine, path: Path) -> None:
    """Put a profile in place of the one with its key."""
    entry = asdict(machine)
    machines = _read(path) | {entry.pop("key"): entry}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps({"form": _FORM, "machines": machines}, indent=1) + "\n")
    partial.replace(path)
