"""Byte-pair encoding by subword-nmt: learning the codes and applying them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from subword_nmt.apply_bpe import BPE
from subword_nmt.learn_bpe import learn_bpe

from seqattn_fairseq.data.checks import TextCount
from seqattn_fairseq.data.files import write_atomically
from seqattn_fairseq.data.workers import LineWorkers
from seqattn_fairseq.errors import SeqAttnError


@dataclass(frozen=True)
class WordCounts:
    """How often every word occurs in a text of ``lines`` lines, in order of first occurrence."""

    words: Counter[str]
    lines: int

    @property
    def count(self) -> TextCount:
        """The size of the text."""
        return TextCount(self.lines, self.words.total())


def count_words(
    lines: Iterable[str], workers: LineWorkers, progress: Callable[[int], object]
) -> WordCounts:
    """Count the words of a text; memory grows with the different words alone."""
    words: Counter[str] = Counter()
    number = 0
    for size, chunk in workers.map(_count_chunk, lines):
        words.update(chunk)
        number += size
        progress(size)
    return WordCounts(words, number)


def _count_chunk(lines: list[str]) -> tuple[int, Counter[str]]:
    # Only the blank parts words, and only line ends are stripped, as subword-nmt does it.
    split = (_without_returns(line).strip(" ").split(" ") for line in lines)
    return len(lines), Counter(word for words in split for word in words if word)


def learn_codes(
    words: Mapping[str, int], codes: Path, merges: int, names: Sequence[Path] = ()
) -> None:
    """Learn at most ``merges`` merge operations from counted words (Sennrich et al. 2016).

    Fewer are written when no pair of symbols occurs twice. subword-nmt shows its progress.
    ``names`` are the texts that an error speaks of.

    Raises:
        SeqAttnError: no word has two or more characters.
    """
    with write_atomically(codes) as stream:
        try:
            dictionary = (f"{word} {count}" for word, count in words.items())
            learn_bpe(dictionary, stream, merges, is_dict=True)
        except ValueError:
            texts = " and ".join(map(str, names))
            raise SeqAttnError(
                f"{texts}: too little text to learn BPE from; no word has two characters"
            ) from None


def segment_lines(codes: Path, codes_sha256: str, lines: list[str]) -> list[str]:
    """Split the words of tokenised lines into subword units, "@@" marking a word that goes on.

    Blanks around a line stay, as in the output of ``subword-nmt apply-bpe``. Carriage returns, at
    which that command and fairseq would break the line, become blanks, and go at its end.
    """
    segmenter = _segmenter(codes, codes_sha256)
    return [segmenter.process_line(_without_returns(line)) for line in lines]


def _without_returns(line: str) -> str:
    return line.rstrip("\r").replace("\r", " ")


@lru_cache(maxsize=1)
def _segmenter(codes: Path, codes_sha256: str) -> BPE:
    # The hash is part of the key: the file may be learnt anew while this process lives.
    with open(codes, encoding="utf-8", newline="\n") as stream:
        return BPE(stream)
