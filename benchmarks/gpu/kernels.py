"""Every mechanism on the device: errors of the kernels first, then times over the length.

Shapes: B batch, T length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.cases import (
    Case,
    attention_case,
    dynamic_case,
    ema_case,
    gated_case,
    light_case,
    loss_case,
    luna_case,
    muse_case,
    residual_case,
    rms_case,
    step,
    time_first,
)
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.record import Record
from benchmarks.measure import OURS
from seqattn_fairseq.ops.backend import backend

TORCH = "ours, torch"
DTYPES = (torch.bfloat16, torch.float32, torch.float16)
MakeCase = Callable[[int, int], Case]


class Scale(NamedTuple):
    """How large everything is.

    Attributes:
        positions: B T of what is timed.
        lengths: T of what is timed.
        checked: (B, T) of what is compared with the reference.
        dtypes: of what is compared.
        timed: dtype of what is timed.
    """

    positions: int
    lengths: tuple[int, ...]
    checked: tuple[tuple[int, int], ...]
    dtypes: tuple[torch.dtype, ...]
    timed: torch.dtype


FULL = Scale(16_384, (32, 128, 512, 2048, 8192), ((3, 27), (2, 131)), DTYPES, torch.bfloat16)
TINY = Scale(16, (8, 16), ((1, 7),), (torch.float32,), torch.float32)


class Mechanism(NamedTuple):
    """What is measured of one mechanism.

    Attributes:
        make: the case that is timed.
        more: further cases, compared only.
        lengths: T of what is timed, if not all; where only the number of tokens matters.
    """

    make: MakeCase
    more: tuple[MakeCase, ...] = ()
    lengths: tuple[int, ...] = ()


def _attention(method: str) -> Mechanism:
    make = partial(attention_case, method=method)
    more = ({"causal": True}, {"padded": True}, {"keys": 45}, {"heads": 5, "width": 40})
    return Mechanism(make, tuple(partial(make, **options) for options in more))


MECHANISMS: dict[str, Mechanism] = {
    "softmax": _attention("softmax"),
    "rela": _attention("rela"),
    "topk": _attention("top-k"),
    "sparsemax": _attention("sparsemax"),
    "entmax15": _attention("entmax15"),
    "dynamicconv": Mechanism(
        dynamic_case, (partial(dynamic_case, heads=16, size=7), partial(dynamic_case, size=4))
    ),
    "lightconv": Mechanism(light_case, (partial(light_case, heads=16, size=7),)),
    "muse": Mechanism(muse_case),
    "mega_ema": Mechanism(ema_case, (partial(ema_case, both=False),)),
    "mega_attention": Mechanism(
        gated_case,
        tuple(
            partial(gated_case, activation=activation, causal=causal, padded=not causal)
            for activation in ("softmax", "laplace", "relu2")
            for causal in (False, True)
        ),
    ),
    "mega_chunk": Mechanism(partial(gated_case, chunk=128)),
    "luna_causal": Mechanism(luna_case),
    "loss": Mechanism(loss_case, lengths=(32,)),
    "residual": Mechanism(residual_case, lengths=(32,)),
    "rms_norm": Mechanism(rms_case, lengths=(32,)),
}


def forced(contender: str) -> AbstractContextManager[None]:
    """Return the block in which a contender runs: ours by kernels, or by torch."""
    if contender in {OURS, TORCH}:
        return backend("triton" if contender == OURS else "torch")
    return nullcontext()


def _arguments(
    case: Case, name: str, dtype: torch.dtype, device: str, upstream: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Return the leaves of a form and the gradient of its output, in its layout."""
    form = OURS if name == TORCH else name
    moved = time_first(upstream) if case.time_first and form != OURS else upstream
    return case.leaves(form, dtype, device), moved.to(device, dtype)


def _results(case: Case, name: str, dtype: torch.dtype, device: str, up: Tensor) -> list[Tensor]:
    form = case.forms[OURS if name == TORCH else name]
    leaves, weights = _arguments(case, name, dtype, device, up)
    with forced(name):
        out = form(*leaves)
        gradients = torch.autograd.grad(out, leaves, weights.to(out.dtype))
    return [t.detach().double() for t in (out, *gradients)]


def errors(case: Case, dtype: torch.dtype, device: str) -> list[dict[str, float]]:
    """Return the errors of kernels and torch for the output and each gradient.

    Against the reference form in float64, on the same (rounded) inputs; relative to the largest
    entry of each tensor, or 1.
    """
    rounded = case._replace(
        sequences=[s.to(dtype).double() for s in case.sequences],
        parameters=[p.to(dtype).double() for p in case.parameters],
    )
    upstream = case.upstream().to(dtype).double()
    with backend("reference"):
        leaves = rounded.leaves(OURS, torch.float64, device)
        exact = step(case.forms[OURS], leaves, upstream.to(device))
    found = {name: _results(case, name, dtype, device, upstream) for name in (OURS, TORCH)}
    pairs = zip(exact, found[OURS], found[TORCH], strict=True)
    return [{"kernel": _error(a, e), "torch": _error(b, e)} for e, a, b in pairs]


def _error(actual: Tensor, exact: Tensor) -> float:
    return float((actual - exact).abs().max() / exact.abs().max().clamp(min=1))


def within(found: Iterable[dict[str, float]], dtype: torch.dtype) -> bool:
    """Tell whether the kernels' errors are at most twice torch's, or next to nothing."""
    least = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    return all(e["kernel"] <= max(2 * e["torch"], least) for e in found)


def check(name: str, record: Record, scale: Scale, device: str) -> None:
    """Compare all cases of a mechanism with the reference."""
    mechanism = MECHANISMS[name]
    for make in (mechanism.make, *mechanism.more):
        for batch, length in scale.checked:
            torch.manual_seed(length)
            case = make(batch, length)
            for dtype in scale.dtypes if make is mechanism.make else scale.dtypes[:2]:
                what = f"{name}: {case.mechanism}, {case.shape}, {_short(dtype)}"
                with record.attempt(what):
                    _judge(what, case, dtype, record, device)


def _judge(what: str, case: Case, dtype: torch.dtype, record: Record, device: str) -> None:
    found = errors(case, dtype, device)
    right = within(found, dtype)
    row = {"mechanism": case.mechanism, "dtype": _short(dtype), "case": what, "right": right}
    record.put("errors", [*record.data.get("errors", []), {**row, "errors": found}])
    if not right:
        record.fail(what, f"errors (output, gradients): {found}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def largest_errors(mechanism: str, dtype: torch.dtype, record: Record) -> dict[str, float]:
    """Return contender -> largest error that was found, for kernels and torch's form."""
    tensors = [
        error
        for row in record.data.get("errors", [])
        if (row["mechanism"], row["dtype"]) == (mechanism, _short(dtype))
        for error in row["errors"]
    ]
    names = {OURS: "kernel", TORCH: "torch"}
    return {name: max(e[key] for e in tensors) for name, key in names.items() if tensors}


# ---- times -------------------------------------------------------------------------------------


def timed(case: Case, name: str, dtype: torch.dtype, clock: Clock) -> dict[str, Any]:
    """Return seconds forward and backward and the peak memory of both."""
    form = case.forms[OURS if name == TORCH else name]
    leaves, weights = _arguments(case, name, dtype, clock.device, case.upstream())
    with forced(name):
        forward = clock.median(lambda: form(*leaves))
        backward = clock.median(_backward(form(*leaves), leaves, weights))
        with clock.peak_mib() as peak:
            _backward(form(*leaves), leaves, weights)()
    seconds = {"forward_seconds": forward, "backward_seconds": backward}
    return {"seconds": forward + backward, **seconds, **peak}


def _backward(out: Tensor, leaves: list[Tensor], weights: Tensor) -> Callable[[], Any]:
    weights = weights.to(out.dtype)
    return lambda: torch.autograd.grad(out, leaves, weights, retain_graph=True)


def contenders(case: Case) -> list[str]:
    """Return what takes part: kernels, torch, the official algorithms, torch's softmax."""
    return [OURS, TORCH, *(name for name in case.forms if name != OURS)]


def time_all(name: str, record: Record, scale: Scale, clock: Clock) -> list[dict[str, Any]]:
    """Time a mechanism at all lengths; return the rows."""
    rows = []
    for length in MECHANISMS[name].lengths or scale.lengths:
        torch.manual_seed(length)
        case = MECHANISMS[name].make(max(1, scale.positions // length), length)
        found: dict[str, dict[str, Any]] = {}
        for contender in contenders(case):
            if record.left <= 0:
                break
            with record.attempt(f"{name}, T={length}: {contender}"):
                found[contender] = timed(case, contender, scale.timed, clock)
        shape = {"benchmark": "kernels", "mechanism": case.mechanism, **case.shape}
        shape["dtype"] = _short(scale.timed)
        errors_found = largest_errors(case.mechanism, scale.timed, record)
        added = [
            {**shape, "contender": c, "error": errors_found.get(c, ""), **row, **_ratio(row, found)}
            for c, row in found.items()
        ]
        record.add(added)
        for row in added:
            print("  T={T} {contender}: {seconds:.2e} s, {ratio} times ours".format(**row))
        rows += added
    return rows


def _ratio(row: dict[str, Any], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"ratio": row["seconds"] / found[OURS]["seconds"] if OURS in found else ""}


def warm(name: str, scale: Scale, device: str) -> None:
    """Compile the kernels of a mechanism, for processes to come."""
    mechanism = MECHANISMS[name]
    timed_ones = [
        (mechanism.make(1, length), scale.timed) for length in mechanism.lengths or scale.lengths
    ]
    makers = (mechanism.make, *mechanism.more)
    checked = [(make(*scale.checked[0]), dtype) for make in makers for dtype in scale.dtypes]
    for case, dtype in (*timed_ones, *checked):
        _results(case, OURS, dtype, device, case.upstream())
