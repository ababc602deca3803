"""``alignment.json``: how well cross-attention aligns words, against a gold alignment.

The model reads a text with its reference translation as target. Of every target piece's row of
weights the largest one links it to a source piece; a row without any weight links to nothing, the
end of the source is no word, and of equal weights the first wins. Two words are linked if any of
their pieces are.

*Normal*: row t, which predicts target piece t, aligns piece t. *Shifted*: row t aligns the piece
before, which is what the decoder reads at that step.

Shapes: B batch, H heads, T target positions, S source positions, eos included.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from seqattn_fairseq.analysis.gold import (
    AlignedText,
    Gold,
    GoldLinks,
    Link,
    Words,
    file_text,
    subset_text,
)
from seqattn_fairseq.analysis.maps import no_cross_attention
from seqattn_fairseq.analysis.record import Made, made
from seqattn_fairseq.analysis.subject import Batch, Loaded, Subject
from seqattn_fairseq.data.alignments import read_alignments
from seqattn_fairseq.data.files import file_stamp
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.transformer.attention import AttentionLog, Site

FILE = "alignment.json"
KINDS = {"normal": 0, "shifted": 1}  # -> the row that aligns the first target piece
_NOTHING = -1


# ---- error rates -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ErrorRate:
    """Alignment error rate of a corpus and what goes with it (Och and Ney 2003).

    Attributes:
        aer: 1 - (|A & S| + |A & P|) / (|A| + |S|); None if there is nothing to divide by.
        precision: |A & P| / |A|; None without links.
        recall: |A & S| / |S|; None without sure links.
        links: |A|.
    """

    aer: float | None
    precision: float | None
    recall: float | None
    links: int


class Tally:
    """Counts over a corpus, of which an error rate is the ratio."""

    def __init__(self) -> None:
        self.found = self.sure = self.found_sure = self.found_possible = 0

    def add(
        self, found: AbstractSet[Link], sure: AbstractSet[Link], possible: AbstractSet[Link]
    ) -> None:
        """Count the links of a sentence pair."""
        self.found += len(found)
        self.sure += len(sure)
        self.found_sure += len(found & sure)
        self.found_possible += len(found & possible)

    def rate(self) -> ErrorRate:
        """Return the error rate of all that was added."""
        right, all_ = self.found_sure + self.found_possible, self.found + self.sure
        return ErrorRate(
            aer=1 - right / all_ if all_ else None,
            precision=self.found_possible / self.found if self.found else None,
            recall=self.found_sure / self.sure if self.sure else None,
            links=self.found,
        )


def score_files(links: Path, gold: Gold) -> ErrorRate:
    """Return the error rate of a file of links, ``i-j`` counted from 0 (Pharaoh).

    Raises:
        SeqAttnError: a file cannot be read, or they are not of equally many sentence pairs.
    """
    found = read_alignments(links, "pharaoh")
    tally = Tally()
    for ours, theirs in zip(found, gold.links(len(found)), strict=True):
        tally.add(ours.possible, theirs.sure, theirs.possible)
    return tally.rate()


# ---- from weights to links ---------------------------------------------------------------------


class HardAlignment(AttentionLog):
    """A log that keeps the strongest source piece of every row of cross-attention.

    Args:
        words_BS: True at the pieces of words, False at padding and eos.

    Attributes:
        layers: for each layer (B, H + 1, T) the number of the piece in its sentence, or -1 where
            nothing has weight; the last "head" is the mean of the others.
    """

    def __init__(self, words_BS: Tensor) -> None:
        super().__init__()
        self._words = words_BS
        self._first = words_BS.int().argmax(dim=1)
        self.layers: list[Tensor] = []

    def add(self, site: Site, weights_BHTS: Tensor, reach: Tensor | None = None) -> None:
        """See :class:`AttentionLog`; magnitudes count."""
        if site is not Site.CROSS:
            return
        weights = weights_BHTS.abs().masked_fill(~self._words[:, None, None, :], 0.0)
        weights = torch.cat([weights, weights.mean(dim=1, keepdim=True)], dim=1)
        piece = weights.argmax(dim=-1) - self._first[:, None, None]  # the first of equal ones
        nothing = weights.amax(dim=-1).eq(0)
        self.layers.append(piece.masked_fill(nothing, _NOTHING).cpu())


def word_links(
    pieces: Sequence[int], source_words: Sequence[int], target_words: Sequence[int], kind: str
) -> set[Link]:
    """Return (source word, target word) of a sentence pair.

    Args:
        pieces: for each row the source piece that it links to, or -1.
        source_words: number of the word of each source piece.
        target_words: the same of the target; row t predicts piece t, and a last row eos.
        kind: "normal" or "shifted".
    """
    rows = pieces[KINDS[kind] :]
    return {
        (source_words[piece], word)
        for piece, word in zip(rows, target_words, strict=False)
        if piece != _NOTHING
    }


# ---- a model against a gold alignment ----------------------------------------------------------


def analyse_alignment(subject: Subject, gold: Gold) -> Made:
    """Return the error rates of a model's cross-attention, from ``alignment.json`` if there.

    ``layers`` holds, for "normal" and "shifted", the :class:`ErrorRate` of each head and of the
    mean of the heads' weights; ``uncertain`` counts pairs whose words may be miscounted, see
    :class:`~seqattn_fairseq.analysis.gold.AlignedText`.

    Raises:
        SeqAttnError: gold alignment, text and model do not fit together.
    """
    made_from = {
        **subject.stamp,
        "gold": file_stamp(gold.path),
        "format": gold.format,
        "reversed": gold.reversed,
        "text": [file_stamp(path) for path in gold.text] if gold.text else subject.subset,
    }
    return made(subject.folder / FILE, made_from, lambda: _measure(subject, gold))


def _measure(subject: Subject, gold: Gold) -> dict[str, Any]:
    loaded = subject.loaded
    text = file_text(loaded, subject.data_bin, gold.text) if gold.text else subset_text(subject)
    numbers = range(len(text.pairs.lengths))
    links = gold.links(len(numbers))
    _check_lengths(loaded, text)
    scores = _Scores()
    name = f"alignments of {text.pairs.name}"
    with tqdm(total=len(numbers), desc=name, unit="line") as bar:
        for batch in loaded.batches(text.pairs, numbers, subject.max_tokens):
            layers = align(loaded, batch)
            for row, number in enumerate(batch.numbers):
                own = [layer[row].tolist() for layer in layers]
                scores.add(own, text.words(number), links[number])
            bar.update(len(batch.numbers))
    return {
        "gold": str(gold.path),
        "sentences": len(numbers),
        "uncertain": sum(map(text.uncertain, numbers)),
        "layers": scores.result(),
    }


def _check_lengths(loaded: Loaded, text: AlignedText) -> None:
    fitting = set(loaded.fitting(text.pairs))
    for number in range(len(text.pairs.lengths)):
        if number not in fitting:
            raise SeqAttnError(
                f"{text.pairs.name}: sentence {number + 1} is longer than the model's positions; "
                "leave it out of the text and of the gold alignment"
            )


def align(loaded: Loaded, batch: Batch) -> list[Tensor]:
    """Return for each layer (B, H + 1, T), see :class:`HardAlignment`.

    Raises:
        SeqAttnError: the model has no cross-attention.
    """
    dictionary = loaded.task.source_dictionary
    log = HardAlignment(batch.source.ne(dictionary.pad()) & batch.source.ne(dictionary.eos()))
    loaded.show(batch, log)
    if not log.layers:
        raise no_cross_attention(loaded)
    return log.layers


class _Scores:
    """A tally for each layer, kind and head."""

    def __init__(self) -> None:
        self.layers: list[dict[str, list[Tally]]] = []

    def add(self, pieces: list[list[list[int]]], words: Words, gold: GoldLinks) -> None:
        """Count a sentence pair; ``pieces`` are by layer, head and row."""
        gold.check(words)
        while len(self.layers) < len(pieces):
            heads = range(len(pieces[len(self.layers)]))
            self.layers.append({kind: [Tally() for _ in heads] for kind in KINDS})
        for tallies, heads_of_layer in zip(self.layers, pieces, strict=True):
            for kind, by_head in tallies.items():
                for tally, rows in zip(by_head, heads_of_layer, strict=True):
                    found = word_links(rows, words.source, words.target, kind)
                    tally.add(found, gold.sure, gold.possible)

    def result(self) -> list[dict[str, Any]]:
        """Return the error rates in the form of ``alignment.json``."""
        return [
            {
                kind: {
                    "heads": [asdict(tally.rate()) for tally in tallies[:-1]],
                    "mean": asdict(tallies[-1].rate()),
                }
                for kind, tallies in layer.items()
            }
            for layer in self.layers
        ]
