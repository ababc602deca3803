"""Kernels of Mega's gated attention against the reference: outputs and every gradient."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.kernels import gated
from seqattn_fairseq.ops.mega import ATTENTIONS, by_pairs, gated_attention, gated_weights
from tests.support.models import batch, shifted, small_model

ACTIVATIONS = pytest.mark.parametrize("activation", ATTENTIONS)
MASKS = ["none", "left", "right", "all"]


def drawn(queries: int, keys: int, width: int, values: int, sequences: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(queries + keys)
    rows = ((queries, width), (keys, width), (keys, values))
    shapes = [*((sequences, *shape) for shape in rows), (queries + keys - 1,)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def padding(kind: str, keys: int, sequences: int = 3) -> Tensor | None:
    if kind == "none":
        return None
    mask = torch.zeros(sequences, keys, dtype=torch.bool)
    share = {"left": slice(0, keys // 2), "right": slice(keys - keys // 3, keys)}
    mask[0, share.get(kind, slice(None))] = True
    return mask


def with_gradients(
    leaves: list[Tensor], mask: Tensor | None, causal: bool, activation: str, g: Tensor
) -> list[Tensor]:
    q, k, v, line = leaves
    out = gated_attention(q, k, v, line, mask, causal, activation)
    return [out, *torch.autograd.grad(out, leaves, g)]


def assert_same(
    leaves: list[Tensor], mask: Tensor | None, causal: bool, activation: str, g: Tensor
) -> None:
    with backend("triton"):
        found = with_gradients(leaves, mask, causal, activation, g)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    with backend("reference"):
        expected = with_gradients(exact, mask, causal, activation, g.double())
    for actual, truth in zip(found, expected, strict=True):
        assert actual.dtype == torch.float32
        scale = float(truth.detach().abs().max().clamp(min=1))
        torch.testing.assert_close(actual.double(), truth, rtol=1e-5, atol=1e-5 * scale)


def gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


@ACTIVATIONS
@pytest.mark.parametrize("causal", [False, True], ids=["both", "causal"])
@pytest.mark.parametrize("mask", MASKS)
def test_equals_the_reference(activation: str, causal: bool, mask: str) -> None:
    # tails of every kind of tile, and fewer queries than keys
    leaves = drawn(37, 45, 35, 70)
    assert_same(leaves, padding(mask, 45), causal, activation, torch.randn(3, 37, 70))


@ACTIVATIONS
@pytest.mark.parametrize("sizes", [(1, 1, 3, 1), (1, 9, 16, 5), (2, 3, 1, 33), (64, 64, 32, 32)])
@pytest.mark.parametrize("causal", [False, True], ids=["both", "causal"])
def test_sizes(activation: str, sizes: tuple[int, int, int, int], causal: bool) -> None:
    queries, _, _, values = sizes
    assert_same(drawn(*sizes), None, causal, activation, torch.randn(3, queries, values))


@pytest.mark.parametrize("activation", ["softmax", "laplace"])
@pytest.mark.parametrize("causal", [False, True], ids=["both", "causal"])
def test_long_sequences_go_by_blocks(
    activation: str, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gated, "_ROWS", 20)
    leaves = drawn(50, 57, 8, 6, sequences=2)
    for mask in (None, padding("left", 57, sequences=2)):
        assert_same(leaves, mask, causal, activation, torch.randn(2, 50, 6))


def test_views_need_no_copy() -> None:
    z, v = torch.randn(3, 20, 24), torch.randn(20, 3, 9)
    q, k = (part.requires_grad_() for part in z.split(12, dim=-1))
    leaves = [q, k, v.transpose(0, 1).requires_grad_(), torch.randn(39).requires_grad_()]
    upstream = torch.randn(1, 1, 9).expand(3, 20, 9)
    assert_same(leaves, None, False, "softmax", upstream)
    flipped = [q, k, torch.randn(3, 9, 20).transpose(1, 2).requires_grad_(), leaves[3]]
    assert_same(flipped, None, True, "laplace", upstream)


@ACTIVATIONS
def test_dropout_is_the_same_forward_and_backward(
    activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v, line = drawn(40, 40, 8, 12, sequences=2)
    seed = torch.tensor([7])
    monkeypatch.setattr(gated, "fresh_seed", lambda device: seed)
    monkeypatch.setattr(gated, "_ROWS", 24)
    nothing, one = torch.zeros(2, 40, 8), torch.eye(40).expand(2, 40, 40)
    mask, upstream = padding("right", 40, sequences=2), torch.randn(2, 40, 12)
    with backend("triton"):
        # of equal weights, each 1/40, the draws are left
        even = gated_attention(nothing, nothing, one, torch.zeros(79), None, False, "softmax", 0.4)
        out = gated_attention(q, k, v, line, mask, True, activation, 0.4)
        found = torch.autograd.grad(out, (q, k, v, line), upstream)
    factor = even * 40
    assert not torch.equal(factor[0], factor[1])
    torch.testing.assert_close(factor, factor.gt(0).float() / 0.6)
    assert abs(float(factor.mean()) - 1) < 5 * (0.4 / 0.6 / factor.numel()) ** 0.5
    weights = gated_weights(q, k, by_pairs(line, 40, 40), mask, True, activation)
    expected_out = (weights * factor) @ v
    torch.testing.assert_close(out, expected_out, rtol=1e-4, atol=1e-5)
    expected = torch.autograd.grad(expected_out, (q, k, v, line), upstream)
    for actual, truth in zip(found, expected, strict=True):
        scale = float(truth.abs().max())
        torch.testing.assert_close(actual, truth, rtol=1e-5, atol=1e-5 * scale)


def test_results_repeat_bit_for_bit() -> None:
    leaves, upstream = drawn(40, 50, 8, 20), torch.randn(3, 40, 20)
    with backend("triton"):
        first, second = (
            with_gradients(leaves, padding("left", 50), False, "softmax", upstream)
            for _ in range(2)
        )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    q, k, v, line = drawn(5, 6, 4, 3)
    with backend("triton"):
        gated_attention(q.detach(), k, v, line.detach(), None, False, "softmax").sum().backward()
    assert q.grad is None and line.grad is None
    assert k.grad is not None and v.grad is not None


def test_what_the_kernels_cannot_do_is_done_by_torch() -> None:
    q, k, v, line = (leaf.detach().double() for leaf in drawn(5, 6, 4, 3))
    expected = gated_attention(q, k, v, line, None, False, "softmax")
    with backend("triton"):
        assert torch.equal(gated_attention(q, k, v, line, None, False, "softmax"), expected)
        empty = gated_attention(q[:0], k[:0], v[:0], line, None, False, "laplace")
    assert empty.shape == (0, 5, 3)


def test_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    q, k, v, line = drawn(2, 2, 2, 2)
    with backend("triton"), pytest.raises(SeqAttnError, match="needs a GPU"):
        gated_attention(q, k, v, line, None, False, "softmax")


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("mega", {"attention_activation_fn": "laplace", "rel_pos_bias": "rotary"}),
        ("mega_chunk", {}),
    ],
)
def test_models_agree(
    variant: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = mock.Mock(side_effect=gated.gated_attention)
    monkeypatch.setattr(gated, "gated_attention", kernel)
    model = small_model(variant, encoder_layers=1, decoder_layers=1, **options)
    results = []
    for name in ("torch", "triton"):
        model.zero_grad()
        with backend(name):
            out, _ = model(batch([9, 5, 1]), None, shifted([7, 8, 2]))
            out.square().mean().backward()
        results.append([out.detach(), *gradients(model)])
    assert kernel.call_count == 3  # encoder, decoder and cross-attention
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)
