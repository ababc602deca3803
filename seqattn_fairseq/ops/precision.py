"""Sums that stay exact when torch's autocast would put their products into half precision."""

from __future__ import annotations

import torch
from torch import Tensor


def exact_sums(tensor: Tensor) -> torch.autocast:
    """Return a ``with`` block whose products are computed in the dtype of their arguments.

    Autocast turns the arguments of matrix products back into half precision, also those that were
    widened on purpose: sums that grow with the length then round or overflow.

    Args:
        tensor: one of the arguments, for its device.
    """
    return torch.autocast(tensor.device.type, enabled=False)
