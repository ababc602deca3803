"""The official algorithms that ours is timed against give what the official codes gave."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.official_forms import convolution, ema, luna
from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.convolution import dynamic_convolution, lightweight_convolution
from seqattn_fairseq.ops.ema import ema as our_ema
from seqattn_fairseq.ops.ema import ema_coefficients
from seqattn_fairseq.ops.luna import causal_mean, counted, softmax_over_p
from tests.support.goldens import GOLDENS

CONVOLUTIONS: dict[str, Callable[..., Tensor]] = {
    "unfold": convolution.unfold,
    "band": convolution.band,
}


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the arrays, those that take part in gradients as leaves, and the configuration."""
    with np.load(GOLDENS / f"{name}.npz") as stored:
        meta = json.loads(str(stored["meta"]))
        arrays = {key: torch.from_numpy(stored[key]) for key in stored.files if key != "meta"}
    for key, tensor in arrays.items():
        if f"grad/{key.removeprefix('param/').removeprefix('input/')}" in arrays:
            tensor.requires_grad_()
        if f"grad/{key}" in arrays:
            tensor.requires_grad_()
    return arrays, meta["config"]


def check(arrays: dict[str, Tensor], out: Tensor, expected: str, names: dict[str, str]) -> None:
    """Compare output and gradients; ``names`` maps arguments to their gradients."""
    weight = arrays["input/loss_weight"]
    real = weight != 0
    torch.testing.assert_close(out[real], arrays[expected][real], rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad((out * weight).sum(), [arrays[name] for name in names])
    for actual, name in zip(gradients, names.values(), strict=True):
        torch.testing.assert_close(actual, arrays[name], rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("form", CONVOLUTIONS)
@pytest.mark.parametrize("name", ["dynamicconv_module_same", "dynamicconv_module_causal_T_lt_K"])
def test_dynamic_convolution(name: str, form: str) -> None:
    arrays, config = golden(f"lightconv_dynamicconv/{name}")
    logits = torch.nn.functional.linear(arrays["input/x"], arrays["param/weight_linear.weight"])
    taps = logits.unflatten(2, (config["num_heads"], -1)).softmax(-1)
    out = CONVOLUTIONS[form](arrays["input/x"], taps, config["padding_l"])
    weight = "weight_linear.weight"
    names = {"input/x": "grad/x", f"param/{weight}": f"grad/{weight}"}
    check(arrays, out, "output/out", names)


@pytest.mark.parametrize("form", CONVOLUTIONS)
@pytest.mark.parametrize("name", ["lightconv_module_same", "lightconv_module_causal_T_lt_K"])
def test_light_convolution(name: str, form: str) -> None:
    arrays, config = golden(f"lightconv_dynamicconv/{name}")
    taps = arrays["param/weight"].squeeze(1).softmax(-1)
    out = CONVOLUTIONS[form](arrays["input/x"], taps, config["padding_l"])
    out = out + arrays.get("param/bias", torch.zeros(()))
    check(arrays, out, "output/out", {"input/x": "grad/x", "param/weight": "grad/weight"})


def test_causal_mean() -> None:
    arrays, _ = golden("luna/causal_op_small")
    out = luna.causal_mean(*(arrays[f"input/{name}"] for name in "xyz"))
    names = {f"input/{name}": f"grad/input/{name}" for name in "xyz"}
    check(arrays, out, "output/parallel", names)


EMAS = ["ema_bidir_left", "ema_bidir_right", "ema_causal"]


@pytest.mark.parametrize("name", EMAS)
def test_moving_average(name: str) -> None:
    arrays, _ = golden(f"mega/{name}")
    parameters = ("delta", "alpha", "beta", "gamma", "omega")
    mask = arrays.get("input/padding_mask")
    values: dict[str, Any] = {p: arrays[f"param/{p}"] for p in parameters}
    out = ema.ema(arrays["input/x"], **values, padding_mask_BT=mask)
    names = {"input/x": "grad/x", **{f"param/{p}": f"grad/{p}" for p in parameters}}
    check(arrays, out, "output/out", names)


def same(ours: Tensor, official: Tensor, leaves: list[Tensor]) -> None:
    """Compare outputs and gradients of float64 forms."""
    torch.testing.assert_close(official, ours, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(ours)
    pairs = [torch.autograd.grad((out * weight).sum(), leaves) for out in (ours, official)]
    for expected, actual in zip(*pairs, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.double).requires_grad_()


@pytest.mark.parametrize("form", CONVOLUTIONS)
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "light"])
def test_convolutions_equal_our_reference(form: str, static: bool) -> None:
    torch.manual_seed(1)
    x, taps = leaf(2, 11, 6), leaf(3, 4) if static else leaf(2, 11, 3, 4)
    with backend("reference"):
        ours = (lightweight_convolution if static else dynamic_convolution)(x, taps, 2)
    swapped = taps if static else taps.transpose(0, 1)
    official = CONVOLUTIONS[form](x.transpose(0, 1), swapped, 2).transpose(0, 1)
    same(ours, official, [x, taps])


def test_luna_equals_our_reference() -> None:
    torch.manual_seed(2)
    q, k, v, pack = leaves = [leaf(2, 3, 9, width) for width in (4, 4, 4, 5)]
    count = counted(None, 9, q)
    with backend("reference"):
        weights = softmax_over_p(causal_mean(q, k, pack, count), None)
        ours = causal_mean(weights, pack, v, count)
    official = luna.causal_attention(*(t.flatten(0, 1) for t in leaves)).unflatten(0, (2, 3))
    same(ours, official, leaves)


@pytest.mark.parametrize("both", [False, True], ids=["causal", "both"])
def test_moving_average_equals_our_reference(both: bool) -> None:
    torch.manual_seed(3)
    rows = 6 if both else 3
    x, omega = leaf(2, 9, 3), leaf(3)
    parameters = [leaf(rows, 4, 1), leaf(rows, 4, 1), leaf(rows, 4, 1), leaf(rows, 4)]
    with backend("reference"):
        ours = our_ema(x, ema_coefficients(*parameters), omega)
    delta, alpha, beta, gamma = parameters
    official = ema.ema(x.transpose(0, 1), delta, alpha, beta, gamma, omega).transpose(0, 1)
    same(ours, official, [x, omega, *parameters])
