"""Readers of the marked-up files of public corpora: one sentence after the other, plain text.

They take lines as grep, sed and perl do: only a line feed ends one, and blanks are ASCII's.
Entities like ``&amp;`` stay as they are, which is what the published preparations train on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from seqattn_fairseq.data.files import read_lines
from seqattn_fairseq.errors import SeqAttnError

_SEG_LINE_START = re.compile(r'<seg id="[0-9]*">\s*', re.ASCII)
_SEG_LINE_END = re.compile(r"\s*</seg>\s*", re.ASCII)
_TYPOGRAPHIC_APOSTROPHE = "\u2019"

_DROPPED_TAGS = ("<url>", "<talkid>", "<keywords>")
_DELETED_TAGS = re.compile(r"</?(?:title|description)>")

_SGM_FLAGS = re.ASCII | re.IGNORECASE
_SGM_OPENED = re.compile(r"<seg[^>]+>", _SGM_FLAGS)
_SGM_SEGMENT = re.compile(r"<seg[^>]+>\s*(.*)\s*</seg>", _SGM_FLAGS)
_SGM_BLANKS = re.compile(r"\s+", re.ASCII)


def read_segments(path: Path) -> Iterator[str]:
    """Yield the sentences of an IWSLT or WMT test file as fairseq's scripts cut them out.

    A sentence is a line that holds ``<seg id``, without its tags and the blanks around them;
    U+2019 becomes an ASCII apostrophe.

    Raises:
        SeqAttnError: as :func:`read_lines`, or the file holds no such line.
    """
    found = False
    for line in read_lines(path):
        if "<seg id" in line:
            found = True
            text = _SEG_LINE_END.sub("", _SEG_LINE_START.sub("", line))
            yield text.replace(_TYPOGRAPHIC_APOSTROPHE, "'")
    _check_found(path, found)


def read_sgm(path: Path) -> Iterator[str]:
    """Yield the sentences of an SGM file as Moses' ``input-from-sgm.perl`` prints them.

    A ``<seg>`` may span lines, which are put together without a blank; white space is squeezed.

    Raises:
        SeqAttnError: as :func:`read_lines`, a ``<seg>`` is never closed, or there is none.
    """
    found = False
    opened, start = "", 0
    for number, line in enumerate(read_lines(path), start=1):
        text = opened + line
        segment = _SGM_SEGMENT.search(text)
        if segment:
            found, opened = True, ""
            yield _SGM_BLANKS.sub(" ", segment[1]).strip(" ")
        elif _SGM_OPENED.search(text):
            start = start if opened else number
            opened = text
    if opened:
        raise SeqAttnError(f"{path}:{start}: <seg> is never closed; the file is cut, get it again")
    _check_found(path, found)


def read_iwslt_train(path: Path) -> Iterator[str]:
    """Yield the sentences of an IWSLT ``train.tags`` file, titles and descriptions among them.

    Lines with ``<url>``, ``<talkid>`` or ``<keywords>`` are no sentences; of titles and
    descriptions only the tags go.

    Raises:
        SeqAttnError: as :func:`read_lines`.
    """
    for line in read_lines(path):
        if not any(tag in line for tag in _DROPPED_TAGS):
            yield _DELETED_TAGS.sub("", line)


def _check_found(path: Path, found: bool) -> None:
    if not found:
        raise SeqAttnError(f"{path}: holds no <seg>; it is not the test file it should be")
