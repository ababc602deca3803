"""Worker processes: order, bounded look-ahead, errors, and no life after their parent."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
from collections.abc import Iterator

import pytest

from seqattn_fairseq.data.workers import line_workers


def upper(lines: list[str]) -> list[str]:
    return [line.upper() for line in lines]


def fail(lines: list[str]) -> list[str]:
    raise ValueError(lines[0])


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("size", [0, 1, 499, 500, 501, 7001])
def test_order_and_size_are_kept(count: int, size: int) -> None:
    lines = [f"line {number}" for number in range(size)]
    with line_workers(count) as workers:
        chunks = list(workers.map(upper, iter(lines)))
    assert [line for chunk in chunks for line in chunk] == upper(lines)


@pytest.mark.parametrize("count", [1, 2])
def test_few_large_tasks_keep_their_order(count: int) -> None:
    with line_workers(count) as workers:
        assert list(workers.each(upper, [["a"], ["b", "c"], []])) == [["A"], ["B", "C"], []]


@pytest.mark.parametrize("count", [1, 2])
def test_only_a_few_chunks_are_read_ahead(count: int) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "x"

    with line_workers(count) as workers:
        next(iter(workers.map(upper, endless())))
    assert read <= 500 * (4 * count + 1)


def test_errors_come_back() -> None:
    with pytest.raises(ValueError, match="first"), line_workers(2) as workers:
        list(workers.map(fail, ["first", "second"]))


def hold_workers(ready: int) -> None:
    with line_workers(2) as workers:
        list(workers.map(upper, ["x"] * 2000))
        os.write(ready, b"ready")
        signal.pause()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that share a pipe")
def test_workers_die_with_a_killed_parent() -> None:
    # The reading end sees the end of file once the parent and all its workers are gone.
    reading, writing = os.pipe()
    parent = multiprocessing.get_context("fork").Process(target=hold_workers, args=(writing,))
    parent.start()
    os.close(writing)
    assert os.read(reading, 5) == b"ready"
    assert parent.pid is not None
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    readable, _, _ = select.select([reading], [], [], 20)
    assert readable
    assert os.read(reading, 5) == b""
    os.close(reading)
