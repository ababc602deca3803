"""Cleaning of parallel text, decision by decision as the Moses perl scripts do it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

MAX_WORD_CHARACTERS = 1000

# perl's \s: the white space of Unicode without U+001C to U+001F, which Python's \s has, too.
_BLANKS = re.compile(r"[^\S\x1c-\x1f]+")
_WORDS = re.compile(r"[ |]")


@dataclass(frozen=True)
class CleanRule:
    """Which sentence pairs ``clean-corpus-n.perl -ratio RATIO ... LOW HIGH`` keeps.

    Attributes:
        low: fewest tokens of a side.
        high: most tokens of a side.
        ratio: greatest quotient of the two lengths (a pair right at it is kept).
        factored: leave vertical bars in the text, as the script does when the first line of the
            corpus has one (:func:`is_factored`); otherwise it deletes them.
    """

    low: int
    high: int
    ratio: float
    factored: bool = False


def is_factored(source_line: str, target_line: str) -> bool:
    """Tell whether the script would take a corpus with this first line for a factored one."""
    return "|" in source_line or "|" in target_line


def keep(rule: CleanRule, source_line: str, target_line: str) -> tuple[str, str] | None:
    """Return both lines as the script writes them, or None when it drops the pair.

    White space is squeezed to single blanks and trimmed; vertical bars are deleted. Dropped are
    pairs with an empty side, outside the length bounds, out of ratio, or with a word of more than
    1,000 characters. (Where the script gives up at "a |b" in a factored corpus, this goes on.)
    """
    source, target = _squeeze(rule, source_line), _squeeze(rule, target_line)
    if not source or not target:
        return None
    lengths = source.count(" ") + 1, target.count(" ") + 1
    shorter, longer = min(lengths), max(lengths)
    if shorter < rule.low or longer > rule.high or longer / shorter > rule.ratio:
        return None
    return None if _has_long_word(source) or _has_long_word(target) else (source, target)


def strip_control_characters(line: str) -> str:
    """Replace every character of Unicode category C (control, format, unassigned ...) by a blank.

    ``remove-non-printing-char.perl`` does the same.
    """
    return line if line.isprintable() else line.translate(_CONTROL_TO_BLANK)


class _ControlToBlank(dict[int, int]):
    """Translation table that learns a code point's category when it meets it."""

    def __missing__(self, code: int) -> int:
        is_control = unicodedata.category(chr(code)).startswith("C")
        self[code] = ord(" ") if is_control else code
        return self[code]


_CONTROL_TO_BLANK = _ControlToBlank()


def _squeeze(rule: CleanRule, line: str) -> str:
    text = line if rule.factored else line.replace("|", "")
    return _BLANKS.sub(" ", text).strip(" ")


def _has_long_word(text: str) -> bool:
    if len(text) <= MAX_WORD_CHARACTERS:
        return False
    return any(len(word) > MAX_WORD_CHARACTERS for word in _WORDS.split(text))
