"""Kernels of attention against the plain forms: outputs and every gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.kernels import attention as kernels
from seqattn_fairseq.ops.kernels.attention import FAMILIES, attention
from seqattn_fairseq.ops.rela import rela_attention, rela_weights
from seqattn_fairseq.ops.softmax import softmax_attention, softmax_weights
from seqattn_fairseq.ops.sparse import FORMS, masked_scores, sparse_attention
from tests.support.models import batch, shifted, small_model

METHODS = pytest.mark.parametrize("method", FAMILIES)
SPARSE = pytest.mark.parametrize("method", ["top-k", "sparsemax", "entmax15"])
KEPT = torch.tensor([3, 40])  # by heads: few, and more than there are keys


def drawn(queries: int, keys: int, width: int = 5, spread: float = 1.0) -> list[Tensor]:
    """Queries, keys and values of two sentences and two heads, as a projection lays them."""
    generator = torch.Generator().manual_seed(queries + keys)
    sizes = [(2, n, 2, width) for n in (queries, keys, keys)]
    q, k, v = (torch.randn(size, generator=generator) for size in sizes)
    return [x.transpose(1, 2).requires_grad_() for x in (q * spread * width**-0.5, k, v)]


def hidden(keys: int) -> Tensor:
    mask = torch.zeros(2, keys, dtype=torch.bool)
    mask[0, : keys // 2] = True
    mask[1, keys - 1 :] = True
    return mask


def numbers(method: str) -> tuple[Tensor, ...]:
    return (KEPT.view(1, 2, 1, 1),) if method == "top-k" else ()


def run(
    method: str,
    tensors: Sequence[Tensor],
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    q, k, v = tensors
    return attention(method, q, k, v, mask, causal, dropout, *numbers(method))


def weights(method: str, q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    if FAMILIES[method] == "rectified":
        return rela_weights(q, k, mask, causal, method)
    if method == "softmax":
        return softmax_weights(q, k, mask, causal)
    return FORMS[method]["torch"](masked_scores(q, k, mask, causal), *numbers(method))


def assert_same(
    method: str,
    tensors: list[Tensor],
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    scale: Tensor | float = 1.0,
) -> None:
    """Compare with weights in float64, of which ``scale`` says what dropout makes of them."""
    out = run(method, tensors, mask, causal, dropout)
    grad = torch.randn(out.transpose(1, 2).shape).transpose(1, 2)
    actual = (out, *torch.autograd.grad(out, tensors, grad))
    q, k, v = exact = [t.detach().double().requires_grad_() for t in tensors]
    expected = (weights(method, q, k, mask, causal) * scale) @ v
    grads = torch.autograd.grad(expected, exact, grad.double())
    for got, wanted in zip(actual, (expected, *grads), strict=True):
        limit = 1e-5 * max(1.0, float(wanted.detach().abs().max()))
        torch.testing.assert_close(got.double(), wanted, rtol=0, atol=limit)


ROWS, PASSES = "usual_tiles", "small_tiles"


@pytest.fixture
def usual_tiles() -> None:
    """Short rows in registers, one tile for all queries."""


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tiles of few positions, and no row in registers."""
    monkeypatch.setattr(kernels, "_ROW_KEYS", {4: 0})

    def tiles(q: Tensor, keys: int = 0) -> kernels._Tiles:
        return kernels._Tiles(16, 16, kernels._power(q.size(3)), 4, 1)

    monkeypatch.setattr(kernels, "_forward_tiles", tiles)
    monkeypatch.setattr(kernels, "_backward_tiles", tiles)


@METHODS
@pytest.mark.parametrize(
    ("queries", "keys", "padded", "causal"),
    [(1, 1, False, True), (1, 9, True, True), (20, 35, False, True), (35, 20, True, False)],
)
def test_rows_in_one_tile(method: str, queries: int, keys: int, padded: bool, causal: bool) -> None:
    assert_same(method, drawn(queries, keys), hidden(keys) if padded else None, causal)


@METHODS
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("queries", "keys", "padded", "causal"),
    [(20, 37, True, True), (3, 33, False, False)],
)
def test_rows_in_several_tiles(
    method: str, queries: int, keys: int, padded: bool, causal: bool
) -> None:
    assert_same(method, drawn(queries, keys), hidden(keys) if padded else None, causal)


@METHODS
@pytest.mark.parametrize("width", [20, 70])
def test_widths(method: str, width: int) -> None:
    """Rows in registers take 70 in parts."""
    assert_same(method, drawn(5, 7, width))


@SPARSE
@pytest.mark.parametrize(("tiles", "spread"), [(ROWS, 0.01), (ROWS, 30.0), (PASSES, 30.0)])
def test_flat_and_steep_rows(
    method: str, tiles: str, spread: float, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(tiles)
    assert_same(method, drawn(3, 40, 5, spread))


@pytest.mark.parametrize("tiles", [ROWS, PASSES])
def test_topk_keeps_ties(tiles: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(tiles)
    # quarters, whose products are exact: equal keys score the same wherever they stand
    q, k, v = (t.detach().mul(4).round().div(4) for t in drawn(3, 40))
    k[:, :, 1::2] = k[:, :, :1]
    assert_same("top-k", [t.requires_grad_() for t in (q, k, v)])


@pytest.mark.parametrize(
    ("method", "tiles"),
    [*((method, ROWS) for method in FAMILIES), ("top-k", PASSES), ("sparsemax", PASSES)],
)
def test_a_row_without_keys_is_zero(
    method: str, tiles: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(tiles)
    tensors = drawn(3, 20)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[1] = False
    out = run(method, tensors, mask)
    grads = torch.autograd.grad(out.sum(), tensors)  # a gradient without strides
    assert all(t[0].eq(0).all() and t.isfinite().all() for t in (out, *grads))
    assert out[1].ne(0).any()
    # more queries than keys: the first see nothing
    tensors = drawn(20, 3)
    out = run(method, tensors, causal=True)
    grads = torch.autograd.grad(out.square().sum(), tensors)
    assert all(t[:, :, :17].eq(0).all() and t.isfinite().all() for t in (out, grads[0]))


@pytest.mark.parametrize(
    ("method", "tiles"),
    [
        ("relu", PASSES),
        ("relu2", ROWS),
        ("softmax", PASSES),
        ("top-k", ROWS),
        ("sparsemax", PASSES),
        ("entmax15", ROWS),
    ],
)
def test_dropout(
    method: str, tiles: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Whatever the tiles, the same weights are dropped, in both passes."""
    monkeypatch.setattr(kernels, "fresh_seed", lambda device: torch.tensor([7]))
    tensors = drawn(18, 20, 20)
    q, k, _ = (t.detach() for t in tensors)
    each = torch.eye(20).expand_as(k)
    scale = attention("softmax", q, k, each, None, False, 0.4) / softmax_weights(q, k, None, False)
    torch.testing.assert_close(scale.round(decimals=3).unique(), torch.tensor([0.0, 1.667]))
    assert abs(float(scale.mean()) - 1) < 5 * (0.4 / 0.6 / scale.numel()) ** 0.5
    stays = scale.gt(0.5)
    assert not torch.equal(stays[0], stays[1])  # nor do heads, queries or diagonals repeat
    assert not torch.equal(stays[0, 0], stays[0, 1])
    assert not torch.equal(stays[0, 0, 0], stays[0, 0, 1])
    assert not torch.equal(stays[:, :, 1:, :-1], stays[:, :, :-1, 1:])
    request.getfixturevalue(tiles)
    assert_same(method, tensors, None, False, 0.4, stays.double() / 0.6)


def test_what_is_not_a_number_shows_in_its_row_alone() -> None:
    for method in FAMILIES:
        q, k, v = (t.detach().clone() for t in drawn(3, 20))
        q[0, 0, 1, 2] = float("nan")
        out = run(method, (q, k, v))
        assert out[0, 0, 1].isnan().all()
        out[0, 0, 1] = 0.0
        assert out.isfinite().all()


def test_heads_are_joined_without_a_copy() -> None:
    tensors = drawn(4, 6)
    out = run("relu", tensors)
    grads = torch.autograd.grad(out.sum(), tensors)
    assert all(t.transpose(1, 2).is_contiguous() for t in (out, *grads))


def test_relas_sums_in_float16_have_the_range_of_float32() -> None:
    q, k, v = (t.detach().half() * 100 for t in drawn(4, 40))
    out = run("relu", (q, k, v))
    assert out.dtype == torch.float32
    assert out.abs().max() > torch.finfo(torch.float16).max
    exact = rela_weights(q.double(), k.double(), None, False)
    error = (out - exact @ v.double()).abs()
    assert (error <= 2e-3 * (exact @ v.double().abs())).all()


# ---- through the operations --------------------------------------------------------------------

Operation = Callable[..., Tensor]


def sparse(method: str, *arguments: Any) -> Tensor:
    return sparse_attention(method, *arguments, *numbers(method))


OPERATIONS: dict[str, Operation] = {
    "softmax": softmax_attention,
    "relu": rela_attention,
    "relu2": partial(rela_attention, activation="relu2"),
    **{method: partial(sparse, method) for method in FORMS},
}


@METHODS
def test_operations_take_the_kernels(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def recorded(method: str, *arguments: Any) -> Tensor:
        calls.append(method)
        return attention(method, *arguments)

    monkeypatch.setattr(kernels, "attention", recorded)
    arguments = (*drawn(4, 9), hidden(9), True, 0.0)
    expected = OPERATIONS[method](*arguments)
    assert not calls
    with backend("triton"):
        actual = OPERATIONS[method](*arguments)
        assert calls == [method]
        OPERATIONS[method](*drawn(4, 9, 257), None, False, 0.0)
        OPERATIONS[method](*(t.double() for t in drawn(4, 9)), None, False, 0.0)
        OPERATIONS[method](*(t[:0] for t in drawn(4, 9)), None, False, 0.0)
    assert calls == [method]
    torch.testing.assert_close(actual, expected)


def test_other_activations_take_the_torch_form() -> None:
    q, k, v = drawn(4, 9)
    with backend("triton"):
        actual = rela_attention(q, k, v, activation="gelu")
    assert torch.equal(actual, rela_attention(q, k, v, activation="gelu"))


@pytest.mark.parametrize("method", ["softmax", "relu", "entmax15"])
def test_without_a_gpu_they_are_refused(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with backend("triton"), pytest.raises(SeqAttnError, match="SEQATTN_BACKEND=triton needs a GPU"):
        OPERATIONS[method](*drawn(2, 3), None, False, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["softmax", "rela_g", "topk", "entmax15"])
def test_models(variant: str) -> None:
    share = {"topk": 0, "topk_divisor": 2} if variant == "topk" else {}
    model = small_model(variant, **share)
    source, target = batch([7, 3]), shifted([5, 2])
    expected = model(source, None, target)[0]
    with backend("triton"):
        actual = model(source, None, target)[0]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
