"""Reading fairseq's training logs: log formats simple, json and tqdm, with any logger's prefix.

A training that was interrupted and resumed has said some updates twice. What a later start says
replaces what an earlier one said from the update at which it went on.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

INNER, EPOCH = "train_inner", "train"  # fairseq's names: every --log-interval updates, every epoch

# Characters that are read at a time of a line; fairseq prints a whole configuration in one.
_PIECE = 1 << 20
# Speeds at the beginning of a start: memory is allocated, kernels are chosen.
_WARM_UP = 2

_INNER_LINE = re.compile(r"epoch \d+:\s+\d+ / \d+ (.*)")
_BAR_LINE = re.compile(r"epoch \d+: .*\|[^|]*\[(.*)\]\s*$")
_VALID_LINE = re.compile(r"epoch \d+ \| valid on '(.+?)' subset \| (.*)")
_EPOCH_LINE = re.compile(r"epoch \d+ \| (.*)")
_LOADED = re.compile(r"Loaded checkpoint .* \(epoch \d+ @ (\d+) updates\)")
_NOTHING_LOADED = "No existing checkpoint found "
_PARAMETERS = re.compile(r"num\. shared model params: [\d,]+ \(num\. trained: ([\d,]+)\)")
_DEVICE = re.compile(r"rank +\d+: capabilities = .* total memory = ([\d.]+) GB ; name = (.*\S)")
_WORDS = ("num_updates", "Loaded checkpoint", _NOTHING_LOADED, "num. shared", "total memory =")


@dataclass
class Series:
    """The values of one quantity: updates, ascending, and values."""

    x: array[float] = field(default_factory=lambda: array("d"))
    y: array[float] = field(default_factory=lambda: array("d"))

    def add(self, update: float, value: float) -> None:
        """Add a value; what is there from the same update on is replaced."""
        self.forget(update)
        self.x.append(update)
        self.y.append(value)

    def forget(self, update: float) -> None:
        """Drop what is there from an update on."""
        while self.x and self.x[-1] >= update:
            self.x.pop()
            self.y.pop()


@dataclass
class TrainingLog:
    """What the logs of one run say.

    Attributes:
        series: (``train_inner``, ``train`` or a validation set, fairseq's name of the quantity) ->
            its finite values.
        speeds: target tokens a second, without the first of every start.
        parameters: number of trained parameters.
        devices: names of the GPUs of the last start.
        device_gib: memory of one of them.
        diverged: update of the first training loss that was not finite.
    """

    series: dict[tuple[str, str], Series] = field(default_factory=dict)
    speeds: array[float] = field(default_factory=lambda: array("d"))
    parameters: int | None = None
    devices: list[str] = field(default_factory=list)
    device_gib: float | None = None
    diverged: float | None = None
    _last: float = -1.0
    _warm_up: int = _WARM_UP
    _new_start: bool = False

    def read(self, start: Iterable[Path]) -> None:
        """Read the files of one start, which comes after those read before."""
        self._new_start = True
        self._warm_up, self.devices = _WARM_UP, []
        for path in start:
            for line in _lines(path):
                self._line(line)

    def _line(self, line: str) -> None:
        if "num_updates" in line:
            found = parse(line)
            if found:
                self._point(*found)
        elif match := _LOADED.search(line):
            self._restart(int(match[1]) + 1)
        elif _NOTHING_LOADED in line:
            self._restart(0)
        elif match := _PARAMETERS.search(line):
            self.parameters = int(match[1].replace(",", ""))
        elif match := _DEVICE.search(line):
            self.device_gib = float(match[1])
            self.devices.append(match[2])

    def _restart(self, update: float) -> None:
        self._new_start, self._warm_up = False, _WARM_UP
        self._last = -1.0
        if self.diverged is not None and self.diverged >= update:
            self.diverged = None
        for series in self.series.values():
            series.forget(update)

    def _point(self, kind: str, update: float, values: Mapping[str, float]) -> None:
        if self._new_start or (kind == INNER and update < self._last):
            self._restart(update)
        if kind == INNER:
            self._last = update
            self._speed(values.get("wps"))
        for name, value in values.items():
            if math.isfinite(value):
                self.series.setdefault((kind, name), Series()).add(update, value)
            elif name == "loss" and kind == INNER and self.diverged is None:
                self.diverged = update

    def _speed(self, words_per_second: float | None) -> None:
        if words_per_second is not None and math.isfinite(words_per_second):
            if self._warm_up:
                self._warm_up -= 1
            else:
                self.speeds.append(words_per_second)


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines that matter; carriage returns, which progress bars print, end lines, too.

    A line that was cut short at the end of a file may hold a cut number, and is left out.
    """
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in iter(lambda: stream.readline(_PIECE), ""):
            if line.endswith("\n") and any(word in line for word in _WORDS):
                yield line


def parse(line: str) -> tuple[str, float, dict[str, float]] | None:
    """Return (kind, update, values) of a line of figures, None for any other line.

    Args:
        line: with whatever prefix; the text must be complete.
    """
    kind, values = _json(line) if line.rstrip().endswith("}") else _text(line)
    update = values.pop("num_updates", math.nan)
    return (kind, update, values) if math.isfinite(update) and update >= 0 else None


def _text(line: str) -> tuple[str, dict[str, float]]:
    if match := _INNER_LINE.search(line) or _BAR_LINE.search(line):
        return INNER, _numbers(part.partition("=") for part in match[1].split(", "))
    if match := _VALID_LINE.search(line):
        return match[1], _numbers(part.partition(" ") for part in match[2].split(" | "))
    if match := _EPOCH_LINE.search(line):
        return EPOCH, _numbers(part.partition(" ") for part in match[1].split(" | "))
    return "", {}


def _numbers(
    pairs: Iterable[tuple[str, str, object]] | Iterable[tuple[str, object]],
) -> dict[str, float]:
    found = {}
    for pair in pairs:
        name, value = pair[0], pair[-1]
        try:
            found[str(name).strip()] = float(str(value))
        except ValueError:
            continue
    return found


def _json(line: str) -> tuple[str, dict[str, float]]:
    """Read an object; those of an epoch's end carry their kind before every name."""
    try:
        stats = json.loads(line[line.index("{") :])
    except ValueError:
        return "", {}
    prefixes = [name.removesuffix("num_updates") for name in stats if name.endswith("num_updates")]
    if not prefixes:
        return "", {}
    prefix = prefixes[0]
    own = [(n.removeprefix(prefix), value) for n, value in stats.items() if n.startswith(prefix)]
    return prefix.removesuffix("_") or INNER, _numbers(own)
