"""Batches of made-up tokens with the shapes that corpora give.

fairseq batches sentences of like lengths; how much padding is left depends on the corpus and on the
size of the batch. Here the lengths of a batch are spread evenly around a mean so that the filled
share is the given one, in an order and with tokens from a generator of fixed seed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from fairseq.data import Dictionary
from torch import Tensor

Sample = dict[str, Any]


class Corpus(NamedTuple):
    """What the batches of a corpus look like.

    Attributes:
        name: of its rows.
        size: preset of the models that are trained on it.
        vocabulary: symbols of both dictionaries.
        tokens: mean number of tokens of a sentence, the end included.
        fill: share of the positions that is no padding.
        sentences: of a batch on a CPU.
    """

    name: str
    size: str
    vocabulary: int
    tokens: int
    fill: float
    sentences: int

    def lengths(self, sentences: int) -> tuple[int, int]:
        """Return the fewest and the most tokens of a sentence in a batch."""
        most = round(self.tokens / self.fill)
        return (most if sentences == 1 else 2 * self.tokens - most), most


# WMT: sentences of 28 tokens; among millions of them fairseq finds some of nearly the same length.
# Multi30k: captions of 14 tokens; filled as measured at --max-tokens 4096.
CORPORA = {
    "wmt": Corpus("wmt", "iwslt_de_en", 10_000, 28, 0.95, 16),
    "multi30k": Corpus("multi30k", "tiny", 10_000, 14, 0.877, 32),
}


def dictionary(size: int) -> Dictionary:
    """Return a dictionary of ``size`` symbols, the four special ones included."""
    found = Dictionary()
    for index in range(size - len(found)):
        found.add_symbol(f"w{index}")
    return found


def _side(
    corpus: Corpus, sentences: int, symbols: Dictionary, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return tokens (B, T), padded on the right, and their lengths (B,)."""
    least, most = corpus.lengths(sentences)
    spread = torch.linspace(least, most, sentences).round().long()
    lengths = spread[torch.randperm(sentences, generator=generator)]
    size = (sentences, most)
    tokens = torch.randint(symbols.nspecial, len(symbols), size, generator=generator)
    tokens.scatter_(1, lengths[:, None] - 1, symbols.eos())
    return tokens.masked_fill(torch.arange(most) >= lengths[:, None], symbols.pad()), lengths


def batch(corpus: Corpus, symbols: Dictionary, sentences: int = 0) -> Sample:
    """Return a batch as fairseq's translation task makes it: sources padded left, targets right.

    Args:
        corpus: what it looks like.
        symbols: the dictionary of both sides.
        sentences: B, if not the corpus's.
    """
    generator = torch.Generator().manual_seed(1)
    count = sentences or corpus.sentences
    source, source_lengths = _side(corpus, count, symbols, generator)
    target, target_lengths = _side(corpus, count, symbols, generator)
    previous = target.roll(1, 1).masked_fill(target.eq(symbols.pad()).roll(1, 1), symbols.pad())
    previous[:, 0] = symbols.eos()
    return {
        "net_input": {
            "src_tokens": _padded_left(source, source_lengths),
            "src_lengths": source_lengths,
            "prev_output_tokens": previous,
        },
        "target": target,
        "ntokens": int(target_lengths.sum()),
    }


def _padded_left(tokens: Tensor, lengths: Tensor) -> Tensor:
    columns = torch.arange(tokens.size(1)) + lengths[:, None]
    return tokens.gather(1, columns % tokens.size(1))


def shape_of(sample: Sample) -> dict[str, int]:
    """Return the numbers of a batch by name."""
    source, target = sample["net_input"]["src_tokens"], sample["target"]
    return {
        "B": target.size(0),
        "S": source.size(1),
        "T": target.size(1),
        "tokens": sample["ntokens"],
    }
