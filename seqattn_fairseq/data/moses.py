"""sacremoses with the corrections that make it equal to the Moses perl scripts.

Two things differ in the package itself: its letter classes are fixed lists that lack Chinese,
Korean and newer scripts ("中国" would be cut into "中 国"), and ``perl_parity=True`` of its
0.1 series changes class-level tables that every other normaliser of the process shares.
"""

from __future__ import annotations

from typing import ClassVar

import regex  # type: ignore[import-untyped]
from sacremoses import MosesDetokenizer, MosesPunctNormalizer, MosesTokenizer

__all__ = ["MosesDetokenizer", "PerlPunctNormalizer", "PerlTokenizer"]

_UNICODE_CLASSES = (
    (MosesTokenizer.IsAlnum, r"\p{Alphabetic}\p{Nd}"),
    (MosesTokenizer.IsAlpha, r"\p{Alphabetic}"),
    (MosesTokenizer.IsN, r"\p{N}"),
)

Rule = tuple[regex.Pattern[str], str]
Table = list[tuple[str, str]]


def _with_unicode_classes(rule: Rule) -> Rule:
    """Return a sacremoses (pattern, replacement) whose character lists are Unicode properties."""
    pattern, replacement = rule
    source = pattern.pattern
    for characters, unicode_class in _UNICODE_CLASSES:
        source = source.replace(characters, unicode_class)
    return regex.compile(source), replacement


class PerlPunctNormalizer(MosesPunctNormalizer):
    """``normalize-punctuation.perl``, to be fed whole lines including their newline."""

    # Copies of the tables that sacremoses 0.1 changes in place.
    NORMALIZE_UNICODE: ClassVar[Table] = [*MosesPunctNormalizer.NORMALIZE_UNICODE]
    FRENCH_QUOTES: ClassVar[Table] = [*MosesPunctNormalizer.FRENCH_QUOTES]

    def __init__(self, lang: str) -> None:
        super().__init__(lang=lang, perl_parity=True)


class PerlTokenizer(MosesTokenizer):
    """``tokenizer.perl`` of before November 2018: the full stop of a final abbreviation stays."""

    PAD_NOT_ISALNUM = _with_unicode_classes(MosesTokenizer.PAD_NOT_ISALNUM)
    AGGRESSIVE_HYPHEN_SPLIT = _with_unicode_classes(MosesTokenizer.AGGRESSIVE_HYPHEN_SPLIT)
    COMMA_SEPARATE_1 = _with_unicode_classes(MosesTokenizer.COMMA_SEPARATE_1)
    COMMA_SEPARATE_2 = _with_unicode_classes(MosesTokenizer.COMMA_SEPARATE_2)
    COMMA_SEPARATE_3 = _with_unicode_classes(MosesTokenizer.COMMA_SEPARATE_3)
    ENGLISH_SPECIFIC_APOSTROPHE = tuple(
        map(_with_unicode_classes, MosesTokenizer.ENGLISH_SPECIFIC_APOSTROPHE)
    )
    FR_IT_SPECIFIC_APOSTROPHE = tuple(
        map(_with_unicode_classes, MosesTokenizer.FR_IT_SPECIFIC_APOSTROPHE)
    )

    def islower(self, text: str) -> bool:
        """Tell whether every character of ``text`` is a lower-case letter."""
        return regex.fullmatch(r"\p{Lowercase}*", text) is not None

    def isanyalpha(self, text: str) -> bool:
        """Tell whether ``text`` holds a letter."""
        return regex.search(r"\p{Alphabetic}", text) is not None
