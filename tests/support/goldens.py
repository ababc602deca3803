"""Where the tensors that the official codes produced lie, and copies of them with a change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"

Arrays = dict[str, Any]


def changed(name: str, folder: Path, change: Callable[[Arrays, dict[str, Any]], object]) -> Path:
    """Write a golden file anew after ``change(arrays, meta)``; return its path, of another name."""
    with np.load(GOLDENS / name) as stored:
        arrays = {key: stored[key] for key in stored.files}
    meta = json.loads(str(arrays.pop("meta")))
    change(arrays, meta)
    path = folder / "another name.npz"
    np.savez(path, meta=json.dumps(meta), **arrays)
    return path
