"""The scores of every run, and whether they differ from the baseline's by more than chance.

Scores are taken from ``scores.json``, or computed and written there as ``seqattn score`` does.
Intervals and p-values are sacreBLEU's paired bootstrap with the same texts and options; they are
kept in ``RUN/analysis/SUBSET/significance_SCORE.json`` and computed again when anything that
decides about them has changed.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from seqattn_fairseq.analysis.record import made, result_folder
from seqattn_fairseq.data.files import read_json_object
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.generate import RECORD, SCORES, digest, load_system, read_record
from seqattn_fairseq.evaluation.pipeline import FOLDER, score_folder
from seqattn_fairseq.evaluation.scores import ScoreOptions, ScoreTable, versions
from seqattn_fairseq.evaluation.settings import load_settings
from seqattn_fairseq.evaluation.significance import check_same_references, compare
from seqattn_fairseq.evaluation.system import FLAVOURS, System
from seqattn_fairseq.launch.quietness import quiet
from seqattn_fairseq.report.data import ScoreCell

METRICS = ("bleu", "chrf", "ter")
SAMPLES = 1000  # sacreBLEU's default for the bootstrap

# parts of a signature that tell of the test, not of the score
_OF_THE_TEST = ("bs:", "seed:")


@dataclass(frozen=True)
class Evaluated:
    """A run's translations of the test set, and their scores.

    Attributes:
        run: folder of the run.
        subset: name of the test set.
        record: ``generation.json``.
        system: texts.
        table: scores; None without a reference.
        options: how they were computed.
    """

    run: Path
    subset: str
    record: Mapping[str, Any]
    system: System
    table: ScoreTable | None
    options: ScoreOptions


def load_evaluated(run: Path, subset: str) -> tuple[Evaluated | None, str]:
    """Return what ``seqattn evaluate`` or ``generate`` left of a run.

    Where there is nothing complete it is None, with a note on what is wrong and what helps.
    """
    folder = run / FOLDER / subset
    command = f"seqattn evaluate {shlex.quote(str(run))} --subset {subset}"
    record = read_record(folder)
    if not record:
        return None, f"no translations of '{subset}': run {command}"
    try:
        return _load(run, subset, record), ""
    except (SeqAttnError, OSError) as error:
        return None, f"{error}; run {command} again"
    except (LookupError, TypeError, ValueError):
        return None, f"{folder}: cannot be read; delete it and run {command} again"


def _load(run: Path, subset: str, record: Mapping[str, Any]) -> Evaluated:
    folder = run / FOLDER / subset
    system = load_system(folder, str(run))
    if not len(system.text) == len(system.sources) == record["n"]:
        raise SeqAttnError(f"{folder}: not {record['n']} lines, as {RECORD} says")
    if record["reference"] == "none":
        return Evaluated(run, subset, record, system, None, ScoreOptions())
    stored = read_json_object(folder / SCORES)
    if not stored:
        score_folder(folder, system, load_settings(run), ScoreOptions(), None)
        stored = read_json_object(folder / SCORES)
    options = {k: v for k, v in stored["scoring"].items() if k != "references"}
    table = ScoreTable.from_dict(stored)
    return Evaluated(run, subset, record, system, table, ScoreOptions(**options))


def check_comparable(base: Evaluated, other: Evaluated) -> None:
    """Check that two runs translate the same test set: in some flavour, their references agree.

    Raises:
        SeqAttnError: they agree in none; the message names the first line that differs.
    """
    if not same_flavours(base.system, other.system):
        flavours = [one for one in base.system.flavours() if one in other.system.flavours()]
        if flavours:
            check_same_references([base.system, other.system], flavours[0])
        if digest(base.system.sources) != digest(other.system.sources):
            raise SeqAttnError(
                f"{other.run}: neither references nor sources are those of {base.run}; report "
                "translations of the same test set, prepared the same way"
            )


def same_flavours(base: System, other: System) -> list[str]:
    """Return the flavours in which two systems have the same references."""
    return [
        flavour
        for flavour in base.flavours()
        if flavour in other.flavours() and base.pair(flavour)[1] == other.pair(flavour)[1]
    ]


def score_cells(
    base: Evaluated | None, run: Evaluated, metrics: Sequence[str], samples: int
) -> tuple[list[ScoreCell], list[str]]:
    """Return the scores of a run, the headline first, and notes on those that were not tested.

    Args:
        base: the baseline; None: nothing to compare with.
        run: it or another run.
        metrics: of ``METRICS``: what is tested.
        samples: of the bootstrap.
    """
    if run.table is None:
        return [], [f"'{run.subset}' has no reference, so there are no scores"]
    shared = same_flavours(base.system, run.system) if base else []
    cells, notes = [], []
    table = run.table
    for key in sorted(table.scores, key=lambda key: key != table.headline):
        score = table.scores[key]
        cell = ScoreCell(key, table.names[key], score.value, score.signature, None, None, None)
        if base and _metric(key) in metrics:
            obstacle = _obstacle(base, run, key, shared)
            found = None if obstacle else _test(base, run, key, samples)
            if found and _signature_of_score(found["signature"]) != cell.signature:
                obstacle = (
                    f"its signature is that of another version; run seqattn score {run.run} "
                    f"--subset {run.subset}"
                )
            elif found:
                cell = _with_test(cell, found, run.run == base.run)
            notes += [f"{cell.name} was not compared: {obstacle}"] if obstacle else []
        cells.append(cell)
    return cells, notes


def _metric(key: str) -> str:
    return "bleu" if key in FLAVOURS else key


def _flavour(key: str) -> str:
    """Return the flavour whose texts a score reads."""
    return key if key in FLAVOURS else "detokenized"


def _obstacle(base: Evaluated, run: Evaluated, key: str, shared: Sequence[str]) -> str:
    """Return why a score cannot be compared with the baseline's; empty if it can."""
    known = base.table.scores.get(key) if base.table else None
    if known is None or run.table is None:
        return f"{base.run} has no such score"
    if known.signature != run.table.scores[key].signature:
        return f"the signature of {base.run} is another, {known.signature}"
    if _flavour(key) not in shared:
        return f"the references of {base.run} are others"
    return ""


def _signature_of_score(signature: str) -> str:
    return "|".join(part for part in signature.split("|") if not part.startswith(_OF_THE_TEST))


def _with_test(cell: ScoreCell, found: Mapping[str, Any], is_base: bool) -> ScoreCell:
    p_value = None if is_base else found["p_value"]
    return replace(cell, mean=found["mean"], interval=found["interval"], p_value=p_value)


def _test(base: Evaluated, run: Evaluated, key: str, samples: int) -> Mapping[str, Any]:
    flavour = _flavour(key)
    named = [replace(base.system, name="baseline"), replace(run.system, name="system")]

    @functools.cache
    def make() -> dict[str, Any]:
        with quiet("sacrebleu"):  # it would write over the progress
            rows = compare(named, flavour, [_metric(key)], ["bs"], run.options, samples)
        return rows[-1].to_dict()

    hypotheses, references = run.system.pair(flavour)
    made_from = {
        "baseline": digest(base.system.pair(flavour)[0]),
        "system": digest(hypotheses),
        "references": digest(references),
        "score": key,
        "options": asdict(run.options),
        "lowercased": [run.system.lowercased, run.system.own_reference],
        "samples": samples,
        "seed": os.environ.get("SACREBLEU_SEED", ""),
        "versions": versions(),
    }
    path = result_folder(run.run, run.subset) / f"significance_{key}.json"
    return _kept(path, made_from, make)


def _kept(
    path: Path, made_from: Mapping[str, Any], make: Callable[[], dict[str, Any]]
) -> Mapping[str, Any]:
    try:
        return made(path, made_from, make).result
    except PermissionError:  # somebody else's run can be reported, too
        return make()
