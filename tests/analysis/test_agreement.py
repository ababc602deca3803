"""Agreement of systems: by hand, and against sacreBLEU's own count for every pair."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest

from seqattn_fairseq.analysis.agreement import agreement
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.bleu import corpus_bleu
from seqattn_fairseq.evaluation.system import System

REFERENCES = ["the cat sits on the mat", "a dog", "it rains cats and dogs today"]


def _system(name: str, lines: Sequence[str], references: Sequence[str] = REFERENCES) -> System:
    return System(name, lines, references)


def test_a_worked_example() -> None:
    """A and B share two of three lines, C is A without its last one.

    B has another third word in a line of six. All of A's 14 words, 11 bigrams, 8 trigrams and 6
    4-grams but those that hold it are B's: 13, 9, 5, 3. The lengths are equal, so there is no
    penalty and both directions are the same.
    """
    ours, theirs = [*REFERENCES], [*REFERENCES[:2], "it rains birds and dogs today"]
    found = agreement([_system("A", ours), _system("B", theirs), _system("C", [*ours[:2], ""])])
    assert found.names == ["A", "B", "C"]
    assert found.exact == [[1, 2 / 3, 2 / 3], [2 / 3, 1, 2 / 3], [2 / 3, 2 / 3, 1]]
    expected = 100 * ((13 / 14) * (9 / 11) * (5 / 8) * (3 / 6)) ** 0.25
    assert found.bleu[0][1] == found.bleu[1][0] == pytest.approx(expected)
    assert [found.bleu[i][i] for i in range(3)] == pytest.approx([100] * 3)
    assert found.flavour == "tokenized"
    assert found.signature.startswith("nrefs:1|case:mixed|eff:no|tok:none|smooth:none")


def _variants(count: int, lines: int) -> list[list[str]]:
    """Return texts of few words, so that lines repeat n-grams and some are equal or empty."""
    generator = random.Random(1)
    words = ["a", "b", "c", "d,", "E.", "f-g"]
    base = [generator.choices(words, k=generator.randint(0, 14)) for _ in range(lines)]

    def changed(line: list[str]) -> str:
        return " ".join(
            generator.choice(words) if generator.random() < 0.1 else word for word in line
        )

    return [[changed(line) for line in base] for _ in range(count)]


@pytest.mark.parametrize(
    ("flavour", "options"),
    [
        ("tokenized", {"tokenize": "none", "smooth": "none"}),
        ("detokenized", {"tokenize": "13a", "smooth": "exp"}),
    ],
)
def test_bleu_is_that_of_sacrebleu(flavour: str, options: dict[str, Any]) -> None:
    texts = _variants(4, 60)
    systems = [
        System(str(number), text, texts[0], text, texts[0]) for number, text in enumerate(texts)
    ]
    found = agreement(systems, flavour)
    for (i, ours), (j, theirs) in product(enumerate(texts), repeat=2):
        both = [corpus_bleu(*pair, **options) for pair in ((ours, theirs), (theirs, ours))]
        assert found.bleu[i][j] == pytest.approx(sum(score.value for score in both) / 2, abs=1e-9)
        assert found.signature == both[0].signature
        equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
        assert found.exact[i][j] == pytest.approx(equal / len(ours))
    assert 0 < found.exact[0][1] < 1


def test_case_counts_as_it_does_in_the_score() -> None:
    upper = [line.upper() for line in REFERENCES]
    systems = [
        System(name, lines, (), lines, REFERENCES, lowercased=True)
        for name, lines in (("lower", REFERENCES), ("upper", upper))
    ]
    assert agreement(systems).exact[0][1] == 1
    assert "case:lc" in agreement(systems).signature


def test_what_cannot_be_compared_is_refused() -> None:
    one = _system("one", REFERENCES)
    with pytest.raises(SeqAttnError, match="one system agrees with itself"):
        agreement([one])
    other = _system("other", REFERENCES, [*REFERENCES[:2], "another"])
    with pytest.raises(SeqAttnError, match="other: reference 3 differs from one"):
        agreement([one, other])
    plain = System("plain", text=REFERENCES, references=REFERENCES)
    with pytest.raises(SeqAttnError, match="one, plain: no form of the text that all have"):
        agreement([one, plain])


def test_the_json_form() -> None:
    systems = [_system(name, REFERENCES) for name in ("one", "two")]
    values = agreement(systems).to_dict()
    assert values["names"] == ["one", "two"]
    assert values["matrices"]["exact"] == [[1, 1], [1, 1]]
