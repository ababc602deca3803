"""What must not matter: padding, the rest of the batch, the future."""

from __future__ import annotations

import pytest
import torch

from tests.support.models import EOS, PAD, batch, shifted, small_model

SOURCE, TARGET = [7, 5, 1, 3], [6, 3, 5, 2]


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_a_sentence_alone_or_in_a_batch(variant, left):
    model = small_model(variant).double()
    source, target = batch(SOURCE, left), shifted(TARGET)
    with torch.no_grad():
        together, _ = model(source, None, target)
        for row, (s, t) in enumerate(zip(SOURCE, TARGET, strict=True)):
            alone_source = source[row][source[row].ne(PAD)].unsqueeze(0)
            assert alone_source.size(1) == s
            alone, _ = model(alone_source, None, target[row : row + 1, :t])
            torch.testing.assert_close(together[row, :t], alone[0], rtol=1e-9, atol=1e-9)


def test_gradients_ignore_padding(variant):
    model = small_model(variant).double()
    grads = []
    for source in (batch([5, 5]), torch.nn.functional.pad(batch([5, 5]), (3, 0), value=PAD)):
        model.zero_grad()
        model(source, None, shifted([4, 4]))[0].square().sum().backward()
        grads.append({n: p.grad.clone() for n, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-8, atol=1e-8, msg=name)


def test_left_padded_targets(variant):
    model = small_model(variant).double()
    right = shifted([6, 3])
    left = right.clone()
    left[1] = right[1].roll(3)
    with torch.no_grad():
        source = batch([5, 4])
        expected, _ = model(source, None, right)
        actual, _ = model(source, None, left)
    torch.testing.assert_close(actual[1, 3:], expected[1, :3], rtol=1e-9, atol=1e-9)


def test_the_future_changes_nothing(variant):
    model = small_model(variant).double()
    source, target = batch([7, 5]), shifted([9, 9])
    with torch.no_grad():
        before, _ = model(source, None, target)
        for t in range(1, 9):
            changed = target.clone()
            changed[:, t:] = (changed[:, t:] - 4 + 7) % 19 + 4
            after, _ = model(source, None, changed)
            assert torch.equal(after[:, :t], before[:, :t])
            assert not torch.equal(after[:, t:], before[:, t:])


def test_no_nan_where_nothing_is_visible(variant):
    model = small_model(variant)
    source = torch.tensor([[4, 5, EOS], [PAD, PAD, PAD]])
    logits, _ = model(source, None, shifted([4, 4]))
    assert logits.isfinite().all()
    logits.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_long_source_beside_an_empty_one(variant):
    model = small_model(variant).double()
    alone, target = batch([150]), shifted([6, 6])
    expected, _ = model(alone, None, target[:1])
    logits, _ = model(torch.cat([alone, torch.full_like(alone, PAD)]), None, target)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[:1], expected, rtol=1e-9, atol=1e-9)
    logits.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_shortest_and_longest(variant):
    model = small_model(variant, max_source_positions=600, max_target_positions=600)
    with torch.no_grad():
        short, _ = model(torch.tensor([[EOS]]), None, torch.tensor([[EOS]]))
        long, _ = model(batch([600]), None, shifted([600]))
    assert short.isfinite().all() and long.isfinite().all()
    assert long.shape == (1, 600, 23)
