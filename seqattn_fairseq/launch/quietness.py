"""Libraries that say only what is wrong."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def warnings_alone() -> Iterator[None]:
    """Drop the notes of all libraries: modules of fairseq turn on even those for debugging."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.setLevel(before)


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Silence a library's notes and, of every library, the warnings that no user can follow.

    Such are those of Hydra on how fairseq uses it, and of pinned memory where there is no GPU.
    """
    logger = logging.getLogger(library)
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        logger.setLevel(before)
