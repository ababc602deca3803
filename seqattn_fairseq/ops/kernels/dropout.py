"""Dropout inside kernels: what is dropped forward is drawn again backward, and never stored."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def fresh_seed(device: torch.device) -> Tensor:
    """Return a (1,) random number for one call of a kernel.

    It is drawn on the device by torch's generator: no wait for the host, and a captured graph draws
    another one at each replay.
    """
    return torch.randint(0, 2**31 - 1, (1,), dtype=torch.int64, device=device)


@triton.jit
def kept(seed, offsets, probability):
    """Return 1 / (1 - probability) where an entry is kept, 0 where it is dropped, in float32.

    Args:
        seed: the number that :func:`fresh_seed` drew, plus one for each block of offsets.
        offsets: int32, one for each entry of the block.
        probability: of dropping an entry, below 1.
    """
    scale = 1.0 / (1.0 - probability)
    return tl.where(tl.rand(seed, offsets) >= probability, scale, 0.0)
