"""Checks of parallel text that fairseq does not make; each failure is one line for the user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqattn_fairseq.data.files import read_lines
from seqattn_fairseq.errors import SeqAttnError


@dataclass(frozen=True)
class TextCount:
    """Size of a text file: lines and blank-separated tokens."""

    lines: int
    tokens: int


def count_text(path: Path) -> TextCount:
    """Count a plain or gzip file in one streaming pass.

    Raises:
        SeqAttnError: no such file, damaged gzip, invalid UTF-8, or no word in the whole file.
    """
    lines = tokens = 0
    for line in read_lines(path):
        lines += 1
        tokens += len(line.split())
    if tokens == 0:
        what = "empty file" if lines == 0 else f"all {lines:,} lines are blank"
        raise SeqAttnError(f"{path}: {what}; a corpus needs at least one sentence")
    return TextCount(lines, tokens)


def check_parallel(source: Path, target: Path) -> tuple[TextCount, TextCount]:
    """Check that two files can be a parallel corpus and return their sizes.

    Raises:
        SeqAttnError: as :func:`count_text`, or the two files differ in their number of lines.
    """
    source_count, target_count = count_text(source), count_text(target)
    if source_count.lines != target_count.lines:
        raise SeqAttnError(
            f"{source} has {source_count.lines:,} lines but {target} has {target_count.lines:,}; "
            "line n of both files must be the same sentence"
        )
    return source_count, target_count
