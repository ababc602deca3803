"""Learning curves and the speed of a training, from whatever logs a run has."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from seqattn_fairseq.report.data import Curve
from seqattn_fairseq.report.training_log import EPOCH, INNER, Series, TrainingLog

MAX_POINTS = 2000  # of a curve

_NAMES = {
    "nll_loss": "nll",
    "lr": "learning rate",
    "wps": "tokens per second",
    "gnorm": "gradient norm",
}
# need no "train" before them
_ONE_OF_TRAINING = ("learning rate", "tokens per second", "gradient norm")
# bookkeeping, or told elsewhere
_LEFT_OUT = {"epoch", "update", "ups", "wpb", "bsz", "train_wall", "wall", "gb_free", "gb_total"}
_MIB_PER_GIB = 1024
_SECONDS_PER_HOUR = 3600


def find_logs(run: Path) -> list[list[Path]]:
    """Return the log files of every start of a run, in order.

    ``logs/START/rank0.out`` and ``.err`` (seqattn train) come before ``hydra/*.log``
    (fairseq-hydra-train), which says the same, and those before ``*.log`` beside the checkpoints.
    """
    starts = [
        [path for path in (folder / "rank0.out", folder / "rank0.err") if path.is_file()]
        for folder in sorted((run / "logs").glob("*"))
    ]
    others = [sorted(folder.glob("*.log"), key=_age) for folder in (run / "hydra", run)]
    found = [start for start in starts if start]
    return found or next(([[path] for path in paths] for paths in others if paths), [])


def _age(path: Path) -> tuple[float, str]:
    return path.stat().st_mtime, path.name


def read_logs(starts: Sequence[Sequence[Path]]) -> TrainingLog:
    """Return what the logs of all starts say.

    Raises:
        OSError: a file cannot be read.
    """
    log = TrainingLog()
    for start in starts:
        log.read(start)
    return log


def curves(log: TrainingLog) -> list[Curve]:
    """Return the learning curves of a training, of at most ``MAX_POINTS`` points each.

    Where a training has logged nothing between the ends of epochs, those make its curves.
    """
    training = INNER if any(kind == INNER for kind, _ in log.series) else EPOCH
    shown = {
        _name(kind, quantity): series
        for (kind, quantity), series in log.series.items()
        if _is_shown(kind, quantity, training) and len(series.x)
    }
    return [Curve(name, *thin(series)) for name, series in shown.items()]


def _is_shown(kind: str, quantity: str, training: str) -> bool:
    if quantity in _LEFT_OUT or (kind in (INNER, EPOCH) and kind != training):
        return False
    of_training = kind == training
    return of_training or not (quantity == "wps" or quantity.startswith("best_"))


def _name(kind: str, quantity: str) -> str:
    name = _NAMES.get(quantity, quantity)
    if kind not in (INNER, EPOCH):
        return f"{kind} {name}"
    return name if name in _ONE_OF_TRAINING else f"train {name}"


def thin(series: Series, most: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """Return at most ``most`` points: the first, the last, and the extremes of equal stretches."""
    count = len(series.x)
    chosen: set[int] = set(range(count))
    if count > most:
        stretches = (most - 2) // 2
        chosen = {0, count - 1}
        for number in range(stretches):
            stretch = range(count * number // stretches, count * (number + 1) // stretches)
            chosen |= {min(stretch, key=series.y.__getitem__)}
            chosen |= {max(stretch, key=series.y.__getitem__)}
    kept = sorted(chosen)
    return [series.x[i] for i in kept], [series.y[i] for i in kept]


# ---- speed and memory --------------------------------------------------------------------------


def tokens_per_second(log: TrainingLog) -> float | None:
    """Return the median speed in target tokens a second, after the first figures of each start."""
    for speeds in (log.speeds, *(_values(log, kind, "wps") for kind in (INNER, EPOCH))):
        if len(speeds):
            return statistics.median(speeds)
    return None


def hours(log: TrainingLog) -> float | None:
    """Return the hours that a training took, those before an interruption included."""
    walls = [*_values(log, INNER, "wall"), *_values(log, EPOCH, "wall")]
    return max(walls) / _SECONDS_PER_HOUR if walls else None


def memory_mib(log: TrainingLog) -> float | None:
    """Return the peak memory of a GPU in MiB, to the 0.1 GiB that fairseq logs."""
    free = _values(log, INNER, "gb_free")
    if log.device_gib is None or not len(free):
        return None
    return max(0.0, log.device_gib - min(free)) * _MIB_PER_GIB


def devices(log: TrainingLog) -> str | None:
    """Return the GPUs of a training in words; None for a CPU, which fairseq does not name."""
    names = sorted(set(log.devices))
    return ", ".join(f"{log.devices.count(name)} x {name}" for name in names) or None


def updates(log: TrainingLog) -> int | None:
    """Return the last update that the log speaks of."""
    last = [series.x[-1] for series in log.series.values() if len(series.x)]
    return int(max(last)) if last else None


def _values(log: TrainingLog, kind: str, quantity: str) -> Sequence[float]:
    return log.series.get((kind, quantity), Series()).y
