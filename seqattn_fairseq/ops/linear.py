"""Linear maps, by whichever of a CPU's libraries multiplies faster.

On AMD's processors with AVX-512, torch's own products (MKL) use half the width of the registers;
oneDNN, which torch brings along, uses all of it and takes less than half of the time. Sums are of
float32 in both, in another order.

Shapes: N rows, C width, D width of the output.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode

from seqattn_fairseq.ops.backend import select

# Multiplications below which oneDNN's overhead is not worth it: it prepares every new shape once.
_LEAST_WORK = 2**24
_CPU_INFO = Path("/proc/cpuinfo")


@functools.cache
def onednn_is_faster() -> bool:
    """Return whether this machine's torch multiplies float32 matrices faster by oneDNN."""
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return there and wide and _CPU_INFO.exists() and "AuthenticAMD" in _CPU_INFO.read_text()


def _pays(a: Tensor, b: Tensor) -> bool:
    """Return whether (N, C) or (..., N, C) times (C, D) is oneDNN's."""
    return (
        not torch.compiler.is_compiling()  # first: what follows is not for tracing
        and onednn_is_faster()
        and a.dtype == b.dtype == torch.float32
        and a.device.type == b.device.type == "cpu"
        and a.numel() * b.size(-1) >= _LEAST_WORK
        and not torch.is_autocast_enabled("cpu")
        # who traces or counts operations knows torch's own
        and _get_current_dispatch_mode() is None
    )


def _dense(matrix: Tensor) -> Tensor:
    """Return a matrix whose rows, or columns, lie one after another.

    With columns that are cut out of a wider matrix oneDNN takes hundreds of times as long.
    """
    lies_so = matrix.is_contiguous() or matrix.t().is_contiguous()
    return matrix if lies_so else matrix.contiguous()


def _onednn(x_NC: Tensor, weight_DC: Tensor, bias_D: Tensor | None = None) -> Tensor:
    weight = _dense(weight_DC)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x_NC, weight, bias_D, "none", [], "")
    return y


def product(a_NC: Tensor, b_CD: Tensor) -> Tensor:
    """Return the product of two matrices, for use where no gradient is asked for."""
    return _onednn(a_NC, b_CD.t()) if _pays(a_NC, b_CD) else a_NC @ b_CD


class _Linear(torch.autograd.Function):
    """What oneDNN's operation lacks: gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        # a pass that is to be differentiated itself needs torch's
        times = torch.matmul if torch.is_grad_enabled() else product
        d_x = times(d_y, weight) if ctx.needs_input_grad[0] else None
        d_weight = times(d_y.t(), x) if ctx.needs_input_grad[1] else None
        d_bias = d_y.sum(0) if ctx.needs_input_grad[2] else None
        return d_x, d_weight, d_bias


def _fastest(x: Tensor, weight_DC: Tensor, bias_D: Tensor | None) -> Tensor:
    if not _pays(x, weight_DC.t()):
        return F.linear(x, weight_DC, bias_D)
    y: Tensor = _Linear.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.size(-1)), weight_DC, bias_D
    )
    return y.view(*x.shape[:-1], len(weight_DC))


_FORMS: dict[str, Callable[..., Tensor]] = {"reference": F.linear, "torch": _fastest}


def linear(x: Tensor, weight_DC: Tensor, bias_D: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias``, (..., D) of (..., C)."""
    y: Tensor = select("linear map", _FORMS)(x, weight_DC, bias_D)
    return y


def joined(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    """Return several linear maps of one x, from one product of all their weights."""
    y = linear(x, torch.cat(tuple(weights)), torch.cat(tuple(biases)))
    return list(y.split([len(weight) for weight in weights], dim=-1))
