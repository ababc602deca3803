"""fairseq's label smoothing against ours: time, memory and error of projection plus loss.

    python benchmarks/label_smoothing.py            # the full table, some ten minutes
    python benchmarks/label_smoothing.py --tokens 256 --repeats 1 --out quick.json

Both get the same features and weight, on one thread of a CPU, and make the loss and the gradients
of both. Time is CPU time, the least of several repeats; the contenders take turns within one
process. Memory is measured apart, in a process for each: how far the most that was ever resident
rises above the inputs. Errors are relative to float64: of the loss, and of the gradients as a share
of their largest element.

Shapes: N target tokens, C width, V vocabulary.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq import utils
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.ops.cross_entropy import LossOptions, projected_cross_entropy

SMOOTHING, PAD = 0.1, 1
RESULTS = Path(__file__).parent / "results" / "label_smoothing.json"
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def fairseqs(features: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Return the loss as fairseq's model and criterion make it."""
    lprobs = utils.log_softmax(F.linear(features, weight), dim=-1)
    return smoothed(lprobs, target)


def exact(features: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Return the loss in the dtype of the arguments: fairseq's log-softmax is float32 always."""
    return smoothed(F.log_softmax(F.linear(features, weight), dim=-1), target)


def smoothed(lprobs: Tensor, target: Tensor) -> Tensor:
    """Return fairseq's loss of log-probabilities."""
    loss: Tensor = label_smoothed_nll_loss(lprobs, target, SMOOTHING, ignore_index=PAD)[0]
    return loss


def ours(features: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Return the loss as our criterion makes it."""
    options = LossOptions(SMOOTHING, PAD)
    return projected_cross_entropy(features.unsqueeze(0), weight, None, target, options).loss


CONTENDERS: dict[str, Loss] = {"fairseq": fairseqs, "ours": ours}


def inputs(tokens: int, vocabulary: int, width: int, padding: float) -> list[Tensor]:
    """Return features (N, C), weight (V, C) and targets (N,), a share of which is padding."""
    torch.manual_seed(1)
    features = torch.randn(tokens, width)
    weight = torch.randn(vocabulary, width).mul_(width**-0.5)
    target = torch.randint(PAD + 1, vocabulary, (tokens,))
    target[: round(padding * tokens)] = PAD
    return [features.requires_grad_(), weight.requires_grad_(), target]


def step(loss: Loss, given: list[Tensor]) -> list[Tensor]:
    """Return loss and gradients."""
    value = loss(*given)
    return [value.detach(), *torch.autograd.grad(value, given[:2])]


def cpu_ms(loss: Loss, given: list[Tensor]) -> float:
    """Return the CPU time of one step in milliseconds."""
    start = time.process_time()
    step(loss, given)
    return 1000 * (time.process_time() - start)


def times(given: list[Tensor], repeats: int) -> dict[str, float]:
    """Return the least time of each contender, taken in turns: a b, b a, a b, ..."""
    names = list(CONTENDERS)
    best = dict.fromkeys(names, float("inf"))
    for turn in range(repeats + 1):
        for name in names if turn % 2 else reversed(names):
            took = cpu_ms(CONTENDERS[name], given)
            if turn:  # the first turn warms up
                best[name] = min(best[name], took)
    return best


def _peak_mib() -> float:
    # not getrusage: a started process inherits the peak of the one that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _measure_memory(name: str, shape: tuple[Any, ...], answer: Any) -> None:
    torch.set_num_threads(1)
    step(CONTENDERS[name], inputs(8, 64, *shape[2:]))  # libraries take memory once
    given = inputs(*shape)
    before = _peak_mib()
    step(CONTENDERS[name], given)
    answer.send(_peak_mib() - before)


def memory_mib(name: str, shape: tuple[Any, ...]) -> float:
    """Return by how much a step raises the peak of a process of its own."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure_memory, args=(name, shape, send))
    process.start()
    send.close()
    rise: float = receive.recv()
    process.join()
    return rise


def errors(given: list[Tensor]) -> dict[str, list[float]]:
    """Return each contender's errors of loss, features' and weight's gradient."""
    wide = [t.detach().double().requires_grad_() for t in given[:2]]
    truth = step(exact, [*wide, given[2]])
    return {
        name: [
            float((got - true).abs().max() / true.abs().max())
            for got, true in zip(step(loss, given), truth, strict=True)
        ]
        for name, loss in CONTENDERS.items()
    }


def measure(shape: tuple[Any, ...], repeats: int) -> dict[str, Any]:
    """Return one row of the table."""
    given = inputs(*shape)
    ms = times(given, repeats)
    mib = {name: memory_mib(name, shape) for name in CONTENDERS}
    return {
        **dict(zip(("tokens", "vocabulary", "width", "padding"), shape, strict=True)),
        **{f"{name}_ms": round(value, 1) for name, value in ms.items()},
        **{f"{name}_mib": round(value, 1) for name, value in mib.items()},
        "speed": round(ms["fairseq"] / ms["ours"], 3),
        "memory": round(mib["fairseq"] / mib["ours"], 2),
    }


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    found.add_argument("--vocabulary", type=int, nargs="+", default=[10240, 32768])
    found.add_argument("--tokens", type=int, nargs="+", default=[512, 2048, 4096])
    found.add_argument("--padding", type=float, nargs="+", default=[0.0, 0.15])
    found.add_argument("--width", type=int, default=512)
    found.add_argument("--repeats", type=int, default=3)
    found.add_argument("--out", type=Path, default=RESULTS)
    return found


def main() -> None:
    """Measure, print, write."""
    args = parser().parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": "cpu",
        "dtype": "float32",
        "smoothing": SMOOTHING,
        "relative_errors": {},
        "rows": [],
    }
    for vocabulary in args.vocabulary:
        found = errors(inputs(min(args.tokens), vocabulary, args.width, max(args.padding)))
        report["relative_errors"][str(vocabulary)] = found
        for name, (loss, d_features, d_weight) in found.items():
            print(
                f"V={vocabulary} {name}: error of loss {loss:.1e}, of the gradients "
                f"{d_features:.1e} {d_weight:.1e}"
            )
    for vocabulary in args.vocabulary:
        for padding in args.padding:
            for tokens in args.tokens:
                row = measure((tokens, vocabulary, args.width, padding), args.repeats)
                report["rows"].append(row)
                if len(report["rows"]) == 1:
                    print(*(f"{key:>12}" for key in row))
                print(*(f"{value:>12}" for value in row.values()), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
