"""Every kernel compiles for real GPUs, in every dtype it is called with; none is needed for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODULES = sorted(path.stem for path in Path(__file__).parent.glob("specimens_*.py"))


def compile_specimens(module: str, *names: str) -> None:
    """Compile the named specimens of a module, or all, in a process without the interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.compiling", f"tests.ops.kernels.{module}", *names],
        cwd=ROOT,
        env={**environment, "TRITON_DEFAULT_FP_FUSION": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "sm_90" in done.stdout


@pytest.mark.parametrize("module", MODULES)
def test_specimens_compile(module: str) -> None:
    compile_specimens(module)
