"""Attention compiles in every method, shape and dtype; test_compilation takes three of them."""

from __future__ import annotations

import pytest

from tests.ops.kernels.test_compilation import test_specimens_compile as compile_specimens


@pytest.mark.slow
def test_every_specimen_compiles() -> None:
    compile_specimens("all_attention")
