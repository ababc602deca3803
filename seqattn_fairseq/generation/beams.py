"""The hypotheses of a search, kept as pointers to their parents.

Nothing is copied while a hypothesis grows: each step notes which hypothesis every new one
continues, with which word and score. A finished one is read from its end.

Shapes: B sentences still in the search, b hypotheses of a sentence (its beam), S steps, D sentences
that leave it, L words of their longest finished hypothesis.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_FIRST_STEPS = 64


class Ends:
    """The finished hypotheses of each sentence, in the order in which they ended.

    Attributes:
        count_B: how many there are, b at most.
        step_Bb: the step at which each ended.
        parent_Bb: the hypothesis that it is, at that step.
        score_Bb: its summed log-probability, eos included.
        rank_Bb: what it is ranked by.

    The last four have one column more, for what finds no place.
    """

    def __init__(self, sentences: int, beam: int, device: torch.device) -> None:
        self._beam = beam
        self.count_B = torch.zeros(sentences, dtype=torch.long, device=device)
        self.step_Bb = self.count_B.new_zeros(sentences, beam + 1)
        self.parent_Bb = torch.zeros_like(self.step_Bb)
        self.score_Bb = torch.zeros(sentences, beam + 1, device=device)
        self.rank_Bb = torch.zeros_like(self.score_Bb)

    def add(
        self, ended_Bb: Tensor, step: int, parent_Bb: Tensor, score_Bb: Tensor, rank_Bb: Tensor
    ) -> None:
        """Note those that ``ended_Bb`` names, as long as their sentence has fewer than b."""
        place = ended_Bb.cumsum(1).add_(self.count_B.unsqueeze(1)).sub_(1).clamp_(max=self._beam)
        place.masked_fill_(~ended_Bb, self._beam)
        self.step_Bb.scatter_(1, place, step)
        self.parent_Bb.scatter_(1, place, parent_Bb)
        self.score_Bb.scatter_(1, place, score_Bb)
        self.rank_Bb.scatter_(1, place, rank_Bb)
        self.count_B.add_(ended_Bb.sum(1)).clamp_(max=self._beam)

    def select(self, sentences: Tensor) -> Ends:
        """Return those of some sentences."""
        found = Ends(0, self._beam, sentences.device)
        for name in ("count_B", "step_Bb", "parent_Bb", "score_Bb", "rank_Bb"):
            setattr(found, name, getattr(self, name).index_select(0, sentences))
        return found


class Trail:
    """Word, parent and score of every hypothesis after every step.

    Attributes:
        length: steps so far.
        word_SBb: the word that was added.
        parent_SBb: the hypothesis of the step before that it was added to.
        score_SBb: the sum of log-probabilities up to it.
        attention: where it is asked for, the attention (B, b, source) of each step's words, of the
            hypotheses before they were chosen.
    """

    _NAMES = ("word_SBb", "parent_SBb", "score_SBb")

    def __init__(self, sentences: int, beam: int, device: torch.device) -> None:
        size = (_FIRST_STEPS, sentences, beam)
        self.length = 0
        self.word_SBb = torch.empty(size, dtype=torch.long, device=device)
        self.parent_SBb = torch.empty_like(self.word_SBb)
        self.score_SBb = torch.empty(size, device=device)
        self.attention: list[Tensor] = []

    def add(self, word_Bb: Tensor, parent_Bb: Tensor, score_Bb: Tensor) -> None:
        """Note a step."""
        if self.length == len(self.word_SBb):
            for name in self._NAMES:
                known = getattr(self, name)
                setattr(self, name, torch.cat([known, torch.empty_like(known)]))
        self.word_SBb[self.length] = word_Bb
        self.parent_SBb[self.length] = parent_Bb
        self.score_SBb[self.length] = score_Bb
        self.length += 1

    def select(self, sentences: Tensor) -> Trail:
        """Return that of some sentences."""
        found = Trail(0, 0, sentences.device)
        found.length = self.length
        for name in self._NAMES:
            setattr(found, name, getattr(self, name).index_select(1, sentences))
        found.attention = [a.index_select(0, sentences) for a in self.attention]
        return found


class Paths(NamedTuple):
    """Finished hypotheses, word by word.

    Attributes:
        lengths_Db: words of each, eos included.
        words_DbL: words, eos from the end on.
        scores_DbL: sums of log-probabilities up to each word.
        rows_DbL: the hypothesis that each word was added to.
    """

    lengths_Db: NDArray[np.int64]
    words_DbL: NDArray[np.int64]
    scores_DbL: NDArray[np.float32]
    rows_DbL: NDArray[np.int64]


def read_paths(trail: Trail, ends: Ends, eos: int) -> Paths:
    """Return the finished hypotheses of all sentences of ``trail`` and ``ends``."""
    step, row, final = (
        t[:, :-1].cpu().numpy() for t in (ends.step_Bb, ends.parent_Bb, ends.score_Bb)
    )
    longest = int(step.max(initial=0)) + 1
    word, parent, score = (getattr(trail, name)[:longest].cpu().numpy() for name in Trail._NAMES)
    words = np.full((*step.shape, longest), eos)
    scores = np.repeat(final[..., None], longest, axis=-1)
    rows = np.repeat(row[..., None], longest, axis=-1)
    sentence = np.arange(len(step))[:, None]
    for s in reversed(range(longest - 1)):
        before = step > s  # whether it has not ended by then
        words[..., s] = np.where(before, word[s, sentence, row], eos)
        scores[..., s] = np.where(before, score[s, sentence, row], final)
        row = np.where(before, parent[s, sentence, row], row)
        rows[..., s] = row
    return Paths(step + 1, words, scores, rows)
