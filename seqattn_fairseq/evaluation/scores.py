"""The scores of one system: BLEU in its flavours, chrF, TER; what ``scores.json`` holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from seqattn_fairseq.evaluation.bleu import Score, bleu_metric, measure
from seqattn_fairseq.evaluation.system import FLAVOURS, System

METRICS = ("bleu", "chrf", "ter")
_NAMES = {"chrf": "chrF", "ter": "TER", "comet": "COMET"}
_PACKAGES = ("seqattn_fairseq", "sacrebleu", "sacremoses")


@dataclass(frozen=True)
class ScoreOptions:
    """How to score.

    Attributes:
        headline: flavour that comes first, the one of the paper; by default the first there is.
        compound_split: report this flavour too, where it is not the headline.
        tokenize: sacreBLEU's tokeniser for plain text.
        lowercase: ignore case.
    """

    headline: str | None = None
    compound_split: bool = False
    tokenize: str = "13a"
    lowercase: bool = False


@dataclass(frozen=True)
class ScoreTable:
    """The scores of one system: key -> name in print and score; ``headline`` is one of the keys."""

    n: int
    headline: str
    names: Mapping[str, str]
    scores: Mapping[str, Score]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return a line for every score, the headline first."""
        keys = sorted(self.scores, key=lambda key: key != self.headline)
        width = max(20, *(len(self.names[key]) for key in keys))
        return [f"{self.names[key]:<{width}} {self.scores[key]}" for key in keys]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: unrounded scores, every signature, versions of what computed."""
        scores = {
            key: {"name": self.names[key], **_plain(score)} for key, score in self.scores.items()
        }
        return {
            "n": self.n,
            "headline": {"flavour": self.headline, **scores[self.headline]},
            "scores": scores,
            "versions": versions(),
            **self.extra,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScoreTable:
        """Build a table from its JSON form, without what else that holds."""
        rows = values["scores"]
        names = {key: row["name"] for key, row in rows.items()}
        scores = {
            key: Score(row["score"], row["detail"], row["signature"]) for key, row in rows.items()
        }
        return cls(values["n"], values["headline"]["flavour"], names, scores)


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide about a score."""
    return {package: version(package) for package in _PACKAGES}


def _plain(score: Score) -> dict[str, Any]:
    return {"score": score.value, "detail": score.detail, "signature": score.signature}


def flavour_metric(system: System, flavour: str, options: ScoreOptions) -> Metric:
    """Return sacreBLEU's metric of a flavour.

    The text of a lower-cased corpus meets a raw reference without regard to case: it could not
    have got the capitals right.
    """
    if flavour != "detokenized":
        return bleu_metric("none", options.lowercase, smooth="none")
    lowercase = options.lowercase or (system.lowercased and not system.own_reference)
    return bleu_metric(options.tokenize, lowercase)


def text_metric(system: System, name: str, options: ScoreOptions) -> Metric:
    """Return sacreBLEU's chrF2 or TER with its own defaults (TER never looks at case)."""
    if name == "ter":
        return TER()
    return CHRF(lowercase=options.lowercase or (system.lowercased and not system.own_reference))


def flavour_score(system: System, flavour: str, options: ScoreOptions | None = None) -> Score:
    """Return the BLEU of one flavour.

    Raises:
        SeqAttnError: the system lacks a side of it, or the sides differ in length.
    """
    metric = flavour_metric(system, flavour, options or ScoreOptions())
    return measure(metric, *system.pair(flavour))


def score_system(system: System, options: ScoreOptions) -> ScoreTable:
    """Return all scores that the system has the texts for.

    chrF and TER read plain text, so they are there where the detokenised flavour is.

    Raises:
        SeqAttnError: the headline's texts are missing, or sides differ in length.
    """
    wanted = _wanted(system, options)
    headline = options.headline or wanted[0]
    scores: dict[str, Score] = {}
    names: dict[str, str] = {}
    for flavour in wanted:
        names[flavour] = system.label(flavour)
        scores[flavour] = flavour_score(system, flavour, options)
    for name in ("chrf", "ter"):
        if system.references:
            names[name] = _NAMES[name] + system.label("detokenized").removeprefix("sacreBLEU")
            metric = text_metric(system, name, options)
            scores[name] = measure(metric, *system.pair("detokenized"))
    return ScoreTable(len(system.tokens or system.text), headline, names, scores)


def _wanted(system: System, options: ScoreOptions) -> list[str]:
    """Return the flavours to compute, in the order of the table of flavours."""
    there = set(system.flavours()) - {"compound_split"}
    if options.headline:
        there.add(options.headline)
    if options.compound_split:
        there.add("compound_split")
    return [name for name in FLAVOURS if name in there] or ["tokenized"]


def with_comet(table: ScoreTable, score: Score) -> ScoreTable:
    """Return the table with a COMET score added."""
    return ScoreTable(
        table.n,
        table.headline,
        {**table.names, "comet": _NAMES["comet"]},
        {**table.scores, "comet": score},
        table.extra,
    )
