"""From a run to its scores: average, choose on the validation set, translate, score.

Every step is skipped when its result is there and what it was made from has not changed. Where
the settings leave a choice (several ways of averaging, several length penalties), all of them
translate the validation set, and the best one translates the test sets; no test set is opened
before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from seqattn_fairseq.data.files import read_json, read_json_object, write_json
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.checkpoints import average, find_checkpoint, save_checkpoint, select
from seqattn_fairseq.evaluation.comet import DEFAULT_MODEL, comet_score
from seqattn_fairseq.evaluation.generate import (
    SCORES,
    Corpus,
    digest,
    generate,
    load_system,
    read_record,
)
from seqattn_fairseq.evaluation.scores import (
    ScoreOptions,
    ScoreTable,
    flavour_score,
    score_system,
    versions,
    with_comet,
)
from seqattn_fairseq.evaluation.settings import EvaluationSettings
from seqattn_fairseq.evaluation.system import System
from seqattn_fairseq.evaluation.training import data_bin_of, read_training
from seqattn_fairseq.evaluation.translation import Job, Search

FOLDER = "evaluation"  # below a run's folder
SELECTION = "selection.json"
VALID = "valid"


@dataclass(frozen=True)
class Means:
    """By what to evaluate; everything has a default.

    Attributes:
        data_bin: folder of fairseq-preprocess; by default the one trained on.
        search: options of the search; beam and length penalty come from the settings.
        remove_bpe: kind of subwords, if the data-bin does not tell.
        processes: how many translate at once.
        cpu: stay off the GPU.
        comet: interpreter that has unbabel-comet.
    """

    data_bin: Path | None = None
    search: Search = field(default_factory=Search)
    remove_bpe: str | None = None
    processes: int = 1
    cpu: bool = False
    comet: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A way to decode: which average, and which length penalty."""

    average: str
    length_penalty: float


@dataclass(frozen=True)
class Report:
    """What an evaluation came to: the checkpoint, the way to decode, and a table per test set."""

    checkpoint: Path
    candidate: Candidate
    tables: dict[str, ScoreTable]
    settings: EvaluationSettings

    def headline(self) -> str:
        """Return one line: the score in the paper's flavour on the first test set, and the paper's.

        Raises:
            KeyError: nothing was scored.
        """
        subset = self.settings.subsets[0]
        return headline(subset, self.tables[subset], self.settings)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "checkpoint": str(self.checkpoint),
            **asdict(self.candidate),
            "settings": self.settings.to_dict(),
            "subsets": {name: table.to_dict() for name, table in self.tables.items()},
        }


def headline(subset: str, table: ScoreTable, settings: EvaluationSettings) -> str:
    """Return one line: the score in the paper's flavour, its signature, and the paper's score."""
    score, paper = table.scores[table.headline], settings.paper
    if paper.score is not None:
        known = f"paper {paper.score:g}" + (f", {paper.source}" if paper.source else "")
    else:
        known = "a recipe of ours, no paper" if paper.ours else "no score of a paper"
    name = table.names[table.headline]
    return f"headline: {subset}, {name} {score.value:.2f} ({known}; {score.signature})"


def evaluate(run: Path, settings: EvaluationSettings, means: Means | None = None) -> Report:
    """Average, choose, translate and score a run.

    Args:
        run: folder with the checkpoints of a training.
        settings: how; see :func:`~seqattn_fairseq.evaluation.settings.load_settings`.
        means: by what.

    Raises:
        SeqAttnError: a checkpoint or a text is missing, or things do not fit together.
    """
    means = means or Means()
    candidate = choose(run, settings, means)
    checkpoint = averaged(run, candidate.average, settings.checkpoints)
    tables = {}
    for subset in settings.subsets:
        folder = run / FOLDER / subset
        translate_subset(checkpoint, candidate, subset, folder, settings, means)
        system = load_system(folder, str(run))
        tables[subset] = score_folder(folder, system, settings, ScoreOptions(), means.comet)
    return Report(checkpoint, candidate, tables, settings)


# ---- which weights -----------------------------------------------------------------------------


def averaged(run: Path, kind: str, count: int) -> Path:
    """Return the checkpoint to translate with: a mean of some of the run's, or one of them.

    The mean lies beside them with a note of its inputs, and is made again when they have changed.

    Args:
        run: folder with checkpoints.
        kind: ``last`` (epochs), ``last_updates``, ``best``, or ``none`` for the best checkpoint.
        count: how many.

    Raises:
        SeqAttnError: too few checkpoints, or they do not fit together.
    """
    if kind == "none":
        return find_checkpoint(run)
    paths = select(run, kind.replace("_", "-"), count)
    output = run / f"checkpoint_average_{kind}{count}.pt"
    note = output.with_suffix(".json")
    stats = [(path.name, path.stat()) for path in paths]
    inputs = [{"file": name, "bytes": s.st_size, "mtime_ns": s.st_mtime_ns} for name, s in stats]
    if not output.is_file() or read_json(note) != inputs:
        note.unlink(missing_ok=True)
        save_checkpoint(average(paths), output)
        write_json(note, inputs)
    return output


# ---- choosing on the validation set ------------------------------------------------------------


def candidates(settings: EvaluationSettings) -> list[Candidate]:
    """Return the ways to decode that the settings leave open."""
    return [Candidate(*pair) for pair in product(settings.average, settings.length_penalty)]


def choose(run: Path, settings: EvaluationSettings, means: Means) -> Candidate:
    """Return the candidate with the best BLEU on the validation set, in the paper's flavour.

    The table of what was tried goes to ``RUN/evaluation/selection.json``; of equal ones the first
    wins. A single candidate needs no validation set.

    Raises:
        SeqAttnError: as :func:`evaluate`.
    """
    tried = candidates(settings)
    record = run / FOLDER / SELECTION
    if len(tried) == 1:
        record.unlink(missing_ok=True)
        return tried[0]
    rows = [_try(run, candidate, settings, means) for candidate in tried]
    best = max(range(len(rows)), key=lambda row: (rows[row]["bleu"], -row))
    table = {"subset": VALID, "flavour": settings.bleu, "tried": rows, "chosen": rows[best]}
    write_json(record, table)
    return tried[best]


def has_chosen(run: Path) -> bool:
    """Tell whether a run's way to decode was chosen on its validation set."""
    return (run / FOLDER / SELECTION).is_file()


def _try(
    run: Path, candidate: Candidate, settings: EvaluationSettings, means: Means
) -> dict[str, Any]:
    checkpoint = averaged(run, candidate.average, settings.checkpoints)
    name = f"{candidate.average}_lenpen{candidate.length_penalty:g}"
    folder = run / FOLDER / "selection" / name
    translate_subset(checkpoint, candidate, VALID, folder, settings, means)
    score = flavour_score(load_system(folder, name), settings.bleu)
    return {**asdict(candidate), "bleu": score.value, "signature": score.signature}


# ---- translating and scoring -------------------------------------------------------------------


def translate_subset(
    checkpoint: Path,
    candidate: Candidate,
    subset: str,
    folder: Path,
    settings: EvaluationSettings,
    means: Means,
) -> bool:
    """Translate one set into ``folder``; return whether it had to be done now.

    Raises:
        SeqAttnError: model, data and dictionaries do not fit together.
    """
    training = read_training(checkpoint)
    data_bin = means.data_bin or data_bin_of(training, checkpoint)
    corpus = Corpus.of(data_bin, subset, means.remove_bpe)
    search = replace(means.search, beam=settings.beam, length_penalty=candidate.length_penalty)
    job = Job(checkpoint, data_bin, subset, corpus.remove_bpe, search, means.cpu)
    return generate(training, job, corpus, folder, means.processes).fresh


def score_folder(
    folder: Path,
    system: System,
    settings: EvaluationSettings,
    options: ScoreOptions,
    comet: str | None,
    comet_model: str = DEFAULT_MODEL,
) -> ScoreTable:
    """Score a translated test set, the paper's flavour first; write ``scores.json`` beside it.

    Scores that are there are taken from it.

    Args:
        folder: of the translations.
        system: what was loaded from there.
        settings: those of the run.
        options: how to score, where it is not the paper's flavour that decides.
        comet: interpreter that has unbabel-comet; None: no COMET.
        comet_model: its model.

    Raises:
        SeqAttnError: the headline's texts are missing.
    """
    options = replace(options, headline=options.headline or settings.bleu)
    scoring = {**asdict(options), "references": digest(system.references)}
    table = _scored_before(folder, scoring, comet and comet_model)
    if table is None:
        table = score_system(system, options)
        if comet:
            table = with_comet(table, comet_score(system, comet, comet_model))
    record = read_record(folder)
    keys = ("subset", "pair", "checkpoint", "search", "remove_bpe", "reference", "lowercased")
    about = {key: record[key] for key in keys}
    paper = settings.overridden(subsets=[record["subset"]], bleu=options.headline).paper
    table = replace(table, extra={**about, "scoring": scoring, "paper": asdict(paper)})
    write_json(folder / SCORES, table.to_dict())
    return table


def _scored_before(
    folder: Path, scoring: dict[str, Any], comet_model: str | None
) -> ScoreTable | None:
    """Return the scores of the same translations by the same options and versions, if known."""
    known = read_json_object(folder / SCORES)
    if known.get("scoring") != scoring or known.get("versions") != versions():
        return None
    table = ScoreTable.from_dict(known)
    comet = table.scores.get("comet")
    if comet_model and (comet is None or f"model:{comet_model}|" not in comet.signature):
        return None
    return table


def translated_subsets(run: Path) -> Iterator[str]:
    """Yield the names of the test sets that a run has translations of."""
    for path in sorted((run / FOLDER).glob("*")):
        if path.is_dir() and read_record(path):
            yield path.name


def subset_folder(run: Path, subset: str) -> Path:
    """Return where the translations of a run's test set are.

    Raises:
        SeqAttnError: the run has none; the message names those that it has.
    """
    folder = run / FOLDER / subset
    if not read_record(folder):
        there = list(translated_subsets(run))
        raise SeqAttnError(
            f"{run}: no translation of '{subset}'; "
            + (f"it has {', '.join(there)}" if there else "run seqattn evaluate or generate first")
        )
    return folder


def named_system(run: Path, subset: str) -> System:
    """Return what a run made of a test set, under the name of the run's path.

    Raises:
        SeqAttnError: the run has no translation of it.
    """
    if not run.is_dir():
        raise SeqAttnError(f"{run}: no such run; plain files need their reference, --ref FILE")
    return load_system(subset_folder(run, subset), str(run))
