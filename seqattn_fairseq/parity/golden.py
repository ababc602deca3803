"""One file of tensors from an official code.

Arrays are named ``group/name``: ``param/`` official parameters, ``input/``, ``output/``, and
``grad/`` (or ``grad_<case>/``) gradients of sum(output * loss weight). ``meta`` tells the rest.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError

# what numpy, zipfile and json raise for foreign or damaged bytes
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


class Golden:
    """``meta`` and the arrays of one .npz file, or the contents of one .json file as ``meta``.

    Raises:
        SeqAttnError: the file cannot be read, or is none of these.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arrays: dict[str, Tensor] = {}
        try:
            self.meta: dict[str, Any] = self._read(path)
        except _UNREADABLE as error:
            reason = " ".join(str(error).split())
            raise SeqAttnError(f"{path}: no golden file ({reason})") from error
        if not isinstance(self.meta, dict):
            raise SeqAttnError(f"{path}: no golden file (its meta is no JSON object)")

    def _read(self, path: Path) -> Any:
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        # opened here: numpy leaves a damaged archive open
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            meta = json.loads(str(arrays["meta"]))
            for name in arrays.files:
                if name != "meta":
                    self.arrays[name] = torch.from_numpy(arrays[name])
        return meta

    @property
    def config(self) -> dict[str, Any]:
        """The official configuration or arguments of the file."""
        config: dict[str, Any] = self.meta.get("config") or self.meta.get("args") or {}
        return config

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.arrays:
            raise SeqAttnError(f"{self.path}: has no array {name}")
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the arrays under ``prefix/`` by the rest of their name."""
        start = f"{prefix}/"
        return {k[len(start) :]: v for k, v in self.arrays.items() if k.startswith(start)}

    def leaf(self, name: str) -> Tensor:
        """Return a copy of an array that collects a gradient."""
        return self[name].clone().requires_grad_()

    def parameters(self) -> dict[str, Tensor]:
        """Return copies of the official parameters, the floating ones collecting gradients.

        Matrices with the same entries are one tensor: a state dict repeats what is tied.
        """
        leaves: dict[str, Tensor] = {}
        for name, tensor in self.group("param").items():
            leaf = next((t for t in leaves.values() if _same_matrix(t, tensor)), None)
            if leaf is None:
                leaf = tensor.clone().requires_grad_(tensor.is_floating_point())
            leaves[name] = leaf
        return leaves


def _same_matrix(a: Tensor, b: Tensor) -> bool:
    return a.dim() > 1 and a.shape == b.shape and bool((a == b).all())
