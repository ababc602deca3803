"""The kernels of the moving average against its reference: chunks, padding, lags, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.ema import ema, ema_coefficients
from seqattn_fairseq.ops.kernels import ema as kernels


def parameters(channels: int, states: int, both: bool) -> list[Tensor]:
    """Return delta, alpha, beta, gamma, omega."""
    rows = channels * (2 if both else 1)
    shapes = [(rows, states, 1)] * 3 + [(rows, states), (channels,)]
    return [torch.randn(shape).requires_grad_() for shape in shapes]


def run(x: Tensor, leaves: list[Tensor], mask: Tensor | None, truncation: int) -> list[Tensor]:
    *parts, omega = leaves
    out = ema(x, ema_coefficients(*parts), omega, mask, truncation)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), [x, *leaves])]


def compare(x: Tensor, leaves: list[Tensor], mask: Tensor | None = None, lags: int = 0) -> None:
    with backend("triton"):
        actual = run(x, leaves, mask, lags)
    with backend("reference"):
        expected = run(x, leaves, mask, lags)
    for one, other in zip(actual, expected, strict=True):
        largest = max(1.0, other.abs().max().item())
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize("truncation", [0, 3], ids=["all", "truncated"])
@pytest.mark.parametrize("both", [False, True], ids=["causal", "both"])
@pytest.mark.parametrize("length", [1, 4, 10])
def test_kernels_equal_the_reference(
    length: int, both: bool, truncation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_CHUNK", 4)
    mask = torch.zeros(2, length, dtype=torch.bool)
    mask[0, length - length // 3 :] = True
    mask[1, : length // 2] = True
    x = torch.randn(2, length, 5).requires_grad_()
    compare(x, parameters(5, 3, both), mask, truncation)


@pytest.mark.parametrize(("channels", "states"), [(66, 16), (3, 20)])
def test_more_channels_than_a_program_and_numbers_of_states(channels: int, states: int) -> None:
    compare(torch.randn(2, 5, channels).requires_grad_(), parameters(channels, states, both=True))


def test_views_are_read_as_they_lie() -> None:
    x = torch.randn(6, 2, 11)[..., 3:10].transpose(0, 1).requires_grad_()
    compare(x, parameters(7, 2, both=True))


def test_a_row_of_padding_alone() -> None:
    mask = torch.tensor([[True] * 4, [False] * 4])
    compare(torch.randn(2, 4, 3).requires_grad_(), parameters(3, 2, both=True), mask)


def test_the_past_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_CHUNK", 4)
    x, (*parts, omega) = torch.randn(1, 11, 3), parameters(3, 2, both=False)
    changed = x.clone()
    changed[:, 6:] = 7.0
    with backend("triton"):
        before, after = (ema(s, ema_coefficients(*parts), omega) for s in (x, changed))
    assert torch.equal(before[:, :6], after[:, :6])


def test_what_no_kernel_does_works_all_the_same() -> None:
    *parts, omega = parameters(3, kernels.MOST_STATES + 1, both=True)
    with backend("triton"):
        assert ema(torch.randn(2, 4, 3), ema_coefficients(*parts), omega).shape == (2, 4, 3)
        wide = [p.double() for p in parts]
        out = ema(torch.randn(2, 4, 3).double(), ema_coefficients(*wide), omega)
        assert out.dtype == torch.float64
        assert ema(torch.randn(0, 4, 3), ema_coefficients(*parts), omega).shape == (0, 4, 3)
