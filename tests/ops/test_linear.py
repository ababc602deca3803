"""Linear maps by oneDNN: the same numbers, and torch's own wherever it is not for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from seqattn_fairseq.ops import linear as module
from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.linear import joined, linear, onednn_is_faster, product
from seqattn_fairseq.transformer.linear import Linear


@pytest.fixture(autouse=True)
def calls(monkeypatch) -> list[tuple[int, ...]]:
    """oneDNN for all sizes, on any machine whose torch has it; shapes that were its."""
    seen: list[tuple[int, ...]] = []
    original = module._onednn

    def watched(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append((*x.shape, len(weight)))
        there = torch.backends.mkldnn.is_available()
        return original(x, weight, bias) if there else F.linear(x, weight, bias)

    monkeypatch.setattr(module, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(module, "_LEAST_WORK", 1)
    monkeypatch.setattr(module, "_onednn", watched)
    return seen


def _outputs(x: Tensor, weight: Tensor, bias: Tensor | None, d_y: Tensor) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias) if t is not None]
    y = linear(*leaves)
    return [y, *torch.autograd.grad(y, leaves, d_y)]


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(7, 16), (2, 5, 16), (1, 1, 16), (3, 2, 1, 16), (0, 16)])
def test_values_and_gradients(shape, with_bias, calls) -> None:
    x, weight, d_y = torch.randn(shape), torch.randn(9, 16), torch.randn(*shape[:-1], 9)
    bias = torch.randn(9) if with_bias else None
    found = _outputs(x, weight, bias, d_y)
    assert len(calls) == (3 if x.numel() else 0)
    exact_bias = None if bias is None else bias.double()
    with backend("reference"):
        expected = _outputs(x.double(), weight.double(), exact_bias, d_y.double())
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def test_arguments_that_are_parts_of_others() -> None:
    wide, weight, d_y = torch.randn(6, 3, 40), torch.randn(30, 12)[::2], torch.randn(3, 6, 15)
    for x in (wide[..., 4:16].transpose(0, 1), wide[::2, :, :12].expand(3, 3, 12)[:, :1]):
        d = d_y[: x.size(0), : x.size(1)]
        found = _outputs(x, weight, None, d)
        expected = _outputs(x.double(), weight.double(), None, d.double())
        for got, want in zip(found, expected, strict=True):
            torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def test_onednn_gets_no_part_of_a_wider_matrix() -> None:
    wide = torch.randn(6, 9)
    for part in (wide[:, :4], wide[:, 2:].t(), wide[::2]):
        dense = module._dense(part)
        assert torch.equal(dense, part) and dense.is_contiguous()
    for whole in (wide, wide.t()):
        assert module._dense(whole) is whole


def test_only_the_gradients_that_are_needed_are_computed(calls) -> None:
    weight = torch.randn(4, 3, requires_grad=True)
    linear(torch.randn(2, 3), weight).sum().backward()
    assert len(calls) == 2
    with torch.no_grad():
        assert not linear(torch.randn(2, 3), weight).requires_grad


def test_it_can_be_differentiated_twice() -> None:
    x, weight = torch.randn(5, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)

    def penalty(function: Any) -> Tensor:
        d_x = torch.autograd.grad(function(x, weight).square().sum(), x, create_graph=True)[0]
        return torch.autograd.grad(d_x.square().sum(), weight)[0]

    torch.testing.assert_close(penalty(linear), penalty(F.linear), rtol=1e-4, atol=1e-4)


def test_several_maps_in_one_product(calls) -> None:
    x = torch.randn(3, 7, 6)
    weights, biases = [torch.randn(n, 6) for n in (4, 1, 9)], [torch.randn(n) for n in (4, 1, 9)]
    found = joined(x, weights, biases)
    assert calls == [(21, 6, 14)]
    for got, weight, bias in zip(found, weights, biases, strict=True):
        torch.testing.assert_close(got, F.linear(x, weight, bias))


def test_products_of_matrices() -> None:
    a, b = torch.randn(7, 5), torch.randn(5, 6)
    torch.testing.assert_close(product(a, b), a @ b)
    torch.testing.assert_close(product(b.t(), a.t()), (a @ b).t())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_torchs(dtype, calls) -> None:
    x, weight = torch.randn(3, 4, dtype=dtype), torch.randn(2, 4, dtype=dtype)
    assert linear(x, weight).equal(F.linear(x, weight))
    assert not calls


def test_autocast_and_counting_are_torchs(calls) -> None:
    x, weight = torch.randn(3, 4), torch.randn(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    with FlopCounterMode(display=False) as counter:
        linear(x, weight)
    assert counter.get_total_flops() == 2 * 3 * 4 * 2
    assert not calls


def test_small_products_are_torchs(calls, monkeypatch) -> None:
    monkeypatch.setattr(module, "_LEAST_WORK", 3 * 4 * 5)
    linear(torch.randn(3, 4), torch.randn(4, 4))
    assert not calls
    linear(torch.randn(3, 4), torch.randn(5, 4))
    assert calls == [(3, 4, 5)]


@pytest.mark.parametrize(
    ("capability", "maker", "faster"),
    [
        ("AVX512", "AuthenticAMD", True),
        ("AVX2", "AuthenticAMD", False),
        ("AVX512", "GenuineIntel", False),
    ],
)
def test_machines_whose_torch_has_a_quicker_library(
    capability, maker, faster, monkeypatch, tmp_path
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"vendor_id\t: {maker}\n")
    monkeypatch.setattr(module, "_CPU_INFO", info)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    there = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    assert onednn_is_faster.__wrapped__() == (faster and there)
    info.unlink()  # as on systems that are no Linux
    assert not onednn_is_faster.__wrapped__()


def test_the_module_is_torchs_with_other_products(calls) -> None:
    ours, stock = Linear(6, 5), nn.Linear(6, 5)
    ours.load_state_dict(stock.state_dict())
    assert isinstance(ours, nn.Linear)
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(copy.deepcopy(ours)(x), stock(x))
    assert calls == [(6, 6, 5)]
