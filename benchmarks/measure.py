"""The harness of all benchmarks: contenders take turns in one process; their rows go to one CSV.

Times are CPU times, in seconds. A figure of speed is a ratio of contenders of one run; it says how
many times as long as ours a contender takes, so that more is better for us.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import gc
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

RESULTS = Path(__file__).parent / "results" / "cpu.csv"
OURS = "ours"
Row = Mapping[str, Any]

_FIRST = ("benchmark", "mechanism")
_LAST = (
    *("contender", "seconds", "ratio", "error", "peak_mib", "tokens_per_second"),
    *("device", "dtype", "threads", "torch", "python", "machine", "date"),
)


class Contender(NamedTuple):
    """Something to time.

    Attributes:
        name: what its rows are called.
        run: one forward and backward, or one step, on inputs that are ready.
    """

    name: str
    run: Callable[[], Any]


def alternate(
    contenders: Sequence[Contender],
    repeats: int = 5,
    least_seconds: float = 0.2,
    threads: int = 1,
) -> dict[str, float]:
    """Return the CPU seconds of one call of each contender: a median over alternations.

    In one alternation the contenders run in order and then in reverse (A B B A), so that a drift
    of the machine meets all alike; each has had two calls before.

    Args:
        contenders: with names of their own.
        repeats: number of alternations.
        least_seconds: what a contender runs for in one alternation, as many calls as that takes.
        threads: of torch.
    """
    with _quiet(threads):
        calls = {c.name: _calls(c.run, least_seconds / 2) for c in contenders}
        taken: dict[str, list[float]] = {c.name: [] for c in contenders}
        for _ in range(repeats):
            both = dict.fromkeys(taken, 0.0)
            for name, run in (*contenders, *reversed(contenders)):
                both[name] += _seconds(run, calls[name])
            for name, seconds in both.items():
                taken[name].append(seconds / (2 * calls[name]))
    return {name: statistics.median(times) for name, times in taken.items()}


def _seconds(run: Callable[[], Any], calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        run()
    return time.process_time() - start


def _calls(run: Callable[[], Any], seconds: float) -> int:
    run()  # makes plans and buffers
    return max(1, round(seconds / max(_seconds(run, 1), 1e-6)))


@contextmanager
def _quiet(threads: int) -> Iterator[None]:
    before, collects = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(threads)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if collects:
            gc.enable()


def error(ours: Iterable[Tensor], reference: Iterable[Tensor]) -> float:
    """Return the largest |difference| / max(1, |reference|) over outputs and gradients.

    Args:
        ours: the tensors to judge.
        reference: what they should be, in float64.

    Raises:
        ValueError: another number of tensors, or other shapes.
    """
    largest = 0.0
    for actual, exact in zip(ours, reference, strict=True):
        if actual.shape != exact.shape:
            raise ValueError(f"shapes differ: {tuple(actual.shape)} and {tuple(exact.shape)}")
        difference = (actual.detach().double() - exact.detach().double()).abs()
        share = difference / exact.detach().double().abs().clamp(min=1)
        # not max(): a NaN must stay one
        largest = float(torch.cat([share.flatten(), share.new_tensor([largest])]).max())
    return largest


def peak_mib(work: Callable[..., Any], *args: Any) -> float:
    """Return by how many MiB the second half of some work raises its process's peak memory.

    Args:
        work: a function of a module; called with the arguments in a process of its own, it gets
            the inputs ready and returns a function, the half that is measured.
        args: simple values.
    """
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_report_peak, args=(send, work, args))
    process.start()
    send.close()
    try:
        rise: float = receive.recv()
    finally:
        process.join()
    return rise


def _report_peak(answer: Any, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    run = work(*args)
    before = _highest_mib()
    run()
    answer.send(_highest_mib() - before)


def _highest_mib() -> float:
    # not getrusage: a started process inherits the peak of the one that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def compared(seconds: Mapping[str, float], errors: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return a row for each contender: seconds, ratio to ``OURS``, and error where it is known."""
    return [
        {
            "contender": name,
            "seconds": took,
            "ratio": took / seconds[OURS],
            "error": errors.get(name, ""),
        }
        for name, took in seconds.items()
    ]


def machine() -> str:
    """Return the name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _surroundings() -> dict[str, Any]:
    return {
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Put the rows of one or more mechanisms in place of their old ones.

    Args:
        path: the CSV, which may not exist yet.
        rows: ``benchmark``, ``mechanism``, any columns of the shape, ``contender``, ``seconds``,
            ``ratio``, ``error``; also ``peak_mib`` and ``tokens_per_second``, and ``dtype`` and
            ``threads`` where they are not float32 and 1. Versions, machine and date are added.
    """
    new = {(row["benchmark"], row["mechanism"]) for row in rows}
    kept = [r for r in read_rows(path) if (r["benchmark"], r["mechanism"]) not in new]
    added = [{k: _text(v) for k, v in {**_surroundings(), **row}.items()} for row in rows]
    found = sorted([*kept, *added], key=lambda row: (row["benchmark"], row["mechanism"]))
    known = (*_FIRST, *_LAST)
    shape = dict.fromkeys(key for row in found for key in row if key not in known)
    used = [key for key in shape if any(row.get(key) for row in found)]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*_FIRST, *used, *_LAST], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    partial.replace(path)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ---- command line ------------------------------------------------------------------------------


def run(benchmarks: Mapping[str, Callable[[int], Iterable[Row]]], description: str) -> None:
    """Measure the benchmarks that the command line names, all by default, and write their rows.

    Args:
        benchmarks: name -> what measures it with so many alternations.
        description: of the program.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", nargs="+", choices=benchmarks, default=list(benchmarks))
    parser.add_argument("--repeats", type=int, default=5, help="alternations, of which the median")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    for name in args.only:
        rows = benchmarks[name](args.repeats)
        write_rows(args.out, [{"benchmark": name, **row} for row in rows])
