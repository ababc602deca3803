"""Dropout whose draws are cheap on a CPU.

torch draws one number of 53 bits for each entry. Here each takes 16 bits, of four that come at
once, so that the probability is a multiple of 2^-16 (off by less than 8e-6); what is kept is
scaled by exactly that probability. Other devices have quick draws of their own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import has_torch_function

from seqattn_fairseq.ops.backend import select

_STEPS = 2**16


def drawn(shape: torch.Size, rate: float) -> tuple[Tensor, float]:
    """Return which entries of a tensor on the CPU are kept, and what they are multiplied by.

    Args:
        shape: of the tensor.
        rate: probability of dropping an entry, in [0, 1).
    """
    dropped = min(round(rate * _STEPS), _STEPS - 1)
    words = torch.empty((shape.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    numbers = words.view(torch.int16)[: shape.numel()]
    return (numbers >= dropped - _STEPS // 2).view(shape), _STEPS / (_STEPS - dropped)


def draws_cheaply(x: Tensor, rate: float) -> bool:
    """Return whether ``drawn`` is for this tensor and probability.

    Who compiles or traces torch's functions finds torch's dropout.
    """
    if torch.compiler.is_compiling() or has_torch_function((x,)):
        return False
    return x.device.type == "cpu" and 0 < rate < 1


def _dropout(x: Tensor, rate: float) -> Tensor:
    if not draws_cheaply(x, rate):
        return F.dropout(x, rate)
    kept, scale = drawn(x.shape, rate)
    return (x * kept) * scale


_FORMS: dict[str, Callable[..., Tensor]] = {"reference": F.dropout, "torch": _dropout}


def dropout(x: Tensor, rate: float) -> Tensor:
    """Return x with entries set to zero with probability ``rate``, the others scaled to make up."""
    y: Tensor = select("dropout", _FORMS)(x, rate) if rate > 0 else x
    return y
