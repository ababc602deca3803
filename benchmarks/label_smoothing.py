"""Projection and label-smoothed loss: fairseq's model and criterion against ours.

Both get the same features and weight and make the loss and the gradients of both.

Shapes: N target tokens, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from fairseq import utils
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from torch import Tensor
from torch.nn import functional as F

from benchmarks import measure
from benchmarks.measure import OURS, Contender
from seqattn_fairseq.ops.cross_entropy import LossOptions, projected_cross_entropy

SMOOTHING, PAD, WIDTH = 0.1, 1, 512
TOKENS = {10240: (512, 2048, 4096), 32768: (512, 2048)}  # vocabulary -> tokens
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def fairseqs(features: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Return the loss as fairseq's model and criterion make it."""
    return _smoothed(utils.log_softmax(F.linear(features, weight), dim=-1), target)


def exact(features: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Return the loss in the dtype of the arguments: fairseq's log-softmax is float32 always."""
    return _smoothed(F.log_softmax(F.linear(features, weight), dim=-1), target)


def _smoothed(lprobs: Tensor, target: Tensor) -> Tensor:
    loss: Tensor = label_smoothed_nll_loss(lprobs, target, SMOOTHING, ignore_index=PAD)[0]
    return loss


def ours(features: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Return the loss as our criterion makes it."""
    options = LossOptions(SMOOTHING, PAD)
    return projected_cross_entropy(features.unsqueeze(0), weight, None, target, options).loss


CONTENDERS: dict[str, Loss] = {OURS: ours, "fairseq": fairseqs}


def inputs(tokens: int, vocabulary: int) -> list[Tensor]:
    """Return features (N, C), weight (V, C) and targets (N,) without padding."""
    torch.manual_seed(1)
    features = torch.randn(tokens, WIDTH)
    weight = torch.randn(vocabulary, WIDTH).mul_(WIDTH**-0.5)
    target = torch.randint(PAD + 1, vocabulary, (tokens,))
    return [features.requires_grad_(), weight.requires_grad_(), target]


def step(loss: Loss, given: list[Tensor]) -> list[Tensor]:
    """Return loss and gradients."""
    value = loss(*given)
    return [value.detach(), *torch.autograd.grad(value, given[:2])]


def prepared(name: str, tokens: int, vocabulary: int) -> Callable[[], object]:
    """Return a contender's step on inputs that are there, in a process whose libraries are."""
    step(CONTENDERS[name], inputs(8, 64))
    return partial(step, CONTENDERS[name], inputs(tokens, vocabulary))


def errors(tokens: int, vocabulary: int) -> dict[str, float]:
    """Return the error of each contender."""
    given = inputs(tokens, vocabulary)
    wide = [t.detach().double().requires_grad_() for t in given[:2]]
    truth = step(exact, [*wide, given[2]])
    return {name: measure.error(step(f, given), truth) for name, f in CONTENDERS.items()}


def rows(repeats: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of every size; the error is that of the fewest tokens."""
    for vocabulary, counts in TOKENS.items():
        found = errors(min(counts), vocabulary)
        for tokens in counts:
            given = inputs(tokens, vocabulary)
            contenders = [Contender(n, partial(step, f, given)) for n, f in CONTENDERS.items()]
            seconds = measure.alternate(contenders, repeats)
            for row in measure.compared(seconds, found):
                name = row["contender"]
                peak = measure.peak_mib(prepared, name, tokens, vocabulary)
                shape = {"V": vocabulary, "C": WIDTH, "tokens": tokens}
                whole = {"mechanism": "label-smoothed loss", **shape, **row, "peak_mib": peak}
                print(*whole.values(), flush=True)
                yield whole


def main() -> None:
    """Measure, print, write."""
    measure.run({"label_smoothing": rows}, __doc__.split("\n\n")[0])


if __name__ == "__main__":
    main()
