"""Digests of a task's dictionaries: saved with every checkpoint, compared when one is loaded.

fairseq translates without a word with another dictionary of the same size; the output is nonsense.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from fairseq import utils
from fairseq.tasks.translation import TranslationTask

from seqattn_fairseq.errors import SeqAttnError

STATE_KEY = "seqattn_dictionaries"


def digest(symbols: list[str]) -> str:
    """Return the SHA-256 (hexadecimal) of a dictionary's symbols in the order of their indices."""
    return hashlib.sha256("".join(f"{symbol}\n" for symbol in symbols).encode()).hexdigest()


def _describe_side(task: Any, language: str, symbols: list[str]) -> dict[str, Any]:
    folder = utils.split_paths(task.cfg.data)[0]
    return {
        "file": os.path.abspath(os.path.join(folder, f"dict.{language}.txt")),
        "types": len(symbols),
        "sha256": digest(symbols),
    }


def describe(task: Any) -> dict[str, dict[str, Any]]:
    """Return file, size and digest of the source and the target dictionary of a task."""
    return {
        "source": _describe_side(task, task.cfg.source_lang, task.source_dictionary.symbols),
        "target": _describe_side(task, task.cfg.target_lang, task.target_dictionary.symbols),
    }


def verify_task_state(task: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Compare a checkpoint's task state with the task; return the state without the digests.

    Checkpoints without digests, and tasks of other kinds, pass.

    Raises:
        SeqAttnError: a dictionary differs; the message names both files.
    """
    saved = state.get(STATE_KEY)
    if saved and isinstance(task, TranslationTask):
        for side, here in describe(task).items():
            there = saved[side]
            if here["sha256"] != there["sha256"]:
                raise SeqAttnError(
                    f"{here['file']} ({here['types']:,} types) is not the {side} dictionary of the "
                    f"checkpoint, which is {there['file']} ({there['types']:,} types); use data "
                    "that fairseq-preprocess binarised with that file (--srcdict, --tgtdict)"
                )
    return {key: value for key, value in state.items() if key != STATE_KEY}
