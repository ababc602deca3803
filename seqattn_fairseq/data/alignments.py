"""Word alignments as files: which source word belongs to which target word of a sentence pair.

Formats, with one sentence pair a line unless said otherwise:

* ``pharaoh``: links ``i-j`` counted from 0 (fast_align and others write it);
* ``talp``: the same counted from 1 (gold alignments of RWTH);
* ``naacl``: a line ``sentence source target`` for each link, all counted from 1, and optionally
  ``S`` or ``P`` and a confidence (gold alignments of the 2003 shared task).

A link is sure or, written ``ipj`` or ``P``, only possible; every sure link is possible, too.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm  # type: ignore[import-untyped]

from seqattn_fairseq.data.files import read_lines
from seqattn_fairseq.errors import SeqAttnError, nearest

Link = tuple[int, int]

# format -> what it counts the first word as
_FIRST = {"pharaoh": 0, "talp": 1, "naacl": 1}
ALIGNMENT_FORMATS = tuple(_FIRST)

# Four digits: what has more words is no sentence, and 16 bits hold them.
_LINK = re.compile(r"\d{1,4}[-p]\d{1,4}", re.ASCII)
_LINE = re.compile(rf"(?:{_LINK.pattern}(?:\s+|$))*", re.ASCII)
_NAACL_LINE = re.compile(
    r"(\d{1,9})\s+(\d{1,4})\s+(\d{1,4})(?:\s+([SP]))?(?:\s+[\d.eE+-]+)?", re.ASCII
)

_Links = npt.NDArray[np.uint16]
_Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Links:
    """The links of a sentence pair: (source word, target word), counted from 0.

    Attributes:
        sure: the sure ones.
        possible: those and the ones that are only possible.
    """

    sure: frozenset[Link]
    possible: frozenset[Link]


@dataclass(frozen=True)
class Alignments:
    """The links of many sentence pairs in little memory: five bytes a link.

    Attributes:
        path: the file they come from.
        by_line: whether its line n is sentence pair n.
        starts: (N + 1,) where the links of each pair begin, and their number.
        words: (M, 2) source and target word of every link, counted from 0.
        sure: (M,) False at links that are only possible.
    """

    path: Path
    by_line: bool
    starts: npt.NDArray[np.int64]
    words: _Links
    sure: _Flags

    def __len__(self) -> int:
        return len(self.starts) - 1

    def links(self, pair: int) -> _Links:
        """Return (K, 2) the links of a pair (from 0), sure or only possible."""
        return self.words[self.starts[pair] : self.starts[pair + 1]]

    def place(self, pair: int) -> str:
        """Return where the links of a pair (from 0) are, for messages."""
        return f"{self.path}:{pair + 1}" if self.by_line else f"{self.path}: sentence {pair + 1}"

    def sets(self) -> Iterator[Links]:
        """Yield the links of every pair as sets."""
        for pair in range(len(self)):
            here = slice(self.starts[pair], self.starts[pair + 1])
            links = [(source, target) for source, target in self.words[here].tolist()]
            sure = (link for link, is_sure in zip(links, self.sure[here], strict=True) if is_sure)
            yield Links(frozenset(sure), frozenset(links))


def read_alignments(path: Path, format: str, sentences: int | None = None) -> list[Links]:
    """Return the links of every sentence pair of a file; arguments as :func:`load_alignments`."""
    return list(load_alignments(path, format, sentences).sets())


def load_alignments(path: Path, format: str, sentences: int | None = None) -> Alignments:
    """Return the links of every sentence pair of a file, compactly.

    Args:
        path: plain or gzip text.
        format: one of ``ALIGNMENT_FORMATS``.
        sentences: how many pairs there must be. The format naacl leaves out pairs without links,
            so without this number those after the last link are not known of.

    Raises:
        SeqAttnError: unreadable file, malformed line, or another number of pairs.
    """
    if format not in _FIRST:
        raise SeqAttnError(
            f"'{format}' is no format of alignments{nearest(format, _FIRST)}; "
            f"there are {', '.join(_FIRST)}"
        )
    if format == "naacl":
        return _load_naacl(path, format, sentences)
    words, sure, counts = array("H"), bytearray(), array("L")
    for number, line in _numbered(path):
        numbers, marks = _parsed(f"{path}:{number}", line.strip(), format)
        words.extend(numbers)
        sure.extend(marks)
        counts.append(len(marks))
    if sentences is not None and len(counts) != sentences:
        raise SeqAttnError(
            f"{path}: {len(counts):,} lines, but there are {sentences:,} sentence pairs; align the "
            "very text whose alignments these are to be, empty lines included"
        )
    table = np.array(words, dtype=np.uint16).reshape(-1, 2) - np.uint16(_FIRST[format])
    flags = np.array(sure, dtype=bool)
    return Alignments(path, True, _starts(np.array(counts)), table, flags)


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    lines = tqdm(read_lines(path), desc=path.name, unit="line", delay=2, leave=False)
    return enumerate(lines, start=1)


def _starts(counts: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _parsed(place: str, text: str, format: str) -> tuple[list[int], list[bool]]:
    """Return both word numbers of each link as they are written, and whether it is sure."""
    if not _LINE.fullmatch(text):
        wrong = next(item for item in text.split() if not _LINK.fullmatch(item))
        raise SeqAttnError(
            f"{place}: '{wrong}' is no link; in the format {format} links are i-j, or ipj if only "
            f"possible, with word numbers from {_FIRST[format]} to 9999"
        )
    numbers = [int(number) for number in text.replace("-", " ").replace("p", " ").split()]
    _check_base(place, numbers, format)
    return numbers, [mark == "-" for mark in text if mark in "-p"]


def _check_base(place: str, numbers: Sequence[int], format: str) -> None:
    remedy = {
        "talp": "if the file counts from 0, its format is pharaoh",
        "naacl": "take the answers without null links (nonullalign)",
    }
    if format in remedy and 0 in numbers:
        raise SeqAttnError(
            f"{place}: word number 0 in the format {format}, which counts from 1; {remedy[format]}"
        )


def _load_naacl(path: Path, format: str, sentences: int | None) -> Alignments:
    rows: list[tuple[int, int, int, bool]] = []
    for number, line in _numbered(path):
        match = _NAACL_LINE.fullmatch(line.strip())
        if not match:
            raise SeqAttnError(
                f"{path}:{number}: no link; in the format {format} a line is SENTENCE SOURCE "
                "TARGET, all counted from 1, and perhaps S or P and a confidence"
            )
        sentence, source, target = (int(value) for value in match.groups()[:3])
        _check_sentence(f"{path}:{number}", sentence, sentences)
        _check_base(f"{path}:{number}", (source, target), format)
        rows.append((sentence - 1, source - 1, target - 1, match[4] != "P"))
    table = np.array(sorted(rows), dtype=np.int64).reshape(-1, 4)
    last = int(table[:, 0].max(initial=-1)) + 1
    counts = np.bincount(table[:, 0], minlength=last if sentences is None else sentences)
    words, sure = table[:, 1:3].astype(np.uint16), table[:, 3].astype(bool)
    return Alignments(path, False, _starts(counts), words, sure)


def _check_sentence(place: str, sentence: int, sentences: int | None) -> None:
    if sentence == 0:
        raise SeqAttnError(f"{place}: sentence 0, but the format naacl counts sentences from 1")
    if sentences is not None and sentence > sentences:
        raise SeqAttnError(
            f"{place}: sentence {sentence:,}, but there are {sentences:,} sentence pairs; align "
            "the very text whose alignments these are to be"
        )
