"""``text.json``: what the translations of a test set show without their model.

BLEU and length ratio by source length, lines equal to their reference, repetition. All of it in
the flavour and with the options that the run was scored with, so that the BLEU of the whole is the
headline of its ``scores.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sacrebleu.metrics.bleu import BLEU

from seqattn_fairseq.analysis.lengths import EDGES, LengthBin, by_length, quality, signature
from seqattn_fairseq.analysis.record import made, result_folder
from seqattn_fairseq.analysis.repetition import repetition
from seqattn_fairseq.data.files import file_stamp, read_json_object
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.generate import RECORD, SCORES, load_system, read_record
from seqattn_fairseq.evaluation.pipeline import FOLDER as EVALUATION
from seqattn_fairseq.evaluation.scores import ScoreOptions, flavour_metric, versions
from seqattn_fairseq.evaluation.system import System

FILE = "text.json"
_OPTIONS = ("headline", "compound_split", "tokenize", "lowercase")


@dataclass(frozen=True)
class ScoredSet:
    """A test set that a run has translated and scored.

    Attributes:
        folder: ``RUN/evaluation/SUBSET``.
        record: its ``generation.json``.
        flavour: flavour of BLEU of its headline.
        options: how it was scored.
    """

    folder: Path
    record: Mapping[str, Any]
    flavour: str
    options: ScoreOptions

    @classmethod
    def of(cls, run: Path, subset: str) -> ScoredSet:
        """Find what ``seqattn evaluate`` has left.

        Raises:
            SeqAttnError: it was not translated, or not scored.
        """
        if run.is_file():
            raise SeqAttnError(
                f"{run}: a checkpoint by itself, whose translations nobody has kept; give the "
                "folder of a run that seqattn evaluate has translated and scored"
            )
        folder = run / EVALUATION / subset
        record, scores = read_record(folder), read_json_object(folder / SCORES)
        if not (record and scores):
            raise SeqAttnError(
                f"{folder}: no scored translation of '{subset}'; run seqattn evaluate {run} "
                f"--subset {subset} first"
            )
        options = {name: scores["scoring"][name] for name in _OPTIONS}
        return cls(folder, record, scores["headline"]["flavour"], ScoreOptions(**options))

    def system(self) -> System:
        """Read translations and references, under the name of the folder."""
        return load_system(self.folder, str(self.folder))

    def metric(self, system: System) -> BLEU:
        """Return the BLEU of the headline."""
        metric = flavour_metric(system, self.flavour, self.options)
        assert isinstance(metric, BLEU)
        return metric


def analyse_texts(run: Path, subset: str) -> dict[str, Any]:
    """Return the contents of ``RUN/analysis/SUBSET/text.json``, made anew if the texts changed.

    Args:
        run: folder of the run.
        subset: name of the test set.

    Raises:
        SeqAttnError: the run has no scored translation of it.
    """
    scored = ScoredSet.of(run, subset)
    made_from = {
        "translations": file_stamp(scored.folder / RECORD),
        "flavour": scored.flavour,
        "scoring": {name: getattr(scored.options, name) for name in _OPTIONS},
        "edges": EDGES,
        "versions": versions(),
    }
    path = result_folder(run, subset) / FILE
    return made(path, made_from, lambda: describe(scored, subset)).result


def describe(scored: ScoredSet, subset: str) -> dict[str, Any]:
    """Return the figures of ``text.json``, without what they were made from."""
    system = scored.system()
    metric, pair = scored.metric(system), system.pair(scored.flavour)
    whole = quality(metric, *pair)
    return {
        "subset": subset,
        "sentences": len(pair[0]),
        "flavour": scored.flavour,
        "bleu": whole.bleu,
        "length_ratio": whole.length_ratio,
        "exact": exact_matches(*pair, lowercase=metric.lowercase) / len(pair[0]),
        "lengths": [_row(found) for found in by_length(metric, system.sources, pair)],
        "repetition": {
            "hypothesis": repetition(system.tokens),
            "reference": repetition(system.token_references),
        },
        "signature": signature(metric),
    }


def exact_matches(hypotheses: Any, references: Any, lowercase: bool = False) -> int:
    """Return how many lines are equal to their reference."""
    pairs = zip(hypotheses, references, strict=True)
    if lowercase:
        return sum(ours.lower() == theirs.lower() for ours, theirs in pairs)
    return sum(ours == theirs for ours, theirs in pairs)


def _row(found: LengthBin) -> dict[str, Any]:
    return {
        "from": found.first,
        "to": found.last,
        "sentences": found.sentences,
        "bleu": found.quality.bleu,
        "length_ratio": found.quality.length_ratio,
    }
