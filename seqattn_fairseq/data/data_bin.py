"""The last step of a preparation: the folder that fairseq reads, complete in itself."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from seqattn_fairseq.data.binarize import Dictionaries, binarize, binary_size, install
from seqattn_fairseq.data.checks import TextCount
from seqattn_fairseq.data.description import BpeDescription, CorpusDescription, Reference
from seqattn_fairseq.data.files import write_atomically
from seqattn_fairseq.data.pipeline import Part, Pipeline, Text, Texts, write_lines
from seqattn_fairseq.data.workers import chunks
from seqattn_fairseq.data.workspace import Progress, Step
from seqattn_fairseq.errors import SeqAttnError

CHAIN_FILE = "text_chain.json"

# Readers that change sentences -> the reader that leaves those of the same file as they are.
_RAW_READERS = {"segments": "sgm"}

# split -> its raw target side, where there is one, and sacreBLEU's name of the test set.
RawReferences = Mapping[str, tuple[Text | None, str | None]]


class DataBin:
    """A data-bin to be made: dictionaries and binary text, and beside them what raw text needs."""

    def __init__(
        self,
        path: Path,
        dictionaries: Dictionaries,
        texts: Texts,
        references: RawReferences,
        pipeline: Pipeline,
    ) -> None:
        self.path = path
        self.dictionaries = dictionaries
        self.texts = texts
        self.references = {
            split: (text and _raw(text), test_set) for split, (text, test_set) in references.items()
        }
        self.pipeline = pipeline
        self.splits = list(dict.fromkeys(split for split, _ in texts))

    def step(self) -> Step:
        """Return the step that makes the folder."""
        texts = [path for text in self.texts.values() for path in text.paths]
        raw = [path for text, _ in self.references.values() if text for path in text.paths]
        subwords = [self.pipeline.subwords.path] if self.pipeline.subwords else []
        parameters = {
            "splits": self.splits,
            "langs": list(self.pipeline.langs),
            "text_chain": self.pipeline.chains.to_dict(),
            "preprocess": self.dictionaries.arguments(),
            "references": {split: test_set for split, (_, test_set) in self.references.items()},
        }
        inputs = [*texts, *subwords, *raw]
        return Step(
            "binarize", self.path.name, inputs, [self.path], parameters, self._make, self._lines
        )

    @property
    def _lines(self) -> int:
        return sum(text.lines for text in self.texts.values())

    def _make(self, progress: Progress) -> TextCount:
        (folder,) = {path.parent.name for text in self.texts.values() for path in text.paths}
        workers = self.pipeline.workers.count
        partial = binarize(
            self.path, folder, self.splits, self.pipeline.langs, self.dictionaries, workers
        )
        self._complete(partial)
        install(partial, self.path)
        progress(self._lines)
        sizes = (binary_size(self.path, self.pipeline.langs, pair) for pair in self.texts)
        return TextCount(self._lines, sum(size.tokens for size in sizes))

    def _complete(self, partial: Path) -> None:
        """Add subword model, text chains, raw references and the description of all."""
        subwords = self.pipeline.subwords
        if subwords:
            shutil.copyfile(subwords.path, partial / subwords.name)
        self.pipeline.chains.save(partial / CHAIN_FILE)
        references = {
            split: Reference(self._write_reference(partial, split, text), test_set)
            for split, (text, test_set) in self.references.items()
        }
        bpe = BpeDescription(subwords.kind, subwords.name) if subwords else None
        CorpusDescription(*self.pipeline.langs, bpe, CHAIN_FILE, references).save(partial)

    def _write_reference(self, partial: Path, split: str, text: Text | None) -> str | None:
        """Write the raw target side of a split, if there is one, and return the file's name."""
        if text is None:
            return None
        target = self.pipeline.langs[1]
        name = f"reference.{split}.{target}"
        count = TextCount(0, 0)
        with write_atomically(partial / name) as stream:
            for lines in chunks(text.read()):
                count += write_lines(stream, lines)
        if count.lines != self.texts[split, target].lines:
            raise SeqAttnError(
                f"{text.paths[0]}: {count.lines:,} raw lines, but {split} has "
                f"{self.texts[split, target].lines:,}; a <seg> must not span lines"
            )
        return name


def _raw(text: Text) -> Text:
    parts = (Part(part.path, _RAW_READERS.get(part.reader, part.reader)) for part in text.parts)
    return Text(tuple(parts), text.lines)
