"""Run the parts one after the other in processes that a broken device cannot take along.

Order: surroundings and limits of the machine; all kernels compiled, side by side; each mechanism
compared with its reference and timed over the length; training steps. Failures and what there was
no time for are noted in the results, which are whole at any moment.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure
from benchmarks.gpu import kernels, surroundings, training
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.record import BrokenDeviceError, Record

MINUTES = 8.0
BROKEN = 75
# what compiling may take, and any one part
WARM_SECONDS, PART_SECONDS = 100.0, 150.0
Part = Callable[[Record, Clock], None]


def _environment(record: Record, clock: Clock) -> None:
    record.put("environment", surroundings.environment(clock.device))


def _roofline(tiny: bool, record: Record, clock: Clock) -> None:
    record.put("roofline", surroundings.roofline(clock, tiny))


def _mechanism(name: str, scale: kernels.Scale, record: Record, clock: Clock) -> None:
    kernels.check(name, record, scale, clock.device)
    kernels.time_all(name, record, scale, clock)


def parts(tiny: bool) -> dict[str, Part]:
    """Return what is to be done, by name and in order."""
    scale = kernels.TINY if tiny else kernels.FULL
    mechanisms = {n: partial(_mechanism, n, scale) for n in kernels.MECHANISMS}
    return {
        "environment": _environment,
        "roofline": partial(_roofline, tiny),
        **mechanisms,
        **training.parts(tiny),
    }


def work(args: argparse.Namespace) -> int:
    """Do the parts that are left, in this process; return its exit status."""
    record = Record(args.json, 60 * args.minutes)
    clock = Clock(args.device, *((2, 0.0) if args.tiny else ()))
    todo = parts(args.tiny)
    try:
        for name in record.parts(args.parts or list(todo)):
            with record.attempt(name):
                todo[name](record, clock)
            record.end(name)
    except BrokenDeviceError:
        return BROKEN
    return 0


# ---- the process in front ----------------------------------------------------------------------


class Lead:
    """Starts workers until all parts are begun, and ends those that hang.

    Args:
        args: the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.running: list[subprocess.Popen[bytes]] = []

    def stop(self, number: int, frame: Any) -> None:
        """End everything (a signal's handler)."""
        for process in self.running:
            process.terminate()
        raise SystemExit(128 + number)

    def record(self) -> Record:
        """Return what is on disk."""
        return Record(self.args.json, 60 * self.args.minutes)

    def start(self, *more: str, **pipes: Any) -> subprocess.Popen[bytes]:
        """Start this program again."""
        process = subprocess.Popen(again(self.args, *more), **pipes)
        self.running.append(process)
        return process

    def warm(self) -> None:
        """Compile all kernels, each mechanism's in a process of its own."""
        wanted = [n for n in kernels.MECHANISMS if not self.args.parts or n in self.args.parts]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        processes = {name: self.start("--warm", name, **quiet) for name in wanted}
        end, outcome = time.monotonic() + WARM_SECONDS, {}
        for name, process in processes.items():
            try:
                error = process.communicate(timeout=max(0.1, end - time.monotonic()))[1]
                outcome[name] = "" if process.returncode == 0 else error.decode()[-500:]
            except subprocess.TimeoutExpired:
                process.kill()
                outcome[name] = "too slow"
        self.record().put("warm", outcome)

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for a worker, but for no part of it longer than it may take."""
        while process.poll() is None:
            time.sleep(0.2)
            begun = self.record().data.get("begun_at", time.time())
            if time.time() - begun > PART_SECONDS:
                process.kill()

    def run(self) -> int:
        """Do everything; return the exit status."""
        self.record()
        signal.signal(signal.SIGTERM, self.stop)
        names = self.args.parts or list(parts(self.args.tiny))
        try:
            if self.args.device == "cuda":
                self.warm()
            while set(names) - set(self.record().data["begun"]) and self.record().left > 0:
                self.work_once()
        finally:
            status = finish(self.record())
        return status

    def work_once(self) -> None:
        """Let a worker do what is left; note the part that it died of."""
        process = self.start("--worker")
        self.watch(process)
        record = self.record()
        for name in set(record.data["begun"]) - set(record.data["done"]):
            record.fail(name, f"its process ended with status {process.returncode}")
            record.end(name)


def again(args: argparse.Namespace, *more: str) -> list[str]:
    """Return the command line of this program with further options."""
    options = ["--device", args.device, "--minutes", str(args.minutes), "--json", str(args.json)]
    options += ["--tiny"] if args.tiny else []
    options += ["--parts", *args.parts] if args.parts else []
    return [sys.executable, "-m", "benchmarks.gpu", *options, *more]


def finish(record: Record) -> int:
    """Write the CSV beside the JSON, and say how it went."""
    write_csv(record)
    failures, skipped = record.data["failures"], record.data["skipped"]
    rows = len(record.data["rows"])
    print(f"{rows} rows, {len(failures)} failures, {len(skipped)} parts without time")
    print(record.path, json.dumps(record.data.get("roofline", {})))
    return 1 if failures or skipped else 0


def write_csv(record: Record) -> None:
    """Write the rows in the columns of the CPU's results."""
    found = record.data.get("environment", {})
    place = {
        "device": "cuda" if "gpu" in found else "cpu",
        "machine": found.get("gpu", found.get("machine", "")),
    }
    rows = [{**place, **row} for row in record.data["rows"]]
    if rows:
        measure.write_rows(record.path.with_suffix(".csv"), rows)


def main(arguments: list[str] | None = None) -> int:
    """Read the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that take seconds")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time for all of it")
    parser.add_argument("--parts", nargs="+", help="only these")
    parser.add_argument("--json", type=Path, help="results; default: by the name of the device")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--warm", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; --device cpu --tiny tries the script out")
    if args.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    if args.json is None:
        name = surroundings.name_of(args.device)
        args.json = measure.RESULTS.parent / f"{name}.json"
    if args.warm:
        kernels.warm(args.warm, kernels.TINY if args.tiny else kernels.FULL, args.device)
        return 0
    return work(args) if args.worker else Lead(args).run()


if __name__ == "__main__":
    sys.exit(main())
