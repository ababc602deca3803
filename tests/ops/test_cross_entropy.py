"""The chunked cross entropy against fairseq's, a naive R-Drop, its own reference and float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops import cross_entropy
from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.cross_entropy import LossOptions, LossSums, projected_cross_entropy

N, C, V, PAD = 23, 6, 19, 1
EXACT = 1e-10


@pytest.fixture(autouse=True)
def _several_chunks(monkeypatch) -> None:
    monkeypatch.setattr(cross_entropy, "_CHUNK", {"cpu": 1})
    monkeypatch.setattr(cross_entropy, "_LEAST_TOKENS", 7)


def _inputs(copies: int = 1, bias: bool = False, dtype: torch.dtype = torch.float64) -> list[Any]:
    """Return features, weight, bias and targets with padding at both ends and within."""
    shapes = [(copies, N, C), (V, C), *([(V,)] if bias else [])]
    leaves: list[Any] = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    target = torch.randint(PAD + 1, V, (N,))
    target[[0, 1, 9, -1]] = PAD
    return [*leaves[:2], leaves[2] if bias else None, target]


def _sums(inputs: list[Any], options: LossOptions) -> LossSums:
    features, weight, bias, target = inputs
    return projected_cross_entropy(features, weight, bias, target, options)


def _gradients(loss: Tensor, inputs: list[Any]) -> list[Tensor]:
    leaves = [leaf for leaf in inputs[:3] if leaf is not None and leaf.requires_grad]
    return list(torch.autograd.grad(loss, leaves))


def _close(found: Tensor, wanted: Tensor, tolerance: float = EXACT) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def _fairseqs(inputs: list[Any], smoothing: float, reduce: bool = True) -> tuple[Tensor, Tensor]:
    features, weight, bias, target = inputs
    lprobs = F.log_softmax(F.linear(features[0], weight, bias), dim=-1)
    loss, nll = label_smoothed_nll_loss(lprobs, target, smoothing, PAD, reduce)
    return loss, nll


@pytest.mark.parametrize("form", ["reference", "torch"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9999])
def test_it_is_fairseqs(smoothing, bias, form) -> None:
    inputs = _inputs(bias=bias)
    loss, nll = _fairseqs(inputs, smoothing)
    with backend(form):
        sums = _sums(inputs, LossOptions(smoothing, PAD))
    _close(sums.loss, loss)
    _close(sums.nll, nll.detach())
    for mine, theirs in zip(
        _gradients(3 * sums.loss, inputs), _gradients(3 * loss, inputs), strict=True
    ):
        _close(mine, theirs)


def _naive_rdrop(inputs: list[Any], smoothing: float, alpha: float) -> Tensor:
    """Equation 4, one token at a time."""
    features, weight, bias, target = inputs
    total = torch.zeros((), dtype=features.dtype)
    for n in range(N):
        if target[n] == PAD:
            continue
        first, second = (F.linear(features[k, n], weight, bias).softmax(-1) for k in range(2))
        for p in (first, second):
            others = [v for v in range(V) if v != target[n]]
            total = total - (1 - smoothing) * p[target[n]].log()
            total = total - smoothing / (V - 1) * p[others].log().sum()
        there = (first * (first / second).log()).sum()
        back = (second * (second / first).log()).sum()
        total = total + alpha * (there + back) / 2
    return total


@pytest.mark.parametrize("form", ["reference", "torch"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("smoothing", "alpha"), [(0.0, 5.0), (0.1, 5.0), (0.1, 0.3), (0.1, 0.0)])
def test_two_copies_are_r_drop(smoothing, alpha, bias, form) -> None:
    inputs = _inputs(2, bias)
    loss = _naive_rdrop(inputs, smoothing, alpha)
    with backend(form):
        sums = _sums(inputs, LossOptions(smoothing, PAD, alpha))
    _close(sums.loss, loss)
    plain = [_fairseqs([copy[None], *inputs[1:]], smoothing)[1] for copy in inputs[0]]
    _close(sums.nll, torch.stack(plain).mean().detach())
    unweighted = _naive_rdrop(inputs, smoothing, 1.0) - _naive_rdrop(inputs, smoothing, 0.0)
    _close(sums.divergence, unweighted.detach())
    for mine, theirs in zip(_gradients(sums.loss, inputs), _gradients(loss, inputs), strict=True):
        _close(mine, theirs)


@pytest.mark.parametrize("copies", [1, 2])
def test_gradients_are_those_of_the_loss(copies) -> None:
    *leaves, target = _inputs(copies, bias=True)
    options = LossOptions(0.1, PAD, 2.0)

    def loss(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return projected_cross_entropy(features, weight, bias, target, options).loss

    torch.autograd.gradcheck(loss, leaves, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("form", ["reference", "torch"])
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("tokens", [0, N])
def test_nothing_but_padding_gives_nothing(tokens, copies, form) -> None:
    features, weight, bias, target = _inputs(copies, bias=True)
    inputs = [features[:, :tokens], weight, bias, target[:tokens].fill_(PAD)]
    with backend(form):
        sums = _sums(inputs, LossOptions(0.1, PAD, 5.0, accuracy=True))
    assert [float(value.detach()) for value in sums] == [0.0] * 5
    for gradient in torch.autograd.grad(sums.loss, [features, weight, bias]):
        assert not gradient.any()


@pytest.mark.parametrize("frozen", range(3))
def test_what_is_frozen_gets_no_gradient(frozen) -> None:
    inputs = _inputs(bias=True)
    wanted = _gradients(_fairseqs(inputs, 0.1)[0], inputs)
    inputs[frozen].requires_grad_(False)
    sums = _sums(inputs, LossOptions(0.1, PAD))
    sums.loss.backward()
    assert inputs[frozen].grad is None
    for place in {0, 1, 2} - {frozen}:
        _close(inputs[place].grad, wanted[place])


def test_without_gradients_none_are_made(monkeypatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a gradient was made")

    monkeypatch.setattr(cross_entropy._Chunks, "_propagate", refuse)
    with torch.no_grad():
        inputs = _inputs()
        loss = _sums(inputs, LossOptions(0.1, PAD)).loss
    _close(loss, _fairseqs(inputs, 0.1)[0].detach())


def test_a_second_backward_pass_gives_the_same() -> None:
    inputs = _inputs()
    sums = _sums(inputs, LossOptions(0.1, PAD))
    first, second = (
        torch.autograd.grad(factor * sums.loss, inputs[:2], retain_graph=True)
        for factor in (1.0, 2.0)
    )
    for once, twice in zip(first, second, strict=True):
        _close(2 * once, twice)


def test_gradients_of_gradients_are_refused() -> None:
    inputs = _inputs()
    loss = _sums(inputs, LossOptions(0.1, PAD)).loss
    with pytest.raises(SeqAttnError, match="SEQATTN_BACKEND=reference"):
        torch.autograd.grad(loss, [inputs[0]], create_graph=True)


@pytest.mark.parametrize("form", ["reference", "torch"])
def test_every_token_by_itself(form) -> None:
    inputs = _inputs(bias=True)
    loss, nll = _fairseqs(inputs, 0.1, reduce=False)
    options = LossOptions(0.1, PAD, reduce=False)
    with backend(form):
        sums = _sums(inputs, options)
        with torch.no_grad():
            watched = _sums(inputs, options)
    for found in (sums, watched):
        _close(found.loss, loss.squeeze(-1))
        _close(found.nll, nll.detach().squeeze(-1))
    share = torch.randn(N, dtype=torch.float64)
    mine = _gradients(sums.loss @ share, inputs)
    theirs = _gradients(loss.squeeze(-1) @ share, inputs)
    for gradient, wanted in zip(mine, theirs, strict=True):
        _close(gradient, wanted)


@pytest.mark.parametrize("form", ["reference", "torch"])
@pytest.mark.parametrize("copies", [1, 2])
def test_accuracy_counts_the_first_choices(copies, form) -> None:
    inputs = _inputs(copies)
    with torch.no_grad():
        inputs[0] += 2 * inputs[1][inputs[3]]  # so that some are right
        first = (inputs[0] @ inputs[1].t()).argmax(-1)
    right = first.eq(inputs[3]) & inputs[3].ne(PAD)
    assert 0 < right.sum() < right.numel()
    with backend(form):
        sums = _sums(inputs, LossOptions(0.1, PAD, accuracy=True))
    assert sums.correct == right.sum()
    assert sums.total == copies * inputs[3].ne(PAD).sum()


def test_a_tied_weight_gets_both_gradients() -> None:
    _, weight, _, target = _inputs()
    tokens = torch.randint(V, (N,))

    def features() -> Tensor:
        return F.embedding(tokens, weight)[None]

    loss, _ = _fairseqs([features(), weight, None, target], 0.1)
    sums = projected_cross_entropy(features(), weight, None, target, LossOptions(0.1, PAD))
    for mine, theirs in zip(
        torch.autograd.grad(sums.loss, [weight]), torch.autograd.grad(loss, [weight]), strict=True
    ):
        _close(mine, theirs)


class _Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("copies", [1, 2])
def test_the_logits_never_exist(copies) -> None:
    inputs = _inputs(copies)
    with _Largest() as largest:
        _sums(inputs, LossOptions(0.1, PAD, 5.0)).loss.backward()
    assert largest.elements < N * V
    with backend("reference"), _Largest() as largest:
        _sums(inputs, LossOptions(0.1, PAD, 5.0)).loss.backward()
    assert largest.elements >= N * V


@pytest.mark.parametrize("copies", [1, 2])
def test_a_chunk_holds_the_logits_of_all_copies(copies, monkeypatch) -> None:
    monkeypatch.setattr(cross_entropy, "_CHUNK", {"cpu": 10 * V})
    monkeypatch.setattr(cross_entropy, "_LEAST_TOKENS", 1)
    sizes: list[int] = []
    original = cross_entropy._Chunks._logits

    def watched(self: Any, x: Tensor) -> Tensor:
        sizes.append(len(x))
        return original(self, x)

    monkeypatch.setattr(cross_entropy._Chunks, "_logits", watched)
    _sums(_inputs(copies), LossOptions(0.1, PAD, 5.0))
    assert max(sizes) == 10
    assert sum(sizes) == copies * (N - 4)


# ---- half precision ----------------------------------------------------------------------------


def _errors(sums: LossSums, gradients: list[Tensor], truth: list[Tensor]) -> list[float]:
    found = [sums.loss.detach(), *gradients]
    return [
        float((got.double() - true).abs().max() / true.abs().max())
        for got, true in zip(found, truth, strict=True)
    ]


def _half_errors(form: str, dtype: torch.dtype, copies: int, scale: float) -> list[float]:
    torch.manual_seed(4)
    inputs = _inputs(copies, bias=True, dtype=dtype)
    options = LossOptions(0.1, PAD, 5.0)
    wide = [*(leaf.detach().double().requires_grad_() for leaf in inputs[:3]), inputs[3]]
    with backend("reference"):
        exact = _sums(wide, options)
    truth = [exact.loss.detach(), *_gradients(exact.loss * scale, wide)]
    with backend(form):
        sums = _sums(inputs, options)
    assert sums.loss.dtype == torch.float32
    gradients = _gradients(sums.loss * scale, inputs)
    assert {gradient.dtype for gradient in gradients} == {dtype}
    return _errors(sums, gradients, truth)


@pytest.mark.parametrize("scale", [1.0, 2.0**-9, 2.0**7])
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errs_no_more_than_plain_torch(dtype, copies, scale) -> None:
    plain = _half_errors("reference", dtype, copies, scale)
    mine = _half_errors("torch", dtype, copies, scale)
    for error, allowed in zip(mine, plain, strict=True):
        assert error <= 2 * allowed


def _wide_product(a: Tensor, b: Tensor) -> Tensor:
    """What a GPU's product of halves that comes out in float32 computes."""
    return a.float() @ b.float()


@pytest.fixture
def _as_on_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr(cross_entropy, "_operand_dtype", lambda features, weight: weight.dtype)
    monkeypatch.setattr(cross_entropy, "_product", _wide_product)


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_of_halves_err_no_more_than_plain_torch(dtype, copies) -> None:
    plain = _half_errors("reference", dtype, copies, 1.0)
    mine = _half_errors("torch", dtype, copies, 1.0)
    for error, allowed in zip(mine, plain, strict=True):
        assert error <= 2 * allowed


@pytest.mark.skipif(
    not cross_entropy._WIDE_PRODUCTS, reason="this torch widens before it multiplies"
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_of_halves_come_out_in_float32(dtype) -> None:
    a, b = (torch.empty(shape, dtype=dtype, device="meta") for shape in ((3, 4), (4, 5)))
    product = cross_entropy._product(a, b)
    assert product.dtype == torch.float32
    assert product.shape == (3, 5)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrowed_values_keep_their_digits(dtype, size) -> None:
    values = size * torch.randn(8, 9)
    narrow, unscale = cross_entropy._narrowed(values, dtype)
    assert narrow.dtype == dtype
    digits = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-10
    torch.testing.assert_close(narrow.float() * unscale, values, rtol=digits, atol=0)


def test_narrowed_zeros_are_zeros() -> None:
    narrow, unscale = cross_entropy._narrowed(torch.zeros(2, 3), torch.float16)
    assert not (narrow.float() * unscale).any()
    assert unscale.isfinite()


def test_narrowed_values_next_to_nothing_stay_finite() -> None:
    narrow, unscale = cross_entropy._narrowed(torch.full((2, 3), 1e-40), torch.float16)
    assert (narrow.float() * unscale).isfinite().all()


def test_the_loss_scale_keeps_small_gradients_in_half_precision() -> None:
    """Of a token that is all but learnt: far below what float16 holds, were it not for the scale"""
    torch.manual_seed(4)
    scale = 2.0**14
    wide: list[Any] = [torch.randn(1, N, C), 2.0**-10 * torch.randn(V, C), torch.zeros(V)]
    wide[2][V - 1] = 12.0
    half = [values.half().requires_grad_() for values in wide]
    target = torch.full((N,), V - 1)
    (found,) = torch.autograd.grad(
        scale * _sums([*half, target], LossOptions(0.0, PAD)).loss, half[:1]
    )
    exact = [values.detach().double().requires_grad_() for values in half]
    (wanted,) = torch.autograd.grad(scale * _fairseqs([*exact, target], 0.0)[0], exact[:1])
    assert wanted.abs().max() < scale * 2.0**-22
    _close(found.double() / wanted.abs().max(), wanted / wanted.abs().max(), 0.01)


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_sums_over_the_vocabulary_do_not_overflow_in_float16() -> None:
    features, weight, bias = torch.full((1, N, C), 2.0**-12), torch.randn(V, C), torch.randn(V)
    leaves = [features.half(), (4000 + weight).half(), (4000 + bias).half()]
    target = torch.full((N,), V - 1)
    sums = _sums([*leaves, target], LossOptions(0.1, PAD))
    wanted, _ = _fairseqs([*(leaf.double() for leaf in leaves), target], 0.1)
    _close(sums.loss.double(), wanted, 1e-4)


def test_autocast_leaves_float64_alone() -> None:
    inputs = _inputs(bias=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = _sums(inputs, LossOptions(0.1, PAD)).loss
    _close(loss, _fairseqs(inputs, 0.1)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_loses_nothing(dtype) -> None:
    inputs = _inputs(bias=True, dtype=torch.float32)
    options = LossOptions(0.1, PAD)
    plain = _sums(inputs, options).loss
    with torch.autocast("cpu", dtype):
        cast = _sums(inputs, options).loss
    assert torch.equal(plain, cast)
    for mine, theirs in zip(_gradients(cast, inputs), _gradients(plain, inputs), strict=True):
        assert torch.equal(mine, theirs)


def test_weights_of_another_precision_keep_theirs() -> None:
    features, weight, bias, target = _inputs(bias=True, dtype=torch.float32)
    half = features.detach().bfloat16().requires_grad_()
    loss = projected_cross_entropy(half, weight, bias, target, LossOptions(0.1, PAD)).loss
    gradients = _gradients(loss, [half, weight, bias])
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, *[torch.float32] * 2]
