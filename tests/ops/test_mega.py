"""Mega's gated attention as one operation: fast form against the reference, its bias as a line."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.mega import (
    ATTENTIONS,
    by_pairs,
    diagonal_sums,
    distance_line,
    gated_attention,
    gated_weights,
    query_blocks,
    toeplitz,
)

ACTIVATIONS = pytest.mark.parametrize("activation", ATTENTIONS)


def drawn(queries: int, keys: int, dtype: torch.dtype = torch.double) -> list[Tensor]:
    rows = ((3, queries, 5), (3, keys, 5), (3, keys, 7), (queries + keys - 1,))
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in rows]


def hidden(keys: int) -> Tensor:
    mask = torch.zeros(3, keys, dtype=torch.bool)
    mask[0], mask[1, : keys // 2], mask[2, keys // 2 :] = True, True, True
    return mask


def assert_same(queries: int, keys: int, mask: Tensor | None, causal: bool, name: str) -> None:
    q, k, v, line = leaves = drawn(queries, keys)
    upstream = torch.randn(3, queries, 7, dtype=torch.double)

    def run() -> tuple[Tensor, ...]:
        out = gated_attention(q, k, v, line, mask, causal, name)
        return out, *torch.autograd.grad(out, leaves, upstream)

    fast = run()
    with backend("reference"):
        slow = run()
    for actual, expected in zip(fast, slow, strict=True):
        assert expected.isfinite().all()
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@ACTIVATIONS
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 8), (130, 130), (140, 150)])
@pytest.mark.parametrize("causal", [False, True], ids=["both", "causal"])
@pytest.mark.parametrize("padded", [False, True], ids=["dense", "padded"])
def test_fast_form_equals_reference(
    activation: str, queries: int, keys: int, causal: bool, padded: bool
) -> None:
    assert_same(queries, keys, hidden(keys) if padded else None, causal, activation)


@pytest.mark.parametrize("activation", ["softmax", "laplace"])
def test_four_blocks_of_queries(activation: str) -> None:
    assert_same(520, 525, hidden(525), True, activation)


@ACTIVATIONS
@pytest.mark.parametrize("causal", [False, True], ids=["both", "causal"])
def test_is_the_sum_by_its_weights(activation: str, causal: bool) -> None:
    q, k, v, line = drawn(140, 150)
    mask = hidden(150)
    weights = gated_weights(q, k, by_pairs(line, 140, 150), mask, causal, activation)
    out = gated_attention(q, k, v, line, mask, causal, activation)
    torch.testing.assert_close(out, weights @ v)


def test_gradcheck() -> None:
    q, k, v, line = drawn(3, 4)
    for activation in ("softmax", "laplace"):

        def attend(q: Tensor, k: Tensor, v: Tensor, line: Tensor, name: str = activation) -> Tensor:
            return gated_attention(q, k, v, line, None, True, name)

        assert torch.autograd.gradcheck(attend, (q, k, v, line))


@pytest.mark.parametrize("name", ["reference", "torch"])
def test_dropout_drops_weights(name: str) -> None:
    q, k, _, line = drawn(60, 60)
    one = torch.eye(60, dtype=torch.double).expand(3, 60, 60)
    with backend(name):
        whole = gated_attention(q, k, one, line, None, False, "softmax")
        share = (gated_attention(q, k, one, line, None, False, "softmax", 0.25) / whole).detach()
    assert share.unique(sorted=True).round(decimals=3).unique().tolist() == [0.0, 1.333]
    assert abs(float(share.mean()) - 1) < 5 * (0.25 / 0.75 / share.numel()) ** 0.5


def test_the_future_moves_not_a_bit() -> None:
    q, k, v, line = (leaf.detach() for leaf in drawn(200, 200, torch.float32))
    before = gated_attention(q, k, v, line, None, True, "softmax")
    later = [torch.cat([x[:, :150], x[:, 150:] * 3 + 1], dim=1) for x in (q, k, v)]
    after = gated_attention(later[0], later[1], later[2], line, None, True, "softmax")
    assert torch.equal(before[:, :150], after[:, :150])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@ACTIVATIONS
def test_half_precision_scores_are_added_in_float32(dtype: torch.dtype, activation: str) -> None:
    q, k, v, line = (leaf.detach() for leaf in drawn(20, 24, torch.float32))
    q, k, v = (x.to(dtype) for x in (q, k, v))
    mask = hidden(24)
    out = gated_attention(q, k, v, line, mask, True, activation)
    exact = gated_attention(
        q.double(), k.double(), v.double(), line.double(), mask, True, activation
    )
    assert out.dtype == dtype
    assert out[0].eq(0).all()
    largest = float(exact.abs().max())
    tolerance = 8 * torch.finfo(dtype).eps * max(1.0, largest)
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=tolerance)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = gated_attention(q.float(), k.float(), v.float(), line, mask, True, activation)
    tolerance = 8 * torch.finfo(torch.bfloat16).eps * max(1.0, largest)
    torch.testing.assert_close(low.double(), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("queries", "keys", "first"), [(4, 4, 0), (1, 3, 3), (3, 6, 1), (2, 2, 9), (1, 12, 0)]
)
def test_a_line_is_its_matrix(queries: int, keys: int, first: int) -> None:
    vector = torch.arange(1.0, 8.0)  # distances -3 .. 3
    line = distance_line(vector, queries, keys, first, centre=3)
    assert line.shape == (queries + keys - 1,)
    for index, value in enumerate(line.tolist()):
        distance = index - (queries - 1) - first
        assert value == (distance + 4 if abs(distance) <= 3 else 0)
    matrix = toeplitz(vector, queries, keys, first, centre=3)
    assert torch.equal(by_pairs(line, queries, keys), matrix)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 5), (5, 1), (4, 7), (7, 4)])
def test_diagonal_sums_are_the_gradient_of_pairs(queries: int, keys: int) -> None:
    line = torch.randn(queries + keys - 1, dtype=torch.double, requires_grad=True)
    upstream = torch.randn(queries, keys, dtype=torch.double)
    (expected,) = torch.autograd.grad(by_pairs(line, queries, keys), line, upstream)
    torch.testing.assert_close(diagonal_sums(upstream), expected)


@pytest.mark.parametrize(("queries", "keys", "size"), [(7, 7, 3), (7, 9, 7), (1, 4, 8)])
def test_blocks_see_all_they_may(queries: int, keys: int, size: int) -> None:
    line = torch.arange(queries + keys - 1.0)
    matrix = by_pairs(line, queries, keys)
    for causal in (False, True):
        blocks = query_blocks(queries, keys, causal, size)
        assert [b.start for b in blocks] == list(range(0, queries, size))
        assert [b.end for b in blocks] == [*(b.start for b in blocks[1:]), queries]
        for block in blocks:
            part = by_pairs(line[block.line :], block.end - block.start, block.keys)
            assert torch.equal(part, matrix[block.start : block.end, : block.keys])
            # the last query of a block sees the last of its keys, and no later one
            assert block.keys == (keys - queries + block.end if causal else keys)
