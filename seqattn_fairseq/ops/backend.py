"""Which implementation of an operation runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from seqattn_fairseq.errors import SeqAttnError

VARIABLE = "SEQATTN_BACKEND"


def select(operation: str, forms: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """Return the form of ``operation`` that ``SEQATTN_BACKEND`` names, by default "torch".

    Raises:
        SeqAttnError: the operation has no such form.
    """
    name = os.environ.get(VARIABLE, "torch")
    if name not in forms:
        raise SeqAttnError(
            f"{VARIABLE}={name}: {operation} has no such form; use one of {', '.join(forms)}"
        )
    return forms[name]


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
