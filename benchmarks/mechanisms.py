"""Convolutions, Luna's causal attention and Mega's moving average against the official algorithms.

    python -m benchmarks.mechanisms                     # all of it, some minutes
    python -m benchmarks.mechanisms --only luna_causal  # one benchmark

Forward and backward on one thread in float32, B T = 2048 positions of width 512, T from 32 to 2048.
The error of every form is that of its output and of all gradients, against an official form in
float64; tests hold the official forms against the official codes' tensors.

Shapes: B batch, T length, C channels, H heads, K taps, d width of a head, l length of P, N states.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import OURS, Contender
from benchmarks.official_forms import convolution as official_convolution
from benchmarks.official_forms import ema as official_ema
from benchmarks.official_forms import luna as official_luna
from seqattn_fairseq.ops.convolution import (
    dynamic_convolution,
    lightweight_convolution,
    tap_softmax,
)
from seqattn_fairseq.ops.ema import ema, ema_coefficients
from seqattn_fairseq.ops.luna import causal_mean, counted, softmax_over_p
from seqattn_fairseq.ops.muse import multiscale_convolution, taps_before

POSITIONS, WIDTH = 2048, 512
LENGTHS = (32, 64, 128, 256, 512, 1024, 2048)
# lengths of one sentence each, for the growth of memory
LONG = (1024, 2048, 4096, 8192)
Function = Callable[..., Tensor]


class Case(NamedTuple):
    """One mechanism at one shape.

    Attributes:
        mechanism: what the rows are called.
        shape: its numbers by name.
        sequences: the arguments (B, T, ...) that all forms get, each in its layout.
        parameters: those that follow.
        forms: ours and the official ones; of the latter the first is, in float64, the truth.
    """

    mechanism: str
    shape: dict[str, Any]
    sequences: list[Tensor]
    parameters: list[Tensor]
    forms: dict[str, Function]


def time_first(sequence: Tensor) -> Tensor:
    """Return the (B, T, ...) values as they lie in memory in the layout (T, B, ...)."""
    return sequence.transpose(0, 1).contiguous().transpose(0, 1)


def _swapped(function: Function) -> Function:
    """Return a form of (T, B, ...) sequences as one of (B, T, ...): views alone, no copies."""

    def form(*arguments: Tensor) -> Tensor:
        return function(*arguments).transpose(0, 1)

    return form


def _leaves(case: Case, name: str, dtype: torch.dtype) -> list[Tensor]:
    sequences = case.sequences if name == OURS else [time_first(s) for s in case.sequences]
    return [t.detach().to(dtype).requires_grad_() for t in (*sequences, *case.parameters)]


def step(function: Function, leaves: list[Tensor], upstream: Tensor) -> list[Tensor]:
    """Return output and gradients."""
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def measured(case: Case, repeats: int) -> list[dict[str, Any]]:
    """Return the rows of a case: the errors of its forms first, their times after."""
    truth = next(name for name in case.forms if name != OURS)
    leaves = _leaves(case, truth, torch.float64)
    upstream = torch.randn(case.forms[truth](*leaves).shape)
    exact = step(case.forms[truth], leaves, upstream.double())
    errors, contenders = {}, []
    for name, function in case.forms.items():
        leaves = _leaves(case, name, torch.float32)
        weights = upstream if name == OURS else time_first(upstream)
        errors[name] = measure.error(step(function, leaves, weights), exact)
        contenders.append(Contender(name, partial(step, function, leaves, weights)))
    seconds = measure.alternate(contenders, repeats)
    return [
        {"mechanism": case.mechanism, **case.shape, **row}
        for row in measure.compared(seconds, errors)
    ]


def _shape(length: int, **others: Any) -> dict[str, Any]:
    return {"T": length, "B": POSITIONS // length, "C": WIDTH, **others}


def _official_convolutions(left: int) -> dict[str, Function]:
    def form(convolve: Function) -> Function:
        def run(x: Tensor, logits: Tensor) -> Tensor:
            shared = logits.dim() == 2
            taps = (logits if shared else logits.transpose(0, 1)).softmax(-1)
            return convolve(x.transpose(0, 1), taps, left)

        return _swapped(run)

    return {
        "unfold": form(official_convolution.unfold),
        "band": form(official_convolution.band),
    }


def dynamic_case(length: int, heads: int = 8, size: int = 31, batch: int = 0) -> Case:
    """Return DynamicConv from the logits of its taps; of ``POSITIONS`` unless given a batch."""
    batch = batch or POSITIONS // length
    left = (size - 1) // 2
    sequences = [torch.randn(batch, length, WIDTH), torch.randn(batch, length, heads, size)]

    def ours(x: Tensor, logits: Tensor) -> Tensor:
        return dynamic_convolution(x, tap_softmax(logits), left)

    forms = {OURS: ours, **_official_convolutions(left)}
    return Case("dynamic_convolution", _shape(length, H=heads, K=size), sequences, [], forms)


def light_case(length: int, heads: int = 8, size: int = 31) -> Case:
    """Return LightConv from the logits of its taps."""
    left = (size - 1) // 2

    def ours(x: Tensor, logits: Tensor) -> Tensor:
        return lightweight_convolution(x, tap_softmax(logits), left)

    x = torch.randn(POSITIONS // length, length, WIDTH)
    forms = {OURS: ours, **_official_convolutions(left)}
    return Case(
        "light_convolution",
        _shape(length, H=heads, K=size),
        [x],
        [torch.randn(heads, size)],
        forms,
    )


def muse_case(length: int, heads: int = 8, sizes: tuple[int, int] = (3, 15)) -> Case:
    """Return MUSE's two widths, from the logits of their taps and the gate's."""
    batch = POSITIONS // length
    lefts = [taps_before(size, causal=False) for size in sizes]

    def ours(x: Tensor, first: Tensor, second: Tensor, gate: Tensor) -> Tensor:
        taps = [tap_softmax(first), tap_softmax(second)]
        return multiscale_convolution(x, taps, lefts, gate)

    def official(name: str) -> Function:
        convolutions = [_official_convolutions(left)[name] for left in lefts]

        def run(x: Tensor, first: Tensor, second: Tensor, gate: Tensor) -> Tensor:
            weights = gate.softmax(-1)
            a, b = convolutions[0](x, first), convolutions[1](x, second)
            return a * weights[0] + b * weights[1]

        return run

    logits = [torch.randn(batch, length, heads, size) for size in sizes]
    return Case(
        "muse_convolutions",
        _shape(length, H=heads, K="+".join(map(str, sizes))),
        [torch.randn(batch, length, WIDTH), *logits],
        [torch.randn(len(sizes))],
        {OURS: ours, "unfold": official("unfold"), "band": official("band")},
    )


def luna_case(length: int, heads: int = 8, rows: int = 16) -> Case:
    """Return Luna's causal attention: both running means and the softmax between them."""
    batch, width = POSITIONS // length, WIDTH // heads

    def ours(q: Tensor, k: Tensor, v: Tensor, pack: Tensor) -> Tensor:
        q, k, v, pack = (t.transpose(1, 2) for t in (q, k, v, pack))
        count = counted(None, length, q)
        weights = softmax_over_p(causal_mean(q, k, pack, count), None)
        return causal_mean(weights, pack, v, count).transpose(1, 2)

    def official(*sequences: Tensor) -> Tensor:
        flat = (
            t.transpose(0, 1).reshape(length, batch * heads, -1).transpose(0, 1) for t in sequences
        )
        out = official_luna.causal_attention(*flat)
        return out.transpose(0, 1).reshape(length, batch, heads, width).transpose(0, 1)

    sequences = [torch.randn(batch, length, heads, width) * width**-0.5]
    sequences += [torch.randn(batch, length, heads, width) for _ in range(2)]
    sequences += [torch.nn.functional.softplus(torch.randn(batch, length, heads, rows))]
    forms: dict[str, Function] = {OURS: ours, "outer_product": official}
    return Case("luna_causal", _shape(length, H=heads, l=rows), sequences, [], forms)


def ema_case(length: int, both: bool = True, states: int = 16) -> Case:
    """Return Mega's moving average with its activation, from its parameters."""
    rows = WIDTH * (2 if both else 1)

    def ours(x: Tensor, *parameters: Tensor) -> Tensor:
        *coefficients, omega = parameters
        return ema(x, ema_coefficients(*coefficients), omega)

    def official(x: Tensor, *parameters: Tensor) -> Tensor:
        return official_ema.ema(x.transpose(0, 1), *parameters).transpose(0, 1)

    # as Mega initialises them
    signs = torch.tensor([1.0, -1.0]).repeat(states // 2).view(1, states, 1)
    parameters = [0.2 * torch.randn(rows, states, 1) for _ in range(2)]
    parameters += [0.02 * torch.randn(rows, states, 1) + signs]
    parameters += [torch.randn(rows, states), torch.randn(WIDTH)]
    shape = {"T": length, "B": POSITIONS // length, "C": WIDTH, "N": states}
    return Case(
        "mega_ema_bidirectional" if both else "mega_ema_causal",
        shape,
        [torch.randn(POSITIONS // length, length, WIDTH)],
        parameters,
        {OURS: ours, "official_fft": official},
    )


def _memory_work(length: int, form: str) -> Callable[[], Any]:
    def prepared(positions: int) -> Callable[[], Any]:
        case = dynamic_case(positions, batch=1)
        leaves = _leaves(case, form, torch.float32)
        return partial(step, case.forms[form], leaves, torch.randn(1, positions, WIDTH))

    torch.manual_seed(1)
    prepared(128)()  # libraries take memory once
    return prepared(length)


def memory_rows() -> list[dict[str, Any]]:
    """Return by how much forward and backward of one sentence raise the peak, by its length."""
    return [
        {
            "mechanism": "dynamic_convolution",
            **{"T": length, "B": 1, "C": WIDTH, "H": 8, "K": 31},
            "contender": OURS,
            "peak_mib": round(measure.peak_mib(_memory_work, length, OURS), 1),
        }
        for length in LONG
    ]


def _timed(*cases: Callable[[int], Case]) -> Callable[[int], list[dict[str, Any]]]:
    def rows(repeats: int) -> list[dict[str, Any]]:
        found = []
        for make in cases:
            for length in LENGTHS:
                torch.manual_seed(length)
                added = measured(make(length), repeats)
                _show(added)
                found += added
        return found

    return rows


def _show(rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    print(first["mechanism"], f"T={first['T']}", *(f"{k}={first[k]}" for k in "HK" if k in first))
    for row in rows:
        print(f"    {row['contender']:<14} error {row['error']:.0e}")
    for row in rows:
        took = f"{1000 * row['seconds']:8.1f} ms   {row['ratio']:.2f}"
        print(f"    {row['contender']:<14} {took}", flush=True)


BENCHMARKS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "dynamic_convolution": _timed(dynamic_case, partial(dynamic_case, heads=16)),
    "light_convolution": _timed(light_case),
    "muse_convolutions": _timed(muse_case),
    "luna_causal": _timed(luna_case),
    "mega_ema": _timed(ema_case, partial(ema_case, both=False)),
    "dynamic_convolution_memory": lambda repeats: memory_rows(),
}


def main() -> None:
    """Measure, print, write."""
    measure.run(BENCHMARKS, __doc__.split("\n\n")[0])


if __name__ == "__main__":
    main()
