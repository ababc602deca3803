"""The stages of the official preparations, to be put together in any order.

Each writes all splits of the corpus to a folder of its own, those that it does not change, too.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from seqattn_fairseq.data.checks import TextCount
from seqattn_fairseq.data.cleaning import CleanRule, is_factored, keep
from seqattn_fairseq.data.files import write_atomically
from seqattn_fairseq.data.pipeline import (
    Pair,
    Part,
    Pipeline,
    SubwordFile,
    Text,
    Texts,
    write_lines,
)
from seqattn_fairseq.data.segmentation import count_words, learn_codes, segment_lines
from seqattn_fairseq.data.text_chain import TextChain
from seqattn_fairseq.data.workers import chunks
from seqattn_fairseq.data.workspace import Progress, Step
from seqattn_fairseq.errors import SeqAttnError

CODES_FILE = "bpe.codes"


@dataclass(frozen=True)
class Rewrite:
    """Put every line through some steps of the corpus' text chains (none: copy the text).

    Attributes:
        folder: see :class:`~seqattn_fairseq.data.pipeline.Stage`.
        steps: names out of ``TEXT_STEPS``; the chain says in which order they happen.
        evaluation_steps: those for the splits other than train, where the scripts treat these
            differently.
    """

    folder: str
    steps: tuple[str, ...] = ()
    evaluation_steps: tuple[str, ...] | None = None

    def run(self, texts: Texts, pipeline: Pipeline) -> Texts:
        """See :class:`~seqattn_fairseq.data.pipeline.Stage`."""
        if self.steps:
            steps = {pair: self._step(pair, text, pipeline) for pair, text in texts.items()}
        else:
            steps = pipeline.copy_steps(self.folder, texts)
        pipeline.do(list(steps.values()))
        return {pair: pipeline.made(step) for pair, step in steps.items()}

    def _step(self, pair: Pair, text: Text, pipeline: Pipeline) -> Step:
        split, lang = pair
        is_other = split != "train" and self.evaluation_steps is not None
        steps = self.evaluation_steps if is_other else self.steps
        text_chain = pipeline.chain(lang).only(*(steps or ()))
        stage = "tokenize" if "tokenize" in self.steps else self.steps[0]
        function = partial(_encode_lines, text_chain)
        parameters = {"text_chain": text_chain.to_dict()}
        return pipeline.rewrite_step(stage, self.folder, pair, text, function, (), parameters)


def _encode_lines(text_chain: TextChain, lines: list[str]) -> list[str]:
    return [text_chain.encode(line) for line in lines]


@dataclass(frozen=True)
class Clean:
    """Drop sentence pairs as ``clean-corpus-n.perl`` does.

    Attributes:
        folder: see :class:`~seqattn_fairseq.data.pipeline.Stage`.
        rule: which pairs are kept.
        splits: the splits that are cleaned; the others are copied.
    """

    folder: str
    rule: CleanRule
    splits: tuple[str, ...] = ("train",)

    def run(self, texts: Texts, pipeline: Pipeline) -> Texts:
        """See :class:`~seqattn_fairseq.data.pipeline.Stage`."""
        steps = {split: self._step(split, texts, pipeline) for split in self.splits}
        others = {pair: text for pair, text in texts.items() if pair[0] not in self.splits}
        copies = pipeline.copy_steps(self.folder, others)
        pipeline.do(list(steps.values()))
        pipeline.do(list(copies.values()))
        for split, step in steps.items():
            if pipeline.workspace.count(step).lines == 0:
                raise SeqAttnError(
                    f"{step.inputs[0].parent}: cleaning leaves no pair of {split}; are its two "
                    "sides translations of each other, line by line?"
                )
        made = {pair: pipeline.made(step) for pair, step in copies.items()}
        for split, step in steps.items():
            made |= {
                (split, lang): pipeline.made(step, side) for side, lang in enumerate(pipeline.langs)
            }
        return {pair: made[pair] for pair in texts}

    def _step(self, split: str, texts: Texts, pipeline: Pipeline) -> Step:
        sides = [texts[split, lang] for lang in pipeline.langs]
        targets = [pipeline.path(self.folder, (split, lang)) for lang in pipeline.langs]
        rule = {"tokens": [self.rule.low, self.rule.high], "ratio": self.rule.ratio}
        return Step(
            "clean",
            split,
            [path for side in sides for path in side.paths],
            targets,
            {"sides": [side.parameters for side in sides], **rule},
            partial(self._clean, sides, targets, pipeline),
            sides[0].lines,
        )

    def _clean(
        self, sides: list[Text], targets: list[Path], pipeline: Pipeline, progress: Progress
    ) -> TextCount:
        pairs = zip(*(side.read() for side in sides), strict=True)
        first = next(pairs)
        # The script looks at the first line alone, and then treats all lines alike.
        rule = replace(self.rule, factored=self.rule.factored or is_factored(*first))
        lines = tokens = 0
        with ExitStack() as stack:
            streams = [stack.enter_context(write_atomically(target)) for target in targets]
            for size, kept in pipeline.workers.map(partial(_keep, rule), chain([first], pairs)):
                for stream, side in zip(streams, kept, strict=True):
                    tokens += write_lines(stream, side).tokens
                lines += len(kept[0])
                progress(size)
        return TextCount(lines, tokens)


def _keep(rule: CleanRule, pairs: list[tuple[str, str]]) -> tuple[int, tuple[list[str], list[str]]]:
    """Return the number of pairs, and both sides of those that stay."""
    kept = [pair for pair in (keep(rule, *lines) for lines in pairs) if pair]
    return len(pairs), ([source for source, _ in kept], [target for _, target in kept])


@dataclass(frozen=True)
class HoldOut:
    """Make every n-th pair of the training set (counted from 1) the validation set.

    Attributes:
        folder: see :class:`~seqattn_fairseq.data.pipeline.Stage`.
        every: n.
    """

    folder: str
    every: int

    def run(self, texts: Texts, pipeline: Pipeline) -> Texts:
        """See :class:`~seqattn_fairseq.data.pipeline.Stage`."""
        train = {lang: texts["train", lang] for lang in pipeline.langs}
        held = {lang: text.lines // self.every for lang, text in train.items()}
        if not all(held.values()):
            paths = ", ".join(map(str, train[pipeline.langs[0]].paths))
            raise SeqAttnError(
                f"{paths}: {train[pipeline.langs[0]].lines:,} lines are too few to hold out every "
                f"{self.every:,}th for validation; is the file complete?"
            )
        others = {pair: text for pair, text in texts.items() if pair[0] != "train"}
        copies = pipeline.copy_steps(self.folder, others)
        steps = {lang: self._step(lang, text, pipeline) for lang, text in train.items()}
        pipeline.do(list(steps.values()))
        pipeline.do(list(copies.values()))
        made: Texts = {}
        for output, split in enumerate(("train", "valid")):
            for lang, step in steps.items():
                lines = held[lang] if output else train[lang].lines - held[lang]
                made[split, lang] = Text((Part(step.outputs[output]),), lines)
        return made | {pair: pipeline.made(step) for pair, step in copies.items()}

    def _step(self, lang: str, text: Text, pipeline: Pipeline) -> Step:
        targets = [pipeline.path(self.folder, (split, lang)) for split in ("train", "valid")]
        action = partial(self._split, text, targets)
        parameters = {**text.parameters, "every": self.every}
        return Step(
            "hold out", f"train.{lang}", text.paths, targets, parameters, action, text.lines
        )

    def _split(self, text: Text, targets: list[Path], progress: Progress) -> TextCount:
        count, number = TextCount(0, 0), 0
        with write_atomically(targets[0]) as train, write_atomically(targets[1]) as valid:
            for lines in chunks(text.read()):
                held = [n for n in range(len(lines)) if (number + n + 1) % self.every == 0]
                count += write_lines(valid, [lines[n] for n in held])
                for n in reversed(held):
                    del lines[n]
                count += write_lines(train, lines)
                number += len(lines) + len(held)
                progress(len(lines) + len(held))
        return count


@dataclass(frozen=True)
class SubwordNmt:
    """Learn joint byte-pair codes on the training set as it stands, and apply them to all splits.

    Attributes:
        merges: number of merge operations; too little text yields fewer.
        folder: see :class:`~seqattn_fairseq.data.pipeline.Stage`.
    """

    merges: int
    folder: str = "bpe"

    def run(self, texts: Texts, pipeline: Pipeline) -> Texts:
        """See :class:`~seqattn_fairseq.data.pipeline.Stage`."""
        codes = pipeline.folder / CODES_FILE
        pipeline.do([self._learn_step(codes, texts, pipeline)])
        # The hash tells worker processes that the codes are new ones.
        function = partial(segment_lines, codes, pipeline.workspace.digest(codes))
        steps = {
            pair: pipeline.rewrite_step("apply BPE", self.folder, pair, text, function, [codes])
            for pair, text in texts.items()
        }
        pipeline.do(list(steps.values()))
        pipeline.subwords = SubwordFile("subword_nmt", codes, CODES_FILE)
        return {pair: pipeline.made(step) for pair, step in steps.items()}

    def _learn_step(self, codes: Path, texts: Texts, pipeline: Pipeline) -> Step:
        sides = [texts["train", lang] for lang in pipeline.langs]

        def action(progress: Progress) -> TextCount:
            read = chain.from_iterable(side.read() for side in sides)
            counter = count_words(read, pipeline.workers, progress)
            pipeline.announce(f"at most {self.merges:,} merges of {len(counter.words):,} words:")
            learn_codes(counter.words, codes, self.merges, [sides[0].paths[0], sides[1].paths[0]])
            return counter.count

        return Step(
            "learn BPE",
            codes.name,
            [path for side in sides for path in side.paths],
            [codes],
            {"merges": self.merges, "sides": [side.parameters for side in sides]},
            action,
            sum(side.lines for side in sides),
        )
