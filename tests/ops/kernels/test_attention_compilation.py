"""Attention compiles in every method, shape and dtype; test_compilation takes three of them."""

from __future__ import annotations

import pytest

from seqattn_fairseq.ops.kernels.attention import FAMILIES
from tests.ops.kernels.specimens_attention import DTYPES, SHAPES
from tests.ops.kernels.test_compilation import compile_specimens


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", FAMILIES)
def test_every_specimen_compiles(method: str, shape: str) -> None:
    compile_specimens("all_attention", *(f"{method} {shape} {dtype}" for dtype in DTYPES))
