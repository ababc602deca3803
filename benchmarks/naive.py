"""Our models with the official algorithms in place of our operations.

``with naive_forms():`` swaps the functions where the variants look them up, for the time of the
block: parameters, layers and everything around the operations stay. What they are swapped for is
in ``benchmarks/official_forms``; tests hold our models with them against the official codes.

Shapes: as in ``seqattn_fairseq.ops``, whose signatures these functions have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

from torch import Tensor
from torch.nn import functional as F

from benchmarks.official_forms import attention, convolution, ema, gated, luna
from seqattn_fairseq.ops.rela import ACTIVATIONS

_VARIANTS, _SHARED = "seqattn_fairseq.variants", "seqattn_fairseq.transformer"


def rela_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    activation: str = "relu",
) -> Tensor:
    """Return ``ops.rela.rela_attention``."""
    return attention.rela(ACTIVATIONS[activation], q, k, v, mask, causal, dropout)


def sparse_weights(method: str, scores: Tensor, *arguments: Tensor) -> Tensor:
    """Return ``ops.sparse.sparse_weights``."""
    if method == "top-k":
        return attention.topk(scores, int(arguments[0].max()))
    return attention.package_map(method)(scores)


def sparse_attention(
    method: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    *arguments: Tensor,
) -> Tensor:
    """Return ``ops.sparse.sparse_attention``."""
    weights = sparse_weights(method, attention.masked_scores(q, k, mask, causal), *arguments)
    return F.dropout(weights, dropout) @ v


def _convolution(x_BTC: Tensor, taps: Tensor, left: int) -> Tensor:
    return convolution.unfold(x_BTC, taps, left, time=1)


def _multiscale(
    x_BTC: Tensor, taps: Sequence[Tensor], lefts: Sequence[int], gate_N: Tensor | None
) -> Tensor:
    return convolution.multiscale(x_BTC, taps, lefts, gate_N, time=1)


def _moving_average(module: Any, x_BTD: Tensor, padding_mask_BT: Tensor | None) -> Tensor:
    parameters = (module.delta, module.alpha, module.beta, module.gamma, module.omega)
    x_TBD = x_BTD.transpose(0, 1)
    y_TBD = ema.ema(x_TBD, *parameters, padding_mask_BT, module.truncation)
    return y_TBD.transpose(0, 1)


def _causal_mean(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    count: Tensor,
    start: Tensor | None = None,
    exact: bool = True,
) -> Tensor:
    rows = [t.flatten(0, 1) for t in (x, y, z)]
    sums = luna.running_product(*rows).unflatten(0, x.shape[:2])
    total: Tensor = sums if start is None else sums + x @ start
    return total / count


def _causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pack: Tensor,
    count: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    exact: bool = True,
) -> Tensor:
    scores = _causal_mean(q, k, pack, count)
    if mask is not None:
        scores = scores.masked_fill(mask[:, None, None, :], float("-inf"))
    weights = F.dropout(attention.softmax(scores), dropout)
    return _causal_mean(weights, pack, v, count)


def _residual(
    x: Tensor, y: Tensor, rate: float, norm: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    total = x + F.dropout(y, rate)
    return total if norm is None else norm(total)


def _all_rows(*_: Any) -> None:
    """Return what stands for "all rows are computed, padding too"."""


_SOFTMAX: Mapping[str, Callable[..., Any]] = {
    "softmax_attention": partial(attention.attention, attention.softmax)
}
REPLACED: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    f"{_SHARED}.linear": {"linear": F.linear},
    f"{_SHARED}.dropout": {"dropout": F.dropout},
    f"{_SHARED}.residual": {"residual": _residual},
    f"{_SHARED}.padding": {"real_rows": _all_rows},
    f"{_VARIANTS}.softmax": _SOFTMAX,
    f"{_VARIANTS}.rela": {"rela_attention": rela_attention, "rms_norm": attention.rms_norm},
    f"{_VARIANTS}.sparse": {
        "masked_scores": attention.masked_scores,
        "sparse_attention": sparse_attention,
        "sparse_weights": sparse_weights,
    },
    f"{_VARIANTS}.convolution_layers": {
        "dynamic_convolution": _convolution,
        "lightweight_convolution": _convolution,
    },
    f"{_VARIANTS}.muse_layers": {
        **_SOFTMAX,
        "linear": F.linear,
        "multiscale_convolution": _multiscale,
        "real_rows": _all_rows,
    },
    f"{_VARIANTS}.mega_modules": {
        "by_pairs": gated.bias_matrix,
        "gated_attention": gated.attention,
        "gated_weights": gated.gated_weights,
    },
    f"{_VARIANTS}.mega_modules.MovingAverage": {"forward": _moving_average},
    f"{_VARIANTS}.luna_attention": {
        **_SOFTMAX,
        "causal_attention": _causal_attention,
        "causal_mean": _causal_mean,
    },
}


@contextmanager
def naive_forms() -> Iterator[None]:
    """Swap the functions within the block.

    Raises:
        AttributeError: a variant looks up none of that name any more.
    """
    with ExitStack() as stack:
        for module, functions in REPLACED.items():
            patch: Any = mock.patch.multiple(module, **dict[str, Any](functions))
            stack.enter_context(patch)
        yield
