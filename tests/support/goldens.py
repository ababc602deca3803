"""Reading the tensors that the official codes produced, and comparing with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"


class Golden:
    """One file: ``meta`` and groups of arrays (param, input, output, grad)."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            self.meta: dict[str, Any] = json.loads(str(arrays["meta"]))
            self._arrays = {k: torch.from_numpy(arrays[k]) for k in arrays.files if k != "meta"}

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the arrays under ``prefix/`` by the rest of their name."""
        start = f"{prefix}/"
        return {k[len(start) :]: v for k, v in self._arrays.items() if k.startswith(start)}

    def __getitem__(self, name: str) -> Tensor:
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays


def assert_output(actual: Tensor, expected: Tensor) -> None:
    """Outputs agree with the official code to 2e-5."""
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-5)


def assert_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Gradients agree to 1e-4 of each tensor's largest entry plus 1e-5 of the file's largest."""
    assert actual.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, grad in expected.items():
        allowed = 1e-4 * float(grad.abs().max()) + 1e-5 * largest
        error = float((actual[name] - grad).abs().max())
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"
