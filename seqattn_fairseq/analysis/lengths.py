"""Quality by the length of the source: BLEU and length ratio of the sentences of each bin.

Few sentences make a BLEU that says little, so every row tells how many it is of. The bins are the
same for all runs and test sets, so that figures of different runs stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU

from seqattn_fairseq.evaluation.system import Pair

# words of the shortest source of each bin; the last bin has no end
EDGES = (0, 6, 11, 16, 21, 31, 41, 51, 61)


@dataclass(frozen=True)
class Quality:
    """Corpus BLEU (0 to 100), and length of the output in words for each word of the reference.

    Words are those that this BLEU counts. ``length_ratio`` is None where the references hold none.
    """

    bleu: float
    length_ratio: float | None


@dataclass(frozen=True)
class LengthBin:
    """The sentences whose source has ``first`` to ``last`` words; ``last`` None: any number."""

    first: int
    last: int | None
    sentences: int
    quality: Quality


def quality(metric: BLEU, hypotheses: Sequence[str], references: Sequence[str]) -> Quality:
    """Return BLEU and length ratio of a corpus."""
    score = metric.corpus_score(list(hypotheses), [list(references)])
    ratio = score.sys_len / score.ref_len if score.ref_len else None
    return Quality(score.score, ratio)


def signature(metric: BLEU) -> str:
    """Return sacreBLEU's signature of a metric that compares with one reference."""
    metric.num_refs = 1  # it learns this from what it scores, which may come later
    return str(metric.get_signature())


def word_count(source: str) -> int:
    """Return the words of a source sentence: what blanks separate."""
    return len(source.split())


def by_length(metric: BLEU, sources: Sequence[str], pair: Pair) -> list[LengthBin]:
    """Return the bins that hold a sentence, from short to long.

    Args:
        metric: how to score.
        sources: plain source sentences.
        pair: hypotheses and references as ``metric`` compares them, in the same order.
    """
    rows = list(zip(map(word_count, sources), *pair, strict=True))
    found = []
    for first, last in _bins(EDGES):
        chosen = [row for row in rows if first <= row[0] and (last is None or row[0] <= last)]
        if chosen:
            _, hypotheses, references = zip(*chosen, strict=True)
            measured = quality(metric, hypotheses, references)
            found.append(LengthBin(first, last, len(chosen), measured))
    return found


def _bins(edges: Sequence[int]) -> Iterable[tuple[int, int | None]]:
    lasts: list[int | None] = [edge - 1 for edge in edges[1:]]
    return zip(edges, [*lasts, None], strict=True)
