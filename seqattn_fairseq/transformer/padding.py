"""No work on padding: what positions undergo one by one is done to the real ones alone.

Shapes: B batch, T length, C width, N real positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

# Share of padding from which leaving it out outweighs moving the others.
_LEAST_SHARE = 1 / 16


def mask_if_any(padding_BT: Tensor) -> Tensor | None:
    """Return the mask, True at padding, or None if there is no padding.

    A mask that lies on no CPU is not looked at, since the host would have to wait for it; it is
    returned as it is.
    """
    looks = padding_BT.device.type == "cpu"
    return None if looks and not bool(padding_BT.any()) else padding_BT


def real_rows(module: nn.Module, padding_mask_BT: Tensor | None) -> Tensor | None:
    """Return the numbers (N,) of the real positions, counted row by row; None for all.

    Args:
        module: whose positions they are. In training nobody reads what it makes of padding; else
            comparisons with other codes do.
        padding_mask_BT: True at padding; None if there is none. Only a CPU can look at it without
            waiting, and a compiled layer cannot.
    """
    if padding_mask_BT is None or not module.training or torch.compiler.is_compiling():
        return None
    if padding_mask_BT.device.type != "cpu":
        return None
    rows = padding_mask_BT.logical_not().flatten().nonzero().squeeze(1)
    return None if rows.numel() > (1 - _LEAST_SHARE) * padding_mask_BT.numel() else rows


def taken(x_BTC: Tensor, rows_N: Tensor | None) -> Tensor:
    """Return the rows (N, C) of a batch; the batch itself if all are wanted."""
    return x_BTC if rows_N is None else x_BTC.flatten(0, 1).index_select(0, rows_N)


def put_back(x_NC: Tensor, rows_N: Tensor | None, like_BTX: Tensor) -> Tensor:
    """Return rows (N, C) as a batch (B, T, C), zero elsewhere; undoes :func:`taken`."""
    if rows_N is None:
        return x_NC
    batch, length = like_BTX.shape[:2]
    zeros = x_NC.new_zeros(batch * length, x_NC.size(-1))
    # adding is quicker than copying, and to zeros the same
    whole: Tensor = zeros.index_add(0, rows_N, x_NC).unflatten(0, (batch, length))
    return whole


def all_on_real_rows(
    module: nn.Module,
    functions: Callable[[Tensor], Sequence[Tensor]],
    x_BTC: Tensor,
    padding_mask_BT: Tensor | None,
) -> list[Tensor]:
    """Return what position-wise functions make of x, (B, T, .) each; anything finite at padding.

    Args:
        module: whose functions they are.
        functions: of (N, C) or (B, T, C), each position for itself.
        x_BTC: their argument.
        padding_mask_BT: True at positions whose results nobody reads; None for none.
    """
    rows_N = real_rows(module, padding_mask_BT)
    return [put_back(y, rows_N, x_BTC) for y in functions(taken(x_BTC, rows_N))]


def on_real_rows(
    module: nn.Module,
    function: Callable[[Tensor], Tensor],
    x_BTC: Tensor,
    padding_mask_BT: Tensor | None,
) -> Tensor:
    """Return what one function makes of x, see :func:`all_on_real_rows`."""
    return all_on_real_rows(module, lambda x: [function(x)], x_BTC, padding_mask_BT)[0]
