"""The word of every piece, for each kind of segmentation."""

from __future__ import annotations

import random

import numpy as np
import pytest

from seqattn_fairseq.data.words import SUBWORD_KINDS, WordNumbering
from seqattn_fairseq.errors import SeqAttnError
from tests.support.alignments import word_numbers

EXAMPLES = [
    ("none", "das klein@@ e", [0, 1, 2]),
    ("subword_nmt", "das klein@@ e haus", [0, 1, 1, 2]),
    ("subword_nmt", "un@@ fortun@@ ately so", [0, 0, 0, 1]),
    ("subword_nmt", "cut off he@@", [0, 1, 2]),
    ("subword_nmt", "a@@b @@ c", [0, 1, 1]),
    ("sentencepiece", "▁das ▁klein e ▁haus", [0, 1, 1, 2]),
    ("sentencepiece", "▁ das , ▁ja", [0, 0, 0, 1]),
    ("sentencepiece", "das ▁klein e", [0, 1, 1]),
    ("sentencepiece", "▁in ▁New▁York s", [0, 2, 2]),
]


@pytest.mark.parametrize(("kind", "pieces", "numbers"), EXAMPLES)
def test_examples(kind: str, pieces: str, numbers: list[int]) -> None:
    assert word_numbers(pieces.split(), kind) == numbers


@pytest.mark.parametrize("kind", SUBWORD_KINDS)
def test_a_sentence_without_pieces(kind: str) -> None:
    assert word_numbers([], kind) == []


def cut(word: str, kind: str, dice: random.Random) -> list[str]:
    """Cut a word into random pieces."""
    ends = sorted({dice.randint(1, len(word)) for _ in range(3)} | {len(word)})
    pieces = [word[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    if kind == "sentencepiece":
        return [f"▁{pieces[0]}", *pieces[1:]]
    return [*(f"{piece}@@" for piece in pieces[:-1]), pieces[-1]]


@pytest.mark.parametrize("kind", ["subword_nmt", "sentencepiece"])
def test_random_sentences_of_a_dictionary(kind: str) -> None:
    dice = random.Random(1)
    sentences, expected = [], []
    for _ in range(200):
        words = ["".join(dice.choices("abc", k=dice.randint(1, 9))) for _ in range(7)]
        pieces = [cut(word, kind, dice) for word in words]
        sentences.append([piece for own in pieces for piece in own])
        expected.append([n for n, own in enumerate(pieces) for _ in own])
    symbols = sorted({piece for sentence in sentences for piece in sentence})
    numbering, index = WordNumbering(symbols, kind), {s: i for i, s in enumerate(symbols)}
    for sentence, numbers in zip(sentences, expected, strict=True):
        assert numbering.of(np.array([index[piece] for piece in sentence])).tolist() == numbers


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SeqAttnError, match=r"'subword-nmt' is no kind.*did you mean subword_nmt"):
        word_numbers(["a"], "subword-nmt")
