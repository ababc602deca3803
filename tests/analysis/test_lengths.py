"""Bins of source words, their BLEU and their length ratio."""

from __future__ import annotations

import pytest
from sacrebleu.metrics.bleu import BLEU

from seqattn_fairseq.analysis.lengths import by_length, quality, signature, word_count
from seqattn_fairseq.evaluation.bleu import bleu_metric, corpus_bleu, tokenized_bleu


def _metric() -> BLEU:
    return bleu_metric("none", smooth="none")


def _words(count: int, first: int = 0) -> str:
    return " ".join(f"w{number}" for number in range(first, first + count))


def test_a_worked_example() -> None:
    """Sources of 0, 5 | 6, 10 | 61, 300 words: three bins, none for the lengths that do not occur.

    In the second bin 6 of 6 and 5 of 10 words are written: the ratio is 11 / 16.
    """
    sources = [_words(count) for count in (300, 5, 6, 10, 61, 0)]
    references = ["a b c d", "a b c d", _words(6), _words(10), "a b c d", ""]
    hypotheses = ["a b c d", "d c b a", _words(6), _words(5), "a b c d", ""]
    bins = by_length(_metric(), sources, (hypotheses, references))
    assert [(one.first, one.last, one.sentences) for one in bins] == [
        (0, 5, 2), (6, 10, 2), (61, None, 2),
    ]  # fmt: skip
    assert [one.quality.length_ratio for one in bins] == [1.0, 11 / 16, 1.0]
    second = tokenized_bleu([_words(6), _words(5)], [_words(6), _words(10)]).value
    assert [one.quality.bleu for one in bins] == [0.0, second, pytest.approx(100)]
    assert 0 < second < 100


@pytest.mark.parametrize(("words", "first"), [(5, 0), (6, 6), (20, 16), (21, 21), (60, 51)])
def test_edges_belong_to_one_bin(words: int, first: int) -> None:
    bins = by_length(_metric(), [_words(words)], (["a"], ["a"]))
    assert [(one.first, one.sentences) for one in bins] == [(first, 1)]


def test_words_are_what_blanks_separate() -> None:
    assert [word_count(line) for line in ("", "  a  b ", "U-Bahn , ja")] == [0, 2, 3]


def test_references_without_a_word_have_no_ratio() -> None:
    assert quality(_metric(), ["a", ""], ["", ""]).length_ratio is None


def test_the_signature_needs_no_scored_text() -> None:
    metric = bleu_metric()
    assert signature(metric) == corpus_bleu(["a b c d"], ["a b c d"]).signature
