"""Kernels of Luna's causal attention against the recurrence: outputs and every gradient."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.kernels import luna
from seqattn_fairseq.ops.luna import causal_attention, causal_mean, counted, softmax_over_p
from seqattn_fairseq.variants.luna_attention import LunaCausalAttention


def drawn(length: int, width: int, length_p: int) -> list[Tensor]:
    """Queries, keys, values, pack of two sentences and two heads, as a projection lays them."""
    generator = torch.Generator().manual_seed(length)
    widths = (width, width, width, length_p)
    q, k, v, pack = (torch.randn(2, length, 2, w, generator=generator) for w in widths)
    sequences = (q * width**-0.5, k, v, F.softplus(pack))
    return [x.transpose(1, 2).requires_grad_() for x in sequences]


def padding(kind: str, length: int) -> Tensor | None:
    if kind == "none":
        return None
    mask = torch.zeros(2, length, dtype=torch.bool)
    share = {"left": slice(0, length // 2 + 1), "right": slice(length - length // 3, length)}
    mask[0, share.get(kind, slice(None))] = True
    return mask


def with_gradients(
    leaves: list[Tensor], mask_BT: Tensor | None, mask_BL: Tensor | None, g: Tensor
) -> list[Tensor]:
    q, k, v, pack = leaves
    if mask_BT is not None:
        pack = pack.masked_fill(mask_BT[:, None, :, None], 0.0)
    count = counted(mask_BT, q.size(2), q)
    out = causal_attention(q, k, v, pack, count, mask_BL)
    return [out, *torch.autograd.grad(out, leaves, g)]


def assert_same(
    leaves: list[Tensor], mask_BT: Tensor | None, mask_BL: Tensor | None, g: Tensor
) -> None:
    with backend("triton"):
        found = with_gradients(leaves, mask_BT, mask_BL, g)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    with backend("reference"):
        expected = with_gradients(exact, mask_BT, mask_BL, g.double())
    for actual, truth in zip(found, expected, strict=True):
        assert actual.dtype == torch.float32
        scale = float(truth.detach().abs().max().clamp(min=1))
        torch.testing.assert_close(actual.double(), truth, rtol=1e-5, atol=1e-5 * scale)


# one position, one chunk, its last and the next position, several chunks and a rest
@pytest.mark.parametrize("length", [1, 7, 16, 17, 32, 75])
@pytest.mark.parametrize("sizes", [(4, 3), (20, 17), (64, 16)])
def test_equals_the_recurrence(length: int, sizes: tuple[int, int]) -> None:
    assert_same(drawn(length, *sizes), None, None, torch.randn(2, 2, length, sizes[0]))


@pytest.mark.parametrize("target", ["none", "left", "right", "all"])
@pytest.mark.parametrize("rows", ["none", "right", "all"])
def test_padding(target: str, rows: str) -> None:
    leaves = drawn(40, 8, 5)
    assert_same(leaves, padding(target, 40), padding(rows, 5), torch.randn(2, 2, 40, 8))


def test_other_layouts() -> None:
    q, k, v, pack = (leaf.detach() for leaf in drawn(20, 6, 5))
    across = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in (q, v, pack)]
    leaves = [across[0], k.contiguous(), across[1], across[2]]
    upstream = torch.randn(1, 1, 1, 6).expand(2, 2, 20, 6)
    assert_same([leaf.requires_grad_() for leaf in leaves], None, None, upstream)


def test_heads_of_the_output_join_without_a_copy() -> None:
    with backend("triton"):
        q, k, v, pack = drawn(20, 6, 5)
        out = causal_attention(q, k, v, pack, counted(None, 20, q))
    joined = out.transpose(1, 2).flatten(2)
    assert joined.data_ptr() == out.data_ptr()


@pytest.mark.parametrize("length", [10, 20])
def test_dropout_is_the_same_forward_and_backward(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = torch.tensor([3])
    monkeypatch.setattr(luna, "fresh_seed", lambda device: seed)
    leaves = drawn(length, 8, 5)
    q, k, v, pack = leaves
    count, upstream = counted(None, length, q), torch.randn(2, 2, length, 8)
    # P's row l gets one value alone, at the first position, and column l of it: the weights read
    # are left, 1/5 each if all scores are 0
    first = torch.zeros(2, 2, length, 8)
    first[:, :, 0] = torch.tensor([2.0**c for c in range(8)])
    with backend("triton"):
        columns = []
        for row in range(5):
            only = torch.zeros(2, 2, length, 5)
            only[:, :, 0, row] = 1
            even = causal_attention(0 * q, k, first, only, torch.ones_like(count), None, 0.4)
            columns.append(even[..., 0] * 5)
        factor = torch.stack(columns, dim=-1).detach()
        out = causal_attention(q, k, v, pack, count, None, 0.4)
        found = torch.autograd.grad(out, leaves, upstream)
    torch.testing.assert_close(factor, factor.gt(0).float() / 0.6)
    assert abs(float(factor.mean()) - 1) < 5 * (0.4 / 0.6 / factor.numel()) ** 0.5
    weights = softmax_over_p(causal_mean(q, k, pack, count), None)
    expected_out = causal_mean(weights * factor, pack, v, count)
    torch.testing.assert_close(out, expected_out, rtol=1e-5, atol=1e-5)
    expected = torch.autograd.grad(expected_out, leaves, upstream)
    for actual, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, truth, rtol=1e-5, atol=1e-5)


def test_results_repeat_and_the_future_moves_not_a_bit() -> None:
    leaves = [leaf.detach() for leaf in drawn(50, 8, 5)]
    later = [torch.cat([x[:, :, :30], x[:, :, 30:] * 3 + 1], dim=2) for x in leaves]
    count = counted(None, 50, leaves[0])
    with backend("triton"):
        first, again, other = (
            causal_attention(q, k, v, pack, count) for q, k, v, pack in (leaves, leaves, later)
        )
    assert torch.equal(first, again)
    assert torch.equal(first[:, :, :30], other[:, :, :30])
    assert not torch.equal(first[:, :, 30:], other[:, :, 30:])


def test_what_the_kernels_cannot_do_is_done_by_torch() -> None:
    def both(leaves: list[Tensor], exact: bool = True) -> tuple[Tensor, Tensor]:
        q, k, v, pack = leaves
        count = counted(None, q.size(2), q)
        expected = causal_attention(q, k, v, pack, count, None, 0.0, exact)
        with backend("triton"):
            return causal_attention(q, k, v, pack, count, None, 0.0, exact), expected

    small = [leaf.detach() for leaf in drawn(9, 4, 3)]
    wide = [leaf.detach() for leaf in drawn(3, 65, 3)]
    for leaves in ([x.double() for x in small], wide, [x[:0] for x in small]):
        assert torch.equal(*both(leaves))
    rounded, expected = both([x.bfloat16() for x in small], exact=False)
    assert rounded.dtype == torch.bfloat16 and torch.equal(rounded, expected)


def test_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    q, k, v, pack = drawn(2, 2, 2)
    with backend("triton"), pytest.raises(SeqAttnError, match="needs a GPU"):
        causal_attention(q, k, v, pack, counted(None, 2, q))


def test_the_layer_trains_with_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = mock.Mock(side_effect=luna.causal_attention)
    monkeypatch.setattr(luna, "causal_attention", kernel)
    layer, x, p = LunaCausalAttention(16, 4), torch.randn(2, 9, 16), torch.randn(2, 5, 16)
    results = []
    for name in ("torch", "triton"):
        layer.zero_grad()
        with backend(name):
            out = layer(x, layer.pack_query(p), padding("right", 5), padding("left", 9))
            out.square().mean().backward()
        results.append(
            [out.detach(), *(p.grad.clone() for p in layer.parameters() if p.grad is not None)]
        )
    assert kernel.call_count == 1
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
