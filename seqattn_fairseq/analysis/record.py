"""``RUN/analysis/SUBSET``: results as JSON, each with what it was made from.

What decides about a result stands in its ``made_from``: a repeated command compares it, skips
what is the same and makes again what is not. Files appear complete or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from seqattn_fairseq.data.files import read_json_object, write_json

FOLDER = "analysis"  # below a run's folder
MADE_FROM = "made_from"


class Made(NamedTuple):
    """A result, and whether it was made now."""

    result: dict[str, Any]
    fresh: bool


def result_folder(run: Path, subset: str) -> Path:
    """Return where the results of a run, or of a checkpoint file by itself, are written.

    Those of a run are in ``RUN/analysis/SUBSET``, those of a file in ``FILE.analysis/SUBSET``.
    """
    if run.is_file():
        return run.with_name(f"{run.name}.{FOLDER}") / subset
    return run / FOLDER / subset


def made(path: Path, made_from: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> Made:
    """Return the result in ``path`` if it was made from the same, else make and write it.

    Args:
        path: of the JSON file.
        made_from: plain values of all that decides about the result.
        make: returns the result without its ``made_from``.
    """
    stamp = json.loads(json.dumps({**made_from, "seqattn_fairseq": version("seqattn_fairseq")}))
    known = read_json_object(path)
    if known.get(MADE_FROM) == stamp:
        return Made(known, fresh=False)
    result = {MADE_FROM: stamp, **make()}
    write_json(path, result)
    return Made(result, fresh=True)
