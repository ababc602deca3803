"""Every sentence reaches a batch, and our models are served by our task."""

from __future__ import annotations

from functools import wraps
from typing import Any

import numpy as np
from fairseq.data import data_utils
from fairseq.tasks.translation import TranslationTask

from seqattn_fairseq.compat.workaround import Workaround, always, rebind


def _sentences_get_lost() -> bool:
    one = np.ones(1, dtype=np.int64)
    batches = data_utils.batch_by_size(
        one - 1, None, num_tokens_vec=one, max_sentences=8, required_batch_size_multiple=8
    )
    return len(batches) == 0


def _keep_last_batch() -> None:
    original = data_utils.batch_by_size

    @wraps(original)
    def batch_by_size(indices: Any, *args: Any, **kwargs: Any) -> Any:
        indices = np.asarray(indices if hasattr(indices, "__len__") else list(indices), np.int64)
        if len(indices) == 0:
            return []
        batches = original(indices, *args, **kwargs)
        kept = sum(map(len, batches))
        if kwargs.get("fixed_shapes") is None and kept < len(indices):
            batches = [*batches, indices[kept:]]  # batches are consecutive runs of the indices
        return batches

    rebind(original, batch_by_size)


def _serve_our_models() -> None:
    """Let the stock task become ours as soon as it builds one of our models."""
    original = TranslationTask.build_model

    @wraps(original)
    def build_model(self: Any, cfg: Any, from_checkpoint: bool = False) -> Any:
        from seqattn_fairseq.tasks.translation import SeqAttnTranslationTask

        model = original(self, cfg, from_checkpoint)
        if type(self) is TranslationTask and getattr(model, "seqattn_variant", None):
            self.__class__ = SeqAttnTranslationTask
            self.remember_model(model)
        return model

    TranslationTask.build_model = build_model


def _explain_data_errors() -> None:
    """Report missing data in one line, in fairseq's task and in those that are derived from it."""
    original = vars(TranslationTask)["setup_task"].__func__

    @wraps(original)
    def setup_task(cls: type[TranslationTask], cfg: Any, **kwargs: Any) -> Any:
        from seqattn_fairseq.tasks.translation import explained_data_errors

        with explained_data_errors(cfg):
            return original(cls, cfg, **kwargs)

    TranslationTask.setup_task = classmethod(setup_task)  # type: ignore[arg-type]


def _check_dictionaries() -> None:
    """Let the stock task, too, compare its dictionaries with those of a loaded checkpoint."""
    original = TranslationTask.load_state_dict

    @wraps(original)
    def load_state_dict(self: Any, state_dict: dict[str, Any]) -> None:
        from seqattn_fairseq.tasks.dictionaries import verify_direction, verify_task_state

        verify_direction(self, state_dict)
        original(self, verify_task_state(self, state_dict))

    TranslationTask.load_state_dict = load_state_dict


WORKAROUNDS = (
    Workaround(
        "no sentence dropped",
        "fairseq throws the last sentences away when their number is not a multiple of "
        "--required-batch-size-multiple (default 8), in training, validation and translation",
        _sentences_get_lost,
        _keep_last_batch,
    ),
    Workaround(
        "stock translation task",
        "fairseq-generate without --task builds fairseq's own task, which turns empty lines into "
        "words and stops at a long one: with our models it acts as seqattn_translation",
        always,
        _serve_our_models,
    ),
    Workaround(
        "missing data",
        "a data folder, language pair or dictionary that is not there gave a traceback",
        always,
        _explain_data_errors,
    ),
    Workaround(
        "dictionary check",
        "fairseq translates with another dictionary of the same size or in the other direction: "
        "the stock task compares the digests and languages that our task saves in checkpoints",
        always,
        _check_dictionaries,
    ),
)
