"""Seeded choice of phrases and clauses whose words fit together.

Only ``random.Random.random`` is drawn from, whose sequence is the same on every Python version
and platform, so a seed names one corpus for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

from seqattn_fairseq.data import grammar_english as english
from seqattn_fairseq.data import grammar_german as german
from seqattn_fairseq.data import grammar_lexicon as words
from seqattn_fairseq.data.grammar_clause import Clause, NounPhrase, Phrase, Pronoun, Time
from seqattn_fairseq.data.grammar_lexicon import Adjective, Place, Verb

T = TypeVar("T")

_I = Pronoun(("ich", "mich", "mir"), ("I", "me"), person=1)
_YOU = Pronoun(("du", "dich", "dir"), ("you", "you"), person=2)
_HE = Pronoun(("er", "ihn", "ihm"), ("he", "him"))
_SHE = Pronoun(("sie", "sie", "ihr"), ("she", "her"))
_WE = Pronoun(("wir", "uns", "uns"), ("we", "us"), person=1, plural=True)
_THEY = Pronoun(("sie", "sie", "ihnen"), ("they", "them"), plural=True)
_SUBJECT_PRONOUNS = (_I, _YOU, _HE, _SHE, _WE, _THEY)
# "sie" as an accusative could be "her" or "them"; only the singular is used.
_OBJECT_PRONOUNS = (_I, _YOU, _HE, _SHE, _WE)
_MEN = ("Peter", "Paul", "Jonas", "Felix")
_WOMEN = ("Anna", "Maria", "Lena", "Clara")
_POSSESSIVES = ("my", "your", "his", "her", "our")

_PEOPLE = ("person", "family")
_PERSON_NOUNS = frozenset(words.NOUNS["person"] + words.NOUNS["family"])
_NUMEROUS = ("animal", "fruit", "text", "object", "vessel", "task")
_POSITIONS = (
    ("auf", "on"),
    ("unter", "under"),
    ("neben", "next to"),
    ("hinter", "behind"),
    ("vor", "in front of"),
)

_TIMES = (
    Time("heute", "today", "any"),
    Time("jetzt", "now", "now"),
    Time("gestern", "yesterday", "past"),
    Time("letzte Woche", "last week", "past"),
    Time("vor drei Tagen", "three days ago", "past"),
    Time("am Abend", "in the evening", "past"),
    Time("am Sonntag", "on Sunday", "past"),
    Time("morgen", "tomorrow", "future"),
    Time("nächste Woche", "next week", "future"),
    Time("am Montag", "on Monday", "future"),
    Time("bald", "soon", "future"),
    Time("jeden Tag", "every day", "habit"),
    Time("jeden Morgen", "every morning", "habit"),
    Time("oft", "often", "habit", middle=True),
    Time("immer", "always", "habit", middle=True),
    Time("nie", "never", "habit", middle=True),
)


class Dice:
    """Seeded choices that depend on nothing but ``random.Random.random``."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed).random

    def chance(self, probability: float) -> bool:
        """Return True with ``probability``."""
        return self._random() < probability

    def pick(self, items: Sequence[T]) -> T:
        """Return one of ``items``, each equally likely."""
        return items[int(self._random() * len(items))]

    def between(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``, both included."""
        return low + int(self._random() * (high - low + 1))


def pronoun_phrase(pronoun: Pronoun) -> NounPhrase:
    """Return the pronoun as a phrase."""
    return NounPhrase(pronoun=pronoun, plural=pronoun.plural)


def _adjective(dice: Dice, kind: str, probability: float) -> Adjective | None:
    if not dice.chance(probability):
        return None
    fitting = [adjective for adjective in words.ADJECTIVES if kind in adjective.kinds]
    return dice.pick(fitting) if fitting else None


def _name(dice: Dice) -> NounPhrase:
    first, second = dice.pick((*_MEN, *_WOMEN)), dice.pick((*_MEN, *_WOMEN))
    if first == second or dice.chance(0.7):
        return NounPhrase(fixed=Phrase(first, first))
    return NounPhrase(fixed=Phrase(f"{first} und {second}", f"{first} and {second}"), plural=True)


def definite(dice: Dice, kinds: Sequence[str], adjective: float = 0.25) -> NounPhrase:
    """Return a phrase that names something known: the man, this house, my brother."""
    kind = dice.pick(kinds)
    noun = dice.pick(words.NOUNS[kind])
    described = _adjective(dice, kind, adjective)
    plural = bool(noun.plural) and dice.chance(0.2)
    own = kind == "family" or (kind != "person" and dice.chance(0.15))
    determiner = dice.pick(_POSSESSIVES) if own else dice.pick(("the", "the", "the", "the", "this"))
    return NounPhrase(noun, determiner=determiner, plural=plural, adjective=described)


def _indefinite(dice: Dice, kind: str) -> NounPhrase:
    noun = dice.pick(words.NOUNS[kind])
    described = _adjective(dice, kind, 0.3)
    plural = bool(noun.plural) and dice.chance(0.5)
    count = 0
    # "Kuchen" without article and number would read as a mass noun
    if plural and (noun.singular == noun.plural or dice.chance(0.7)):
        many = kind in _NUMEROUS and dice.chance(0.5)
        count = dice.between(13, 99) if many else dice.between(2, 12)
    return NounPhrase(noun, determiner="a", plural=plural, count=count, adjective=described)


def subject(dice: Dice) -> NounPhrase:
    """Return somebody who acts: a pronoun, a name, a person or several."""
    if dice.chance(0.3):
        return pronoun_phrase(dice.pick(_SUBJECT_PRONOUNS))
    return _name(dice) if dice.chance(0.2) else definite(dice, _PEOPLE)


def _same_person(first: NounPhrase, second: Pronoun) -> bool:
    """Whether "ich ... mich" or "wir ... mich" would need a reflexive."""
    return first.pronoun is not None and first.person == second.person != 3


def _someone(dice: Dice, kinds: Sequence[str], actor: NounPhrase) -> NounPhrase:
    """Return an object that is a person or an animal."""
    if dice.chance(0.35) and "person" in kinds:
        pronoun = dice.pick(_OBJECT_PRONOUNS)
        if not _same_person(actor, pronoun):
            return pronoun_phrase(pronoun)
    return definite(dice, kinds)


def _living(verb: Verb) -> list[str]:
    return [kind for kind in verb.objects if kind in ("person", "family", "animal")]


def _object(dice: Dice, verb: Verb, actor: NounPhrase) -> NounPhrase:
    kind = dice.pick(verb.objects)
    if kind in _PEOPLE:
        return _someone(dice, _living(verb), actor)
    return _indefinite(dice, kind) if dice.chance(0.55) else definite(dice, (kind,))


def _place_phrase(dice: Dice, place: Place) -> NounPhrase:
    described = _adjective(dice, "building", 0.15)
    known = not place.noun.plural or dice.chance(0.9)
    return NounPhrase(place.noun, determiner="the" if known else "a", adjective=described)


def where(dice: Dice) -> Phrase:
    """Return a place in the dative: *im Garten*."""
    place = dice.pick(words.PLACES)
    phrase = _place_phrase(dice, place)
    preposition, english_preposition = place.where
    return Phrase(
        german.prepositional(preposition, phrase, "dat"),
        f"{english_preposition} {english.noun_phrase(phrase)}",
    )


def where_to(dice: Dice) -> Phrase:
    """Return a direction: *in den Garten*, *zum Bahnhof*."""
    place = dice.pick(words.PLACES)
    phrase = _place_phrase(dice, place)
    preposition, english_preposition = place.where_to
    return Phrase(
        german.prepositional(preposition, phrase, "dat" if preposition == "zu" else "acc"),
        f"{english_preposition} {english.noun_phrase(phrase)}",
    )


def _beside(dice: Dice, case: str) -> Phrase:
    """Return a position at a piece of furniture, where (dative) or where to (accusative)."""
    preposition, english_preposition = dice.pick(_POSITIONS)
    noun = dice.pick(words.NOUNS["furniture"])
    phrase = NounPhrase(noun, adjective=_adjective(dice, "furniture", 0.2))
    return Phrase(
        german.prepositional(preposition, phrase, case),
        f"{english_preposition} {english.noun_phrase(phrase)}",
    )


def _transitive(dice: Dice, actor: NounPhrase) -> Clause:
    verb = dice.pick(words.TRANSITIVE)
    clause = Clause(actor, verb, object=_object(dice, verb, actor))
    somewhere = not verb.prefix and "simple" not in verb.marks and dice.chance(0.25)
    return replace(clause, place=where(dice)) if somewhere else clause


def _dative(dice: Dice, actor: NounPhrase) -> Clause:
    verb = dice.pick(words.DATIVE)
    return Clause(actor, verb, recipient=_someone(dice, verb.objects, actor))


def _giving(dice: Dice, actor: NounPhrase) -> Clause:
    verb = dice.pick((*words.DITRANSITIVE, *words.TO_RECIPIENT))
    recipient = _someone(dice, _PEOPLE, actor)
    return Clause(actor, verb, recipient=recipient, object=_object(dice, verb, actor))


def _intransitive(dice: Dice, actor: NounPhrase) -> Clause:
    clause = Clause(actor, dice.pick(words.INTRANSITIVE))
    somewhere = not clause.verb.prefix and dice.chance(0.5)
    return replace(clause, place=where(dice)) if somewhere else clause


def motion(dice: Dice, actor: NounPhrase) -> Clause:
    """Return a clause of going somewhere."""
    return Clause(actor, dice.pick(words.MOTION), goal=where_to(dice))


def _placing(dice: Dice, actor: NounPhrase) -> Clause:
    verb = dice.pick(words.PLACING)
    thing = definite(dice, (dice.pick(verb.objects),))
    return Clause(actor, verb, object=thing, goal=_beside(dice, "acc"))


def _posture(dice: Dice, _: NounPhrase) -> Clause:
    verb = dice.pick(words.POSTURE)
    kinds = ("object", "text", "clothing") if verb.infinitive == "liegen" else ("vessel", "device")
    return Clause(definite(dice, kinds), verb, place=_beside(dice, "dat"))


def _arrival(dice: Dice, _: NounPhrase) -> Clause:
    return Clause(definite(dice, ("transport",)), dice.pick(words.ARRIVAL))


_FRAMES = (
    *[_transitive] * 10,
    *[_dative] * 2,
    *[_giving] * 4,
    *[_intransitive] * 4,
    *[motion] * 2,
    _placing,
    _posture,
    _arrival,
)


def state(dice: Dice, who: NounPhrase) -> Clause:
    """Return a clause of how somebody feels."""
    adjective = dice.pick(words.STATES)
    adverb, english_adverb = dice.pick((("", ""), ("", ""), ("sehr ", "very "), ("zu ", "too ")))
    predicate = Phrase(adverb + adjective.german, english_adverb + adjective.english)
    return Clause(who, words.BE, predicate=predicate)


def bare_event(dice: Dice, actor: NounPhrase | None = None) -> Clause:
    """Return an affirmative clause in the present, without time or modal."""
    return dice.pick(_FRAMES)(dice, actor or subject(dice))


def transitive(dice: Dice, actor: NounPhrase) -> Clause:
    """Return an affirmative transitive clause in the present."""
    return _transitive(dice, actor)


def _time(dice: Dice, clause: Clause) -> Time | None:
    if "clock" in clause.verb.marks and dice.chance(0.3):
        hour = dice.between(2, 12)
        return Time(f"um {german.number(hour)} Uhr", f"at {english.number(hour)} o'clock", "habit")
    allowed = ["past", "any"] if clause.past else ["any", "now", "future", "habit"]
    if not clause.past and "simple" in clause.verb.marks:
        allowed = ["future", "habit"]
    if not clause.past and clause.modal:
        allowed = ["any", "future", "habit"]
    return dice.pick([time for time in _TIMES if time.aspect in allowed])


def _negatable(clause: Clause) -> bool:
    counted = clause.object is not None and clause.object.count
    habit = clause.time is not None and clause.time.aspect == "habit"
    return not counted and not habit


def _front(dice: Dice, clause: Clause) -> str:
    """Return what stands first: mostly the subject, else time, place or a masculine object."""
    if clause.subject.relative:
        return "subject"
    if clause.time and not clause.time.middle and dice.chance(0.4):
        return "time"
    if clause.place and not clause.negated and dice.chance(0.25):
        return "place"
    thing = clause.object
    # only a masculine singular shows by its form that it is an object
    shows = thing and thing.noun and thing.noun.gender == "m" and not thing.plural
    plain = shows and thing and not thing.indefinite and not clause.negated
    return "object" if plain and dice.chance(0.3) else "subject"


def varied(dice: Dice, clause: Clause, timed: float = 0.45) -> Clause:
    """Return the clause with tense, modal, time, negation and word order chosen."""
    acts = clause.verb not in (*words.POSTURE, *words.ARRIVAL)
    acts = acts and "simple" not in clause.verb.marks
    modal = dice.pick(tuple(words.MODALS)) if acts and dice.chance(0.2) else ""
    clause = replace(clause, past=dice.chance(0.35), modal=modal)
    if dice.chance(timed) and clause.verb not in words.POSTURE:
        clause = replace(clause, time=_time(dice, clause))
    if dice.chance(0.2) and _negatable(clause):
        clause = replace(clause, negated=True)
    return replace(clause, front=_front(dice, clause))


def event(dice: Dice, actor: NounPhrase | None = None, timed: float = 0.45) -> Clause:
    """Return any clause that reports an event."""
    return varied(dice, bare_event(dice, actor), timed)


def names_person(phrase: NounPhrase) -> bool:
    """Whether the phrase is a name or a noun for people."""
    return phrase.fixed is not None or phrase.noun in _PERSON_NOUNS


def resumed(phrase: NounPhrase) -> NounPhrase | None:
    """Return the pronoun that takes up ``phrase``, or None where none is natural."""
    if phrase.pronoun:
        return phrase
    if not names_person(phrase):
        return None
    if phrase.plural:
        return pronoun_phrase(_THEY)
    if phrase.fixed:
        return pronoun_phrase(_HE if phrase.fixed.german in _MEN else _SHE)
    gender = phrase.noun.gender if phrase.noun else ""
    return {"m": pronoun_phrase(_HE), "f": pronoun_phrase(_SHE)}.get(gender)
