"""Reading checkpoint files: the one guard and the one set of messages for what cannot be loaded.

torch writes a checksum beside every tensor but does not read it, and what it says of a file that
it refuses is advice to execute it. Nothing in a file is executed here, and nothing that a file
says reaches the terminal unless it is printable.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError

# what torch says of a pickle that asks for more than tensors, plain values and the allow-list
_REFUSED = re.compile(
    r"GLOBAL (?P<name>\S+) (?:was not|whose)|unrecognized function (?P<function>\S+)"
    r"|`add_safe_globals`,? but got (?P<type>.+)"
)

# what the parts of a checkpoint that are used here must be
_CONTENTS: dict[str, Any] = {
    "model": dict,
    "cfg": Mapping | None,
    "args": Namespace | None,
    "extra_state": Mapping | None,
}


class DamagedCheckpointError(SeqAttnError):
    """A file that cannot be a whole fairseq checkpoint; another one may take its place."""


class ForeignContentsError(ValueError):
    """A file that can be read holds something else than a fairseq checkpoint."""


def printable(text: str) -> str:
    """Return at most 120 characters of a foreign text, none of which moves a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)[:120]


def _verify_bytes(path: str) -> None:
    """Compare the checksums of a checkpoint's parts, which torch writes but does not read."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise DamagedCheckpointError(
                f"{path}: damaged, wrong checksum of {printable(damaged)}; use another checkpoint "
                "or copy this one again"
            )


def _explain(path: str, error: Exception) -> SeqAttnError:
    """Turn whatever torch or fairseq raised while reading ``path`` into one line."""
    if isinstance(error, IsADirectoryError | PermissionError):
        return SeqAttnError(f"{path}: {error.strerror}; give a checkpoint file that can be read")
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return DamagedCheckpointError(f"{path}: empty file, no checkpoint; use another one")
    if isinstance(error, pickle.UnpicklingError) and (match := _REFUSED.search(str(error))):
        return SeqAttnError(
            f"{path}: refused and not executed: its pickle calls "
            f"{printable(match[match.lastgroup or 0])}, which no fairseq checkpoint needs; get "
            "the file again from a source that you trust"
        )
    if isinstance(error, ForeignContentsError):
        return DamagedCheckpointError(
            f"{path}: no fairseq checkpoint ('model' and 'cfg' are not as fairseq-train writes "
            "them); use another one"
        )
    return DamagedCheckpointError(
        f"{path}: truncated, damaged or no fairseq checkpoint ({type(error).__name__}); use "
        "another checkpoint or copy this one again"
    )


@contextmanager
def explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Guard the code that reads the checkpoint ``path``: its checksums first, one line after.

    Raises:
        SeqAttnError: the file calls functions, or cannot be read.
        DamagedCheckpointError: its bytes are not those that were written, or it is something else.
        FileNotFoundError: as the code raised it; also ``MemoryError``.
    """
    name = os.fspath(path)
    try:
        _verify_bytes(name)
        with warnings.catch_warnings():
            # torch's guess, before it refuses a pickle that is no checkpoint
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            yield
    except (FileNotFoundError, MemoryError, SeqAttnError):
        raise
    except Exception as error:  # a foreign file makes the unpickler fail in any way
        raise _explain(name, error) from error


def verify_contents(state: object) -> None:
    """Let pass what has a checkpoint's ``model`` and ``cfg`` (or, of old, ``args``).

    Raises:
        ForeignContentsError: it has not; :func:`explained` makes it a line with the file's name.
    """
    if not isinstance(state, dict):
        raise ForeignContentsError
    named = all(isinstance(state.get(key), kind) for key, kind in _CONTENTS.items())
    if not named or not (state.get("cfg") or state.get("args")):
        raise ForeignContentsError
    if not all(isinstance(key, str) and key.isprintable() for key in state["model"]):
        raise ForeignContentsError


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load a fairseq checkpoint on the CPU as it is; nothing in the file is executed.

    Raises:
        SeqAttnError: the file is missing, damaged, refused, or no fairseq checkpoint.
    """
    try:
        with explained(path):
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            verify_contents(state)
    except FileNotFoundError:
        raise SeqAttnError(f"{os.fspath(path)}: no such checkpoint") from None
    return state


def non_finite(parameters: Mapping[str, Tensor]) -> str:
    """Return the name of a parameter that holds NaN or infinity, or an empty string."""
    return next((key for key, value in parameters.items() if not value.isfinite().all()), "")
