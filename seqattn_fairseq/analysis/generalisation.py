"""``generalisation.json``: quality, speed and memory against the length of the input.

The test set is translated again as lines of k consecutive sentences, for several k, with the search
that translated it by single sentences; BLEU is that of the same sentences for every k, in the
flavour of the run's headline, against the references joined in the same way. The limit of an
output's length grows with k; a batch has the same number of lines for all. Every k runs in a
process of its own, so that none profits from what another has loaded or pays for it, and is kept as
soon as it is done.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from seqattn_fairseq.analysis.lengths import Quality, quality, signature
from seqattn_fairseq.analysis.long_lines import BATCH_LINES, Translated, translate_lines
from seqattn_fairseq.analysis.record import MADE_FROM, result_folder
from seqattn_fairseq.analysis.texts import ScoredSet
from seqattn_fairseq.data.files import file_stamp, read_json_object, subset_stamp, write_json
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.generate import Corpus, digest, hardware
from seqattn_fairseq.evaluation.scores import versions
from seqattn_fairseq.evaluation.system import System
from seqattn_fairseq.evaluation.translation import Job, Search
from seqattn_fairseq.launch.stopping import end_with_parent

FILE = "generalisation.json"
COUNTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class GeneralisationOptions:
    """How to measure.

    Attributes:
        cpu: stay off the GPU.
        sentences: take only the first so many sentences of the set; None: all.
    """

    cpu: bool = False
    sentences: int | None = None

    def __post_init__(self) -> None:
        if self.sentences is not None and self.sentences < 1:
            raise SeqAttnError(f"--first {self.sentences}: must be at least 1")


@dataclass(frozen=True)
class _Measurement:
    """A run's test set to be measured: what was scored, its text, and how it is translated."""

    scored: ScoredSet
    corpus: Corpus
    job: Job
    unit: int
    options: GeneralisationOptions

    def row(self, count: int) -> dict[str, Any]:
        """Translate the lines of ``count`` sentences and return their row."""
        search = replace(self.job.search, max_len_b=self.job.search.max_len_b * count)
        job = replace(self.job, search=search)
        # a new process, not a fork: see the text of this module
        with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent) as pool:
            done = pool.submit(translate_lines, job, count, self.unit, self.options.sentences)
            found = done.result()
        return _row(count, found, self._quality(found))

    def _quality(self, found: Translated) -> Quality:
        tokens = [sentence.hypothesis for sentence in found.sentences]
        targets = [sentence.target or "" for sentence in found.sentences]
        raw = self.corpus.reference
        references = [" ".join(raw[index] for index in line) for line in found.lines if raw]
        system = replace(
            self.system(),
            tokens=tokens,
            token_references=targets,
            text=self.corpus.plain(tokens),
            references=references or self.corpus.plain(targets),
        )
        return quality(self.scored.metric(system), *system.pair(self.scored.flavour))

    def system(self) -> System:
        """Return what the record tells of the texts, without them."""
        record = self.scored.record
        own, lowercased = record["reference"] == "own", bool(record["lowercased"])
        return System(str(self.scored.folder), own_reference=own, lowercased=lowercased)

    def made_from(self) -> dict[str, Any]:
        """Return what decides about a row, as JSON would hold it."""
        chains, job = self.corpus.chains, self.job
        stamp = {
            "checkpoint": file_stamp(job.checkpoint),
            "data": subset_stamp(job.data_bin, job.subset),
            "references": digest(self.corpus.reference),
            "text_chain": chains.to_dict() if chains else None,
            "search": asdict(job.search),
            "remove_bpe": job.remove_bpe,
            "flavour": self.scored.flavour,
            "scoring": asdict(self.scored.options),
            "group": self.unit,
            "batch_lines": BATCH_LINES,
            "sentences": self.options.sentences,
            "hardware": hardware(self.options.cpu),
            "versions": {**versions(), "torch": torch.__version__},
        }
        return dict(json.loads(json.dumps(stamp)))


def analyse_generalisation(
    run: Path,
    subset: str,
    checkpoint: Path,
    data_bin: Path,
    counts: Sequence[int] = COUNTS,
    options: GeneralisationOptions | None = None,
) -> dict[str, Any]:
    """Return the contents of ``RUN/analysis/SUBSET/generalisation.json``.

    Rows that are there, made from the same, are kept; each new one is written when it is done.

    Args:
        run: folder of the run.
        subset: name of the test set.
        checkpoint: file of the model.
        data_bin: folder of fairseq-preprocess that has the test set.
        counts: sentences of a line; all must divide the largest.
        options: how to measure.

    Raises:
        SeqAttnError: the run has no scored translation of the set, the counts do not fit
            together, or no line of the largest count fits into the model.
    """
    check_counts(counts)
    options = options or GeneralisationOptions()
    scored = ScoredSet.of(run, subset)
    bpe = scored.record["remove_bpe"]
    corpus = Corpus.of(data_bin, subset, bpe)
    search = Search(**scored.record["search"])
    job = Job(checkpoint, data_bin, subset, bpe, search, options.cpu)
    measurement = _Measurement(scored, corpus, job, max(counts), options)
    return _completed(result_folder(run, subset) / FILE, measurement, counts)


def check_counts(counts: Sequence[int]) -> None:
    """Check that lines of all counts can hold the same sentences.

    Raises:
        SeqAttnError: there is none, one is below 1, or one does not divide the largest.
    """
    if not counts or min(counts) < 1:
        raise SeqAttnError("counts of sentences must be numbers from 1, for instance 1,2,4,8")
    for count in counts:
        if max(counts) % count:
            raise SeqAttnError(
                f"{count} does not divide {max(counts)}, so that lines of so many sentences would "
                "not hold the same ones; give counts that divide the largest, like 1,2,4,8"
            )


def _completed(path: Path, measurement: _Measurement, counts: Sequence[int]) -> dict[str, Any]:
    """Add the rows that the file lacks; others than ``counts`` stay if they still hold."""
    made_from, known = measurement.made_from(), read_json_object(path)
    rows = known.get("rows", []) if known.get(MADE_FROM) == made_from else []
    about = {
        MADE_FROM: made_from,
        "subset": measurement.job.subset,
        "flavour": measurement.scored.flavour,
        "signature": signature(measurement.scored.metric(measurement.system())),
        "batch_lines": BATCH_LINES,
        "hardware": made_from["hardware"],
    }
    for count in sorted(set(counts) - {row["k"] for row in rows}):
        rows = sorted([*rows, measurement.row(count)], key=lambda row: int(row["k"]))
        write_json(path, {**about, "rows": rows})
    return {**about, "rows": rows}


def _row(count: int, found: Translated, measured: Quality) -> dict[str, Any]:
    sentences, lines = sum(map(len, found.lines)), len(found.lines)
    return {
        "k": count,
        "lines": lines,
        "sentences": sentences,
        "source_tokens": found.source_tokens / lines,
        "bleu": measured.bleu,
        "length_ratio": measured.length_ratio,
        "seconds": found.seconds,
        "sentences_per_second": sentences / found.seconds,
        "tokens_per_second": found.tokens / found.seconds,
        "model_memory_mib": found.model_mib,
        "peak_memory_mib": found.peak_mib,
        "truncated": found.truncated,
        "too_long": found.too_long,
    }
