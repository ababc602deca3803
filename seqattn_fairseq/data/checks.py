"""Checks of parallel text that fairseq does not make; each failure is one line for the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from seqattn_fairseq.data.files import read_lines
from seqattn_fairseq.errors import SeqAttnError

_HEAD_BYTES = 512
_WEB_PAGE_STARTS = (b"<!doctype html", b"<html", b"<head")


@dataclass(frozen=True)
class TextCount:
    """Size of a text file: lines and blank-separated tokens."""

    lines: int
    tokens: int

    def __add__(self, other: TextCount) -> TextCount:
        return TextCount(self.lines + other.lines, self.tokens + other.tokens)


def count_text(path: Path, read: Callable[[Path], Iterator[str]] = read_lines) -> TextCount:
    """Count the lines that ``read`` finds in a file, in one streaming pass.

    Raises:
        SeqAttnError: no such file, damaged gzip, invalid UTF-8, or no word in the whole file.
    """
    lines = tokens = 0
    for line in read(path):
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
    check_same_lines(source, source_count, target, target_count)
    return source_count, target_count


def check_same_lines(
    source: Path, source_count: TextCount, target: Path, target_count: TextCount
) -> None:
    """Check that two counted files have the same number of lines.

    Raises:
        SeqAttnError: they have not.
    """
    if source_count.lines != target_count.lines:
        raise SeqAttnError(
            f"{source} has {source_count.lines:,} lines but {target} has {target_count.lines:,}; "
            "line n of both files must be the same sentence"
        )


def check_download(path: Path) -> None:
    """Check that a downloaded file is not empty and not a server's page about an error.

    Raises:
        SeqAttnError: it is one of these.
    """
    with open(path, "rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if not head:
        raise SeqAttnError(f"{path}: empty file (0 bytes); get it again")
    if is_web_page(head):
        raise SeqAttnError(
            f"{path}: a web page (HTML), not the file of that name: what a server sends when it "
            "cannot give the file; get it another way and name its folder with --from DIR"
        )


def is_web_page(head: bytes) -> bool:
    """Tell whether a file that starts with ``head`` is an HTML page."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return text.startswith(_WEB_PAGE_STARTS)
