"""What a training will take on a device: bytes, seconds, and the largest batch that fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from seqattn_fairseq.planning.machine import Machine
from seqattn_fairseq.planning.step import Shape, Subject, rounded
from seqattn_fairseq.planning.tracing import Memory, Tracer

# Of a device's memory; the rest is for what is no tensor: the driver, libraries, fragments.
USABLE = 0.9
# No batch is sought beyond: a pass of this size leaves nothing to be gained.
MOST_TOKENS = 2**17
_TRACES = 8
_NEAR = 0.02


@dataclass(frozen=True)
class Prediction:
    """What is known of a training before it runs.

    Attributes:
        parameters: trained numbers, tied ones once.
        shape: the batch of a pass on one device.
        passes: of an update, on each device.
        devices: how many share an update.
        memory: of each.
        exchange: bytes of gradients on their way to other devices; 0 for one device.
        capacity: bytes of a device's memory; None if it is not known.
        largest: most tokens that a pass may have there; None if the capacity is not known.
        seconds: of an update; None for a device that is not here to be measured.
    """

    parameters: int
    shape: Shape
    passes: int
    devices: int
    memory: Memory
    exchange: int
    capacity: int | None
    largest: int | None
    seconds: float | None

    @property
    def peak(self) -> int:
        """Most bytes at any moment."""
        return self.memory.peak + self.exchange

    @property
    def fits(self) -> bool | None:
        """Whether the device holds it; None if its capacity is not known."""
        return None if self.capacity is None else self.peak <= USABLE * self.capacity

    @property
    def tokens(self) -> int:
        """Target tokens of an update, padding included."""
        return self.shape.tokens * self.passes * self.devices

    @property
    def tokens_per_second(self) -> float | None:
        """Target tokens a second of all devices; what they say to each other takes no time here."""
        return None if self.seconds is None else self.tokens / self.seconds


def predict(
    subject: Subject,
    dtype: torch.dtype,
    shape: Shape,
    capacity: int | None = None,
    machine: Machine | None = None,
    device: torch.device | None = None,
) -> Prediction:
    """Return what a training takes; no step of it is run.

    Args:
        subject: the training, its batch cut into passes.
        dtype: what the model computes in.
        shape: the batch of a pass.
        capacity: bytes of a device's memory.
        machine: profile of the device; None if it is not here.
        device: what it is; default the CPU.

    Raises:
        SeqAttnError: what cannot be planned.
    """
    tracer = Tracer(subject, dtype, device or torch.device("cpu"))
    trace = tracer.trace(shape)
    cfg = subject.cfg
    passes = int(cfg.optimization.update_freq[0])
    devices = int(cfg.distributed_training.distributed_world_size)
    exchange = trace.memory.gradients if devices > 1 else 0
    seconds = None
    if machine is not None:
        seconds = passes * machine.seconds(trace.passes) + machine.seconds(trace.update)
    return Prediction(
        parameters=tracer.parameters,
        shape=shape,
        passes=passes,
        devices=devices,
        memory=trace.memory,
        exchange=exchange,
        capacity=capacity,
        largest=None if capacity is None else _largest(tracer, shape, trace.memory, capacity),
        seconds=seconds,
    )


def _largest(tracer: Tracer, shape: Shape, memory: Memory, capacity: int) -> int:
    """Return the most tokens of a pass that fits, of sentences as long as those of a batch."""
    cfg, longest = tracer.subject.cfg, max(shape.source, shape.target)
    several = int(cfg.distributed_training.distributed_world_size) > 1
    room = int(USABLE * capacity) - (memory.gradients if several else 0)

    def peak(sentences: int) -> int:
        return tracer.trace(replace(shape, sentences=sentences)).memory.peak

    known = {0: memory.fixed, shape.sentences: memory.peak}
    found = largest_fitting(peak, room, known, max(1, MOST_TOKENS // longest))
    return rounded(found, int(cfg.dataset.required_batch_size_multiple)) * longest


def largest_fitting(peak: Callable[[int], int], room: int, known: dict[int, int], most: int) -> int:
    """Return the largest count whose peak stays within a room, to some percent.

    Args:
        peak: bytes of a count, nearly linear in it.
        room: bytes.
        known: some peaks, that of 0 among them.
        most: no count above is tried.
    """
    low, high = 0, most + 1
    for _ in range(_TRACES):
        low = max([low, *(count for count, size in known.items() if size <= room)])
        high = min([high, *(count for count, size in known.items() if size > room)])
        if high - low <= max(1, _NEAR * low):
            break
        guess = _crossing(known, room, low)
        guess = min(max(guess, low + 1), high - 1)
        known[guess] = peak(guess)
    return max([low, *(count for count, size in known.items() if size <= room)])


def _crossing(known: dict[int, int], room: int, low: int) -> int:
    """Return where the line through the two counts nearest the answer meets the room."""
    first, second = sorted(known, key=lambda count: abs(known[count] - room))[:2]
    slope = (known[second] - known[first]) / (second - first)
    return int(first + (room - known[first]) / slope) if slope > 0 else 2 * low + 1
