"""Sparse attention weights and ReLA: ours against the ``entmax`` package and against torch.

    python -m benchmarks.sparse                   # all of it, some minutes
    python -m benchmarks.sparse --only entmax15   # one benchmark

Forward and backward on one thread in float32, on scores of 2048 queries and 8 heads. Maps of rows
take scores drawn from a normal distribution; in the padded cases a third of the keys is hidden.
ReLA runs from queries, keys and values to the weighted sum, as does torch's softmax attention; its
error is that against its own reference, and softmax's is against softmax's. Errors are those of
results and gradients, in the maps of the first rows, against the references in float64.

``pip install 'seqattn_fairseq[benchmark]'`` brings the package. Its functions sort whole rows;
that is their default, and exact.

Shapes: B batch, H heads, T queries, S keys, d head width, N = B H T rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import measure
from benchmarks.measure import OURS, Contender
from seqattn_fairseq.ops.rela import rela_attention, rela_attention_reference
from seqattn_fairseq.ops.softmax import softmax_attention_reference
from seqattn_fairseq.ops.sparse import FORMS, topk_softmax, topk_softmax_reference

QUERIES, HEADS, WIDTH, KEPT = 2048, 8, 64, 8
# queries, keys
SHAPES = ((27, 27), (32, 32), (128, 128), (131, 131), (512, 512), (27, 131), (128, 27))
CHECKED = 128  # rows whose results are compared: the reference of top-k counts D x D pairs
Function = Callable[..., Tensor]


def torch_topk(scores: Tensor) -> Tensor:
    """Return the softmax over the k largest, as the Explicit Sparse Transformer's code makes it."""
    kth = scores.topk(KEPT, dim=-1).values[..., -1:]
    return scores.masked_fill(scores < kth, float("-inf")).softmax(dim=-1)


def _topk_forms() -> dict[str, Function]:
    k = torch.full((1, 1, 1, 1), KEPT)
    return {
        OURS: lambda z: topk_softmax(z, k),
        "torch topk": torch_topk,
        "softmax": partial(torch.softmax, dim=-1),
    }


def _map_forms(name: str) -> dict[str, Function]:
    import entmax  # the one extra requirement, which ReLA and top-k do without

    return {
        OURS: FORMS[name]["torch"],
        "entmax package": partial(getattr(entmax, name), dim=-1),
        "softmax": partial(torch.softmax, dim=-1),
    }


def results(function: Function, leaves: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """Return a function's result and the gradients of its arguments."""
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def _reference(name: str) -> Function:
    if name == "top-k":
        return lambda z: topk_softmax_reference(z, torch.full((1, 1), KEPT))
    return FORMS[name]["reference"]


def scores(queries: int, keys: int, padded: bool) -> Tensor:
    """Return (B, H, T, S) scores; if padded, the last third of the keys is hidden."""
    torch.manual_seed(1)
    z = torch.randn(max(1, QUERIES // queries), HEADS, queries, keys)
    if padded:
        z[..., keys - keys // 3 :] = float("-inf")
    return z.requires_grad_()


def measure_map(name: str, repeats: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of sparsemax, entmax15 or top-k."""
    forms = _topk_forms() if name == "top-k" else _map_forms(name)
    for queries, keys in SHAPES:
        for padded in (False, True):
            z = scores(queries, keys, padded)
            grad = torch.randn_like(z)
            few = z.detach().reshape(-1, keys)[:CHECKED], grad.reshape(-1, keys)[:CHECKED]
            exact = _finite(results(_reference(name), [few[0].double().requires_grad_()], few[1]))
            errors = {
                form: measure.error(_finite(_checked(function, *few)), exact)
                for form, function in forms.items()
                if form != "softmax"
            }
            runs = [Contender(form, partial(results, f, [z], grad)) for form, f in forms.items()]
            seconds = measure.alternate(runs, repeats)
            shape = {"T": queries, "S": keys, "padded": int(padded)}
            yield from _rows(name, shape, seconds, errors)


def _checked(function: Function, z: Tensor, grad: Tensor) -> list[Tensor]:
    # four dimensions, as k of top-k has
    leaf = z[None, None].clone().requires_grad_()
    return [t[0, 0] for t in results(function, [leaf], grad[None, None])]


def _finite(tensors: list[Tensor]) -> list[Tensor]:
    """Return results with the gradients of hidden scores, which nobody reads, as zeros."""
    return [t.nan_to_num(0.0) for t in tensors]


def measure_rela(repeats: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of ReLA beside torch's softmax attention."""
    for queries, keys in (*SHAPES, (256, 256), (128, 512)):
        for causal in (False, True) if queries == keys else (False,):
            batch = max(1, QUERIES // queries)
            leaves = _away_from_the_kink(batch, queries, keys)
            grad = torch.randn(batch, HEADS, queries, WIDTH)
            forms: dict[str, Function] = {
                OURS: partial(rela_attention, causal=causal),
                "SDPA softmax": partial(
                    F.scaled_dot_product_attention, is_causal=causal, scale=1.0
                ),
            }
            references: list[Function] = [rela_attention_reference, softmax_attention_reference]
            errors = {
                name: _attention_error(function, reference, causal, leaves, grad)
                for (name, function), reference in zip(forms.items(), references, strict=True)
            }
            runs = [Contender(n, partial(results, f, leaves, grad)) for n, f in forms.items()]
            seconds = measure.alternate(runs, repeats)
            shape = {"T": queries, "S": keys, "causal": int(causal)}
            yield from _rows("rela", shape, seconds, errors)


def _away_from_the_kink(batch: int, queries: int, keys: int) -> list[Tensor]:
    """Return queries, keys and values of which no score of the first sentence rounds across 0.

    There the gradient of ReLA jumps, and an error would tell of the rounding of the score alone.
    """
    for seed in range(1, 100):
        torch.manual_seed(seed)
        q, k, v = (torch.randn(batch, HEADS, n, WIDTH) for n in (queries, keys, keys))
        q = q * WIDTH**-0.5
        exact = q[:1].double() @ k[:1].double().transpose(-1, -2)
        if torch.equal(q[:1] @ k[:1].transpose(-1, -2) > 0, exact > 0):
            return [t.requires_grad_() for t in (q, k, v)]
    raise RuntimeError("a score of every draw rounds across 0")


def _attention_error(
    function: Function, reference: Function, causal: bool, leaves: list[Tensor], grad: Tensor
) -> float:
    """Return the error on the first sentence."""
    few = [t[:1].detach().requires_grad_() for t in leaves]
    wide = [t.detach().double().requires_grad_() for t in few]
    more = (None, causal, 0.0)
    if reference is rela_attention_reference:
        exact = results(lambda *a: reference(*a, *more, "relu"), wide, grad[:1])
    else:
        exact = results(lambda *a: reference(*a, *more), wide, grad[:1])
    return measure.error(results(function, few, grad[:1]), exact)


def _rows(
    name: str, shape: dict[str, int], seconds: dict[str, float], errors: dict[str, float]
) -> Iterator[dict[str, Any]]:
    for row in measure.compared(seconds, errors):
        found = {"mechanism": name, **shape, **row}
        shown = (f"{value:.3g}" if isinstance(value, float) else value for value in found.values())
        print(*(f"{value!s:>14}" for value in shown), flush=True)
        yield found


BENCHMARKS: dict[str, Callable[[int], Iterator[dict[str, Any]]]] = {
    **{name: partial(measure_map, name) for name in ("entmax15", "sparsemax", "top-k")},
    "rela": measure_rela,
}


def main() -> None:
    """Measure, print, write."""
    measure.run(BENCHMARKS, __doc__.split("\n\n")[0])


if __name__ == "__main__":
    main()
