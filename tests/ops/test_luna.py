"""Luna's causal mean: fast forms against the recurrence, half precision, worked examples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.luna import (
    ACTIVATIONS,
    accumulate,
    causal_attention,
    causal_mean,
    causal_mean_weights,
    compose_weights,
    counted,
    softmax_over_p,
)


def inputs(length: int, *widths: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, 3, length, width, generator=generator, dtype=torch.double).requires_grad_()
        for width in widths
    ]


# short and odd, the longest quadratic form, the first chunked one, several chunks and a rest
@pytest.mark.parametrize("length", [1, 2, 7, 64, 65, 128, 129, 200])
@pytest.mark.parametrize("padded", [False, True], ids=["dense", "padded"])
@pytest.mark.parametrize("history", [False, True], ids=["start", "continued"])
def test_fast_form_equals_recurrence(length: int, padded: bool, history: bool) -> None:
    x, y, z = tensors = inputs(length, 5, 5, 4)
    mask = None
    if padded:
        mask = torch.zeros(2, length, dtype=torch.bool)
        mask[0, : length // 2 + 1] = True
        y = y.masked_fill(mask[:, None, :, None], 0.0)
    start = torch.randn(2, 3, 5, 4, dtype=torch.double) if history else None
    weight = torch.randn(2, 3, length, 4, dtype=torch.double)

    def run() -> tuple[Tensor, ...]:
        out = causal_mean(x, y, z, counted(mask, length, x), start)
        return out, *torch.autograd.grad((out * weight).sum(), tensors, retain_graph=True)

    fast = run()
    with backend("reference"):
        slow = run()
    for actual, expected in zip(fast, slow, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_is_the_double_loop_of_the_paper() -> None:
    x, y, z = inputs(6, 3, 3, 2)
    out = causal_mean(x, y, z, counted(None, 6, x))
    for t in range(6):
        total = sum(torch.outer(y[1, 2, j], z[1, 2, j]) for j in range(t + 1))
        torch.testing.assert_close(out[1, 2, t], x[1, 2, t] @ total / (t + 1))


def test_gradcheck() -> None:
    x, y, z = inputs(4, 2, 2, 3)
    count = counted(None, 4, x)
    assert torch.autograd.gradcheck(lambda x, y, z: causal_mean(x, y, z, count), (x, y, z))


def test_worked_example() -> None:
    x = torch.tensor([[[[1.0], [2.0], [3.0]]]])
    y = torch.tensor([[[[1.0], [0.0], [2.0]]]])
    z = torch.tensor([[[[4.0], [5.0], [6.0]]]])
    out = causal_mean(x, y, z, counted(None, 3, x))
    assert out.flatten().tolist() == [4.0, 4.0, 16.0]
    expected = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 2.0]])
    assert torch.equal(causal_mean_weights(x, y, counted(None, 3, x))[0, 0], expected)


def test_weights_give_the_mean() -> None:
    x, y, z = inputs(9, 4, 4, 3)
    count = counted(None, 9, x)
    torch.testing.assert_close(causal_mean_weights(x, y, count) @ z, causal_mean(x, y, z, count))


def test_counts_leave_padding_out() -> None:
    mask = torch.tensor([[True, True, False, False, True, False]])
    like = torch.zeros(1, dtype=torch.bfloat16)
    count = counted(mask, 6, like)
    assert count.flatten().tolist() == [1, 1, 1, 2, 2, 3]
    assert count.dtype == torch.float32
    assert counted(None, 3, like.double()).dtype == torch.float64


@pytest.mark.parametrize("length", [100, 300])
def test_the_future_moves_not_a_bit(length: int) -> None:
    x, y, z = (t.detach() for t in inputs(length, 5, 5, 4))
    before = causal_mean(x, y, z, counted(None, length, x))
    for t in (1, 64, 70, length - 1):
        u, v, w = (torch.cat([a[:, :, :t], a[:, :, t:] * 3 + 1], dim=2) for a in (x, y, z))
        after = causal_mean(u, v, w, counted(None, length, x))
        assert torch.equal(after[:, :, :t], before[:, :, :t])


def test_long_sequences_take_linear_memory() -> None:
    length = 100_000  # a table of all pairs would take 40 GB
    x, y, z = (torch.ones(1, 1, length, 1, requires_grad=True) for _ in range(3))
    out = causal_mean(x, y, z, counted(None, length, x))
    torch.testing.assert_close(out, torch.ones_like(out))
    out.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_half_precision_sums_in_float32(dtype: torch.dtype) -> None:
    length = 4096
    half, one = torch.full((1, 1, length, 1), 0.5, dtype=dtype), torch.ones(1, dtype=dtype)
    ones = one.expand(1, 1, length, 1)
    count = counted(None, length, half)
    exact = causal_mean(ones, ones, half, count)
    rounded = causal_mean(ones, ones, half, count, exact=False)
    assert exact.dtype == torch.float32
    torch.testing.assert_close(exact, torch.full_like(exact, 0.5))
    assert rounded.dtype == dtype
    total = None
    low = None
    for _ in range(1000):
        total = accumulate(total, ones[:, :, :1], half[:, :, :1], exact=True)
        low = accumulate(low, ones[:, :, :1], half[:, :, :1], exact=False)
    assert total is not None
    assert low is not None
    assert float(total) == 500
    assert low.dtype == dtype
    if dtype == torch.bfloat16:
        assert float(low) == 128  # 128 + 0.5 is 128


def test_official_sums_equal_ours_in_full_precision() -> None:
    x, y, z = inputs(40, 5, 5, 4)
    count = counted(None, 40, x)
    assert torch.equal(causal_mean(x, y, z, count, exact=False), causal_mean(x, y, z, count))


def test_activations_are_positive_and_one_at_zero() -> None:
    scores = torch.tensor([-30.0, -1.0, 0.0, 2.0, 60.0], dtype=torch.double)
    for activation in ACTIVATIONS.values():
        weights = activation(scores)
        assert weights[2] == pytest.approx(1)
        assert (weights > 0).all()
    softplus = ACTIVATIONS["softplus2"](scores)
    expected = [math.log2(1 + 2.0**x) for x in scores.tolist()]
    torch.testing.assert_close(softplus, torch.tensor(expected, dtype=torch.double))
    elu = [math.exp(-30.0), math.exp(-1.0), 1.0, 3.0, 61.0]
    torch.testing.assert_close(
        ACTIVATIONS["elu"](scores), torch.tensor(elu, dtype=torch.double), rtol=1e-3, atol=1e-12
    )


def test_softmax_over_p_hides_rows() -> None:
    scores = torch.randn(2, 1, 3, 4, requires_grad=True)
    mask = torch.tensor([[False, False, True, True], [True] * 4])
    weights = softmax_over_p(scores, mask)
    torch.testing.assert_close(weights[0, ..., :2], scores[0, ..., :2].softmax(-1))
    assert weights[0, ..., 2:].eq(0).all() and weights[1].eq(0).all()
    weights.square().sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_composed_weights() -> None:
    unpack = torch.tensor([[[[0.25, 0.75]]]])
    pack = torch.tensor([[[[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]]])
    assert compose_weights(unpack, pack).tolist() == [[[[0.25, 0.375, 0.375]]]]
    two_heads = torch.cat([unpack, unpack.flip(-1)], dim=1)
    torch.testing.assert_close(compose_weights(two_heads, pack), two_heads @ pack)
    four = torch.rand(1, 4, 2, 3).softmax(-1)
    torch.testing.assert_close(compose_weights(two_heads, four).sum(-1), torch.ones(1, 2, 1))


def test_torch_rounds_a_half_precision_softmax_once() -> None:
    """So the pack's softmax in the compute dtype, as officially, is one in float32, rounded."""
    for dtype in (torch.float16, torch.bfloat16):
        scores = (torch.randn(50, 40) * 4).to(dtype)
        in_float32 = F.softmax(scores, dim=-1, dtype=torch.float32)
        assert torch.equal(F.softmax(scores, dim=-1), in_float32.to(dtype))


def test_attention_is_two_means_with_a_softmax_between() -> None:
    q, k, v, pack = inputs(70, 5, 5, 5, 4)
    count, mask = counted(None, 70, q), torch.tensor([[False, False, True, False]] * 2)
    weights = softmax_over_p(causal_mean(q, k, pack, count), mask)
    expected = causal_mean(weights, pack, v, count)
    assert torch.equal(causal_attention(q, k, v, pack, count, mask), expected)
    with backend("reference"):
        slow = causal_attention(q, k, v, pack, count, mask)
    torch.testing.assert_close(slow, expected, rtol=1e-10, atol=1e-10)


def test_attention_drops_weights_over_p() -> None:
    q, k, v, pack = (x.detach() for x in inputs(30, 5, 5, 5, 1))
    count = counted(None, 30, q)
    whole = causal_attention(q, k, v, pack, count)
    share = causal_attention(q, k, v, pack, count, dropout=0.25) / whole
    assert set(share.mean(dim=-1).flatten().round(decimals=3).tolist()) == {0.0, 1.333}
