"""What the tests of preparation share."""

from __future__ import annotations

import threading

import pytest
from tqdm import tqdm  # type: ignore[import-untyped]


@pytest.fixture(autouse=True, scope="session")
def _bars_of_killed_processes() -> None:
    """Give progress bars a lock that forked processes do not share.

    tqdm's own is a semaphore between processes: a forked copy of the test that is killed while it
    draws its bar would hold it forever.
    """
    tqdm.set_lock(threading.RLock())
