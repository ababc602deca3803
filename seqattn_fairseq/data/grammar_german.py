"""German side of the quickstart grammar: inflection, agreement and the order of the clause.

A main clause puts the finite verb second and the rest of the verb last ("Die Frau *hat* gestern
den Brief *gelesen*"); a subordinate clause puts both last ("weil die Frau gestern den Brief
*gelesen hat*").
"""

from __future__ import annotations

from seqattn_fairseq.data.grammar_clause import Clause, NounPhrase
from seqattn_fairseq.data.grammar_lexicon import MODAL_PRESENT, MODALS, Noun, Verb

# Columns are the cases; a row per gender and one for the plural.
CASES = ("nom", "acc", "dat")
_DEFINITE = {"m": "der den dem", "f": "die die der", "n": "das das dem", "pl": "die die den"}
_THIS = {"m": "er en em", "f": "e e er", "n": "es es em", "pl": "e e en"}
_EIN = {"m": "- en em", "f": "e e er", "n": "- - em", "pl": "e e en"}
_WEAK = {"m": "e en en", "f": "e e en", "n": "e e en", "pl": "en en en"}
_MIXED = {"m": "er en en", "f": "e e en", "n": "es es en", "pl": "en en en"}
_STRONG = {"m": "er en em", "f": "e e er", "n": "es es em", "pl": "e e en"}
_EIN_STEMS = {
    "a": "ein",
    "no": "kein",
    "my": "mein",
    "your": "dein",
    "his": "sein",
    "her": "ihr",
    "our": "unser",
}
# person -> singular, plural; forms that no rule gives
_IRREGULAR = {
    "sein": {1: ("bin", "sind"), 2: ("bist", "seid"), 3: ("ist", "sind")},
    "wissen": {1: ("weiß", "wissen"), 2: ("weißt", "wisst"), 3: ("weiß", "wissen")},
}
_PRETERITE = {"sein": "war", "haben": "hatte"}
_CONTRACTIONS = {
    "in dem": "im",
    "an dem": "am",
    "zu dem": "zum",
    "zu der": "zur",
    "in das": "ins",
    "an das": "ans",
}
_ONES = "null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf".split()
_TENS = "- - zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()
_TEENS = {16: "sechzehn", 17: "siebzehn"}
QUESTION_WORDS = {
    "object": "was",
    "person": "wen",
    "recipient": "wem",
    "place": "wo",
    "goal": "wohin",
    "time": "wann",
    "reason": "warum",
}


def number(value: int) -> str:
    """Return ``value`` (2 to 99) in words: units come before tens (*einundzwanzig*)."""
    if value <= 12:
        return _ONES[value]
    if value < 20:
        return _TEENS.get(value, _ONES[value - 10] + "zehn")
    tens, ones = divmod(value, 10)
    return (f"{_ONES[ones]}und" if ones else "") + _TENS[tens]


def _ending(table: dict[str, str], row: str, case: str) -> str:
    ending = table[row].split()[CASES.index(case)]
    return "" if ending == "-" else ending


def _determiner(name: str, row: str, case: str) -> str:
    if name == "the":
        return _ending(_DEFINITE, row, case)
    if name == "this":
        return "dies" + _ending(_THIS, row, case)
    return _EIN_STEMS[name] + _ending(_EIN, row, case)


def _noun(noun: Noun, plural: bool, case: str) -> str:
    if plural:
        return noun.plural + ("n" if case == "dat" and noun.plural[-1] not in "ns" else "")
    if noun.weak and case != "nom":
        return noun.singular + ("n" if noun.singular[-1] in "er" else "en")
    return noun.singular


def _adjective(stem: str, table: dict[str, str], row: str, case: str) -> str:
    return stem.removesuffix("e") + _ending(table, row, case)


def _declined(phrase: NounPhrase, noun: Noun, case: str, negated: bool) -> str:
    row = "pl" if phrase.plural else noun.gender
    determiner = "no" if negated and phrase.indefinite else phrase.determiner
    bare = determiner == "a" and (phrase.plural or not noun.plural)
    words = []
    if phrase.count:
        words.append(number(phrase.count))
    elif not bare:
        words.append(_determiner(determiner, row, case))
    if phrase.adjective:
        strong = bare or phrase.count
        table = _STRONG if strong else _WEAK if determiner in ("the", "this") else _MIXED
        words.append(_adjective(phrase.adjective.german, table, row, case))
    return " ".join([*words, _noun(noun, phrase.plural, case)])


def noun_phrase(phrase: NounPhrase, case: str, negated: bool = False) -> str:
    """Return the phrase in ``case``; ``negated`` turns *ein* into *kein*."""
    if phrase.pronoun:
        return phrase.pronoun.german[CASES.index(case)]
    if phrase.fixed:
        return phrase.fixed.german
    assert phrase.noun is not None
    words = _declined(phrase, phrase.noun, case, negated)
    if phrase.relative is None:
        return words
    pronoun = _ending(_DEFINITE, "pl" if phrase.plural else phrase.noun.gender, "nom")
    return f"{words}, {pronoun} {subordinate(phrase.relative, with_subject=False)},"


def prepositional(preposition: str, phrase: NounPhrase, case: str) -> str:
    """Return preposition and phrase, contracted where German contracts (*im*, *zur*)."""
    words = f"{preposition} {noun_phrase(phrase, case)}"
    first, second, rest = words.split(" ", 2)
    pair = f"{first} {second}"
    return f"{_CONTRACTIONS.get(pair, pair)} {rest}"


def _present(infinitive: str, third: str, person: int, plural: bool) -> str:
    if infinitive in _IRREGULAR:
        return _IRREGULAR[infinitive][person][plural]
    if plural:
        return infinitive
    if person == 1:
        return infinitive.removesuffix("n").removesuffix("e") + "e"
    stem = third.removesuffix("t")
    return third if person == 3 else stem + ("t" if stem[-1] in "sßz" else "st")


def _preterite(stem: str, person: int, plural: bool) -> str:
    second = "st" if person == 2 else ""
    ending = ("n" if stem.endswith("e") else "en") if plural else second
    return stem + ending


def _modal(modal: str, clause: Clause) -> str:
    person, plural = clause.subject.person, clause.subject.plural
    if clause.past:
        return _preterite(MODALS[modal][0], person, plural)
    return modal if plural else MODAL_PRESENT[modal][person == 2]


def _finite(verb: Verb, clause: Clause) -> str:
    return _present(verb.infinitive, verb.third, clause.subject.person, clause.subject.plural)


def _auxiliary(clause: Clause) -> str:
    third = {"haben": "hat", "sein": "ist"}[clause.verb.auxiliary]
    subject = clause.subject
    return _present(clause.verb.auxiliary, third, subject.person, subject.plural)


def _bracket(clause: Clause) -> tuple[str, str]:
    """Return the finite verb and the words that close a main clause."""
    verb, subject = clause.verb, clause.subject
    if clause.modal:
        return _modal(clause.modal, clause), verb.prefix + verb.infinitive
    if clause.past and verb.infinitive in _PRETERITE:
        stem = _PRETERITE[verb.infinitive]
        return _preterite(stem, subject.person, subject.plural), verb.prefix
    if clause.past:
        return _auxiliary(clause), verb.participle
    return _finite(verb, clause), verb.prefix


def _is_light(phrase: NounPhrase | None) -> bool:
    return phrase is not None and phrase.pronoun is not None


def constituents(clause: Clause) -> dict[str, str]:
    """Return the parts between the verbs in their order, without the subject.

    Pronouns come first, definite objects before the adverbials, indefinite ones after them;
    *nicht* stands before place, goal and predicate.
    """
    thing, recipient = clause.object, clause.recipient
    no = clause.negated and thing is not None and thing.indefinite
    parts: dict[str, str] = {}
    if thing and _is_light(thing):
        parts["object"] = noun_phrase(thing, "acc")
    if recipient:
        parts["recipient"] = noun_phrase(recipient, "dat")
    if thing and not thing.indefinite and not thing.count:
        parts["object"] = noun_phrase(thing, "acc")
    if clause.time:
        parts["time"] = clause.time.german
    if clause.negated and not no:
        parts["not"] = "nicht"
    if clause.place:
        parts["place"] = clause.place.german
    if thing and "object" not in parts:
        parts["object"] = noun_phrase(thing, "acc", negated=clause.negated)
    if clause.goal:
        parts["goal"] = clause.goal.german
    if clause.predicate:
        parts["predicate"] = clause.predicate.german
    return parts


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def main(clause: Clause, front: str = "") -> str:
    """Return a verb-second clause; ``front`` is a whole clause that stands first."""
    finite, closing = _bracket(clause)
    parts = {"subject": noun_phrase(clause.subject, "nom"), **constituents(clause)}
    first = front or parts.pop(clause.front)
    return _join(first, finite, *parts.values(), closing)


def question(clause: Clause) -> str:
    """Return a question: verb first, or the question word and then the verb."""
    finite, closing = _bracket(clause)
    parts = {"subject": noun_phrase(clause.subject, "nom"), **constituents(clause)}
    word = ""
    if clause.asked == "subject":
        word, _ = "wer", parts.pop("subject")
    elif clause.asked == "count":
        word = parts.pop("object")
    elif clause.asked != "yes":
        word = QUESTION_WORDS[clause.asked]
    return _join(word, finite, *parts.values(), closing)


def subordinate(clause: Clause, with_subject: bool = True) -> str:
    """Return a verb-final clause (*... das Buch gelesen hat*, *... die Tür aufmacht*)."""
    finite, closing = _bracket(clause)
    subject = noun_phrase(clause.subject, "nom") if with_subject else ""
    bare_present = closing == clause.verb.prefix
    verbs = closing + finite if bare_present else f"{closing} {finite}"
    return _join(subject, *constituents(clause).values(), verbs)


def infinitive(clause: Clause) -> str:
    """Return the clause as an infinitive with *zu* (*die Tür aufzumachen*)."""
    verb = clause.verb
    zu = f"{verb.prefix}zu{verb.infinitive}" if verb.prefix else f"zu {verb.infinitive}"
    return _join(*constituents(clause).values(), zu)
