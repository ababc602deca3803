"""Every form of every mechanism that is timed computes the same, in any layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from benchmarks import cases
from benchmarks.measure import OURS
from benchmarks.mechanisms import prepared

_ATTENTIONS = {
    f"{method}{', causal' if causal else ''}": partial(
        cases.attention_case, method=method, causal=causal
    )
    for method in ("softmax", "rela", "top-k", "sparsemax", "entmax15")
    for causal in (False, True)
}
MAKERS: dict[str, Callable[..., cases.Case]] = {
    "dynamic": cases.dynamic_case,
    "dynamic, even": partial(cases.dynamic_case, heads=16, size=4),
    "light": cases.light_case,
    "muse": cases.muse_case,
    "luna": cases.luna_case,
    "ema": cases.ema_case,
    "ema, causal": partial(cases.ema_case, both=False),
    **_ATTENTIONS,
    "loss": partial(cases.loss_case, vocabulary=97),
    "residual": cases.residual_case,
    "rms norm": cases.rms_case,
    "padded": partial(cases.attention_case, method="entmax15", padded=True),
    "cross": partial(cases.attention_case, method="top-k", keys=21),
    "gated": cases.gated_case,
    "gated, laplace": partial(cases.gated_case, activation="laplace", causal=True),
    "gated, relu2": partial(cases.gated_case, activation="relu2", padded=True),
    "gated, chunks": partial(cases.gated_case, chunk=8),
}


@pytest.mark.parametrize("name", MAKERS)
def test_all_forms_of_a_case_agree(name: str) -> None:
    torch.manual_seed(1)
    case = MAKERS[name](2, 16)
    errors, contenders = prepared(case)
    assert [contender.name for contender in contenders] == list(case.forms)
    assert set(errors) == set(case.forms) - set(case.others)
    assert OURS in errors and len(errors) > 1
    assert max(errors.values()) < 1e-4
