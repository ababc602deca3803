"""Counting parameters, and comparing the counts with published ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import MODEL_REGISTRY

from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.transformer.registry import PublishedCount, Variant, make_config

# what depends on the dictionaries
_VOCABULARY = (".embed_tokens.", ".output_projection.")


def _dictionary(types: int) -> Dictionary:
    dictionary = Dictionary()
    for index in range(types - len(dictionary)):
        dictionary.add_symbol(f"w{index}")
    return dictionary


def build_empty(
    variant: Variant, size: str, source_types: int = 8, target_types: int = 8, **options: Any
) -> SeqAttnModel:
    """Return a preset's model without storage (device "meta"), for its names and shapes."""
    source = _dictionary(source_types)
    target = source if target_types == source_types else _dictionary(target_types)
    cfg = make_config(variant.name, size, **options)
    with torch.device("meta"):
        model: SeqAttnModel = MODEL_REGISTRY[f"seqattn_{variant.name}"].build(cfg, source, target)
    return model


def count_all(model: SeqAttnModel) -> int:
    """Return the number of parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())


def count_without_vocabulary(model: SeqAttnModel) -> int:
    """Return the number of parameters that no dictionary decides."""
    return sum(
        p.numel()
        for name, p in model.named_parameters()
        if not any(part in name for part in _VOCABULARY)
    )


@dataclass(frozen=True)
class CountComparison:
    """A published number of parameters beside ours.

    Attributes:
        published: what was published, and of which configuration.
        ours: our number.
    """

    published: PublishedCount
    ours: int

    @property
    def agrees(self) -> bool:
        """Whether ours and the official parameters without gradient make the published number."""
        expected = self.published.parameters
        difference = abs(self.ours + self.published.without_gradient - expected)
        return (
            difference * 2 <= self.published.rounding
            if self.published.rounding > 1
            else (difference == 0)
        )


def compare_published(variant: Variant, published: PublishedCount) -> CountComparison:
    """Return a published count of a variant beside ours."""
    model = build_empty(
        variant,
        published.size,
        published.source_types,
        published.target_types,
        **published.options,
    )
    return CountComparison(published, count_all(model))
