"""One run of a report: what its folder holds, and notes on what it lacks and how to get it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.settings import CONFIG_FILE
from seqattn_fairseq.report import curves
from seqattn_fairseq.report.analyses import read_analyses
from seqattn_fairseq.report.data import Run
from seqattn_fairseq.report.facts import Facts, checkpoint_of, read_facts, variant_of
from seqattn_fairseq.report.scores import SAMPLES, Evaluated, score_cells
from seqattn_fairseq.report.training_log import TrainingLog

_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Options:
    """What a report shows.

    Attributes:
        subset: name of the test set.
        baseline: index of the run that the others are compared with.
        title: of the page; by default it names the test set.
        metrics: of :data:`~seqattn_fairseq.report.scores.METRICS`: what is tested.
        samples: of the paired bootstrap.
        logs: folder of a run -> log files of its training, which replace those in the folder.
    """

    subset: str = "test"
    baseline: int = 0
    title: str = ""
    metrics: tuple[str, ...] = ("bleu", "chrf")
    samples: int = SAMPLES
    logs: Mapping[Path, Sequence[Path]] = field(default_factory=dict)


def describe(
    run: Path, name: str, evaluated: Evaluated | None, base: Evaluated | None, options: Options
) -> Run:
    """Return what is known of a run.

    Args:
        run: its folder.
        name: what the report calls it.
        evaluated: its translations.
        base: those of the baseline.
        options: what is shown.
    """
    record = evaluated.record if evaluated else {}
    facts, notes = _facts(run)
    log, log_notes = _log(run, options)
    analysed = read_analyses(run, options.subset)
    scores, score_notes = (
        score_cells(base, evaluated, options.metrics, options.samples) if evaluated else ([], [])
    )
    hours = curves.hours(log) if facts.seconds is None else facts.seconds / _SECONDS_PER_HOUR
    return Run(
        name=name,
        variant=facts.variant or _recorded_variant(run, record),
        folder=str(run),
        parameters=facts.parameters or log.parameters,
        updates=facts.updates or curves.updates(log),
        tokens_per_second=curves.tokens_per_second(log),
        train_hours=hours,
        train_memory_mib=curves.memory_mib(log),
        decode_sentences_per_second=_decoding_speed(record),
        hardware=_hardware(log, record),
        scores=scores,
        curves=curves.curves(log),
        attention=analysed.attention,
        lengths=analysed.lengths,
        alignment=analysed.alignment,
        generalisation=analysed.generalisation,
        length_ratio=analysed.length_ratio,
        repetition=analysed.repetition,
        notes=[*notes, *log_notes, *score_notes, *analysed.notes],
    )


def _facts(run: Path) -> tuple[Facts, list[str]]:
    checkpoint = checkpoint_of(run)
    if checkpoint is None:
        return Facts(), ["no checkpoint"]
    try:
        return read_facts(checkpoint), []
    except (SeqAttnError, OSError) as error:
        return Facts(), [str(error)]


def _log(run: Path, options: Options) -> tuple[TrainingLog, list[str]]:
    given = options.logs.get(run)
    try:
        log = curves.read_logs([[path] for path in given] if given else curves.find_logs(run))
    except OSError as error:
        return TrainingLog(), [f"{error.filename}: {error.strerror}"]
    notes = []
    if not log.series:
        notes.append(f"no training log: name it with --log {shlex.quote(f'{run}=FILE')}")
    if log.diverged is not None:
        notes.append(f"the training loss was no number at update {log.diverged:,.0f}")
    return log, notes


def _recorded_variant(run: Path, record: Mapping[str, Any]) -> str:
    """Return the variant that translations or the recipe name, where no checkpoint does."""
    options = (record.get("training") or {}).get("options") or {}
    model = {key.removeprefix("model."): value for key, value in options.items()}
    if not variant_of(model):
        try:
            model = OmegaConf.select(OmegaConf.load(run / CONFIG_FILE), "model") or {}
        except (OSError, OmegaConfBaseException, YAMLError):
            return "unknown"
    return variant_of(model) or "unknown"


def _decoding_speed(record: Mapping[str, Any]) -> float | None:
    """Return sentences a second; nothing is known of translations of earlier versions."""
    seconds = record.get("search_seconds")
    return record["n"] / seconds if seconds else None


def _hardware(log: TrainingLog, record: Mapping[str, Any]) -> str | None:
    known = {"training": curves.devices(log), "decoding": record.get("hardware")}
    said = [f"{what}: {device}" for what, device in known.items() if device]
    return "; ".join(said) or None
