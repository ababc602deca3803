"""Batches for translation that lose no sentence, whatever its length.

A *sample* is fairseq's batch: a dict with ``net_input`` (``src_tokens`` of shape (B, S),
``src_lengths`` of shape (B,)), and optionally ``id``, ``target`` and more, each with B rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from fairseq import utils
from fairseq.data import BaseWrapperDataset, FairseqDataset
from torch import Tensor

Hypotheses = list[dict[str, Any]]


class TranslatableDataset(BaseWrapperDataset):
    """A dataset whose longest sentences count as ``max_tokens``, so that each finds a batch.

    fairseq refuses to batch a sentence longer than ``max_tokens``; here it gets a batch to itself.
    """

    def __init__(self, dataset: FairseqDataset, max_tokens: int | None) -> None:
        super().__init__(dataset)
        self.max_tokens = math.inf if max_tokens is None else max_tokens

    def num_tokens(self, index: int) -> int:
        """Return the size of one sentence in tokens, at most ``max_tokens``."""
        return int(min(self.dataset.num_tokens(index), self.max_tokens))

    def num_tokens_vec(self, indices: Any) -> Any:
        """Return the sizes of many sentences in tokens, at most ``max_tokens`` each."""
        return np.minimum(self.dataset.num_tokens_vec(indices), self.max_tokens).astype(np.int64)

    def batch_by_size(self, indices: Any, **kwargs: Any) -> Any:
        """Batch by the sizes above (the base class would ask the wrapped dataset)."""
        return FairseqDataset.batch_by_size(self, indices, **kwargs)


def source_limit(max_positions: Any) -> float:
    """Return the longest source in tokens that ``max_positions`` (pair, number or None) allows."""
    limit = max_positions[0] if isinstance(max_positions, (tuple, list)) else max_positions
    return math.inf if limit is None else float(limit)


def is_empty(src_tokens_BS: Tensor, pad: int, eos: int) -> Tensor:
    """Return a mask (B,) of the sources that hold nothing but the end-of-sentence symbol."""
    return ~(src_tokens_BS.ne(pad) & src_tokens_BS.ne(eos)).any(dim=1)


def is_too_long(src_tokens_BS: Tensor, pad: int, limit: float) -> Tensor:
    """Return a mask (B,) of the sources with more than ``limit`` tokens."""
    return src_tokens_BS.ne(pad).sum(dim=1) > limit


def _select(value: Any, rows: Tensor, batch_size: int) -> Any:
    if isinstance(value, dict):
        return {key: _select(item, rows, batch_size) for key, item in value.items()}
    if torch.is_tensor(value) and value.dim() > 0 and value.size(0) == batch_size:
        return value.index_select(0, rows)
    return value


def select_rows(sample: dict[str, Any], rows: Tensor, pad: int) -> dict[str, Any]:
    """Return the sample reduced to ``rows`` (indices, (R,)), without columns that are all padding.

    The trimming matters: a 3,000-token row that was taken out must not leave its width behind.
    """
    reduced: dict[str, Any] = _select(sample, rows, len(sample["net_input"]["src_tokens"]))
    net_input = reduced["net_input"]
    used = net_input["src_tokens"].ne(pad).any(dim=0)
    net_input["src_tokens"] = net_input["src_tokens"][:, used]
    if "nsentences" in reduced:
        reduced["nsentences"] = len(rows)
    return reduced


def empty_hypothesis(like: Tensor, eos: int) -> dict[str, Any]:
    """Return the hypothesis of an empty line: end of sentence, score 0, on the device of ``like``.

    It has the keys that fairseq's generators give to each hypothesis.
    """
    return {
        "tokens": like.new_full((1,), eos),
        "score": torch.zeros((), device=like.device),
        "attention": None,
        "alignment": torch.empty(0),
        "positional_scores": torch.zeros(1, device=like.device),
    }


def hard_alignment(
    attention_TS: Tensor, source_S: Tensor, target_T: Tensor, pad: int, eos: int
) -> list[tuple[int, int]]:
    """Return fairseq's (source, target) links, without those of weight zero.

    Rectified attention may see nothing at a position; its row is zero and links to no word.
    """
    links = utils.extract_hard_alignment(attention_TS, source_S, target_T, pad, eos)
    return [(source, target) for source, target in links if attention_TS[target, source] != 0]
