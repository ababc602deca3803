"""Predictions of ``seqattn plan`` beside what the same trainings take: the table of docs/plan.md.

    python -m benchmarks.plan                        # every training, by this machine's profile
    python -m benchmarks.plan --only muse_simple topk --no-document

No training of the table is one that the machine's profile is fitted on: they have other variants,
other widths and numbers of layers, and other batches. Memory is the peak of torch's allocator
within two updates, seconds are CPU time on one thread: the least of some updates.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.table import fill
from seqattn_fairseq.launch.composition import compose
from seqattn_fairseq.planning.machine import Machine
from seqattn_fairseq.planning.prediction import predict
from seqattn_fairseq.planning.step import Shape, Step, Subject, stand_in
from seqattn_fairseq.planning.target import profile as machine_profile

DOCUMENT = Path(__file__).parents[1] / "docs" / "plan.md"
CPU = torch.device("cpu")
_TYPES = 10_000
_MIB = 2**20


class Case(NamedTuple):
    """A training to predict."""

    variant: str
    size: str
    shape: Shape
    words: tuple[str, ...] = ()


_HYBRID = ("model.encoder_variant=mega_chunk", "model.decoder_variant=rela_g")
HELD_OUT = (
    Case("rela_g", "iwslt_de_en", Shape(16, 28, 28)),
    Case("rela_i", "tiny", Shape(40, 18, 24)),
    Case("sparsemax", "iwslt_de_en", Shape(12, 40, 40)),
    Case("topk", "iwslt_de_en", Shape(6, 64, 60)),
    Case("lightconv", "iwslt_de_en", Shape(24, 16, 18)),
    Case("muse_simple", "iwslt_de_en", Shape(8, 28, 28)),
    Case("mega_chunk", "iwslt_de_en", Shape(8, 40, 32)),
    Case("hybrid", "tiny", Shape(16, 48, 44), _HYBRID),
    Case("softmax", "wmt_en_de", Shape(8, 26, 26)),
    Case("luna", "iwslt_de_en", Shape(10, 33, 33)),
    Case("mega", "tiny", Shape(4, 120, 120)),
)


def subject(case: Case, types: int = _TYPES) -> Subject:
    """Return the training of a case, with our criterion and Adam."""
    words = [
        f"variant={case.variant}",
        f"size={case.size}",
        "criterion._name=seqattn_label_smoothed_cross_entropy",
        "optimizer._name=seqattn_adam",
        *case.words,
    ]
    dictionary = stand_in(types)
    return Subject(compose("iwslt14_de_en", words), dictionary, dictionary)


def allocated_peak(case: Case, types: int = _TYPES) -> int:
    """Return the most bytes that torch's allocator had given out at once within two updates."""
    found = subject(case, types)
    gc.collect()
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as recorded:
        step = Step(found, CPU, torch.float32)
        batch = step.sample(case.shape)
        step.run(batch)
        step.run(batch)
    events = recorded.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def update_seconds(case: Case, repeats: int) -> float:
    """Return the CPU time of an update."""
    step = Step(subject(case), CPU, torch.float32)
    batch = step.sample(case.shape)
    step.run(batch)
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        step.run(batch)
        taken.append(time.process_time() - start)
    return min(taken)


def rows(machine: Machine, cases: list[Case], repeats: int) -> Iterator[str]:
    """Yield the rows of the table."""
    yield "| variant | size | B, S, T | MiB | measured | error | tokens/s | measured | error |"
    yield "| --- | --- | --- |" + " ---: |" * 6
    for case in cases:
        found = predict(subject(case), torch.float32, case.shape, machine=machine)
        peak = allocated_peak(case)
        speed = case.shape.tokens / update_seconds(case, repeats)
        predicted = found.tokens_per_second
        assert predicted is not None
        cells = [
            case.variant,
            case.size,
            f"{case.shape.sentences}, {case.shape.source}, {case.shape.target}",
            f"{found.peak / _MIB:.1f}",
            f"{peak / _MIB:.1f}",
            f"{found.peak / peak - 1:+.1%}",
            f"{predicted:.0f}",
            f"{speed:.0f}",
            f"{predicted / speed - 1:+.1%}",
        ]
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure, print, and fill the document."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="VARIANT")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--no-document", action="store_true", help="print only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    machine = machine_profile(CPU, torch.float32)
    print(machine.key, flush=True)
    lines = [machine.key + ":", ""]
    for row in rows(machine, [c for c in HELD_OUT if c.variant in (args.only or c)], args.repeats):
        print(row, flush=True)
        lines.append(row)
    if not args.no_document:
        DOCUMENT.write_text(fill(DOCUMENT.read_text(), "errors", "\n".join(lines)))


if __name__ == "__main__":
    main()
