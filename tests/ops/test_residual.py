"""The residual connection and its cheap draws of dropout."""

from __future__ import annotations

import pytest
import torch
from fairseq.modules import FairseqDropout
from torch import Tensor, nn
from torch.nn import functional as F

from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.dropout import drawn, dropout
from seqattn_fairseq.ops.residual import LayerNorm, residual
from seqattn_fairseq.transformer.dropout import Dropout
from seqattn_fairseq.transformer.norms import ScaleNorm
from seqattn_fairseq.transformer.residual import added

SIZES = [(), (1,), (3,), (5, 7), (2, 3, 4), (0, 4)]


@pytest.mark.parametrize("rate", [0.0, 1e-6, 0.1, 0.25, 0.3, 0.5, 0.999, 0.999999])
def test_the_mean_is_kept_exactly(rate) -> None:
    kept, scale = drawn(torch.Size([1000, 1001]), rate)
    probability = 1 / scale
    assert abs(probability - (1 - rate)) <= 2**-16
    deviation = (probability * (1 - probability) / kept.numel()) ** 0.5
    assert abs(float(kept.double().mean()) - probability) <= 5 * deviation


def test_every_step_of_the_probability_is_met() -> None:
    # all 65,536 values of 16 bits are drawn alike: thresholds at any of them cut as they should
    numbers = 2_000_000
    for rate in (1 / 4, 1 / 2, 3 / 4, 1 / 256, 255 / 256):
        torch.manual_seed(3)
        share = 1 - float(drawn(torch.Size([numbers]), rate)[0].double().mean())
        assert abs(share - rate) < 5 * (rate * (1 - rate) / numbers) ** 0.5


def test_neighbours_are_drawn_apart() -> None:
    kept = drawn(torch.Size([200_000]), 0.5)[0].double().sub(0.5).mul(2)
    for distance in (1, 2, 3, 4, 5, 8):
        correlation = float((kept[distance:] * kept[:-distance]).mean())
        assert abs(correlation) < 5 / 200_000**0.5


@pytest.mark.parametrize("shape", SIZES)
def test_dropout_of_any_shape(shape) -> None:
    x = torch.rand(shape).add(1).requires_grad_()
    torch.manual_seed(5)
    y = dropout(x, 0.4)
    torch.manual_seed(5)
    kept, scale = drawn(x.shape, 0.4)
    torch.testing.assert_close(y, x * kept * scale)
    (d_x,) = torch.autograd.grad(y, x, torch.ones_like(y))
    torch.testing.assert_close(d_x, kept * scale)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_are_kept(dtype) -> None:
    x = torch.ones(64, 65, dtype=dtype).t()
    assert dropout(x, 0.5).dtype == dtype
    assert set(dropout(x, 0.5).unique().tolist()) == {0.0, 2.0}
    assert residual(x, x, 0.5).dtype == dtype


def test_all_or_nothing() -> None:
    x = torch.ones(4, 5)
    assert dropout(x, 0.0) is x
    assert not dropout(x, 1.0).any()
    assert residual(x, x, 1.0).equal(x)


def test_draws_follow_torchs_generator() -> None:
    x = torch.ones(32, 32)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = dropout(x, 0.5)
    assert not torch.equal(dropout(x, 0.5), first)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x, 0.5), first)


@pytest.mark.parametrize("form", ["reference", "torch", "triton"])
@pytest.mark.parametrize("shape", [(2, 3, 8), (1, 8), (0, 3, 8)])
def test_without_dropout_it_is_the_formula(form, shape) -> None:
    x, y, weight, bias = (torch.randn(s) for s in (shape, shape, (8,), (8,)))
    with backend(form):
        torch.testing.assert_close(residual(x, y), x + y)
        normed = residual(x, y, norm=LayerNorm(weight, bias, 1e-5))
    torch.testing.assert_close(normed, F.layer_norm(x + y, (8,), weight, bias, 1e-5))


@pytest.mark.parametrize("normed", [False, True])
def test_gradients_are_those_of_what_was_kept(normed) -> None:
    shape = (3, 4, 8)
    leaves = [torch.randn(s, dtype=torch.double) for s in (shape, shape, (8,), (8,))]

    def ours(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        torch.manual_seed(2)
        return residual(x, y, 0.3, LayerNorm(weight, bias, 1e-5) if normed else None)

    torch.manual_seed(2)
    kept, scale = drawn(torch.Size(shape), 0.3)
    total = leaves[0] + leaves[1] * kept * scale
    expected = F.layer_norm(total, (8,), leaves[2], leaves[3]) if normed else total
    torch.testing.assert_close(ours(*leaves), expected)
    used = leaves if normed else leaves[:2]
    unused = leaves[len(used) :]
    inputs = [leaf.requires_grad_() for leaf in used]
    assert torch.autograd.gradcheck(lambda *given: ours(*given, *unused), inputs, fast_mode=True)


@pytest.mark.parametrize(
    "norm", [None, nn.LayerNorm(8), nn.LayerNorm(8, elementwise_affine=False), ScaleNorm(8, 1e-5)]
)
def test_any_norm_of_a_stack(norm) -> None:
    x, y = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    expected = x + y if norm is None else norm(x + y)
    torch.testing.assert_close(added(x, y, Dropout(0.5, "layer").eval(), norm), expected)


def test_a_dropout_of_another_make_is_asked() -> None:
    class Halves(FairseqDropout):
        def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
            return x / 2

    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(added(x, x, Halves(0.5, "layer")), 1.5 * x)


def test_the_module_keeps_dropping_where_fairseq_does() -> None:
    x = torch.ones(20, 20)
    module = Dropout(0.5, module_name="Layer")
    assert module.train()(x).eq(0).any()
    assert module.eval()(x) is x
    module.make_generation_fast_("", retain_dropout=True, retain_dropout_modules=["Other"])
    assert module(x) is x
    module.make_generation_fast_("", retain_dropout=True, retain_dropout_modules=["Layer"])
    assert module(x).eq(0).any()
    assert residual(x, x, 0.5).lt(1.5).any()
