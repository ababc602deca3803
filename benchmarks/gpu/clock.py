"""Times of work on a device: CUDA events on a GPU, CPU time elsewhere."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Work = Callable[[], Any]
MIB = 2**20


class Clock:
    """Measures on one device.

    Args:
        device: "cuda" or "cpu".
        repeats: most measurements, of which the median counts.
        seconds: what the measurements of one thing may take.
    """

    def __init__(self, device: str, repeats: int = 50, seconds: float = 0.15) -> None:
        self.device, self.repeats, self.seconds = device, repeats, seconds
        gpu = device == "cuda"
        # larger than the second-level cache of any GPU: writing it leaves nothing else in there
        self._flush = torch.empty(256 * MIB, dtype=torch.int8, device=device) if gpu else None

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def once(self, work: Work) -> float:
        """Return the seconds of one call, with cold caches."""
        if self._flush is None:
            start = time.process_time()
            work()
            return time.process_time() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000

    def median(self, work: Work) -> float:
        """Return the median seconds of a call, after some that are not counted."""
        work()
        if self.once(work) < self.seconds:  # else one is enough
            work()
        first = max(self.once(work), 1e-6)
        calls = max(1, min(self.repeats, round(self.seconds / first)))
        return statistics.median([first, *(self.once(work) for _ in range(calls - 1))])

    def per_call(self, work: Work, seconds: float, warm: int = 4) -> tuple[float, int]:
        """Return the wall seconds of a call among many that follow each other, and how many.

        What training is: the host goes ahead, and waits for the device only where the work does.
        """
        for _ in range(warm):
            work()
        self.synchronize()
        start, calls = time.perf_counter(), 0
        while calls < 3 or time.perf_counter() - start < seconds:
            work()
            calls += 1
            if calls % 8 == 0:
                self.synchronize()
        self.synchronize()
        return (time.perf_counter() - start) / calls, calls

    @contextmanager
    def peak_mib(self) -> Iterator[dict[str, float]]:
        """Give by how much the block raises the memory in use, as ``["peak_mib"]``; GPU only."""
        found: dict[str, float] = {}
        if self.device != "cuda":
            yield found
            return
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        torch.cuda.synchronize()
        found["peak_mib"] = (torch.cuda.max_memory_allocated() - before) / MIB
