"""What every stage of a preparation works with: texts, and steps that make files of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TextIO

from tqdm import tqdm  # type: ignore[import-untyped]

from seqattn_fairseq.data.checks import TextCount
from seqattn_fairseq.data.files import read_lines, write_atomically
from seqattn_fairseq.data.readers import read_iwslt_train, read_segments, read_sgm
from seqattn_fairseq.data.text_chain import TextChain, TextChains
from seqattn_fairseq.data.workers import LineWorkers, chunks
from seqattn_fairseq.data.workspace import Progress, Step, Workspace

# How a file becomes lines; recipes call the readers by these names.
READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    "lines": read_lines,
    "segments": read_segments,
    "sgm": read_sgm,
    "iwslt_train": read_iwslt_train,
}

Pair = tuple[str, str]  # name of a split, language


@dataclass(frozen=True)
class Part:
    """A file and the name of its reader (see ``READERS``)."""

    path: Path
    reader: str = "lines"

    def read(self) -> Iterator[str]:
        """Yield its lines."""
        return READERS[self.reader](self.path)


@dataclass(frozen=True)
class Text:
    """One side of a split: files that follow each other, and how many lines they have in all."""

    parts: tuple[Part, ...]
    lines: int

    def read(self) -> Iterator[str]:
        """Yield the lines of all parts, one at a time."""
        for part in self.parts:
            yield from part.read()

    @property
    def paths(self) -> list[Path]:
        """The files, in order."""
        return [part.path for part in self.parts]

    @property
    def parameters(self) -> dict[str, Any]:
        """What besides the files' bytes decides about the lines, in JSON form."""
        return {"readers": [part.reader for part in self.parts]}


Texts = dict[Pair, Text]  # splits in fairseq's order, the source language before the target


@dataclass(frozen=True)
class SubwordFile:
    """The model that cut the words: fairseq's ``--bpe`` name, its file, its name in a data-bin."""

    kind: str
    path: Path
    name: str


class Stage(Protocol):
    """Takes all texts of a corpus one step further.

    Attributes:
        folder: where its texts are written, ``<split>.<lang>``, all splits of the corpus.
    """

    @property
    def folder(self) -> str:
        """Name of the folder, within that of the preparation."""

    def run(self, texts: Texts, pipeline: Pipeline) -> Texts:
        """Do what is missing (through ``pipeline``) and return the texts that follow."""


class Pipeline:
    """The means of a preparation: its folder, its workers, the languages' text chains.

    ``subwords`` is set by the stage that segments; ``raw`` are the texts as they came, with those
    that a stage drew from them before it changed anything.
    """

    def __init__(
        self,
        langs: tuple[str, str],
        chains: TextChains,
        workspace: Workspace,
        workers: LineWorkers,
    ) -> None:
        self.langs = langs
        self.chains = chains
        self.workspace = workspace
        self.workers = workers
        self.folder = workspace.folder
        self.subwords: SubwordFile | None = None
        self.raw: Texts = {}
        self.steps = self.steps_done = 0

    def chain(self, lang: str) -> TextChain:
        """Return the text chain of a language."""
        return self.chains.source if lang == self.langs[0] else self.chains.target

    def path(self, folder: str, pair: Pair) -> Path:
        """Return where the text of a split and language lies in a stage's folder."""
        return self.folder / folder / ".".join(pair)

    def made(self, step: Step, output: int = 0) -> Text:
        """Return the text that a finished step made as its n-th output."""
        return Text((Part(step.outputs[output]),), self.workspace.count(step).lines)

    def copy_steps(self, folder: str, texts: Texts) -> dict[Pair, Step]:
        """Return the steps that copy texts, which a stage leaves alone, to its folder."""
        return {
            pair: self.rewrite_step("copy", folder, pair, text, None)
            for pair, text in texts.items()
        }

    def do(self, steps: Sequence[Step], unit: str = " lines") -> None:
        """Run the steps of one stage that are not done yet, with a progress bar."""
        pending = [step for step in steps if not self.workspace.is_done(step)]
        self.steps += len(steps)
        self.steps_done += len(pending)
        if not pending:
            return
        total = sum(step.lines for step in pending) or None
        stage = pending[0].stage
        scale = unit == "B"
        with tqdm(total=total, desc=stage, unit=unit, unit_scale=scale) as bar:
            for step in pending:
                self.workspace.run(step, bar.update)

    def announce(self, text: str) -> None:
        """Print a line about what follows to standard error."""
        print(text, file=sys.stderr)

    def rewrite_step(
        self,
        stage: str,
        folder: str,
        pair: Pair,
        text: Text,
        function: Callable[[list[str]], list[str]] | None,
        inputs: Sequence[Path] = (),
        parameters: dict[str, Any] | None = None,
    ) -> Step:
        """Return the step that writes ``function`` (of consecutive lines) of a text to a folder.

        None copies the lines. ``inputs`` are further files and ``parameters`` further values
        that the result depends on.
        """
        target = self.path(folder, pair)
        action = partial(self._rewrite, text, target, function)
        parameters = {**text.parameters, **(parameters or {})}
        files = [*text.paths, *inputs]
        name = f"{folder}/{target.name}" if stage == "copy" else target.name
        return Step(stage, name, files, [target], parameters, action, text.lines)

    def _rewrite(
        self,
        text: Text,
        target: Path,
        function: Callable[[list[str]], list[str]] | None,
        progress: Progress,
    ) -> TextCount:
        lines = text.read()
        written = self.workers.map(function, lines) if function else chunks(lines)
        with write_atomically(target) as stream:
            count = TextCount(0, 0)
            for chunk in written:
                count += write_lines(stream, chunk)
                progress(len(chunk))
        return count


def write_lines(stream: TextIO, lines: Sequence[str]) -> TextCount:
    """Write lines and return how many, with their tokens."""
    stream.writelines(f"{line}\n" for line in lines)
    return TextCount(len(lines), sum(len(line.split()) for line in lines))
