"""Statistics of attention as metrics of a validation: ``attn_cross_sparsity`` and its peers.

Every batch adds sums to its logging output; the metrics are ratios of sums, so they are the same
however the set is cut into batches and shared among ranks.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fairseq.logging import metrics
from torch import Tensor, nn

from seqattn_fairseq.evaluation.attention_statistics import AttentionStatistics
from seqattn_fairseq.ops.attention_statistics import AttentionSums
from seqattn_fairseq.transformer.attention import Site
from seqattn_fairseq.transformer.model import SeqAttnModel

logger = logging.getLogger(__name__)

# metric -> the sums that it is the ratio of
_RATIOS = {
    "sparsity": ("zeros", "keys"),
    "null": ("null", "rows"),
    "entropy": ("entropy", "filled_rows"),
    "diversity": ("diversity", "queries"),
    "diversity_share": ("diversity", "diversity_bound"),
}
_DECIMALS = 4


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside of data-parallel wrappers."""
    while isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    return model


def new_log(
    model: nn.Module, sample: Mapping[str, Any], padding_idx: int
) -> AttentionStatistics | None:
    """Return a log for the forward pass of a batch; None where the model is none of ours.

    Args:
        model: as a criterion gets it, maybe wrapped.
        sample: fairseq's batch; its ``net_input`` is what the model will be given.
        padding_idx: the index of padding in both dictionaries.
    """
    inner = unwrapped(model)
    if not isinstance(inner, SeqAttnModel):
        _say_that_there_are_none(type(inner).__name__)
        return None
    tokens = sample["net_input"]
    log = AttentionStatistics()
    log.begin(tokens["src_tokens"].eq(padding_idx), tokens["prev_output_tokens"].eq(padding_idx))
    return log


@functools.cache
def _say_that_there_are_none(name: str) -> None:
    logger.warning(f"no statistics of attention: {name} is not a model of this package")


def logged(log: AttentionStatistics) -> dict[str, Tensor]:
    """Return what a batch adds to fairseq's logging output: float64 sums, each without dimensions.

    The keys depend on the model alone, so ranks can add their values.
    """
    return {
        _key(site, name): total
        for site, layers in log.layers.items()
        for name, total in _site_sums(layers).items()
    }


def _key(site: str, name: str) -> str:
    return f"attn_{site}_sum_of_{name}"


def _site_sums(layers: Sequence[AttentionSums]) -> dict[str, Tensor]:
    """Return the sums over layers, whose numbers of heads may differ, and their heads."""
    found = {
        "keys": _total(layer.keys_H for layer in layers),
        "zeros": _total(layer.zeros_H for layer in layers),
        "rows": _total(layer.rows_H for layer in layers),
        "null": _total(layer.null_H for layer in layers),
        "entropy": _total(layer.entropy_H for layer in layers),
    }
    found["filled_rows"] = found["rows"] - found["null"]
    several = [layer for layer in layers if layer.keys_H.numel() > 1]
    if several:
        found["diversity"] = _total(layer.diversity for layer in several)
        found["queries"] = _total(layer.queries for layer in several)
        found["diversity_bound"] = _total(
            layer.queries * math.log(layer.keys_H.numel()) for layer in several
        )
    return found


def _total(values: Iterable[Tensor]) -> Tensor:
    totals = [value.sum() for value in values]
    return sum(totals[1:], start=totals[0])


def reduce(logging_outputs: Sequence[Mapping[str, Any]]) -> None:
    """Log fairseq metrics of what :func:`logged` put into the outputs; without such, nothing.

    ``attn_SITE_sparsity``, ``_null``, ``_entropy`` (nats), ``_diversity`` (nats) and
    ``_diversity_share`` (of its bound, ln of the number of heads), SITE being ``encoder_self``,
    ``decoder_self`` or ``cross``. What has nothing to be the ratio of is not a number.
    """
    for site in Site:
        for metric, names in _RATIOS.items():
            keys = [_key(site.value, name) for name in names]
            if any(keys[1] in output for output in logging_outputs):
                part, whole = (
                    float(sum(output.get(key, 0) for output in logging_outputs)) for key in keys
                )
                value = part / whole if whole else math.nan
                metrics.log_scalar(f"attn_{site.value}_{metric}", value, whole, round=_DECIMALS)
