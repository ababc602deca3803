"""What a run is made on, and how far that machine is from its own limits."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import torch

from benchmarks import measure
from benchmarks.gpu.clock import MIB, Clock


def name_of(device: str) -> str:
    """Return the name of the device, fit for a file's."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return "".join(c if c.isalnum() else "_" for c in name.lower()).strip("_")


def environment(device: str) -> dict[str, Any]:
    """Return versions and machine."""
    found = {
        "machine": measure.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "fairseq": _version("fairseq-fixed"),
        "entmax": _version("entmax"),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "float32_precision": torch.get_float32_matmul_precision(),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_mib": properties.total_memory // MIB,
            "cuda": torch.version.cuda,
        }
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def roofline(clock: Clock, tiny: bool) -> dict[str, float]:
    """Return what this machine's products of matrices and copies reach.

    ``gemm_tflops`` in bfloat16, ``copy_tb_per_second`` read and written together.
    """
    size, entries = (64, MIB) if tiny else (8192, 2**28)
    a, b = (torch.randn(size, size, device=clock.device, dtype=torch.bfloat16) for _ in range(2))
    gemm = clock.median(lambda: a @ b)
    source = torch.randn(entries, device=clock.device)  # a GiB of float32
    target = torch.empty_like(source)
    copy = clock.median(lambda: target.copy_(source))
    return {
        "gemm_tflops": 2 * size**3 / max(gemm, 1e-9) / 1e12,
        "copy_tb_per_second": 2 * source.nbytes / max(copy, 1e-9) / 1e12,
    }
