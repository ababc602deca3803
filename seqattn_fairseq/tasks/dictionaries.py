"""Dictionaries and direction of a task: saved with every checkpoint, compared when one is loaded.

fairseq translates without a word with another dictionary of the same size, or, with a dictionary
that both languages share, in the other direction; the output is nonsense.
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
        "language": language,
        "file": os.path.abspath(os.path.join(folder, f"dict.{language}.txt")),
        "types": len(symbols),
        "sha256": digest(symbols),
    }


def describe(task: Any) -> dict[str, dict[str, Any]]:
    """Return language, and file, size and digest of the dictionary, of a task's two sides."""
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


def verify_direction(task: Any, state: dict[str, Any]) -> None:
    """Compare the language pair of a checkpoint's task state with the task that translates.

    Checkpoints without language codes, and tasks of other kinds, pass.

    Raises:
        SeqAttnError: the pairs differ; the message names both.
    """
    saved = state.get(STATE_KEY)
    if not saved or not isinstance(task, TranslationTask):
        return
    there = [saved[side].get("language") for side in ("source", "target")]
    here = [task.cfg.source_lang, task.cfg.target_lang]
    if None not in there and here != there:
        raise SeqAttnError(
            f"{task.cfg.data}: to be translated from {here[0]} to {here[1]}, but the checkpoint "
            f"was trained to translate from {there[0]} to {there[1]}; pass --source-lang "
            f"{there[0]} --target-lang {there[1]}, or the checkpoint of the other direction"
        )
