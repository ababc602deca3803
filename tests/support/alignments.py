"""Files of word links, and the word of every piece of a sentence in plain strings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from seqattn_fairseq.data.alignments import Link
from seqattn_fairseq.data.words import WordNumbering


def write_pharaoh(path: Path, pairs: Iterable[Iterable[Link]]) -> None:
    """Write a line of ``i-j`` links for every sentence pair."""
    lines = (" ".join(f"{i}-{j}" for i, j in sorted(links)) for links in pairs)
    path.write_text("".join(f"{line}\n" for line in lines))


def word_numbers(pieces: Sequence[str], kind: str) -> list[int]:
    """Return for each piece of a sentence the number of its word, from 0."""
    numbers: list[int] = WordNumbering(pieces, kind).of(np.arange(len(pieces))).tolist()
    return numbers
