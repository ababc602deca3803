"""What a run has found so far, on disk at any moment."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STICKY = ("illegal memory access", "device-side assert", "unspecified launch failure")


class BrokenDeviceError(Exception):
    """The process can use its GPU no more; another one can."""


class Record:
    """A JSON file that is whole after every call, whoever ends the process.

    Args:
        path: the file; what it holds already is kept.
        seconds: what the run may take in all.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        self.data: dict[str, Any] = {}
        if path.exists():
            self.data = json.loads(path.read_text())
        self.data.setdefault("started", time.time())
        self.data.setdefault("seconds", seconds)
        for name in ("begun", "done", "skipped", "failures", "rows"):
            self.data.setdefault(name, [])
        if not path.exists():  # else another process may be writing it
            self.save()

    def save(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(self.data, indent=1))
        partial.replace(self.path)

    def put(self, name: str, value: Any) -> None:
        """Note one thing."""
        self.data[name] = value
        self.save()

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Note rows of figures."""
        self.data["rows"] += rows
        self.save()

    @property
    def left(self) -> float:
        """Seconds left."""
        return float(self.data["started"] + self.data["seconds"] - time.time())

    def fail(self, what: str, why: str) -> None:
        """Note a failure."""
        print(f"FAILED {what}: {why.strip().splitlines()[-1]}", flush=True)
        self.data["failures"].append({"what": what, "why": why})
        self.save()

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Note an exception of the block as a failure, and go on.

        Raises:
            BrokenDeviceError: nothing else will work in this process.
        """
        try:
            yield
        except BrokenDeviceError:
            raise
        except Exception as error:
            self.fail(what, traceback.format_exc())
            if any(sign in str(error) for sign in STICKY):
                raise BrokenDeviceError(what) from error

    def parts(self, names: list[str]) -> Iterator[str]:
        """Yield the parts that are not begun yet, one by one, as long as there is time."""
        for name in names:
            if name in self.data["begun"]:
                continue
            if self.left <= 0:
                self.data["skipped"].append(name)
                self.save()
                continue
            self.data["begun"].append(name)
            self.put("begun_at", time.time())
            print(f"== {name} ({self.left:.0f} s left)", flush=True)
            yield name

    def end(self, name: str) -> None:
        """Note that a part is over."""
        self.data["done"].append(name)
        self.save()
