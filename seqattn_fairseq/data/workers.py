"""Processes that work on lines in order, with flat memory, and never outlive the command."""

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
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK_ITEMS = 500
_WATCH_SECONDS = 0.2


class LineWorkers:
    """Applies a function to lines; the results come back in the order of the lines."""

    def __init__(self, executor: ProcessPoolExecutor | None, count: int) -> None:
        self._executor = executor
        self.count = count

    def map(
        self, function: Callable[[list[Item]], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """Yield ``function(chunk)`` for consecutive chunks of ``items``, lines or pairs of lines.

        ``function`` is picklable. Only a few chunks per process are held in memory, however long
        the text is.
        """
        return self._ordered(function, chunks(items))

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield ``function(item)`` for every item, for few items that are much work each."""
        return self._ordered(function, items)

    def _ordered(
        self, function: Callable[[Item], Result], tasks: Iterable[Item]
    ) -> Iterator[Result]:
        if self._executor is None:
            yield from map(function, tasks)
            return
        pending: deque[Future[Result]] = deque()
        for task in tasks:
            pending.append(self._executor.submit(function, task))
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


def chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield lists of consecutive items, as large as one task of a worker."""
    iterator = iter(items)
    while chunk := list(islice(iterator, _CHUNK_ITEMS)):
        yield chunk
