"""fairseq's search does what its options say."""

from __future__ import annotations

from functools import wraps
from typing import Any

from fairseq.ngram_repeat_block import NGramRepeatBlock
from fairseq.sequence_generator import SequenceGenerator

from seqattn_fairseq.compat.workaround import Workaround, source_contains


def _blocks_nothing() -> bool:
    return source_contains(SequenceGenerator._generate, "blocker(tokens, lprobs")


def _show_it_the_words() -> None:
    original = NGramRepeatBlock._no_repeat_ngram

    @wraps(original)
    def no_repeat_ngram(
        self: Any, tokens: Any, lprobs: Any, bsz: int, beam_size: int, step: int
    ) -> Any:
        return original(self, tokens[:, : step + 1], lprobs, bsz, beam_size, step)

    NGramRepeatBlock._no_repeat_ngram = no_repeat_ngram


WORKAROUNDS = (
    Workaround(
        "repeated n-grams",
        "without its CUDA extension fairseq compares the padding behind a hypothesis in place of "
        "its last words, so that --no-repeat-ngram-size forbids nothing",
        _blocks_nothing,
        _show_it_the_words,
    ),
)
