"""What a quickstart sentence says, before it is put into German or English words."""

from __future__ import annotations

from dataclasses import dataclass

from seqattn_fairseq.data.grammar_lexicon import Adjective, Noun, Verb


@dataclass(frozen=True)
class Phrase:
    """A constituent already put into words in both languages."""

    german: str
    english: str


@dataclass(frozen=True)
class Pronoun:
    """A personal pronoun: German by case (nom, acc, dat), English subject and object form.

    ``person`` is 1, 2 or 3.
    """

    german: tuple[str, str, str]
    english: tuple[str, str]
    person: int = 3
    plural: bool = False


@dataclass(frozen=True)
class NounPhrase:
    """A subject or object: exactly one of ``noun``, ``pronoun`` and ``fixed`` (a name) is set.

    ``determiner`` is one of ``the``, ``a`` (no article in the plural and for mass nouns),
    ``this``, ``my``, ``your``, ``his``, ``her``, ``our``; ``count`` is a number above one, which
    replaces the article.
    """

    noun: Noun | None = None
    pronoun: Pronoun | None = None
    fixed: Phrase | None = None
    determiner: str = "the"
    adjective: Adjective | None = None
    count: int = 0
    plural: bool = False
    relative: Clause | None = None

    @property
    def person(self) -> int:
        """Grammatical person, 1 to 3."""
        return self.pronoun.person if self.pronoun else 3

    @property
    def indefinite(self) -> bool:
        """Whether German negates this phrase with *kein*."""
        return self.noun is not None and self.determiner == "a" and not self.count


@dataclass(frozen=True)
class Time:
    """A time adverbial; ``aspect`` decides the English tense of a German present.

    ``aspect``: ``now`` progressive, ``habit`` simple present, ``future`` will, ``past`` (only with
    a German past tense), ``any`` (progressive, or past with a German past). ``middle`` adverbs
    stand before the English main verb.
    """

    german: str
    english: str
    aspect: str
    middle: bool = False


@dataclass(frozen=True)
class Clause:
    """One clause: who does what to whom, when and where.

    ``place`` says where, ``goal`` where to; ``predicate`` completes a form of *to be*.
    ``asked`` names the constituent that a question asks for (``yes`` for a yes-no question).
    ``front`` names the constituent before the finite verb of a main clause.
    """

    subject: NounPhrase
    verb: Verb
    recipient: NounPhrase | None = None
    object: NounPhrase | None = None
    place: Phrase | None = None
    goal: Phrase | None = None
    predicate: Phrase | None = None
    time: Time | None = None
    past: bool = False
    habitual: bool = False
    modal: str = ""
    negated: bool = False
    asked: str = ""
    front: str = "subject"
