"""The text of a gold alignment as a model reads it: pieces, and the word that each belongs to.

Words are those that the gold alignment counts. The text is the test set itself, whose words are
what its pieces spell, or two files of words, which the data-bin's own subword model cuts.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq.data import encoders
from torch import Tensor

from seqattn_fairseq.analysis.subject import Loaded, Pair, Pairs, Subject
from seqattn_fairseq.data.alignments import load_alignments
from seqattn_fairseq.data.description import load_corpus_description
from seqattn_fairseq.data.files import read_lines
from seqattn_fairseq.data.text_chain import TextChain, TextChains
from seqattn_fairseq.data.words import WordNumbering
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.generate import Corpus

Link = tuple[int, int]


class Words(NamedTuple):
    """For each piece of a sentence, eos left out, the number of its word; and of its translation.

    The counts are those of the words, which may be more than the pieces tell of: links to later
    ones are mistakes.
    """

    source: list[int]
    target: list[int]
    source_count: int
    target_count: int


@dataclass(frozen=True)
class AlignedText:
    """Sentence pairs and their words.

    Attributes:
        pairs: the pieces.
        words: returns the words of a pair by its number, from 0.
        uncertain: tells whether a pair holds an unknown piece, which does not show whether its
            word goes on, so that the words after it may be miscounted.
    """

    pairs: Pairs
    words: Callable[[int], Words]
    uncertain: Callable[[int], bool]


@dataclass(frozen=True)
class Gold:
    """A gold alignment.

    Attributes:
        path: its file.
        format: see :func:`~seqattn_fairseq.data.alignments.load_alignments`.
        reversed: its links name the target word first.
        text: files of the words of sources and of targets; None: the test set itself.
    """

    path: Path
    format: str
    reversed: bool = False
    text: tuple[Path, Path] | None = None

    def links(self, sentences: int) -> list[GoldLinks]:
        """Return the links of every pair as (source word, target word), counted from 0.

        Raises:
            SeqAttnError: the file cannot be read, or is not of so many sentences.
        """
        loaded = load_alignments(self.path, self.format, sentences)
        turn = _turned if self.reversed else frozenset
        return [
            GoldLinks(turn(links.sure), turn(links.possible), loaded.place(number))
            for number, links in enumerate(loaded.sets())
        ]


class GoldLinks(NamedTuple):
    """Sure links, possible ones (the sure among them), and where they stand, for messages."""

    sure: frozenset[Link]
    possible: frozenset[Link]
    place: str

    def check(self, words: Words) -> None:
        """Refuse links to words that the sentence pair does not have.

        Raises:
            SeqAttnError: there is one; the message names file and line.
        """
        for source, target in sorted(self.possible):
            if source >= words.source_count or target >= words.target_count:
                raise SeqAttnError(
                    f"{self.place}: links source word {source + 1} to target word {target + 1}, "
                    f"but the pair has {words.source_count} and {words.target_count} words; check "
                    "--gold-format and the text, and give --gold-reversed if the gold alignment "
                    "names the target first"
                )


def _turned(links: frozenset[Link]) -> frozenset[Link]:
    return frozenset((second, first) for first, second in links)


# ---- the test set itself -----------------------------------------------------------------------


def subset_text(subject: Subject) -> AlignedText:
    """Return the subject's test set with the words that its pieces spell.

    Raises:
        SeqAttnError: see :meth:`Subject.pairs`.
    """
    pairs, task = subject.pairs(), subject.loaded.task
    kind = Corpus.of(subject.data_bin, subject.subset).remove_bpe
    dictionaries = task.source_dictionary, task.target_dictionary
    sides = [WordNumbering(dictionary.symbols, kind) for dictionary in dictionaries]

    def unknown(number: int) -> list[int]:
        both = zip(pairs.read(number), dictionaries, strict=True)
        return [int(ids.eq(d.unk()).sum()) if kind != "none" else 0 for ids, d in both]

    def words(number: int) -> Words:
        both = zip(sides, pairs.read(number), strict=True)
        found = [numbering.of(ids[:-1].numpy()).tolist() for numbering, ids in both]
        # each unknown piece may have begun a word without showing it
        counts = [_count(n) + u for n, u in zip(found, unknown(number), strict=True)]
        return Words(found[0], found[1], counts[0], counts[1])

    return AlignedText(pairs, words, lambda number: any(unknown(number)))


def _count(numbers: Sequence[int]) -> int:
    return max(numbers, default=-1) + 1


# ---- files of words ----------------------------------------------------------------------------


def file_text(loaded: Loaded, data_bin: Path, files: tuple[Path, Path]) -> AlignedText:
    """Return the sentence pairs of two files of words, cut as the data-bin's training text was.

    Words stay those of the files: each by itself is lower-cased, normalised, escaped and cut as
    the corpus was, but never tokenised again.

    Raises:
        SeqAttnError: a file cannot be read, they differ in length, or the data-bin has no
            ``corpus.json``.
    """
    lines = [list(read_lines(path)) for path in files]
    if len(lines[0]) != len(lines[1]):
        raise SeqAttnError(
            f"{files[0]} has {len(lines[0]):,} lines but {files[1]} has {len(lines[1]):,}; "
            "--gold-text takes a sentence a line"
        )
    tasks = loaded.task.source_dictionary, loaded.task.target_dictionary
    cutters = _cutters(data_bin)
    sides = [
        [_cut(line, cutter, dictionary) for line in side]
        for side, cutter, dictionary in zip(lines, cutters, tasks, strict=True)
    ]

    def words(number: int) -> Words:
        source, target = (side[number] for side in sides)
        return Words(source.words, target.words, source.size, target.size)

    def read(number: int) -> Pair:
        return Pair(sides[0][number].ids, sides[1][number].ids)

    lengths = [(s.ids.numel(), t.ids.numel()) for s, t in zip(*sides, strict=True)]
    return AlignedText(Pairs(str(files[0]), lengths, read), words, lambda number: False)


class _Sentence(NamedTuple):
    ids: Tensor
    words: list[int]
    size: int


def _cut(line: str, cutter: Callable[[str], list[str]], dictionary: Any) -> _Sentence:
    words = line.split()
    pieces = [(piece, number) for number, word in enumerate(words) for piece in cutter(word)]
    ids = [dictionary.index(piece) for piece, _ in pieces]
    numbers = [number for _, number in pieces]
    return _Sentence(torch.tensor([*ids, dictionary.eos()]), numbers, len(words))


def _cutters(data_bin: Path) -> list[Callable[[str], list[str]]]:
    """Return, for source and target, what turns a word into the pieces of the training text."""
    described = load_corpus_description(data_bin)
    if described is None:
        raise SeqAttnError(
            f"{data_bin}: has no corpus.json, which names the subword model that --gold-text is "
            "to be cut with; binarise the text, and align it as a --subset of its own"
        )
    arguments = {"bpe": None, **described.fairseq_arguments(data_bin)}
    bpe = encoders.build_bpe(Namespace(**arguments))
    chains: list[TextChain | None] = [None, None]
    if described.text_chain:
        both = TextChains.load(data_bin / described.text_chain)
        chains = [both.source, both.target]
    return [cache(partial(_pieces, bpe, chain)) for chain in chains]


def _pieces(bpe: Any, chain: TextChain | None, word: str) -> list[str]:
    if chain:
        word = chain.only("lowercase", "normalize_punctuation", "strip_control").encode(word)
        if chain.tokenize and chain.escape:
            word = _escaped(word, chain.lang)
    pieces: list[str] = (bpe.encode(word) if bpe else word).split()
    return pieces


def _escaped(word: str, lang: str) -> str:
    """Write special characters as tokenizer.perl does; a word that is so already stays."""
    from seqattn_fairseq.data.moses import MosesDetokenizer, PerlTokenizer

    plain = MosesDetokenizer(lang).unescape_xml(word)
    return str(PerlTokenizer(lang).escape_xml(plain))
