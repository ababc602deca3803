"""ReLA's weighted sums in tiles that stay in cache: the form for CPUs but for short rows.

Weights of rectified scores need no maximum and no sum of their row, so that a tile is finished when
it is made. Up to ``_KEPT`` keys the gradient reads the tiles of the forward pass; beyond, it makes
them again, and memory is linear in the length.

Shapes: N = B H rows of heads, T queries, S keys, d head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# fewer queries or keys than this make scores that are quick enough as a whole
LONG = 48
# keys up to which tiles are kept
_KEPT = 512
# queries of a tile, and its numbers for each thread
_QUERIES, _NUMBERS = 128, 1 << 17


def fits(q: Tensor, k: Tensor) -> bool:
    """Return whether :func:`rela_in_blocks` is the form to take."""
    return (
        q.device.type == "cpu"
        and min(q.size(2), k.size(2)) >= LONG
        and q.dtype in {torch.float32, torch.float64}
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _tiles(q: Tensor, k: Tensor, causal: bool) -> Iterator[tuple[slice, slice, slice]]:
    """Yield rows of heads, queries, and the keys that some of these queries see."""
    queries, keys = q.size(1), k.size(1)
    # Causal tiles are short, to see few keys in vain; so are those that are made twice.
    length = min(queries, _QUERIES if causal or keys > _KEPT else 4 * _QUERIES)
    heads = max(1, _NUMBERS * torch.get_num_threads() // (length * keys))
    for n in range(0, q.size(0), heads):
        for t in range(0, queries, length):
            end = min(queries, t + length)
            seen = max(0, keys - queries + end) if causal else keys
            yield slice(n, n + heads), slice(t, end), slice(0, seen)


def _weights(q: Tensor, k: Tensor, last: int | None) -> Tensor:
    """Return the weights of a tile; ``last`` is the key of its first query if causal."""
    scores = torch.bmm(q, k.transpose(1, 2))
    if last is not None:
        scores.tril_(last)
    return scores.relu_()


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        out, kept = torch.empty_like(q), []
        for n, t, s in _tiles(q, k, causal):
            last = k.size(1) - q.size(1) + t.start if causal else None
            weights = _weights(q[n, t], k[n, s], last)
            out[n, t] = torch.bmm(weights, v[n, s])
            if k.size(1) <= _KEPT:
                kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.causal = causal
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *kept = ctx.saved_tensors
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for i, (n, t, s) in enumerate(_tiles(q, k, ctx.causal)):
            last = k.size(1) - q.size(1) + t.start if ctx.causal else None
            weights = kept[i] if kept else _weights(q[n, t], k[n, s], last)
            d_out = grad[n, t]
            d_v[n, s].baddbmm_(weights.transpose(1, 2), d_out)
            d_scores = torch.bmm(d_out, v[n, s].transpose(1, 2))
            _keep_where_positive(d_scores, weights)
            d_q[n, t] = torch.bmm(d_scores, k[n, s])
            d_k[n, s].baddbmm_(d_scores.transpose(1, 2), q[n, t])
        return d_q, d_k, d_v, None


def _keep_where_positive(grad: Tensor, weights: Tensor) -> None:
    """Set a gradient to 0 where its weight is, in one pass."""
    torch.ops.aten.threshold_backward.grad_input(grad, weights, 0.0, grad_input=grad)


def rela_in_blocks(q_BHTd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, causal: bool) -> Tensor:
    """Return the (B, H, T, d) sums of values, weighted by rectified scores.

    Arguments are those of :func:`seqattn_fairseq.ops.rela.rela_attention`.
    """
    rows = (x.reshape(-1, *x.shape[2:]).contiguous() for x in (q_BHTd, k_BHSd, v_BHSd))
    out: Tensor = _Blocks.apply(*rows, causal)  # type: ignore[no-untyped-call]
    return out.view(*q_BHTd.shape[:2], *out.shape[1:])
