"""Cleaning decisions at their edges, and against the output of the official script."""

from __future__ import annotations

import gzip
import sys
import unicodedata
from pathlib import Path

import pytest

from seqattn_fairseq.data.cleaning import CleanRule, is_factored, keep, strip_control_characters

RULE = CleanRule(1, 4, 1.5)


@pytest.mark.parametrize(
    ("source", "target", "kept"),
    [
        ("a", "b", ("a", "b")),
        ("  a\t b\u3000", "c\u2028\xa0d\r", ("a b", "c d")),
        ("a b c", "a b", ("a b c", "a b")),  # 1.5 exactly
        ("a b", "a b c", ("a b", "a b c")),
        ("a b c d", "a b", None),
        ("a", "a b", None),
        ("a b c d", "a b c", ("a b c d", "a b c")),
        ("a b c d e", "a b c d", None),
        ("", "a", None),
        ("a", " \t\u2003", None),
        ("a | b|c", "| a d|", ("a bc", "a d")),
        ("||", "a", None),
        ("a\x1cb\x1f", "a", ("a\x1cb\x1f", "a")),  # no white space in perl
    ],
)
def test_decisions(source: str, target: str, kept: tuple[str, str] | None) -> None:
    assert keep(RULE, source, target) == kept


@pytest.mark.parametrize(("tokens", "kept"), [(2, False), (3, True), (150, True), (151, False)])
def test_length_bounds(tokens: int, kept: bool) -> None:
    line = " ".join("x" * tokens)
    assert (keep(CleanRule(3, 150, 1.5), line, line) is not None) == kept


def test_words_of_more_than_a_thousand_characters() -> None:
    fits, long = "ä" * 1000, "ä" * 1001
    assert keep(RULE, f"a {fits} b", "a b") == (f"a {fits} b", "a b")
    assert keep(RULE, f"a {long} b", "a b") is None
    assert keep(RULE, "a b", f"b {long}") is None
    assert keep(CleanRule(1, 4, 9, factored=True), f"{fits}|{fits}", "a") is not None


def test_bars_of_a_factored_corpus() -> None:
    assert is_factored("a|b", "c") and is_factored("c", "a|b") and not is_factored("a", "b")
    rule = CleanRule(1, 4, 9, factored=True)
    assert keep(rule, "a|b  c|d", "e") == ("a|b c|d", "e")


def test_control_characters() -> None:
    line = "a\tb\x00c\u200bd\ufeffe\x85f\ue000g\u0378h\u2028i\xa0j中\xadk"
    assert strip_control_characters(line) == "a b c d e f g h\u2028i\xa0j中 k"


def test_control_characters_are_those_of_category_c() -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    expected = [" " if unicodedata.category(c)[0] == "C" else c for c in characters]
    assert strip_control_characters("".join(characters)) == "".join(expected)


def read(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().split("\n")[:-1]


@pytest.mark.parametrize(
    ("folder", "before", "after", "langs", "rule"),
    [
        (
            "iwslt14/tmp",
            "train.tags.de-en.tok.{}",
            "train.tags.de-en.clean.{}",
            ("de", "en"),
            CleanRule(1, 175, 1.5),
        ),
        (
            "wmt16_en_de_google",
            "train.tok.{}",
            "train.tok.clean.{}",
            ("en", "de"),
            CleanRule(1, 80, 9),
        ),
    ],
)
def test_fixtures(
    shared: Path, folder: str, before: str, after: str, langs: tuple[str, str], rule: CleanRule
) -> None:
    place = shared / "fixtures" / "expected" / folder
    sides = [read(place / f"{before.format(lang)}.gz") for lang in langs]
    pairs = [keep(rule, *pair) for pair in zip(*sides, strict=True)]
    kept = [pair for pair in pairs if pair]
    if not (place / f"{after.format(langs[0])}.gz").exists():
        assert len(kept) == 469
        return
    for side, lang in enumerate(langs):
        assert [pair[side] for pair in kept] == read(place / f"{after.format(lang)}.gz")
