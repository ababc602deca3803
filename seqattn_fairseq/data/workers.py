"""Processes that rewrite lines in order, with flat memory, and never outlive the command."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice

LinesFunction = Callable[[list[str]], list[str]]

_CHUNK_LINES = 500
_WATCH_SECONDS = 0.2


class LineWorkers:
    """Applies a function to lines; the results come back in the order of the lines."""

    def __init__(self, executor: ProcessPoolExecutor | None, count: int) -> None:
        self._executor = executor
        self.count = count

    def map(self, function: LinesFunction, lines: Iterable[str]) -> Iterator[list[str]]:
        """Yield ``function(chunk)`` for consecutive chunks of ``lines``.

        ``function`` is picklable and returns one line per line. Only a few chunks per process
        are held in memory, however long the text is.
        """
        chunks = _chunks(lines)
        if self._executor is None:
            return map(function, chunks)
        return self._map_in_processes(self._executor, function, chunks)

    def _map_in_processes(
        self, executor: ProcessPoolExecutor, function: LinesFunction, chunks: Iterator[list[str]]
    ) -> Iterator[list[str]]:
        pending: deque[Future[list[str]]] = deque()
        for chunk in chunks:
            pending.append(executor.submit(function, chunk))
            if len(pending) > 4 * self.count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextmanager
def line_workers(count: int) -> Iterator[LineWorkers]:
    """Open ``count`` worker processes (1: everything happens in this process)."""
    if count == 1:
        yield LineWorkers(None, 1)
        return
    with ProcessPoolExecutor(count, initializer=start_worker) as executor:
        try:
            yield LineWorkers(executor, count)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def start_worker() -> None:
    """Prepare a worker process: Ctrl-C is the parent's business, and it ends with its parent.

    A pool's workers wait for work forever when their parent is killed with SIGKILL; so would
    the processes that they fork themselves, which is why those get the same watch.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_end_with_parent)


def _end_with_parent() -> None:
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _chunks(lines: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(lines)
    while chunk := list(islice(iterator, _CHUNK_LINES)):
        yield chunk
