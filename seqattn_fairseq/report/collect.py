"""From the folders of runs to a report.

A folder may be what ``seqattn train`` and ``seqattn evaluate`` left, or the ``--save-dir`` of a
plain fairseq-train, or parts of either. What is missing becomes a note in the report.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from seqattn_fairseq.analysis.agreement import agreement
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.pipeline import FOLDER
from seqattn_fairseq.evaluation.system import System
from seqattn_fairseq.report.analyses import attention_maps, choose_sentences
from seqattn_fairseq.report.data import Agreement, Report, Run
from seqattn_fairseq.report.names import short_names
from seqattn_fairseq.report.runs import Options, describe
from seqattn_fairseq.report.scores import (
    Evaluated,
    check_comparable,
    load_evaluated,
    same_flavours,
)
from seqattn_fairseq.report.sentences import Hypotheses

_HYPOTHESES = "hyp.txt"
Flavours = Mapping[int, set[str]]  # index of a translated run -> flavours that can be compared


def collect(runs: Sequence[Path], options: Options) -> Report:
    """Gather a report.

    The texts of one run at a time are in memory, beside those of the baseline.

    Args:
        runs: folders of runs, different ones.
        options: what is shown.

    Raises:
        SeqAttnError: two runs translate different test sets.
    """
    base, _ = load_evaluated(runs[options.baseline], options.subset)
    anchor = base or _first_evaluated(runs, options.subset)
    described, flavours = _describe_all(runs, base, anchor, options)
    sentences = choose_sentences(runs, options.subset)
    folders = [run / FOLDER / options.subset for run in runs]
    files = [folder / _HYPOTHESES if i in flavours else None for i, folder in enumerate(folders)]
    agreements, notes = _agreement(runs, anchor, flavours)
    return Report(
        title=options.title or _title(described, options.subset),
        made=time.strftime("%Y-%m-%d %H:%M"),
        version=version("seqattn_fairseq"),
        subset=options.subset,
        pair=str(anchor.record.get("pair", "")) if anchor else "",
        baseline=options.baseline,
        runs=described,
        agreement=agreements,
        sources=[*anchor.system.sources] if anchor else [],
        references=_references(anchor.system) if anchor else [],
        hypotheses=Hypotheses(files),
        maps=attention_maps(runs, options.subset, sentences),
        notes=[*_about_tests(described, options), *notes],
    )


def _first_evaluated(runs: Sequence[Path], subset: str) -> Evaluated | None:
    return next(filter(None, (load_evaluated(run, subset)[0] for run in runs)), None)


def _describe_all(
    runs: Sequence[Path], base: Evaluated | None, anchor: Evaluated | None, options: Options
) -> tuple[list[Run], Flavours]:
    described = []
    flavours: dict[int, set[str]] = {}
    names = short_names(runs)
    for index, run in enumerate(tqdm(runs, "runs", unit="run")):
        evaluated, missing = load_evaluated(run, options.subset)
        if evaluated and anchor:
            check_comparable(anchor, evaluated)
            flavours[index] = set(same_flavours(anchor.system, evaluated.system))
        told = describe(run, names[index], evaluated, base, options)
        described.append(replace(told, notes=[*filter(None, [missing]), *told.notes]))
    return described, flavours


def _title(runs: Sequence[Run], subset: str) -> str:
    what = runs[0].name if len(runs) == 1 else f"{len(runs)} systems"
    return f"{what} on {subset}"


def _references(system: System) -> list[str]:
    """Return the references to show: plain text, or tokens where there is no text."""
    return [*(system.references or system.token_references)]


def _about_tests(runs: Sequence[Run], options: Options) -> list[str]:
    """Return how intervals and p-values were computed, if there are any."""
    if all(cell.interval is None for run in runs for cell in run.scores):
        return []
    return [
        f"Intervals (95 %) and p-values: paired bootstrap of {options.samples:,} samples, as "
        "seqattn compare does. A p-value tells of the chance of the test set, not of that of "
        "training, for which several seeds are needed."
    ]


# ---- agreement ---------------------------------------------------------------------------------


def _agreement(
    runs: Sequence[Path], anchor: Evaluated | None, flavours: Flavours
) -> tuple[list[Agreement], list[str]]:
    """Return how much the outputs of every two runs agree, in a flavour that all share."""
    if anchor is None or len(flavours) < 2:
        return [], []
    common = [one for one in anchor.system.flavours() if all(one in f for f in flavours.values())]
    if not common:
        return [], ["No form of the text is the same in all runs, so their agreement is unknown."]
    systems = [_slim(runs[index], anchor, common[0]) for index in flavours]
    found = agreement(systems, common[0])
    places = {index: place for place, index in enumerate(flavours)}
    matrices = {
        f"{anchor.system.label(found.flavour)} of one against the other": found.bleu,
        "sentences with the same output (%)": [[100 * v for v in row] for row in found.exact],
    }
    return [
        Agreement(metric, _spread(matrix, places, len(runs))) for metric, matrix in matrices.items()
    ], []


def _slim(run: Path, anchor: Evaluated, flavour: str) -> System:
    """Return a run's system without what ``flavour`` does not read; references are shared."""
    evaluated, missing = load_evaluated(run, anchor.subset)
    if evaluated is None:  # it was there a moment ago
        raise SeqAttnError(missing)
    own = evaluated.system
    if flavour == "detokenized":
        return replace(
            own, tokens=(), token_references=(), sources=(), references=anchor.system.references
        )
    return replace(
        own, text=(), references=(), sources=(), token_references=anchor.system.token_references
    )


def _spread(
    matrix: Sequence[Sequence[float]], places: Mapping[int, int], count: int
) -> list[list[float | None]]:
    """Return a matrix over all runs; those that were not compared have None."""
    return [
        [
            matrix[places[row]][places[column]] if row in places and column in places else None
            for column in range(count)
        ]
        for row in range(count)
    ]
