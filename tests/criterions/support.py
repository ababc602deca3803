"""Criterions, batches and stock models for the tests of criterions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import utils
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from fairseq.data import Dictionary
from torch import Tensor, nn
from torch.nn import functional as F

import seqattn_fairseq  # noqa: F401 registers the criterions
from tests.support.baseline import stock_model
from tests.support.models import EOS, PAD, batch, small_config, small_model, toy_dictionary

STOCK = "label_smoothed_cross_entropy"
OURS = f"seqattn_{STOCK}"
RDROP = "seqattn_rdrop"


def criterion(name: str, dictionary: Dictionary, **options: Any) -> Any:
    """Return a registered criterion with options that differ from its defaults."""
    cfg = CRITERION_DATACLASS_REGISTRY[name]()
    for option, value in {"sentence_avg": False, **options}.items():
        assert hasattr(cfg, option)
        setattr(cfg, option, value)
    built = CRITERION_REGISTRY[name].build_criterion(
        cfg, SimpleNamespace(target_dictionary=dictionary)
    )
    return built.train()


def sample(left: bool = True, padding: bool = True, seed: int = 0) -> dict[str, Any]:
    """Return fairseq's batch of three random pairs; longest source first, targets padded right."""
    source = batch([7, 5, 3] if padding else [6, 6, 6], left, seed)
    target = batch([4, 2, 6] if padding else [5, 5, 5], False, seed + 1)
    before = target.roll(1, dims=1)
    before[before.eq(EOS)] = PAD
    before[:, 0] = EOS
    return {
        "net_input": {
            "src_tokens": source,
            "src_lengths": source.ne(PAD).sum(1),
            "prev_output_tokens": before,
        },
        "target": target,
        "ntokens": int(target.ne(PAD).sum()),
        "nsentences": 3,
    }


def model(kind: str, **options: Any) -> Any:
    """Return the stock transformer ("stock") or a variant of ours, small, in double precision."""
    if kind == "stock":
        torch.manual_seed(1)
        return stock_model(small_config("softmax", **options), toy_dictionary()).double().eval()
    return small_model(kind, **options).double()


def keep_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fairseq's log-softmax keep the dtype of its argument, which it makes float32."""

    def log_softmax(x: Tensor, dim: int, onnx_trace: bool = False) -> Tensor:
        return F.log_softmax(x, dim)

    monkeypatch.setattr(utils, "log_softmax", log_softmax)


def gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradient of every parameter, by name."""
    module.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_same(first: dict[str, Any], second: dict[str, Any], tolerance: float) -> None:
    """Compare numbers and tensors by name."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        found, wanted = torch.as_tensor(value).double(), torch.as_tensor(second[name]).double()
        error = (found - wanted).abs().max() if found.numel() else 0.0
        assert found.shape == wanted.shape, name
        assert error <= tolerance * max(1.0, float(wanted.abs().max())), f"{name}: {error}"
