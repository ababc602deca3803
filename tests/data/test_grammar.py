"""The embedded corpus: the same bytes everywhere, no leak, one translation, sound grammar."""

from __future__ import annotations

import hashlib
from itertools import islice
from pathlib import Path

import pytest

from seqattn_fairseq.data import grammar_english as english
from seqattn_fairseq.data import grammar_german as german
from seqattn_fairseq.data import grammar_lexicon as words
from seqattn_fairseq.data.grammar import sentence_pairs
from seqattn_fairseq.data.grammar_clause import Clause, NounPhrase, Phrase, Pronoun, Time
from seqattn_fairseq.data.grammar_lexicon import Noun, Verb
from seqattn_fairseq.data.quickstart import LANGUAGES, SIZES, write_corpus

# SHA-256 of the six files, train to test, de before en, one after the other
CORPUS_DIGEST = "c49ec60ecee4b626c59607d2cf58bb8b81ee86aa5e81c7f7ffc985ab43c4a2de"


def _noun(singular: str) -> Noun:
    nouns = [noun for kind in words.NOUNS.values() for noun in kind]
    return next(noun for noun in nouns if noun.singular == singular)


def _verb(participle: str) -> Verb:
    tables = (words.TRANSITIVE, words.DATIVE, words.DITRANSITIVE, words.INTRANSITIVE)
    return next(verb for table in tables for verb in table if verb.participle == participle)


MAN, BOOK, DOOR = (NounPhrase(_noun(name)) for name in ("Mann", "Buch", "Tür"))
HIM = NounPhrase(pronoun=Pronoun(("er", "ihn", "ihm"), ("he", "him")))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a corpus")
    write_corpus(folder)
    return folder


def _lines(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text(encoding="utf-8").split("\n")[:-1]


def test_same_bytes_on_every_machine(corpus: Path) -> None:
    names = [f"{split}.{language}" for split in SIZES for language in LANGUAGES]
    assert sorted(path.name for path in corpus.iterdir()) == sorted(names)
    data = b"".join((corpus / name).read_bytes() for name in names)
    assert hashlib.sha256(data).hexdigest() == CORPUS_DIGEST


def test_splits_share_no_source_sentence(corpus: Path) -> None:
    sources = [line for split in SIZES for line in _lines(corpus, f"{split}.de")]
    assert len(sources) == len(set(sources)) == sum(SIZES.values())
    for split, size in SIZES.items():
        assert len(_lines(corpus, f"{split}.en")) == size


def test_a_sentence_has_one_translation() -> None:
    first = dict(islice(sentence_pairs(1), 15_000))
    second = dict(islice(sentence_pairs(2), 15_000))
    common = first.keys() & second.keys()
    assert len(common) > 100
    assert all(first[source] == second[source] for source in common)


def test_words_of_the_test_set_are_known(corpus: Path) -> None:
    def words_of(name: str) -> list[str]:
        return " ".join(_lines(corpus, name)).replace(".", "").replace(",", "").split()

    known = set(words_of("train.en"))
    unknown = [word for word in words_of("test.en") if word not in known]
    assert len(unknown) <= 5


def test_sentences_look_like_sentences(corpus: Path) -> None:
    for language in LANGUAGES:
        for line in _lines(corpus, f"train.{language}"):
            assert line[0].isupper()
            assert line[-1] in ".?"
            assert "  " not in line and " ," not in line and ",," not in line
            assert len(line.split()) <= 30


@pytest.mark.parametrize(
    ("value", "in_german", "in_english"),
    [
        (2, "zwei", "two"),
        (12, "zwölf", "twelve"),
        (16, "sechzehn", "sixteen"),
        (17, "siebzehn", "seventeen"),
        (21, "einundzwanzig", "twenty-one"),
        (30, "dreißig", "thirty"),
        (67, "siebenundsechzig", "sixty-seven"),
        (99, "neunundneunzig", "ninety-nine"),
    ],
)
def test_numbers(value: int, in_german: str, in_english: str) -> None:
    assert german.number(value) == in_german
    assert english.number(value) == in_english


@pytest.mark.parametrize(
    ("noun", "determiner", "case", "plural", "expected"),
    [
        ("Mann", "the", "acc", False, "den alten Mann"),
        ("Mann", "the", "dat", True, "den alten Männern"),
        ("Mann", "a", "nom", False, "ein alter Mann"),
        ("Frau", "this", "dat", False, "dieser alten Frau"),
        ("Kind", "my", "nom", False, "mein altes Kind"),
        ("Kind", "our", "acc", True, "unsere alten Kinder"),
        ("Haus", "a", "acc", True, "alte Häuser"),
        ("Milch", "a", "acc", False, "alte Milch"),
        ("Junge", "the", "dat", False, "dem alten Jungen"),
        ("Student", "the", "acc", False, "den alten Studenten"),
        ("Auto", "the", "dat", True, "den alten Autos"),
    ],
)
def test_agreement(noun: str, determiner: str, case: str, plural: bool, expected: str) -> None:
    old = next(adjective for adjective in words.ADJECTIVES if adjective.german == "alt")
    phrase = NounPhrase(_noun(noun), determiner=determiner, adjective=old, plural=plural)
    assert german.noun_phrase(phrase, case) == expected


YESTERDAY = Time("gestern", "yesterday", "past")
TOMORROW = Time("morgen", "tomorrow", "future")
CLAUSES = [
    (
        Clause(MAN, _verb("gelesen"), object=BOOK),
        "der Mann liest das Buch",
        "der Mann das Buch liest",
        "the man is reading the book",
    ),
    (
        Clause(MAN, _verb("aufgemacht"), object=DOOR, time=TOMORROW, front="time"),
        "morgen macht der Mann die Tür auf",
        "der Mann die Tür morgen aufmacht",
        "tomorrow the man will open the door",
    ),
    (
        Clause(MAN, _verb("abgeholt"), object=HIM, past=True, time=YESTERDAY, negated=True),
        "der Mann hat ihn gestern nicht abgeholt",
        "der Mann ihn gestern nicht abgeholt hat",
        "the man did not pick him up yesterday",
    ),
    (
        Clause(MAN, _verb("eingekauft"), modal="müssen", negated=True),
        "der Mann muss nicht einkaufen",
        "der Mann nicht einkaufen muss",
        "the man does not have to go shopping",
    ),
    (
        Clause(
            MAN,
            _verb("gegeben"),
            recipient=HIM,
            object=NounPhrase(BOOK.noun, determiner="a"),
            negated=True,
        ),
        "der Mann gibt ihm kein Buch",
        "der Mann ihm kein Buch gibt",
        "the man is not giving him a book",
    ),
    (
        Clause(MAN, _verb("aufgestanden"), past=True),
        "der Mann ist aufgestanden",
        "der Mann aufgestanden ist",
        "the man got up",
    ),
]


@pytest.mark.parametrize(("clause", "main", "subordinate", "translation"), CLAUSES)
def test_order_of_the_clause(clause: Clause, main: str, subordinate: str, translation: str) -> None:
    assert german.main(clause) == main
    assert german.subordinate(clause) == subordinate
    assert english.statement(clause) == translation


@pytest.mark.parametrize(
    ("asked", "in_german", "in_english"),
    [
        (
            "yes",
            "zeigt der Mann ihm das Buch im Garten",
            "is the man showing him the book in the garden",
        ),
        (
            "reason",
            "warum zeigt der Mann ihm das Buch im Garten",
            "why is the man showing him the book in the garden",
        ),
    ],
)
def test_questions(asked: str, in_german: str, in_english: str) -> None:
    place = Phrase("im Garten", "in the garden")
    clause = Clause(MAN, _verb("gezeigt"), HIM, BOOK, place=place, asked=asked)
    assert german.question(clause) == in_german
    assert english.question(clause) == in_english


def test_infinitive_with_zu_inside_a_separable_verb() -> None:
    clause = Clause(MAN, _verb("aufgemacht"), object=DOOR)
    assert german.infinitive(clause) == "die Tür aufzumachen"
    assert english.infinitive(clause) == "to open the door"
