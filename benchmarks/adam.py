"""Adam's step: ``seqattn_adam`` against fairseq's and torch's, over the parameters of real models.

    python -m benchmarks.adam

Every contender steps the same parameters with the same gradients. The error is that of thousands of
elements of each tensor after 20 steps, against fairseq's own Adam in float64. torch's AdamW takes
its epsilon another way, which shows in its error.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq.models import MODEL_REGISTRY
from fairseq.optim.adam import Adam as FairseqsAdam
from torch import Tensor
from torch.optim import AdamW, Optimizer

from benchmarks import measure
from benchmarks.batches import dictionary
from benchmarks.measure import OURS, Contender
from seqattn_fairseq.optim.adam import Adam
from seqattn_fairseq.transformer.registry import make_config
from seqattn_fairseq.variants import register

register()

# size -> vocabulary: 35 and 61 million parameters
MODELS = {"iwslt_de_en": 6_632, "wmt_en_de": 32_768}
STEPS, ELEMENTS = 20, 4096
SETTINGS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-8}
Make = Callable[..., Optimizer]

CONTENDERS: dict[str, Make] = {
    OURS: Adam,
    "fairseq": FairseqsAdam,
    "torch_foreach": lambda params, **settings: AdamW(params, foreach=True, **settings),
}


def parameters(size: str) -> list[Tensor]:
    """Return the parameters of the Transformer of a size."""
    torch.manual_seed(1)
    symbols = dictionary(MODELS[size])
    tied = {"share_all_embeddings": True}
    model = MODEL_REGISTRY["seqattn_softmax"].build(
        make_config("softmax", size, **tied), symbols, symbols
    )
    return [p.detach() for p in model.parameters()]


def stepped(make: Make, start: list[Tensor], dtype: torch.dtype, decay: float) -> list[Tensor]:
    """Return the first elements of all parameters after steps with gradients of all magnitudes."""
    params = [p.flatten()[:ELEMENTS].to(dtype, copy=True).requires_grad_() for p in start]
    optimiser = make(params, weight_decay=decay, **SETTINGS)
    generator = torch.Generator().manual_seed(2)
    for _ in range(STEPS):
        for p in params:
            gradient = torch.randn(p.shape, generator=generator).pow_(5).mul_(1e-4)
            p.grad = gradient.to(dtype)
        optimiser.step()
    return [p.detach() for p in params]


def contender(name: str, start: list[Tensor], decay: float) -> Contender:
    """Return the step of one optimiser on parameters of its own."""
    params = [p.clone().requires_grad_() for p in start]
    for p in params:
        p.grad = torch.randn_like(p).mul_(1e-3)
    return Contender(name, CONTENDERS[name](params, weight_decay=decay, **SETTINGS).step)


def measured(size: str, decay: float, repeats: int) -> list[dict[str, Any]]:
    """Return the rows of one model; print errors first, times after."""
    start = parameters(size)
    count = sum(p.numel() for p in start)
    print(f"{size}: {count / 1e6:.1f} M parameters in {len(start)} tensors, decay {decay}")
    exact = stepped(FairseqsAdam, start, torch.float64, decay)
    errors = {
        name: measure.error(stepped(make, start, torch.float32, decay), exact)
        for name, make in CONTENDERS.items()
    }
    for name, error in errors.items():
        print(f"  {name}: error after {STEPS} steps {error:.1e}", flush=True)
    seconds = measure.alternate([contender(name, start, decay) for name in CONTENDERS], repeats)
    rows = measure.compared(seconds, errors)
    for row in rows:
        print("  {contender}: {seconds:.4f} s, {ratio:.2f} times ours".format(**row), flush=True)
    shape = {"parameters": count, "tensors": len(start), "weight_decay": decay}
    return [{"benchmark": "adam_step", "mechanism": "adam", **shape, **row} for row in rows]


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=measure.RESULTS)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for size in args.sizes:
        for decay in (0.0, 1e-4):
            rows += measured(size, decay, args.repeats)
    measure.write_rows(args.out, rows)


if __name__ == "__main__":
    main()
