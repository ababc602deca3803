"""A training step on a GPU never waits for a value: that is what lets a graph capture it.

There need be no GPU. On the device "meta", tensors have no values: whatever would read one raises.
The code asks whether a device is a CPU, and to that question both devices give the same answer.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seqattn_fairseq.criterions.label_smoothed import (
    ProjectedCriterion,
    SeqAttnLabelSmoothedConfig,
    SeqAttnLabelSmoothedCrossEntropy,
)
from seqattn_fairseq.criterions.rdrop import SeqAttnRDrop, SeqAttnRDropConfig
from tests.support.models import PAIRS, SINGLE_VARIANTS, batch, shifted, small_model, toy_dictionary

_DROPOUT: dict[str, Any] = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1}
_COMMON: dict[str, Any] = {"label_smoothing": 0.1, "sentence_avg": False, "report_accuracy": True}


class _Devices(TorchDispatchMode):
    """Refuses operations that bring values of the host to the device, or ask for any."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        if len({t.device.type for t in tensors}) > 1:
            raise AssertionError(f"{func}: a copy between host and device")
        return out


class _Task:
    target_dictionary = toy_dictionary()


CRITERIONS = {
    "label smoothing": lambda: SeqAttnLabelSmoothedCrossEntropy(
        SeqAttnLabelSmoothedConfig(**_COMMON), _Task()
    ),
    "R-Drop": lambda: SeqAttnRDrop(SeqAttnRDropConfig(**_COMMON), _Task()),
}


@pytest.fixture
def autocast_knows_every_device(monkeypatch) -> None:
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *device: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def _step(variant: str, criterion: ProjectedCriterion) -> dict[str, Any]:
    model = small_model(variant, **_DROPOUT).train().to("meta")
    source, previous = batch([5, 3]).to("meta"), shifted([4, 2]).to("meta")
    sample = {
        "net_input": {"src_tokens": source, "src_lengths": None, "prev_output_tokens": previous},
        "target": previous.roll(-1, 1),
        "ntokens": 6,
    }
    with _Devices():
        loss, _, log = criterion(model, sample)
        loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    return dict(log)


@pytest.mark.usefixtures("autocast_knows_every_device")
@pytest.mark.parametrize("criterion", CRITERIONS)
@pytest.mark.parametrize("variant", SINGLE_VARIANTS + PAIRS)
def test_no_value_is_asked_for(variant, criterion) -> None:
    log = _step(variant, CRITERIONS[criterion]())
    assert isinstance(log["loss"], Tensor)
    assert {type(value) for value in log.values()} == {Tensor, int}


@pytest.mark.parametrize("reads", [Tensor.item, bool, Tensor.nonzero, lambda x: x[x.bool()]])
def test_reading_a_value_raises(reads) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        reads(torch.ones(1, device="meta"))


def test_a_copy_from_the_host_raises() -> None:
    with _Devices(), pytest.raises(AssertionError, match="copy between"):
        torch.ones(3, device="meta").add_(torch.ones(3))
    with _Devices(), pytest.raises(AssertionError, match="copy between"):
        torch.arange(3).to("meta")
