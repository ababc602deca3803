"""``attention.json``: sparsity, null rate, entropy and head diversity of every attention.

The model reads a test set with the references as targets; the weights of each layer become sums
as soon as they are there, so that the size of the set does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from seqattn_fairseq.analysis.record import Made, made
from seqattn_fairseq.analysis.subject import Batch, Loaded, Subject
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.attention_statistics import (
    AttentionStatistics,
    added,
    head_rates,
    rates,
)
from seqattn_fairseq.ops.attention_statistics import AttentionSums

FILE = "attention.json"


def analyse_attention(subject: Subject) -> Made:
    """Return the statistics of a run's attentions, from ``attention.json`` if they are there.

    The result holds, for each site that the model has, ``all`` (over layers and heads) and
    ``layers`` with ``all`` and ``heads``, each the fields of
    :class:`~seqattn_fairseq.evaluation.attention_statistics.Rates`. ``left_out`` counts the pairs
    that are longer than the model's positions.

    Raises:
        SeqAttnError: model and data do not fit together, or the set has no target side.
    """
    made_from = {**subject.stamp, "subset": subject.subset}
    return made(subject.folder / FILE, made_from, lambda: _measure(subject))


def _measure(subject: Subject) -> dict[str, Any]:
    loaded, pairs = subject.loaded, subject.pairs()
    numbers = loaded.fitting(pairs)
    if not numbers:
        raise SeqAttnError(f"{subject.subset}: every sentence is longer than the model's positions")
    name = f"attention of {subject.subset}"
    with tqdm(total=len(numbers), desc=name, unit="line") as bar:
        batches = loaded.batches(pairs, numbers, subject.max_tokens)
        statistics = collect(loaded, _counted(batches, bar))
    return {
        "subset": subject.subset,
        "sentences": len(numbers),
        "left_out": len(pairs.lengths) - len(numbers),
        "variant": loaded.model.seqattn_variant,
        "sites": {site: site_rates(layers) for site, layers in statistics.layers.items()},
    }


def _counted(batches: Iterable[Batch], bar: Any) -> Iterable[Batch]:
    for batch in batches:
        yield batch
        bar.update(len(batch.numbers))


def collect(loaded: Loaded, batches: Iterable[Batch]) -> AttentionStatistics:
    """Return the sums of every attention over some batches."""
    statistics = AttentionStatistics()
    dictionary = loaded.task.target_dictionary
    for batch in batches:
        pad = dictionary.pad()
        statistics.begin(batch.source.eq(pad), batch.previous.eq(pad))
        loaded.show(batch, statistics)
    return statistics


def site_rates(layers: Sequence[AttentionSums]) -> dict[str, Any]:
    """Return the statistics of a site: of all its layers, of each, and of every head."""
    return {
        "all": asdict(rates(added(layers))),
        "layers": [
            {"all": asdict(rates(sums)), "heads": [asdict(one) for one in head_rates(sums)]}
            for sums in layers
        ],
    }
