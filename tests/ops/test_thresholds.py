"""Thresholds without sorting, and ReLA in tiles, against the references, gradients included."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.ops import rela_blocks, thresholds
from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.rela import rela_attention
from seqattn_fairseq.ops.sparse import FORMS

INF = float("inf")
# one score, odd lengths, more rows than a block has, k among the few and beyond
SHAPES = [(3, 1), (5, 27), (40, 131), (9, 512)]
MAPS = ["sparsemax", "entmax15", "top-1", "top-8", "top-24", "top-share"]


def form(name: str, kind: str, rows: int) -> Callable[[Tensor], Tensor]:
    if not name.startswith("top-"):
        return FORMS[name][kind]
    shares = torch.arange(1, rows + 1).unsqueeze(-1)
    k = shares if name == "top-share" else torch.tensor([[int(name.removeprefix("top-"))]])
    return lambda z: FORMS["top-k"][kind](z, k)


def scores(rows: int, width: int, spread: float) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    z = spread * torch.randn(rows, width, generator=generator, dtype=torch.double)
    if width > 1:
        z[0, width // 2 :] = -INF
        z[-1] = -INF
        z[1] = 0.5  # ties only
        z[1, 0] = 2.0
    return z.requires_grad_()


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "_BLOCK", 700)
    monkeypatch.setattr(rela_blocks, "_NUMBERS", 700)
    monkeypatch.setattr(rela_blocks, "_QUERIES", 50)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MAPS[:-1])
def test_a_row_does_not_tell_of_the_rows_beside_it(name: str, dtype: torch.dtype) -> None:
    """Not even in its last bit: a future query would show in a past one."""
    z = torch.cat([scores(40, 131, spread) for spread in (0.01, 1.0, 30.0)]).detach().to(dtype)
    together = form(name, "torch", len(z))(z)
    for row in range(0, len(z), 7):
        assert torch.equal(form(name, "torch", 1)(z[row : row + 1])[0], together[row])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_maps_equal_their_references(name: str, shape: tuple[int, int], spread: float) -> None:
    z = scores(*shape, spread)
    alive = ~z.detach().isneginf()
    weights = torch.randn(shape, dtype=torch.double)
    results = []
    for kind in ("torch", "reference"):
        p = form(name, kind, shape[0])(z)
        (grad,) = torch.autograd.grad((p * weights).sum(), z)
        results.append((p, grad))
    (p, grad), (p_reference, grad_reference) = results
    torch.testing.assert_close(p, p_reference, rtol=0, atol=1e-12)
    assert grad.isfinite().all()
    # of hidden scores the references' gradients need not be numbers
    torch.testing.assert_close(grad[alive], grad_reference[alive], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", MAPS)
def test_gradcheck(name: str) -> None:
    z = torch.randn(6, 30, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(form(name, "torch", 6), (z,), atol=1e-6)


@pytest.mark.parametrize("q", [1, 2])
def test_rows_that_lose_one_score_at_a_time(q: int) -> None:
    """Steep and flat rows: the worst for steps from the left."""
    ladder = -torch.logspace(-12, 3, 600, base=2, dtype=torch.double)
    z = torch.stack([ladder, ladder * 1e-6, torch.zeros_like(ladder), ladder.flip(0)])
    p = thresholds.simplex_map(z, q)
    torch.testing.assert_close(p.sum(-1), torch.ones(4, dtype=torch.double), rtol=0, atol=1e-11)
    low = thresholds.simplex_map(z.float(), q)
    torch.testing.assert_close(low.double(), p, rtol=0, atol=1e-5)


def test_what_is_not_a_number_stays_in_its_row() -> None:
    z = torch.randn(3, 40)
    z[1, 4] = float("nan")
    for q in (1, 2):
        p = thresholds.simplex_map(z, q)
        assert p[1].isnan().any()
        torch.testing.assert_close(p[[0, 2]], thresholds.simplex_map(z[[0, 2]], q))


def test_no_rows() -> None:
    for name in ("sparsemax", "entmax15", "top-8"):
        assert form(name, "torch", 0)(torch.ones(0, 4)).shape == (0, 4)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("padded", [False, True], ids=["dense", "padded"])
@pytest.mark.parametrize(
    ("shape", "causal"),
    [((n, s), c) for n, s in ((260, 260), (131, 300), (48, 520)) for c in (False, True)]
    + [((300, 256), False)],  # a causal attention has no more queries than keys
    ids=str,
)
def test_long_rela(shape: tuple[int, int], padded: bool, causal: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(2, 3, n, 4, generator=generator, dtype=torch.double).requires_grad_()
        for n in (shape[0], shape[1], shape[1])
    )
    assert rela_blocks.fits(q, k)
    mask = torch.zeros(2, shape[1], dtype=torch.bool)
    mask[0, : shape[1] // 2] = True
    run = partial(rela_attention, q, k, v, mask if padded else None, causal)
    fast = run()
    weights = torch.randn_like(fast)
    grads = torch.autograd.grad((fast * weights).sum(), (q, k, v))
    with backend("reference"):
        slow = run()
    exact = torch.autograd.grad((slow * weights).sum(), (q, k, v))
    torch.testing.assert_close((fast, *grads), (slow, *exact), rtol=1e-9, atol=1e-10)


def test_half_precision_and_autocast_take_the_whole_scores() -> None:
    q = torch.randn(1, 1, 300, 4)
    assert rela_blocks.fits(q, q)
    assert not rela_blocks.fits(q.bfloat16(), q.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not rela_blocks.fits(q, q)
