"""What a report shows, as plain values; a value that nobody measured is None or an empty list.

Shapes: L layers, H heads, T target pieces, S source pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ScoreCell:
    """One score of one run.

    Attributes:
        key: the score's name for programs, the same in all runs.
        name: the same for people, with its flavour.
        value: the score of the test set.
        signature: how it was computed, as sacreBLEU writes it.
        mean: bootstrap mean.
        interval: half the width of the 95 % interval around it.
        p_value: paired bootstrap against the baseline; None for the baseline itself.
    """

    key: str
    name: str
    value: float
    signature: str
    mean: float | None
    interval: float | None
    p_value: float | None


@dataclass(frozen=True)
class Curve:
    """A quantity over the training.

    Attributes:
        name: such as "train loss", "valid loss", "valid ppl", "valid bleu", "learning rate".
        x: updates, ascending.
        y: values.
    """

    name: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class HeatMaps:
    """Statistics of one kind of attention.

    Attributes:
        site: encoder_self, decoder_self or cross.
        layers: L.
        heads: H.
        values: statistic ("sparsity", "null", "entropy") -> [layer][head]; "diversity" has one
            value a layer: [layer][one].
    """

    site: str
    layers: int
    heads: int
    values: dict[str, list[list[float | None]]]


@dataclass(frozen=True)
class LengthBin:
    """Quality on the sentences of one range of lengths."""

    label: str
    sentences: int
    bleu: float
    length_ratio: float


@dataclass(frozen=True)
class AlignmentRow:
    """Alignment error rates of one layer; ``kind`` is "normal" or "shifted"."""

    layer: int
    kind: str
    best_head: int
    best: float
    mean: float


@dataclass(frozen=True)
class LengthRow:
    """Quality and cost on inputs made of ``k`` consecutive sentences."""

    k: int
    source_tokens: float
    bleu: float
    tokens_per_second: float
    peak_memory_mib: float | None


@dataclass(frozen=True)
class Run:
    """One trained system.

    Attributes:
        repetition: name of a measure -> its value in the output.
        notes: what is missing, and the command that makes it.
    """

    name: str
    variant: str
    folder: str
    parameters: int | None
    updates: int | None
    tokens_per_second: float | None
    train_hours: float | None
    train_memory_mib: float | None
    decode_sentences_per_second: float | None
    hardware: str | None
    scores: list[ScoreCell]
    curves: list[Curve]
    attention: list[HeatMaps]
    lengths: list[LengthBin]
    alignment: list[AlignmentRow]
    generalisation: list[LengthRow]
    length_ratio: float | None
    repetition: dict[str, float] | None
    notes: list[str]


@dataclass(frozen=True)
class AttentionMap:
    """Cross-attention of one sentence in one run.

    Attributes:
        run: index of the run in the report.
        source: S pieces, the end of sentence included.
        target: T pieces, the same.
        shape: (L, H, T, S).
        scale: a weight is byte / 255 * scale.
        weights: uint8, row-major.
    """

    run: int
    source: list[str]
    target: list[str]
    shape: tuple[int, int, int, int]
    scale: float
    weights: bytes


@dataclass(frozen=True)
class Agreement:
    """How much the outputs of every two runs agree, by one metric."""

    metric: str
    matrix: list[list[float | None]]


@dataclass(frozen=True)
class Report:
    """A comparison of runs on one test set.

    Attributes:
        made: date and time.
        version: of this package.
        pair: languages, such as "en-de".
        baseline: index of the run that the others are compared with.
        hypotheses: one list a run, a line a sentence; empty for a run without translations.
        maps: index of a sentence -> its maps.
        notes: what is missing for all runs, and the command that makes it.
    """

    title: str
    made: str
    version: str
    subset: str
    pair: str
    baseline: int
    runs: list[Run]
    agreement: list[Agreement]
    sources: list[str]
    references: list[str]
    hypotheses: Sequence[list[str]]
    maps: dict[int, list[AttentionMap]]
    notes: list[str]
