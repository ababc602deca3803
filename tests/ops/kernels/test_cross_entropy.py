"""The loss kernel against plain formulas: scores, hits, gradients, in place and apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.ops import cross_entropy
from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.cross_entropy import LossOptions, projected_cross_entropy

pytest.importorskip("triton")

from seqattn_fairseq.ops.kernels.cross_entropy import score_rows

PAD = 1


@pytest.mark.parametrize("vocabulary", [2, 31, 64, 5000])
@pytest.mark.parametrize("with_counts", [False, True])
def test_rows_are_scored(vocabulary, with_counts) -> None:
    logits = torch.randn(7, vocabulary) * 5
    logits[2] += 1000  # sums that overflow unless the largest is taken off first
    logits[3, : vocabulary // 2] = -torch.inf
    labels = torch.randint(vocabulary // 2, vocabulary, (7,))
    labels[1] = logits[1].argmax()
    counts = torch.tensor([True, False, True, True, True, False, True])
    gradient = torch.full_like(logits, torch.nan)
    given = counts if with_counts else None
    nll, log_total, best = score_rows(logits, labels, given, 0.8, gradient)
    exact = logits.double()
    torch.testing.assert_close(log_total.double(), exact.logsumexp(1), rtol=1e-6, atol=1e-6)
    lprobs = exact.log_softmax(1)
    expected = -lprobs.gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(nll.double(), expected, rtol=1e-5, atol=1e-5)
    assert best.equal(logits.argmax(1))
    d = lprobs.exp().scatter_add(1, labels[:, None], torch.full((7, 1), -0.8).double())
    d = d * counts[:, None] if with_counts else d
    torch.testing.assert_close(gradient.double(), d, rtol=1e-5, atol=1e-6)
    kept = logits.clone()
    score_rows(logits, labels, given, 0.8, logits)
    assert logits.equal(gradient)
    narrow = torch.empty(7, vocabulary, dtype=torch.bfloat16)
    score_rows(kept, labels, given, 0.8, narrow)
    torch.testing.assert_close(narrow.double(), d, rtol=2**-7, atol=1e-5)


def test_of_equal_logits_the_first_is_the_best() -> None:
    logits = torch.zeros(2, 9000)
    logits[1, [4500, 8999]] = 3.0
    best = score_rows(logits, torch.zeros(2, dtype=torch.long), None, 1.0, None)[2]
    assert best.tolist() == [0, 4500]


def _sums(inputs: list[Tensor], target: Tensor, options: LossOptions) -> list[Tensor]:
    features, weight, *bias = inputs
    sums = projected_cross_entropy(features, weight, bias[0] if bias else None, target, options)
    gradients = torch.autograd.grad(3 * sums.loss, inputs)
    return [*sums, *gradients]


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("drops", [True, False], ids=["on a CPU", "elsewhere"])
def test_the_whole_loss(copies, bias, smoothing, drops, monkeypatch) -> None:
    tokens, width, vocabulary = 23, 8, 50
    monkeypatch.setattr(cross_entropy, "_CHUNK", {"cpu": 5 * vocabulary})
    monkeypatch.setattr(cross_entropy, "_LEAST_TOKENS", 2)
    monkeypatch.setattr(cross_entropy, "_can_look_at", lambda tensor: drops)
    target = torch.randint(2, vocabulary, (tokens,))
    target[[0, 5, 6, 22]] = PAD
    shapes = [(copies, tokens, width), (vocabulary, width), *([(vocabulary,)] * bias)]
    inputs = [torch.randn(shape).requires_grad_() for shape in shapes]
    options = LossOptions(smoothing, PAD, 5.0, accuracy=True)
    with backend("reference"):
        exact = _sums([i.detach().double().requires_grad_() for i in inputs], target, options)
    for name in ("torch", "triton"):
        with backend(name):
            found = _sums(inputs, target, options)
        for got, want in zip(found, exact, strict=True):
            torch.testing.assert_close(got.double(), want.double(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("drops", [True, False])
def test_nothing_but_padding(drops, monkeypatch) -> None:
    monkeypatch.setattr(cross_entropy, "_can_look_at", lambda tensor: drops)
    inputs = [torch.randn(1, 4, 8).requires_grad_(), torch.randn(9, 8).requires_grad_()]
    target = torch.full((4,), PAD)
    for name in ("torch", "triton"):
        with backend(name):
            assert all(not bool(t.any()) for t in _sums(inputs, target, LossOptions(0.1, PAD)))


def test_tokens_keep_their_places(monkeypatch) -> None:
    monkeypatch.setattr(cross_entropy, "_can_look_at", lambda tensor: False)
    features, weight = torch.randn(1, 6, 8), torch.randn(9, 8)
    target = torch.tensor([4, PAD, 3, PAD, 2, 5])
    options = LossOptions(0.1, PAD, reduce=False)
    with backend("reference"):
        expected = projected_cross_entropy(features, weight, None, target, options)
    for name in ("torch", "triton"):
        with backend(name):
            found = projected_cross_entropy(features, weight, None, target, options)
        torch.testing.assert_close(found.loss, expected.loss)
        torch.testing.assert_close(found.nll, expected.nll)
