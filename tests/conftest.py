"""What all tests share: one thread per worker, repeatable examples, the shared material."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: two workers on two cores would fight over four threads. The commands
# that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before triton is imported: there is no GPU to compile for. TRITON_INTERPRET=0 on one that has.
os.environ.setdefault("TRITON_INTERPRET", "1")

import hypothesis
import pytest
import torch
from hydra.core.hydra_config import HydraConfig

ROOT = Path(__file__).resolve().parents[1]

# The same examples everywhere and no deadline: a busy machine must not turn a test red.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("house")


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(1)


@pytest.fixture(autouse=True)
def _no_recipe_left_behind() -> Iterator[None]:
    """What a test composed stays resolvable within the test, and only there."""
    yield
    HydraConfig.instance().cfg = None


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The goldens and corpora that live beside the checkout; the test is skipped without them."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the shared material beside the checkout")
    return folder
