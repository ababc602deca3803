"""Which implementation of an operation runs.

Every operation has a "reference" (obvious, slow) and a "torch" form; some have Triton kernels
besides, in ``ops/kernels``. Those run where they are asked for: ``SEQATTN_BACKEND=triton`` takes
kernels wherever there are any, and the torch form elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError

VARIABLE = "SEQATTN_BACKEND"
BACKENDS = ("reference", "torch", "triton")


def chosen() -> str:
    """Return the backend that ``SEQATTN_BACKEND`` names, by default "torch".

    Raises:
        SeqAttnError: it names none.
    """
    name = os.environ.get(VARIABLE, "torch")
    if name not in BACKENDS:
        raise SeqAttnError(f"{VARIABLE}={name}: no such backend; use one of {', '.join(BACKENDS)}")
    return name


def select(operation: str, forms: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """Return the form of ``operation`` that ``SEQATTN_BACKEND`` asks for.

    Raises:
        SeqAttnError: the variable names no backend.
        KeyError: ``forms`` lack "reference" or "torch".
    """
    name = chosen()
    return forms["torch"] if name not in forms and name == "triton" else forms[name]


def require_kernels(tensor: Tensor) -> None:
    """Make sure that Triton kernels can run on a tensor.

    Raises:
        SeqAttnError: it lies on no GPU (and Triton does not interpret its kernels), or Triton is
            not installed.
    """
    if tensor.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise SeqAttnError(
            f"{VARIABLE}=triton needs a GPU, but the tensors are on the {tensor.device.type}; "
            f"use {VARIABLE}=torch, or TRITON_INTERPRET=1 to try the kernels out"
        )
    try:
        import triton  # noqa: F401
    except ModuleNotFoundError:
        raise SeqAttnError(
            f"{VARIABLE}=triton, but triton is not installed: pip install triton"
        ) from None


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Force one implementation within a ``with`` block."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
