"""Sparsity, null rate, entropy and head diversity of a model's attention, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from seqattn_fairseq.ops.attention_statistics import AttentionSums, attention_sums, visible_keys
from seqattn_fairseq.transformer.attention import AttentionLog, Site


@dataclass(frozen=True)
class Rates:
    """The statistics of one attention, or of the attentions of one kind.

    Attributes:
        sparsity: share of the visible keys that weigh exactly 0.
        null: share of the (query, head) pairs whose visible weights are all 0.
        entropy: mean entropy of the other rows, in nats; None if there are none.
        diversity: Jensen-Shannon divergence of the heads, in nats, a null row being a distribution
            of its own; None for a single head.
        diversity_share: the same as a share of its bound, ln H.
        dense_diversity: that of the queries without a null head, in nats; None if there are none.
    """

    sparsity: float
    null: float
    entropy: float | None
    diversity: float | None
    diversity_share: float | None
    dense_diversity: float | None


def rates(sums: AttentionSums) -> Rates:
    """Return the statistics that the sums stand for."""
    heads = sums.keys_H.numel()
    several = heads > 1
    rows, null = float(sums.rows_H.sum()), float(sums.null_H.sum())
    diversity = _ratio(sums.diversity, sums.queries) if several else None
    return Rates(
        sparsity=_ratio(sums.zeros_H.sum(), sums.keys_H.sum()) or 0.0,
        null=null / rows if rows else 0.0,
        entropy=float(sums.entropy_H.sum()) / (rows - null) if rows > null else None,
        diversity=diversity,
        diversity_share=None if diversity is None else diversity / math.log(heads),
        dense_diversity=_ratio(sums.dense_diversity, sums.dense_queries) if several else None,
    )


def head_rates(sums: AttentionSums) -> list[Rates]:
    """Return the statistics of every head by itself."""
    found = []
    for head in range(sums.keys_H.numel()):
        own = [field[head : head + 1] if field.dim() else field for field in sums]
        found.append(rates(AttentionSums(*own)))
    return found


def _ratio(part: Tensor, whole: Tensor) -> float | None:
    return float(part) / float(whole) if float(whole) else None


class AttentionStatistics(AttentionLog):
    """A log that keeps sums of every layer instead of weights.

    Attributes:
        layers: site -> the sums of each layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers: dict[str, list[AttentionSums]] = {}
        self._padding: dict[str, Tensor] = {}
        self._next: dict[str, int] = {}

    def begin(self, source_padding_BS: Tensor, target_padding_BT: Tensor) -> None:
        """Prepare for the pass of a batch with this padding (True at pads)."""
        self._padding = {"source": source_padding_BS, "target": target_padding_BT}
        self._next = {}

    def add(self, site: Site, weights_BHTS: Tensor, reach: Tensor | None = None) -> None:
        """See :class:`AttentionLog`."""
        queries = self._padding["source" if site is Site.ENCODER_SELF else "target"]
        keys = self._padding["target" if site is Site.DECODER_SELF else "source"]
        visible = visible_keys(queries, keys, site is Site.DECODER_SELF, reach)
        sums = attention_sums(weights_BHTS, visible, ~queries)
        layer = self._next.get(site.value, 0)
        self._next[site.value] = layer + 1
        known = self.layers.setdefault(site.value, [])
        if layer < len(known):
            known[layer] = known[layer].plus(sums)
        else:
            known.append(sums)

    def kinds(self) -> dict[str, AttentionSums]:
        """Return the sums of each kind of attention over its layers."""
        return {site: added(layers) for site, layers in self.layers.items()}


def added(layers: Sequence[AttentionSums]) -> AttentionSums:
    """Return the sums of several layers with equally many heads."""
    total = layers[0]
    for sums in layers[1:]:
        total = total.plus(sums)
    return total
