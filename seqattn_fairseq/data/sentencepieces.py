"""Subword units of raw text by SentencePiece: learning the model and applying it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Literal

import sentencepiece

from seqattn_fairseq.data.checks import TextCount
from seqattn_fairseq.data.files import partial_path
from seqattn_fairseq.data.pipeline import Pipeline, SubwordFile, Texts
from seqattn_fairseq.data.workspace import Progress, Step
from seqattn_fairseq.errors import SeqAttnError

MODEL_FILE = "sentencepiece.model"
MODEL_TYPES = ("unigram", "bpe")
# More lines than these are drawn from, so that memory is bounded however long the text is.
SAMPLED_LINES = 5_000_000

# A part of the model's bytes: the same on every machine.
_THREADS = 16
_ERRORS_ONLY = 2


@dataclass(frozen=True)
class SentencePiece:
    """Learn one model of both languages on the training set, and apply it to all splits.

    Attributes:
        vocabulary: number of pieces, SentencePiece's own three included; too little text yields
            fewer.
        model_type: "unigram" (Kudo 2018) or "bpe".
        seed: of the draw of lines from a text of more than ``SAMPLED_LINES``.
        folder: see :class:`~seqattn_fairseq.data.pipeline.Stage`.
    """

    vocabulary: int
    model_type: Literal["unigram", "bpe"]
    seed: int
    folder: str = "pieces"

    def run(self, texts: Texts, pipeline: Pipeline) -> Texts:
        """See :class:`~seqattn_fairseq.data.pipeline.Stage`."""
        model = pipeline.folder / MODEL_FILE
        pipeline.do([self._learn_step(model, texts, pipeline)])
        # The hash tells worker processes that the model is a new one.
        function = partial(cut_lines, model, pipeline.workspace.digest(model))
        steps = {
            pair: pipeline.rewrite_step("cut pieces", self.folder, pair, text, function, [model])
            for pair, text in texts.items()
        }
        pipeline.do(list(steps.values()))
        pipeline.subwords = SubwordFile("sentencepiece", model, MODEL_FILE)
        return {pair: pipeline.made(step) for pair, step in steps.items()}

    def _learn_step(self, model: Path, texts: Texts, pipeline: Pipeline) -> Step:
        sides = [texts["train", lang] for lang in pipeline.langs]
        parameters = {**asdict(self), "sides": [side.parameters for side in sides]}

        def action(progress: Progress) -> TextCount:
            lines = chain.from_iterable(side.read() for side in sides)
            counted = _Counted(lines, progress)
            pipeline.announce(f"at most {self.vocabulary:,} pieces ({self.model_type}):")
            self.learn(counted, model)
            return counted.count

        return Step(
            "learn pieces",
            model.name,
            [path for side in sides for path in side.paths],
            [model],
            parameters,
            action,
            sum(side.lines for side in sides),
        )

    def learn(self, lines: Iterable[str], model: Path) -> None:
        """Learn the model of raw lines and write it, atomically.

        Raises:
            SeqAttnError: too little text, or a vocabulary that has no room for its characters.
        """
        content = io.BytesIO()
        sentencepiece.set_random_generator_seed(self.seed)
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=content,
                vocab_size=self.vocabulary,
                model_type=self.model_type,
                hard_vocab_limit=False,
                input_sentence_size=SAMPLED_LINES,
                shuffle_input_sentence=True,
                num_threads=_THREADS,
                minloglevel=_ERRORS_ONLY,
            )
        except RuntimeError as error:
            raise SeqAttnError(_reason(str(error), self.vocabulary)) from None
        partial_model = partial_path(model)
        partial_model.write_bytes(content.getvalue())
        partial_model.replace(model)


def cut_lines(model: Path, model_sha256: str, lines: list[str]) -> list[str]:
    """Cut raw lines into blank-separated pieces, U+2581 marking where a word starts."""
    processor = _processor(model, model_sha256)
    return [" ".join(processor.encode(line, out_type=str)) for line in lines]


@lru_cache(maxsize=1)
def _processor(model: Path, model_sha256: str) -> sentencepiece.SentencePieceProcessor:
    # The hash is part of the key: the file may be learnt anew while this process lives.
    return sentencepiece.SentencePieceProcessor(model_file=str(model))


class _Counted:
    """Lines that are counted and reported as they pass."""

    def __init__(self, lines: Iterable[str], progress: Progress) -> None:
        self._lines = lines
        self._progress = progress
        self.count = TextCount(0, 0)

    def __iter__(self) -> _Counted:
        self._iterator = iter(self._lines)
        return self

    def __next__(self) -> str:
        line = next(self._iterator)
        self.count = TextCount(self.count.lines + 1, self.count.tokens + len(line.split()))
        self._progress(1)
        return line


def _reason(error: str, vocabulary: int) -> str:
    needed = re.search(r"required_chars\. \d+ vs (\d+)", error)
    if needed:
        return (
            f"a vocabulary of {vocabulary:,} pieces is too small for the characters of this text; "
            f"give --vocab-size {needed[1]} or more"
        )
    return f"SentencePiece cannot learn from this text ({error.rpartition('] ')[2].strip()})"
