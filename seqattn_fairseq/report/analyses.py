"""What ``seqattn analyse`` wrote about a run, as values of the report."""

from __future__ import annotations

import base64
import functools
import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from seqattn_fairseq.analysis import alignment, attention, maps, texts
from seqattn_fairseq.analysis.record import MADE_FROM, result_folder
from seqattn_fairseq.analysis.subject import Subject, find_subject
from seqattn_fairseq.data.files import file_stamp, read_json_object
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.generate import RECORD, read_record
from seqattn_fairseq.evaluation.pipeline import FOLDER
from seqattn_fairseq.report.data import (
    AlignmentRow,
    AttentionMap,
    HeatMaps,
    LengthBin,
    LengthRow,
)
from seqattn_fairseq.report.scores import load_evaluated

GENERALISATION = "generalisation.json"
MAX_MAPS = 50
MAX_MAP_BYTES = 100_000_000  # of weights, before compression
_STATISTICS = ("sparsity", "null", "entropy")
_DIVERSITY = "diversity"

Result = Mapping[str, Any]


def analyse(run: Path, subset: str, data_bin: Path | None = None, cpu: bool = False) -> list[str]:
    """Do the analyses of a run that need nothing but the run, where they are missing or old.

    Returns what was left out, and why: a model without attention weights, or no translations.

    Args:
        run: its folder.
        subset: name of the test set.
        data_bin: folder of fairseq-preprocess; by default the one trained on.
        cpu: stay off the GPU.
    """

    @functools.cache
    def subject() -> Subject:  # one model for all
        return find_subject(run, subset, data_bin=data_bin, cpu=cpu)

    load_evaluated(run, subset)  # scores what is not yet scored: the texts are analysed alike
    steps: dict[str, Callable[[], object]] = {
        "attention": lambda: attention.analyse_attention(subject()),
        "maps": lambda: maps.analyse_maps(subject()),
        "texts": lambda: texts.analyse_texts(run, subset),
    }
    left_out = []
    for name, step in steps.items():
        try:
            step()
        except SeqAttnError as error:
            left_out.append(f"{run}: {name} left out: {error}")
    return left_out


@dataclass
class Analyses:
    """The analyses of one run.

    Attributes:
        notes: what is missing, old or damaged, and the command that makes it.
    """

    attention: list[HeatMaps] = field(default_factory=list)
    lengths: list[LengthBin] = field(default_factory=list)
    alignment: list[AlignmentRow] = field(default_factory=list)
    generalisation: list[LengthRow] = field(default_factory=list)
    length_ratio: float | None = None
    repetition: dict[str, float] | None = None
    notes: list[str] = field(default_factory=list)


def read_analyses(run: Path, subset: str) -> Analyses:
    """Read the analyses of a run's test set; those of other weights or texts are left out."""
    found, stamps = Analyses(), _stamps(run, subset)
    folder, command = (
        result_folder(run, subset),
        f"seqattn analyse {shlex.quote(str(run))} --subset {subset}",
    )
    readers: dict[str, Callable[[Analyses, Result], None]] = {
        attention.FILE: _attention,
        texts.FILE: _texts,
        alignment.FILE: _alignment,
        GENERALISATION: _generalisation,
    }
    for file, read in readers.items():
        result = read_json_object(folder / file)
        if not result:
            found.notes += _missing(file, command, bool(stamps))
            continue
        if not _is_current(result, stamps):
            found.notes.append(f"{file} is of an earlier state and left out: run {command}")
            continue
        try:
            read(found, result)
        except (LookupError, TypeError, ValueError, AttributeError):
            found.notes.append(f"{folder / file} cannot be read: delete it and run {command}")
    return found


def _missing(file: str, command: str, translated: bool) -> list[str]:
    """Return what to say of a missing file: nothing of analyses that need more than the run."""
    if file == attention.FILE or (file == texts.FILE and translated):
        return [f"no {file}: run {command}"]
    return []


def _stamps(run: Path, subset: str) -> dict[str, Any]:
    """Return what results must have been made from to go with a run's translations."""
    folder = run / FOLDER / subset
    record = read_record(folder)
    if not record:
        return {}
    return {"checkpoint": record["checkpoint"], "translations": file_stamp(folder / RECORD)}


def _is_current(result: Result, stamps: Result) -> bool:
    made_from = result.get(MADE_FROM) or {}
    return all(made_from.get(name, stamp) == stamp for name, stamp in stamps.items())


def _attention(found: Analyses, result: Result) -> None:
    found.attention = [_heat_maps(site, value["layers"]) for site, value in result["sites"].items()]


def _heat_maps(site: str, layers: Sequence[Result]) -> HeatMaps:
    values: dict[str, list[list[float | None]]] = {
        name: [[head[name] for head in layer["heads"]] for layer in layers] for name in _STATISTICS
    }
    values[_DIVERSITY] = [[layer["all"][_DIVERSITY]] for layer in layers]
    heads = max((len(layer["heads"]) for layer in layers), default=0)
    return HeatMaps(site, len(layers), heads, values)


def _texts(found: Analyses, result: Result) -> None:
    found.length_ratio = result["length_ratio"]
    hypothesis, reference = (result["repetition"][key] for key in ("hypothesis", "reference"))
    found.repetition = {**hypothesis, **{f"reference {k}": v for k, v in reference.items()}}
    found.lengths = [
        LengthBin(_label(row), row["sentences"], row["bleu"], _number(row["length_ratio"]))
        for row in result["lengths"]
    ]


def _label(row: Result) -> str:
    return f"{row['from']}+" if row["to"] is None else f"{row['from']}-{row['to']}"


def _alignment(found: Analyses, result: Result) -> None:
    found.alignment = [
        _alignment_row(number, kind, layer[kind])
        for number, layer in enumerate(result["layers"], start=1)
        for kind in ("normal", "shifted")
    ]


def _alignment_row(layer: int, kind: str, rates: Result) -> AlignmentRow:
    """Return the rates of a layer; layers and heads count from 1, as they are shown."""
    errors = [_number(head["aer"]) for head in rates["heads"]]
    best = min(range(len(errors)), key=errors.__getitem__)
    return AlignmentRow(layer, kind, best + 1, errors[best], _number(rates["mean"]["aer"]))


def _number(value: float | None) -> float:
    """Return a figure; NaN where there was nothing to divide by."""
    return math.nan if value is None else float(value)


def _generalisation(found: Analyses, result: Result) -> None:
    found.generalisation = [
        LengthRow(
            row["k"],
            row["source_tokens"],
            row["bleu"],
            row["tokens_per_second"],
            row["peak_memory_mib"],
        )
        for row in result["rows"]
    ]


# ---- attention of single sentences -------------------------------------------------------------


def choose_sentences(runs: Sequence[Path], subset: str) -> set[int]:
    """Return the indices of the sentences whose attention is shown.

    At most ``MAX_MAPS``, those that most runs have kept first, and no more than
    ``MAX_MAP_BYTES`` of weights.
    """
    bytes_of: Counter[int] = Counter()
    runs_of: Counter[int] = Counter()
    for run in runs:
        for one in _maps(run, subset):
            bytes_of[int(one["id"])] += math.prod(one["shape"])
            runs_of[int(one["id"])] += 1
    chosen = sorted(runs_of, key=lambda sentence: (-runs_of[sentence], sentence))[:MAX_MAPS]
    totals = accumulate(bytes_of[sentence] for sentence in chosen)
    return {one for one, total in zip(chosen, totals, strict=True) if total <= MAX_MAP_BYTES}


def attention_maps(
    runs: Sequence[Path], subset: str, sentences: Set[int]
) -> dict[int, list[AttentionMap]]:
    """Return index of a sentence -> its cross-attention in every run that has kept it."""
    found: dict[int, list[AttentionMap]] = {sentence: [] for sentence in sorted(sentences)}
    for number, run in enumerate(runs):
        for one in _maps(run, subset):
            if int(one["id"]) in found:
                found[int(one["id"])].append(_attention_map(number, one))
    return found


def _maps(run: Path, subset: str) -> Iterator[Result]:
    """Return what a run has kept, unless it is of another checkpoint than the translations."""
    folder = result_folder(run, subset)
    if not _is_current(read_json_object(folder / maps.RECORD), _stamps(run, subset)):
        return iter(())
    return maps.read_maps(folder)


def _attention_map(run: int, one: Result) -> AttentionMap:
    layers, heads, target, source = map(int, one["shape"])
    return AttentionMap(
        run=run,
        source=one["source"],
        target=one["target"],
        shape=(layers, heads, target, source),
        scale=one["scale"],
        weights=base64.b64decode(one["weights"]),
    )
