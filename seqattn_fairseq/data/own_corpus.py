"""Anyone's own parallel text as a recipe of the same pipeline that prepares the public corpora."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path

from seqattn_fairseq.data.checks import TextCount
from seqattn_fairseq.data.cleaning import CleanRule
from seqattn_fairseq.data.files import write_atomically
from seqattn_fairseq.data.pipeline import Part, Pipeline, Stage, Text, Texts, write_lines
from seqattn_fairseq.data.recipe import CorpusRecipe
from seqattn_fairseq.data.sentencepieces import SentencePiece
from seqattn_fairseq.data.sources import Download, Piece, Side
from seqattn_fairseq.data.stages import Clean, Rewrite, SubwordNmt
from seqattn_fairseq.data.text_chain import TextChain
from seqattn_fairseq.data.workers import chunks
from seqattn_fairseq.data.workspace import Progress, Step
from seqattn_fairseq.errors import SeqAttnError

# What is held out of a corpus for validation and for test, unless the user says how much.
HELD_OUT_LINES = 2_000
HELD_OUT_FRACTION = 20

Pair = tuple[str, str]


def file_piece(langs: Pair, files: Sequence[Path]) -> Piece:
    """Return the parallel piece of two files of the user's, plain or gzipped.

    Raises:
        SeqAttnError: one of them is missing or no file.
    """
    for file in files:
        if not file.is_file():
            raise SeqAttnError(f"{file}: no such file; give two text files, plain or gzipped")
    sides = {
        lang: Side(Download(file.name, folders=(str(file.absolute().parent),)))
        for lang, file in zip(langs, files, strict=True)
    }
    return Piece(sides)


@dataclass(frozen=True)
class DrawHeldOut:
    """Draw pairs for validation and test from the training set, at random; copy the other splits.

    A pair with a blank side is never drawn. A carriage return, which other tools take for the end
    of a line, becomes a blank, and goes at the end of a line.

    Attributes:
        folder: see :class:`~seqattn_fairseq.data.pipeline.Stage`.
        sizes: split -> its number of pairs; None: a twentieth of the corpus, 2,000 at most.
        seed: of the draw.
    """

    folder: str
    sizes: Mapping[str, int | None]
    seed: int

    def run(self, texts: Texts, pipeline: Pipeline) -> Texts:
        """See :class:`~seqattn_fairseq.data.pipeline.Stage`."""
        sizes = self._sizes(texts["train", pipeline.langs[0]].lines)
        others = {pair: text for pair, text in texts.items() if pair[0] != "train"}
        copies = {
            pair: pipeline.rewrite_step("copy", self.folder, pair, text, unwrap)
            for pair, text in others.items()
        }
        step = self._step(sizes, texts, pipeline)
        pipeline.do([step])
        pipeline.do(list(copies.values()))
        made: Texts = {}
        lines = {"train": pipeline.workspace.count(step).lines - sum(sizes.values()), **sizes}
        for output, (split, lang) in zip(step.outputs, self._pairs(sizes, pipeline), strict=True):
            made[split, lang] = Text((Part(output),), lines[split])
        made |= {pair: pipeline.made(copy) for pair, copy in copies.items()}
        pipeline.raw |= made
        splits = dict.fromkeys(["train", "valid", *(split for split, _ in made)])
        return {(split, lang): made[split, lang] for split in splits for lang in pipeline.langs}

    def _sizes(self, lines: int) -> dict[str, int]:
        share = max(1, min(HELD_OUT_LINES, lines // HELD_OUT_FRACTION))
        sizes = {split: share if size is None else size for split, size in self.sizes.items()}
        return {split: size for split, size in sizes.items() if size}

    @staticmethod
    def _pairs(sizes: Mapping[str, int], pipeline: Pipeline) -> list[Pair]:
        return [(split, lang) for split in ("train", *sizes) for lang in pipeline.langs]

    def _step(self, sizes: Mapping[str, int], texts: Texts, pipeline: Pipeline) -> Step:
        sides = [texts["train", lang] for lang in pipeline.langs]
        targets = [pipeline.path(self.folder, pair) for pair in self._pairs(sizes, pipeline)]
        return Step(
            "hold out",
            "train",
            [path for side in sides for path in side.paths],
            targets,
            {"sizes": dict(sizes), "seed": self.seed},
            partial(self._split, sizes, sides, targets),
            2 * sides[0].lines,  # they are read twice
        )

    def _split(
        self,
        sizes: Mapping[str, int],
        sides: Sequence[Text],
        targets: Sequence[Path],
        progress: Progress,
    ) -> TextCount:
        held = self._draw(sizes, sides, progress)
        places = {split: 2 * number for number, split in enumerate(("train", *sizes))}
        count = TextCount(0, 0)
        with ExitStack() as stack:
            streams = [stack.enter_context(write_atomically(target)) for target in targets]
            for numbered in _numbered_pairs(sides, progress):
                for number, pair in numbered:
                    place = places[held.get(number, "train")]
                    for stream, line in zip(streams[place : place + 2], pair, strict=True):
                        count += write_lines(stream, unwrap([line]))
        return TextCount(count.lines // 2, count.tokens)

    def _draw(
        self, sizes: Mapping[str, int], sides: Sequence[Text], progress: Progress
    ) -> dict[int, str]:
        """Return line number (from 0) -> split, in one pass with flat memory (reservoir)."""
        wanted = [split for split, size in sizes.items() for _ in repeat(None, size)]
        dice = random.Random(self.seed)
        drawn: list[int] = []
        seen = 0
        for numbered in _numbered_pairs(sides, progress):
            for number, pair in numbered:
                if not all(line.strip() for line in pair):
                    continue
                seen += 1
                if len(drawn) < len(wanted):
                    drawn.append(number)
                elif (place := dice.randrange(seen)) < len(drawn):
                    drawn[place] = number
        if seen <= len(wanted):
            names = " and ".join(str(side.paths[0]) for side in sides)
            raise SeqAttnError(
                f"{names}: {seen:,} pairs with text on both sides are too few to hold out "
                f"{len(wanted):,} of them; give files for --valid and --test, or smaller sizes"
            )
        dice.shuffle(drawn)
        return dict(zip(drawn, wanted, strict=True))


def unwrap(lines: list[str]) -> list[str]:
    """Return lines without carriage returns."""
    return [line.rstrip("\r").replace("\r", " ") for line in lines]


def _numbered_pairs(sides: Sequence[Text], progress: Progress) -> Iterator[list[tuple[int, Pair]]]:
    """Yield chunks of (number, pair of lines)."""
    source, target = (side.read() for side in sides)
    for chunk in chunks(enumerate(zip(source, target, strict=True))):
        yield chunk
        progress(len(chunk))


@dataclass(frozen=True)
class OwnCorpus:
    """What a user decides about a corpus of their own.

    Attributes:
        langs: source and target language.
        files: split -> its two files: "train", and those of "valid", "test", "test1", ... that
            are given.
        held_out: "valid" and "test", if not given -> pairs to draw from train (0: no such split;
            None: see :class:`DrawHeldOut`).
        seed: of whatever is random.
        subwords: the stage that cuts words into pieces.
        text_steps: what is done to raw text before, out of ``TEXT_STEPS``.
        rule: which pairs of the training set stay; lengths are in pieces.
        joined: one dictionary for both languages.
    """

    langs: Pair
    files: Mapping[str, Sequence[Path]]
    held_out: Mapping[str, int | None]
    seed: int
    subwords: SubwordNmt | SentencePiece
    text_steps: tuple[str, ...]
    rule: CleanRule
    joined: bool

    def recipe(self) -> CorpusRecipe:
        """Return the recipe that the pipeline interprets.

        Raises:
            SeqAttnError: a file is missing.
        """
        stages: list[Stage] = [DrawHeldOut("text", self.held_out, self.seed)]
        if self.text_steps:
            stages.append(Rewrite("tok", self.text_steps))
        stages += [self.subwords, Clean("clean", self.rule)]
        source, target = self.langs
        drawn = [split for split, size in self.held_out.items() if size != 0]
        splits = [split for split in (*self.files, *drawn) if split != "train"]
        return CorpusRecipe(
            name=f"own corpus {source}-{target}",
            source_lang=source,
            target_lang=target,
            sets={split: (file_piece(self.langs, files),) for split, files in self.files.items()},
            stages=tuple(stages),
            chain=TextChain.from_dict({"lang": source} | dict.fromkeys(self.text_steps, True)),
            joined=self.joined,
            references=dict.fromkeys(splits),
            terms="text of your own",
        )
