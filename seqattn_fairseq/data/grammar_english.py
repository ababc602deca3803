"""English side of the quickstart grammar: verb groups, do-support, inversion and word order."""

from __future__ import annotations

from dataclasses import dataclass

from seqattn_fairseq.data.grammar_clause import Clause, NounPhrase
from seqattn_fairseq.data.grammar_lexicon import MODALS

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
_DOUBLING = ("put", "run", "get", "swim", "stop", "forget")
_PARTICIPLES = {"lie": "lying"}
_THIRD = {"have": "has", "be": "is"}
# singular by person, plural
_BE = {
    False: ({1: "am", 2: "are", 3: "is"}, "are"),
    True: ({1: "was", 2: "were", 3: "was"}, "were"),
}
_DETERMINERS = {"this": "these"}
QUESTION_WORDS = {
    "subject": "who",
    "object": "what",
    "person": "who",
    "recipient": "who",
    "place": "where",
    "goal": "where",
    "time": "when",
    "reason": "why",
}


@dataclass(frozen=True)
class VerbGroup:
    """The operator (empty when there is none), the main verb, and what follows it.

    ``main`` is the verb that objects attach to, with everything before it; ``particle`` stands
    before the object unless that is a pronoun (*pick him up*).
    """

    operator: str
    main: str
    particle: str = ""


def number(value: int) -> str:
    """Return ``value`` (2 to 99) in words."""
    if value < 20:
        return _ONES[value]
    tens, ones = divmod(value, 10)
    return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def noun_phrase(phrase: NounPhrase, subject: bool = False, negated: bool = False) -> str:
    """Return the phrase; ``subject`` picks *he* over *him*, ``negated`` allows *any*."""
    if phrase.pronoun:
        return phrase.pronoun.english[not subject]
    if phrase.fixed:
        return phrase.fixed.english
    assert phrase.noun is not None
    noun = phrase.noun.english_plural if phrase.plural else phrase.noun.english
    words = [phrase.adjective.english, noun] if phrase.adjective else [noun]
    determiner = _determiner(phrase, words[0], negated)
    text = " ".join([determiner, *words] if determiner else words)
    if phrase.relative is None:
        return text
    who = f"who {_predicate(phrase.relative)}"
    # "my mother" needs no clause to be known: it is set off by commas
    return f"{text} {who}" if phrase.determiner == "the" else f"{text}, {who},"


def _determiner(phrase: NounPhrase, following: str, negated: bool) -> str:
    assert phrase.noun is not None
    if phrase.count:
        return number(phrase.count)
    if phrase.determiner != "a":
        plural_form = _DETERMINERS.get(phrase.determiner, phrase.determiner)
        return plural_form if phrase.plural else phrase.determiner
    if phrase.plural or not phrase.noun.plural:
        return "any" if negated else ""
    return _article(following)


def _third(verb: str) -> str:
    if verb in _THIRD:
        return _THIRD[verb]
    if verb.endswith(("s", "sh", "ch", "x", "o")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


def _participle(verb: str) -> str:
    if verb in _PARTICIPLES:
        return _PARTICIPLES[verb]
    if verb in _DOUBLING:
        return verb + verb[-1] + "ing"
    return (verb[:-1] if verb.endswith("e") and not verb.endswith("ee") else verb) + "ing"


def _be(subject: NounPhrase, past: bool) -> str:
    singular, plural = _BE[past]
    return plural if subject.plural else singular[subject.person]


def _third_singular(subject: NounPhrase) -> bool:
    return subject.person == 3 and not subject.plural


def _do_or_inflect(clause: Clause, needs_operator: bool, forms: tuple[str, str]) -> tuple[str, str]:
    """Return (operator, verb) for a full verb given as (base, past)."""
    base, past = forms
    if needs_operator:
        does = "does" if _third_singular(clause.subject) else "do"
        return ("did" if clause.past else does), base
    if clause.past:
        return "", past
    return "", _third(base) if _third_singular(clause.subject) else base


def _modal_group(clause: Clause, needs_operator: bool, base: str) -> tuple[str, str]:
    _, present, past = MODALS[clause.modal]
    first, _, tail = present.partition(" ")
    if not tail:
        return (past if clause.past else present), base
    if first == "be":
        return _be(clause.subject, clause.past), f"{tail} {base}"
    forms = (first, past.partition(" ")[0])
    operator, verb = _do_or_inflect(clause, needs_operator, forms)
    return operator, f"{verb} {tail} {base}"


def _aspect(clause: Clause) -> str:
    """Return ``will``, ``progressive`` or ``simple`` for a German present."""
    if clause.time and clause.time.aspect == "future":
        return "will"
    habit = clause.habitual or (clause.time is not None and clause.time.aspect == "habit")
    return "simple" if habit or "simple" in clause.verb.marks else "progressive"


def verb_group(clause: Clause, inverted: bool = False) -> VerbGroup:
    """Return the verb group: progressive, simple, past, future or modal, with do-support."""
    head, _, tail = clause.verb.english.replace("|", " | ").partition(" ")
    particle = tail[2:] if tail.startswith("| ") else ""
    rest = "" if particle else tail
    needs_operator = inverted or clause.negated
    aspect = _aspect(clause)
    if clause.modal:
        operator, main = _modal_group(clause, needs_operator, head)
    elif aspect == "will" and not clause.past:
        operator, main = "will", head
    elif head == "be":
        operator, main = _be(clause.subject, clause.past), ""
    elif clause.past or aspect == "simple":
        operator, main = _do_or_inflect(clause, needs_operator, (head, clause.verb.english_past))
    else:
        operator, main = _be(clause.subject, past=False), _participle(head)
    return VerbGroup(operator, f"{main} {rest}".strip(), particle)


def _objects(clause: Clause, particle: str) -> list[str]:
    thing = clause.object and noun_phrase(clause.object, negated=clause.negated)
    person = clause.recipient and noun_phrase(clause.recipient)
    if clause.asked in ("object", "person", "count"):
        thing = None
    if clause.asked == "recipient":
        person = None
    asks_recipient = clause.asked == "recipient" and clause.object is not None
    if "to" in clause.verb.marks or asks_recipient:
        return [thing or "", f"to {person or ''}".strip()]
    if clause.object and clause.object.pronoun:
        return [thing or "", particle, person or ""]
    return [particle, person or "", thing or ""]


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _after(clause: Clause, particle: str, front: str = "") -> str:
    """Return everything that follows the main verb; ``front`` is left out."""
    parts = _objects(clause, particle)
    if clause.predicate:
        parts.append(clause.predicate.english)
    for name, phrase in (("goal", clause.goal), ("place", clause.place), ("time", clause.time)):
        in_middle = name == "time" and clause.time is not None and clause.time.middle
        if phrase and name != front and not in_middle:
            parts.append(phrase.english)
    return _join(*parts)


def _middle(clause: Clause) -> str:
    adverb = clause.time.english if clause.time and clause.time.middle else ""
    return _join("not" if clause.negated else "", adverb)


def _predicate(clause: Clause, front: str = "") -> str:
    group = verb_group(clause)
    rest = _after(clause, group.particle, front)
    operator, middle = group.operator, _middle(clause)
    if operator == "can" and clause.negated:
        operator, middle = "cannot", middle.removeprefix("not").strip()
    return _join(operator, middle, group.main, rest)


def statement(clause: Clause, with_front: bool = True) -> str:
    """Return a statement; a fronted time or place stays in front in English."""
    front = clause.front if with_front and clause.front in ("time", "place") else ""
    fronted = {"time": clause.time, "place": clause.place}.get(front)
    if clause.front == "time" and clause.time and clause.time.middle:
        front, fronted = "", None
    subject = noun_phrase(clause.subject, subject=True)
    return _join(fronted.english if fronted else "", subject, _predicate(clause, front))


def question(clause: Clause) -> str:
    """Return a question; only a question for the subject keeps the order of a statement."""
    word = QUESTION_WORDS.get(clause.asked, "")
    if clause.asked == "subject":
        return _join(word, _predicate(clause))
    if clause.asked == "count":
        assert clause.object is not None
        word = noun_phrase(clause.object)
    group = verb_group(clause, inverted=True)
    subject = noun_phrase(clause.subject, subject=True)
    rest = _after(clause, group.particle)
    return _join(word, group.operator, subject, _middle(clause), group.main, rest)


def infinitive(clause: Clause) -> str:
    """Return the clause as an infinitive with *to*."""
    head, _, tail = clause.verb.english.replace("|", " | ").partition(" ")
    particle = tail[2:] if tail.startswith("| ") else ""
    return _join("to", head, "" if particle else tail, _after(clause, particle))
