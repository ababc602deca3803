"""No work on padding in training, and no difference from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fairseq.modules import FairseqDropout
from torch import Tensor, nn

from seqattn_fairseq.transformer import padding
from seqattn_fairseq.transformer.linear import Linear
from seqattn_fairseq.transformer.padding import (
    all_on_real_rows,
    mask_if_any,
    on_real_rows,
    real_rows,
)
from tests.support.models import PAD, PAIRS, SINGLE_VARIANTS, batch, shifted, small_model

SOURCE, TARGET = [9, 5, 2, 4], [3, 8, 5, 2]
MASK = torch.tensor([[True, False, False], [False, False, True]])


def _training(variant: str, **options: Any) -> nn.Module:
    model: nn.Module = small_model(variant, **options).double().train()
    for module in model.modules():
        if isinstance(module, FairseqDropout):
            setattr(module, "p", 0.0)  # noqa: B010
        if isinstance(getattr(module, "dropout", None), float):
            setattr(module, "dropout", 0.0)  # noqa: B010
    return model


def _rows_and_gradients(model: nn.Module) -> tuple[int, list[Tensor]]:
    rows = []
    hooks = [
        module.register_forward_pre_hook(lambda _, args: rows.append(args[0][..., 0].numel()))
        for module in model.modules()
        if isinstance(module, Linear)
    ]
    target = shifted(TARGET)
    logits = model(batch(SOURCE), None, target)[0]
    assert logits.isfinite().all()
    seen = logits.log_softmax(-1)[target.ne(PAD)]
    weights = torch.linspace(-1, 1, seen.numel(), dtype=seen.dtype).view_as(seen)
    gradients = torch.autograd.grad((seen * weights).sum(), list(model.parameters()))
    for hook in hooks:
        hook.remove()
    return sum(rows), [seen, *gradients]


@pytest.mark.parametrize("normalize_before", [False, True])
@pytest.mark.parametrize("variant", SINGLE_VARIANTS + PAIRS)
def test_the_same_with_and_without_it(variant, normalize_before, monkeypatch) -> None:
    pre_norm = {f"{s}_normalize_before": normalize_before for s in ("encoder", "decoder")}
    model = _training(variant, **pre_norm)
    fewer, found = _rows_and_gradients(model)
    monkeypatch.setattr(padding, "_LEAST_SHARE", 2.0)
    more, expected = _rows_and_gradients(model)
    assert fewer < more
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_values_at_padding_that_are_read_are_computed(monkeypatch) -> None:
    model = _training("muse", muse_padding_leaks=True)
    found = _rows_and_gradients(model)[1]
    monkeypatch.setattr(padding, "_LEAST_SHARE", 2.0)
    for got, want in zip(found, _rows_and_gradients(model)[1], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_draws_for_a_whole_sentence_are_not_drawn_for_its_positions() -> None:
    # two sentences, one of them padded: every position of a sentence drops the same features
    model = small_model("mega", feature_dropout=True, activation_dropout=0.5).train()
    layer = model.encoder.layers[0].nffn
    hidden: list[Tensor] = []
    layer.fc2.register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
    layer(torch.randn(2, 3, 16), MASK)
    zero = hidden[0].eq(0).unflatten(0, (2, 3)) if hidden[0].dim() == 2 else hidden[0].eq(0)
    assert zero.equal(zero[:, :1].expand_as(zero))


def test_rows_are_taken_and_put_back() -> None:
    x = torch.randn(2, 3, 4)
    module = nn.Linear(4, 5).train()
    first = on_real_rows(module, module, x, MASK)
    (second,) = all_on_real_rows(module, lambda rows: [rows.sin()], x, MASK)
    for got, want in ((first, module(x)), (second, x.sin())):
        torch.testing.assert_close(got[~MASK], want[~MASK])
        assert not got[MASK].any()


def test_rows_stay_where_they_are() -> None:
    module, almost = nn.Identity().train(), torch.zeros(4, 8, dtype=torch.bool)
    almost[0, 7] = True
    assert real_rows(module, None) is None
    assert real_rows(module, almost) is None  # too little to save
    assert real_rows(module, MASK.to("meta")) is None  # cannot be looked at
    rows = real_rows(module, MASK)
    assert rows is not None
    assert rows.tolist() == [1, 2, 3, 4]
    assert real_rows(module.eval(), MASK) is None  # whoever compares logits reads all of them


def test_masks_are_looked_at_on_a_cpu_alone() -> None:
    assert mask_if_any(torch.zeros(2, 3, dtype=torch.bool)) is None
    assert mask_if_any(MASK) is MASK
    elsewhere = torch.zeros(2, 3, dtype=torch.bool, device="meta")
    assert mask_if_any(elsewhere) is elsewhere
