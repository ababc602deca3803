"""What is scored: the translations of one test set and their references, in corpus order.

A system has up to two forms. *Tokens* are what the model works with, without subwords; *text* is
plain text, detokenised. Every flavour of BLEU reads one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.bleu import check_lengths, compound_split

# name in options and configurations -> name in print
FLAVOURS = {
    "tokenized": "tokenised BLEU",
    "compound_split": "compound-split BLEU",
    "detokenized": "sacreBLEU",
}

_NEEDS = {
    "tokenized": "tokenised references: the T lines of a log, or a run of seqattn generate",
    "compound_split": "tokenised references: the T lines of a log, or a run of seqattn generate",
    "detokenized": "plain references: give the raw reference with --ref FILE",
}

Pair = tuple[Sequence[str], Sequence[str]]


@dataclass(frozen=True)
class System:
    """Hypotheses and references of a test set; an empty list stands for a form that is missing.

    Attributes:
        name: how messages and tables call it.
        tokens: tokenised hypotheses.
        token_references: tokenised references.
        text: plain hypotheses.
        references: plain references.
        token_sources: tokenised source sentences.
        sources: plain source sentences, for COMET.
        own_reference: ``references`` are detokenised tokens, not the raw text of the test set.
        lowercased: the system's text has no capitals, because its training data had none.
        test_set: sacreBLEU's name of the test set, when ``references`` were taken from there.
    """

    name: str
    tokens: Sequence[str] = field(default=(), repr=False)
    token_references: Sequence[str] = field(default=(), repr=False)
    text: Sequence[str] = field(default=(), repr=False)
    references: Sequence[str] = field(default=(), repr=False)
    token_sources: Sequence[str] = field(default=(), repr=False)
    sources: Sequence[str] = field(default=(), repr=False)
    own_reference: bool = False
    lowercased: bool = False
    test_set: str = ""

    def flavours(self) -> list[str]:
        """Return the flavours that this system has both sides of."""
        sides = {name: self._sides(name) for name in FLAVOURS}
        return [name for name, (_, references) in sides.items() if references]

    def pair(self, flavour: str) -> Pair:
        """Return hypotheses and references as ``flavour`` compares them.

        Raises:
            SeqAttnError: the system lacks them, or their numbers differ.
        """
        hypotheses, references = self._sides(flavour)
        if not references:
            raise SeqAttnError(f"{self.name}: {FLAVOURS[flavour]} needs {_NEEDS[flavour]}")
        check_lengths(hypotheses, references)
        if flavour == "compound_split":
            return [*map(compound_split, hypotheses)], [*map(compound_split, references)]
        return hypotheses, references

    def _sides(self, flavour: str) -> Pair:
        if flavour == "detokenized":
            return self.text, self.references
        return self.tokens, self.token_references

    def label(self, flavour: str) -> str:
        """Return a flavour's name in print, with what a reader must know of this test set."""
        notes = []
        if self.lowercased:
            notes.append("lower-cased")
        if flavour == "detokenized" and self.own_reference:
            notes.append("own reference")
        elif flavour == "detokenized" and self.test_set:
            notes.append(self.test_set)
        return FLAVOURS[flavour] + (f" ({', '.join(notes)})" if notes else "")
