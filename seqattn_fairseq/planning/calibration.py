"""A machine's profile, from small trainings whose operators are timed one by one.

The trainings have the smallest sizes that show how time grows. Products of two matrices are timed
by themselves: there a CPU has several libraries, and takes only one of them while it is watched.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seqattn_fairseq.launch.composition import compose
from seqattn_fairseq.ops import linear
from seqattn_fairseq.planning import work as works
from seqattn_fairseq.planning.machine import Machine, Sample, fit, key
from seqattn_fairseq.planning.step import Shape, Step, Subject, stand_in
from seqattn_fairseq.planning.work import Work, work
from seqattn_fairseq.transformer.config import SIDES

# One of each kind of mechanism, of one layer on each side, and both forms of Adam.
VARIANTS = {
    "softmax": "adam",
    "dynamicconv": "seqattn_adam",
    "entmax15": "seqattn_adam",
    "mega": "seqattn_adam",
    "luna": "seqattn_adam",
}
# Width and batch: in caches or not.
PROBES = ((192, Shape(6, 20, 20)), (384, Shape(20, 36, 36)))
_TYPES = 8000
_REPEATS = 3
# Operands of products take turns, as those of a step do: memory that no cache holds.
_TURNS = 8
_LEAST_SECONDS = 0.01  # of a repeat of a product

# M, K, N of a product of two matrices: powers of two and others, long and wide
_SINGLE = (
    *((48, 96, 128), (96, 256, 256), (256, 200, 256), (130, 256, 500), (64, 512, 1000)),
    *((200, 256, 1000), (400, 512, 512), (512, 400, 1024), (800, 1024, 512), (1024, 800, 512)),
    *((300, 512, 5000), (64, 512, 6000), (1500, 256, 256), (1000, 1000, 1000)),
)
# G, M, K, N of many
_MANY = (
    *((64, 24, 64, 24), (64, 24, 24, 64), (64, 64, 24, 24), (16, 128, 64, 128), (8, 32, 128, 512)),
    *((16, 128, 128, 64), (96, 32, 32, 64), (256, 20, 32, 20), (8, 32, 32, 900), (128, 48, 64, 48)),
)

# what a clock reads, and the seconds between two readings
Read = Callable[[], Any]
Between = Callable[[Any, Any], float]
Clock = tuple[Read, Between]


def calibrate(device: torch.device, dtype: torch.dtype) -> Machine:
    """Return the profile of a device in a precision, after some seconds of work on it."""
    clock = clock_of(device)
    samples: dict[str, list[Sample]] = defaultdict(list)
    probes = []
    for subject, shape in subjects(dtype):
        step = Step(subject, device, dtype)
        found = operators(step, shape, clock)
        for sample in found:
            samples[sample.work.name].append(sample)
        probes.append((Counter(sample.work for sample in found), whole(step, shape, clock)))
    plain = [s for found in samples.values() for s in found if not s.work.flops]
    samples |= _products(device, dtype, clock)
    rates = {name: fit(found) for name, found in sorted(samples.items())}
    machine = Machine(key(device, dtype), rates, fit(plain), 1.0, 0.0)
    return _adjusted(machine, probes)


def _adjusted(machine: Machine, probes: Sequence[tuple[Counter[Work], float]]) -> Machine:
    """Learn from whole steps what operators cost among others, and what there is beside them.

    The former shows in large steps, the latter in small ones.
    """
    sums = [(machine.seconds(done), done.total(), took) for done, took in probes]
    small, large = sums[:: len(PROBES)], sums[len(PROBES) - 1 :: len(PROBES)]
    factor = statistics.median(took / kernels for kernels, _, took in large)
    operator = statistics.median((took - factor * kernels) / n for kernels, n, took in small)
    return replace(machine, factor=factor, operator=operator)


def subjects(dtype: torch.dtype) -> Iterator[tuple[Subject, Shape]]:
    """Yield the trainings that are timed, and the batch of each."""
    dictionary = stand_in(_TYPES)
    half = {torch.float16: ["common.fp16=true"], torch.bfloat16: ["common.bf16=true"]}
    for (variant, optimizer), (width, shape) in itertools.product(VARIANTS.items(), PROBES):
        sizes = {"layers": 1, "embed_dim": width, "ffn_embed_dim": 3 * width, "attention_heads": 4}
        options = [f"model.{side}_{k}={v}" for side in SIDES for k, v in sizes.items()]
        parts = {"criterion": "seqattn_label_smoothed_cross_entropy", "optimizer": optimizer}
        options += [f"{section}._name={name}" for section, name in parts.items()]
        words = [f"variant={variant}", "size=tiny", *options, *half.get(dtype, [])]
        yield Subject(compose("multi30k_en_de", words), dictionary, dictionary), shape


def clock_of(device: torch.device) -> Clock:
    """Return a device's clock: events of a GPU, CPU time of a thread, else the time of the wall."""
    if device.type == "cuda":
        return _event, _between_events
    alone = torch.get_num_threads() == 1
    return (time.process_time if alone else time.perf_counter), lambda start, end: end - start


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between_events(start: torch.cuda.Event, end: torch.cuda.Event) -> float:
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


class _Stopwatch(TorchDispatchMode):
    """Times every operator."""

    def __init__(self, read: Read) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._read = read
        self.readings: list[tuple[Work, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        start = self._read()
        out = func(*args, **kwargs)
        end = self._read()
        self.readings.append((work(func, args, kwargs, out), start, end))
        return out


def operators(step: Step, shape: Shape, clock: Clock) -> list[Sample]:
    """Return the time of every operator of a step: the least of some steps."""
    read, between = clock
    batch = step.sample(shape)
    step.run(batch)
    runs = []
    for _ in range(_REPEATS):
        with _Stopwatch(read) as watch:
            step.run(batch)
        runs.append([Sample(done, between(start, end)) for done, start, end in watch.readings])
    if len({len(run) for run in runs}) > 1:  # an iteration took another number of rounds
        return [sample for run in runs for sample in run]
    return [
        Sample(calls[0].work, min(call.seconds for call in calls))
        for calls in zip(*runs, strict=True)
    ]


def whole(step: Step, shape: Shape, clock: Clock) -> float:
    """Return the time of a step that nobody watches, the least of some."""
    batch = step.sample(shape)
    return least(lambda: step.run(batch), clock)


def least(run: Callable[[], Any], clock: Clock, calls: int = 1) -> float:
    """Return the time of a call: the least of some, since what else runs only adds."""
    read, between = clock
    run()
    taken = []
    for _ in range(_REPEATS):
        start = read()
        for _ in range(calls):
            run()
        taken.append(between(start, read()) / calls)
    return min(taken)


def _products(device: torch.device, dtype: torch.dtype, clock: Clock) -> dict[str, list[Sample]]:
    """Return the times of products by themselves."""
    samples: dict[str, list[Sample]] = defaultdict(list)
    for sizes in (*((1, *size) for size in _SINGLE), *_MANY):
        batch, m, k, n = sizes
        done = works.product(*sizes, dtype.itemsize)
        run = _product_of(
            torch.randn(_TURNS, batch, m, k, device=device, dtype=dtype),
            torch.randn(_TURNS, batch, n, k, device=device, dtype=dtype).transpose(2, 3),
        )
        calls = max(1, round(_LEAST_SECONDS / max(least(run, clock), 1e-6)))
        samples[done.name].append(Sample(done, least(run, clock, calls)))
    return samples


def _product_of(a: Tensor, b: Tensor) -> Callable[[], Any]:
    """Return a function that multiplies the next of some pairs."""
    pairs = itertools.cycle(zip(a, b, strict=True))
    if a.size(1) > 1:
        return lambda: torch.bmm(*next(pairs))
    return lambda: linear.product(*(x[0] for x in next(pairs)))
