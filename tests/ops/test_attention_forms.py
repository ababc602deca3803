"""Fast forms of softmax, ReLA and sparse attention against their references, with gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.masking import causal_mask, visible_counts
from seqattn_fairseq.ops.rela import ACTIVATIONS, rela_attention, rela_weights
from seqattn_fairseq.ops.softmax import softmax_attention, softmax_weights
from seqattn_fairseq.ops.sparse import FORMS, masked_scores, sparse_attention, sparse_weights

# queries, keys: short and odd, long enough for torch's fused kernel, more keys than queries
SHAPES = [(1, 1), (7, 7), (3, 11), (131, 131), (5, 150)]


def inputs(queries: int, keys: int, padded: bool) -> tuple[list[Tensor], Tensor | None]:
    generator = torch.Generator().manual_seed(queries + keys)
    shapes = [(2, 3, queries, 4), (2, 3, keys, 4), (2, 3, keys, 4)]
    tensors = [
        torch.randn(shape, generator=generator, dtype=torch.double).requires_grad_()
        for shape in shapes
    ]
    mask = torch.zeros(2, keys, dtype=torch.bool)
    mask[0, : keys // 2] = True
    return tensors, mask if padded else None


def compare(
    attention: Callable[..., Tensor], shape: tuple[int, int], padded: bool, causal: bool
) -> None:
    tensors, mask = inputs(*shape, padded)
    fast = attention(*tensors, mask, causal)
    weights = torch.randn_like(fast)
    fast_grads = torch.autograd.grad((fast * weights).sum(), tensors)
    with backend("reference"):
        slow = attention(*tensors, mask, causal)
    slow_grads = torch.autograd.grad((slow * weights).sum(), tensors)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    for actual, expected in zip(fast_grads, slow_grads, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("padded", [False, True], ids=["dense", "padded"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_softmax(shape: tuple[int, int], padded: bool, causal: bool) -> None:
    compare(softmax_attention, shape, padded=padded, causal=causal)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("padded", [False, True], ids=["dense", "padded"])
def test_rela(activation: str, padded: bool, causal: bool) -> None:
    attention = partial(rela_attention, activation=activation)
    for shape in SHAPES:
        compare(attention, shape, padded=padded, causal=causal)


def sparse(method: str) -> Callable[..., Tensor]:
    """Sparse attention without what the row map takes besides: top-k keeps the same of all rows."""

    def attention(*arguments: Any, dropout: float = 0.0) -> Tensor:
        q, k, v, mask, causal = (*arguments, False)[:5]
        return sparse_attention(method, q, k, v, mask, causal, dropout, *kept(method))

    return attention


def kept(method: str) -> tuple[Tensor, ...]:
    return (torch.full((1, 1, 1, 1), 3),) if method == "top-k" else ()


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("padded", [False, True], ids=["dense", "padded"])
def test_sparse(method: str, padded: bool, causal: bool) -> None:
    for shape in [(1, 1), (7, 7), (3, 11), (5, 60)]:
        # of hidden scores the reference's gradients need not be numbers
        if causal or padded:
            (q, k, v), mask = inputs(*shape, padded)
            actual = sparse(method)(q, k, v, mask, causal)
            weights = sparse_weights(method, masked_scores(q, k, mask, causal), *kept(method))
            torch.testing.assert_close(actual, weights @ v)
            with backend("reference"):
                exact = sparse(method)(q, k, v, mask, causal)
            torch.testing.assert_close(actual, exact, rtol=1e-10, atol=1e-12)
        else:
            compare(sparse(method), shape, padded=padded, causal=causal)


def test_visible_counts() -> None:
    (q, k, _), mask = inputs(3, 5, padded=True)
    assert visible_counts(q, k, None, False).tolist() == [[5]]
    assert visible_counts(q, k, None, True).flatten().tolist() == [3, 4, 5]
    assert visible_counts(q, k, mask, False).shape == (2, 1, 1, 1)
    counts = visible_counts(q, k, mask, True)
    assert counts.squeeze(-1).squeeze(1).tolist() == [[1, 2, 3], [3, 4, 5]]


@pytest.mark.parametrize("weights", [softmax_weights, rela_weights], ids=["softmax", "rela"])
def test_weights_give_the_output(weights: Callable[..., Tensor]) -> None:
    (q, k, v), mask = inputs(5, 9, padded=True)
    attention = softmax_attention if weights is softmax_weights else rela_attention
    torch.testing.assert_close(weights(q, k, mask, True) @ v, attention(q, k, v, mask, True))


@pytest.mark.parametrize("keys", [5, 200])
def test_a_row_without_keys_is_zero(keys: int) -> None:
    (q, k, v), _ = inputs(3, keys, padded=False)
    hidden = torch.ones(2, keys, dtype=torch.bool)
    for attention in (softmax_attention, rela_attention, sparse("sparsemax"), sparse("top-k")):
        out = attention(q, k, v, hidden)
        assert out.eq(0).all()
        assert all(g.eq(0).all() for g in torch.autograd.grad(out.sum(), (q, k, v)))


@pytest.mark.parametrize("attention", [softmax_attention, rela_attention, sparse("entmax15")])
def test_dropout_keeps_the_mean(attention: Callable[..., Tensor]) -> None:
    (q, k, v), mask = inputs(4, 6, padded=True)
    exact = attention(q, k, v, mask)
    drawn = torch.stack([attention(q, k, v, mask, dropout=0.3) for _ in range(3000)])
    assert not torch.equal(drawn[0], drawn[1])
    error = (drawn.mean(0) - exact).abs() / (drawn.std(0) / 3000**0.5 + 1e-12)
    assert error.max() < 5


def test_causal_mask_puts_the_last_query_at_the_last_key() -> None:
    assert causal_mask(2, 4, torch.device("cpu")).int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]


def test_an_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (q, k, v), _ = inputs(2, 2, padded=False)
    monkeypatch.setenv("SEQATTN_BACKEND", "cuda")
    with pytest.raises(SeqAttnError, match=r"SEQATTN_BACKEND=cuda: no such backend; use"):
        rela_attention(q, k, v)
