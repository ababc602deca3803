"""Sentences of the quickstart corpus: German and English from a grammar of the project's own.

The grammar covers case and gender agreement, verb-second and verb-final clauses, separable verbs,
the perfect, modals, compounds, numbers, negation, questions, relative and infinitive clauses. A
German sentence has exactly one English translation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from seqattn_fairseq.data import grammar_english as english
from seqattn_fairseq.data import grammar_german as german
from seqattn_fairseq.data import grammar_lexicon as words
from seqattn_fairseq.data import grammar_sampler as sample
from seqattn_fairseq.data.grammar_clause import Clause, NounPhrase, Phrase
from seqattn_fairseq.data.grammar_sampler import Dice

Pair = tuple[str, str]
_CONJUNCTIONS = (("weil", "because"), ("obwohl", "although"))
_DEGREES = (("sehr", "very"), ("zu", "too"), ("ziemlich", "quite"))


def _finished(german_text: str, english_text: str, mark: str = ".") -> Pair:
    pair = (german_text, english_text)
    first, second = (text[0].upper() + text[1:] + mark for text in pair)
    return first, second


def _statement(dice: Dice) -> Pair:
    clause = sample.event(dice)
    return _finished(german.main(clause), english.statement(clause))


def _described(dice: Dice) -> Clause:
    """Return "the house is very old" or a comparison with something of the same kind."""
    adjective = dice.pick([item for item in words.ADJECTIVES if item.comparative])
    kind = dice.pick(adjective.kinds)
    thing = sample.definite(dice, (kind,), adjective=0.0)
    other = sample.definite(dice, (kind,), adjective=0.0)
    if thing.noun != other.noun and dice.chance(0.5):
        predicate = Phrase(
            f"{adjective.comparative} als {german.noun_phrase(other, 'nom')}",
            f"{adjective.english_comparative} than {english.noun_phrase(other)}",
        )
    else:
        degree, english_degree = dice.pick(_DEGREES)
        predicate = Phrase(f"{degree} {adjective.german}", f"{english_degree} {adjective.english}")
    return Clause(thing, words.BE, predicate=predicate)


def _aged(dice: Dice) -> Clause:
    years = dice.between(2, 99)
    predicate = Phrase(f"{german.number(years)} Jahre alt", f"{english.number(years)} years old")
    return Clause(sample.definite(dice, ("person", "family"), 0.0), words.BE, predicate=predicate)


def _copula(dice: Dice) -> Pair:
    draw = dice.pick((_described, _described, _aged, _feeling))
    clause = draw(dice)
    clause = replace(clause, past=dice.chance(0.3), negated=dice.chance(0.1))
    return _finished(german.main(clause), english.statement(clause))


def _feeling(dice: Dice) -> Clause:
    return sample.state(dice, sample.subject(dice))


def _askable(clause: Clause) -> list[str]:
    """Return what a question about the clause may ask for."""
    asked = ["yes", "yes", "reason"]
    if sample.names_person(clause.subject):
        asked.append("subject")
    if clause.object and clause.object.noun:
        asked += ["person"] if sample.names_person(clause.object) else ["object", "count"]
    optional = {"recipient": clause.recipient, "place": clause.place, "time": clause.time}
    asked += [name for name, part in optional.items() if part]
    return asked + (["goal"] if clause.goal and clause.verb in words.MOTION else [])


def _how_many(thing: NounPhrase) -> NounPhrase | None:
    """Return *wie viele Äpfel*, or None for a mass noun."""
    if thing.noun is None or not thing.noun.plural:
        return None
    many = Phrase(f"wie viele {thing.noun.plural}", f"how many {thing.noun.english_plural}")
    return NounPhrase(fixed=many, plural=True)


def _without(clause: Clause, name: str) -> Clause:
    """Return the clause without the part that its question word stands for."""
    drop = {
        "object": lambda: replace(clause, object=None),
        "person": lambda: replace(clause, object=None),
        "recipient": lambda: replace(clause, recipient=None),
        "place": lambda: replace(clause, place=None),
        "time": lambda: replace(clause, time=None),
        "goal": lambda: replace(clause, goal=None),
    }
    return drop[name]() if name in drop else clause


def _ask(dice: Dice, clause: Clause) -> Clause:
    """Return the clause as a question for one of its parts."""
    asked = dice.pick(_askable(clause))
    clause = replace(clause, asked=asked, negated=False)
    if asked == "subject":
        return replace(clause, subject=NounPhrase(fixed=Phrase("wer", "who")))
    if asked == "count":
        many = _how_many(clause.object) if clause.object else None
        return replace(clause, object=many) if many else replace(clause, asked="yes")
    return _without(clause, asked)


def _question(dice: Dice) -> Pair:
    clause = _ask(dice, sample.event(dice, timed=0.3))
    return _finished(german.question(clause), english.question(clause), "?")


def _cause(dice: Dice, first: Clause) -> Clause:
    """Return a reason in the same tense, about the same person if a pronoun can name it."""
    same = sample.resumed(first.subject)
    if same and dice.chance(0.4):
        return replace(sample.state(dice, same), past=first.past)
    if same and dice.chance(0.25):
        same = None
    while True:
        cause = sample.event(dice, same, timed=0.2)
        if cause.past == first.past:
            return cause


def _joined(dice: Dice, first: Clause, words_between: Pair, second: Clause) -> Pair:
    """Join a main clause and a subordinate one, in either order."""
    conjunction, english_conjunction = words_between
    clause = f"{conjunction} {german.subordinate(second)}"
    english_clause = f"{english_conjunction} {english.statement(second, with_front=False)}"
    if dice.chance(0.35):
        text = german.main(first, front=f"{clause},")
        return _finished(text, f"{english_clause}, {english.statement(first, with_front=False)}")
    separator = "," if english_conjunction == "although" else ""
    return _finished(
        f"{german.main(first)}, {clause}",
        f"{english.statement(first)}{separator} {english_clause}",
    )


def _because(dice: Dice) -> Pair:
    first = sample.event(dice, timed=0.25)
    return _joined(dice, first, dice.pick(_CONJUNCTIONS), _cause(dice, first))


def _when(dice: Dice) -> Pair:
    first = replace(sample.bare_event(dice), habitual=True)
    same = sample.resumed(first.subject)
    if same and dice.chance(0.5):
        second = sample.state(dice, same)
    else:
        second = replace(sample.bare_event(dice), habitual=True)
    return _joined(dice, first, ("wenn", "when"), second)


def _that(dice: Dice) -> Pair:
    past = dice.chance(0.3)
    teller = Clause(sample.subject(dice), dice.pick(words.TELLING), past=past)
    told = sample.event(dice, timed=0.25) if dice.chance(0.8) else _described(dice)
    if past and not told.past:
        told = replace(told, past=True, time=None)
    return _finished(
        f"{german.main(teller)}, dass {german.subordinate(told)}",
        f"{english.statement(teller)} that {english.statement(told, with_front=False)}",
    )


def _relative(dice: Dice) -> Pair:
    who = sample.definite(dice, ("person", "family"))
    clause = replace(sample.event(dice, who, timed=0.2), front="subject")
    if clause.subject is not who:
        return _statement(dice)
    who = replace(who, relative=clause)
    first = sample.state(dice, who) if dice.chance(0.4) else sample.event(dice, who, timed=0.0)
    return _finished(german.main(first), english.statement(first))


def _both(dice: Dice) -> Pair:
    first, second = sample.event(dice, timed=0.2), sample.event(dice, timed=0.2)
    link, english_link = dice.pick(((" und", ", and"), (", aber", ", but")))
    return _finished(
        f"{german.main(first)}{link} {german.main(second)}",
        f"{english.statement(first)}{english_link} {english.statement(second)}",
    )


def _purpose(dice: Dice) -> Pair:
    who = sample.subject(dice)
    first = replace(sample.motion(dice, who), past=dice.chance(0.4))
    aim = sample.transitive(dice, who)
    while "simple" in aim.verb.marks or aim.place:
        aim = sample.transitive(dice, who)
    return _finished(
        f"{german.main(first)}, um {german.infinitive(aim)}",
        f"{english.statement(first)} {english.infinitive(aim)}",
    )


_SENTENCES: tuple[Callable[[Dice], Pair], ...] = (
    *[_statement] * 11,
    *[_question] * 4,
    *[_because] * 4,
    *[_copula] * 2,
    *[_when] * 2,
    *[_that] * 2,
    _relative,
    _both,
    _purpose,
)


def sentence_pairs(seed: int) -> Iterator[Pair]:
    """Yield (German, English) pairs without end; no German sentence comes twice."""
    dice = Dice(seed)
    seen: set[str] = set()
    while True:
        source, target = dice.pick(_SENTENCES)(dice)
        if source not in seen:
            seen.add(source)
            yield source, target
