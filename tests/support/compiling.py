"""Compiles Triton kernels for GPUs that are not there: what would be launched is only built.

    python -m tests.support.compiling tests.ops.kernels.specimens_NAME [SPECIMEN ...]

A module of specimens has ``SPECIMENS``, name -> function that calls an operation, forward and
backward, on tensors on the CPU. Their numbers mean nothing here; launches become compilations, for
each of ``CAPABILITIES``, with the very types, divisibilities and constants of the call. A kernel
that does not compile, or needs more shared memory than a GPU has, ends the program.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

# GPU -> bytes of shared memory that a block may ask for
CAPABILITIES = {80: 166_912, 90: 232_448}


class _AbsentGpu:
    """What Triton asks of a driver to compile, and nothing that would launch."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


@contextmanager
def compiling(capability: int) -> Iterator[dict[str, int]]:
    """Compile what is launched within the block; gives kernel name -> most shared memory."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from seqattn_fairseq.ops import backend

    launched: dict[str, int] = {}
    launch = JITFunction.run

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        built = launch(kernel, *args, grid=grid, warmup=True, **kwargs)
        name = kernel.__name__
        assert "cubin" in built.asm, f"{name}: not compiled to the end"
        launched[name] = max(launched.get(name, 0), built.metadata.shared)
        return built

    driver.set_active(_AbsentGpu(capability))
    with (
        mock.patch.object(JITFunction, "run", compile_only),
        mock.patch.object(backend, "require_kernels"),
        backend.backend("triton"),
    ):
        yield launched


def main(module: str, *names: str) -> None:
    """Compile the named specimens of a module, or all of them; say what was compiled."""
    specimens = importlib.import_module(module).SPECIMENS
    for name in names or specimens:
        call = specimens[name]
        for capability, room in CAPABILITIES.items():
            with compiling(capability) as launched:
                call()
            assert launched, f"{name}: no kernel was launched"
            for kernel, shared in launched.items():
                print(f"{name} sm_{capability} {kernel}: {shared} bytes of shared memory")
                assert shared <= room, f"{name}: {kernel} needs more than {room} bytes"


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET") != "1", "the interpreter does not compile"
    main(*sys.argv[1:])
