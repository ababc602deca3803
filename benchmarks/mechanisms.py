"""Every mechanism against the official algorithm, forward and backward, over the length.

    python -m benchmarks.mechanisms                     # all of it, some ten minutes
    python -m benchmarks.mechanisms --only luna_causal  # one benchmark

One thread, float32, B T = 2048 positions of width 512, T from 32 to 2048. The error of every form
is that of its output and of all gradients, against an official form in float64; tests hold the
official forms against the official codes' tensors.

Shapes: B batch, T length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks import measure
from benchmarks.cases import (
    WIDTH,
    Case,
    attention_case,
    dynamic_case,
    ema_case,
    gated_case,
    light_case,
    luna_case,
    muse_case,
    step,
    time_first,
)
from benchmarks.measure import OURS, Contender

POSITIONS = 2048
LENGTHS = (32, 64, 128, 256, 512, 1024, 2048)
FEW = (32, 128, 512, 2048)
# lengths of one sentence each, for the growth of memory
LONG = (1024, 2048, 4096, 8192)
MakeCase = Callable[[int, int], Case]


def prepared(case: Case) -> tuple[dict[str, float], list[Contender]]:
    """Return the errors of the forms of a case, and the forms ready to be timed."""
    leaves = case.leaves(case.truth, torch.float64)
    upstream = case.upstream()
    exact = step(case.forms[case.truth], leaves, upstream.double())
    errors, contenders = {}, []
    for name, function in case.forms.items():
        leaves = case.leaves(name, torch.float32)
        weights = time_first(upstream) if case.time_first and name != OURS else upstream
        if name not in case.others:
            errors[name] = measure.error(step(function, leaves, weights), exact)
        contenders.append(Contender(name, partial(step, function, leaves, weights)))
    return errors, contenders


def measured(case: Case, repeats: int) -> list[dict[str, Any]]:
    """Return the rows of a case: the errors of its forms first, their times after."""
    errors, contenders = prepared(case)
    seconds = measure.alternate(contenders, repeats)
    return [
        {"mechanism": case.mechanism, **case.shape, **row}
        for row in measure.compared(seconds, errors)
    ]


def _memory_work(length: int) -> Callable[[], Any]:
    def ready(positions: int) -> Callable[[], Any]:
        case = dynamic_case(1, positions)
        leaves = case.leaves(OURS, torch.float32)
        return partial(step, case.forms[OURS], leaves, torch.randn(1, positions, WIDTH))

    torch.manual_seed(1)
    ready(128)()  # libraries take memory once
    return ready(length)


def memory_rows() -> list[dict[str, Any]]:
    """Return by how much forward and backward of one sentence raise the peak, by its length."""
    return [
        {
            "mechanism": "dynamic_convolution",
            **{"T": length, "B": 1, "C": WIDTH, "H": 8, "K": 31},
            "contender": OURS,
            "peak_mib": round(measure.peak_mib(_memory_work, length), 1),
        }
        for length in LONG
    ]


def _timed(*makers: MakeCase, lengths: Sequence[int] = LENGTHS) -> Callable[[int], Any]:
    def rows(repeats: int) -> Iterator[dict[str, Any]]:
        for make in makers:
            for length in lengths:
                torch.manual_seed(length)
                added = measured(make(POSITIONS // length, length), repeats)
                _show(added)
                yield from added

    return rows


def _show(rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    print(first["mechanism"], f"T={first['T']}", *(f"{k}={first[k]}" for k in "HK" if k in first))
    for row in rows:
        error = f"error {row['error']:.0e}" if row["error"] != "" else ""
        print(f"    {row['contender']:<14} {error}")
    for row in rows:
        took = f"{1000 * row['seconds']:8.1f} ms   {row['ratio']:.2f}"
        print(f"    {row['contender']:<14} {took}", flush=True)


_METHODS = ("rela", "top-k", "sparsemax", "entmax15")
BENCHMARKS: dict[str, Callable[[int], Any]] = {
    "dynamic_convolution": _timed(dynamic_case, partial(dynamic_case, heads=16)),
    "light_convolution": _timed(light_case),
    "muse_convolutions": _timed(muse_case),
    "luna_causal": _timed(luna_case),
    "mega_ema": _timed(ema_case, partial(ema_case, both=False)),
    "attention": _timed(*(partial(attention_case, method=m) for m in _METHODS), lengths=FEW),
    "mega_attention": _timed(gated_case, partial(gated_case, chunk=128), lengths=FEW),
    "dynamic_convolution_memory": lambda repeats: memory_rows(),
}


def main() -> None:
    """Measure, print, write."""
    measure.run(BENCHMARKS, __doc__.split("\n\n")[0])


if __name__ == "__main__":
    main()
