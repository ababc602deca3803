"""Repetition within lines, by hand."""

from __future__ import annotations

import pytest

from seqattn_fairseq.analysis.repetition import repetition

ONCE = "a b a b a b"  # aba bab aba bab; abab baba abab


def test_a_worked_example() -> None:
    """6 words of 2 kinds, 5 bigrams of 2, 4 trigrams of 2, 3 4-grams of 2."""
    assert repetition([ONCE]) == {
        "rep1": 4 / 6, "rep2": 3 / 5, "rep3": 2 / 4, "rep4": 1 / 3, "loops": 0.0,
    }  # fmt: skip


def test_sums_come_before_the_division() -> None:
    """Two words more, of which none is repeated: 4 of 8, not the mean of 4 of 6 and 0 of 2."""
    figures = repetition([ONCE, "x y"])
    assert (figures["rep1"], figures["rep2"], figures["rep4"]) == (4 / 8, 3 / 6, 1 / 3)


def test_lines_do_not_repeat_each_other() -> None:
    assert set(repetition(["a b c d e"] * 3).values()) == {0.0}


@pytest.mark.parametrize(
    ("line", "loops"),
    [("a b a b a b a b", 1.0), (ONCE, 0.0), ("a a a a a a", 1.0), ("a a a a a", 0.0)],
)
def test_a_loop_is_a_4_gram_three_times(line: str, loops: float) -> None:
    assert repetition([line])["loops"] == loops
    assert repetition([line, "a b", ""])["loops"] == loops / 3


@pytest.mark.parametrize("lines", [[], [""], ["", "  "]])
def test_nothing_repeats_nothing(lines: list[str]) -> None:
    assert set(repetition(lines).values()) == {0.0}
