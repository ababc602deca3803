"""The best continuations of every sentence, from the log-probabilities of the next words.

Shapes: B sentences, b hypotheses of a sentence (its beam), V vocabulary, c candidates, J blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# one pass for maxima costs less than ranking all words.
_BLOCK = 128


class Candidates(NamedTuple):
    """The c best continuations of each sentence, best first.

    Attributes:
        score_Bc: the summed log-probability of hypothesis and word.
        word_Bc: the word.
        beam_Bc: the hypothesis that it continues, from 0 to b - 1.
    """

    score_Bc: Tensor
    word_Bc: Tensor
    beam_Bc: Tensor

    def select(self, sentences: Tensor) -> Candidates:
        """Return those of some sentences."""
        return Candidates(*(t.index_select(0, sentences) for t in self))

    def without(self, ended_Bc: Tensor, count: int) -> Candidates:
        """Return the ``count`` best of each sentence that have not ended.

        As many as that there are: a hypothesis can end in one way only.
        """
        order = torch.arange(ended_Bc.size(1), device=ended_Bc.device)
        order = order + ended_Bc * ended_Bc.size(1)
        chosen = order.topk(count, dim=1, largest=False).indices
        return Candidates(*(t.gather(1, chosen) for t in self))


def best_continuations(lprob_BbV: Tensor, score_Bb: Tensor, count: int) -> Candidates:
    """Return the ``count`` best continuations of each sentence.

    Args:
        lprob_BbV: log-probabilities of the next words, -inf at what may not come.
        score_Bb: scores of the hypotheses so far.
        count: c, at most b V.
    """
    vocabulary = lprob_BbV.size(-1)
    if lprob_BbV.device.type == "cpu" and vocabulary > 4 * _BLOCK:
        score, index = _best_of_blocks(lprob_BbV, score_Bb, count)
    else:
        score, index = (lprob_BbV + score_Bb.unsqueeze(-1)).flatten(1).topk(count)
    beam = index.div(vocabulary, rounding_mode="floor")
    return Candidates(score, index - beam * vocabulary, beam)


def _best_of_blocks(lprob_BbV: Tensor, score_Bb: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return scores and indices into b V, (B, c) each, as ``topk`` over all words would."""
    vocabulary = lprob_BbV.size(-1)
    top_BbJ = _block_maxima(lprob_BbV)
    blocks = top_BbJ.size(-1)
    # rounding keeps the order: the score may be added to the maxima in place of every word
    top = (top_BbJ + score_Bb.unsqueeze(-1)).flatten(1)
    chosen = top.topk(min(count, top.size(1)), sorted=False).indices
    beam = chosen.div(blocks, rounding_mode="floor").unsqueeze(-1)
    word = (chosen.unsqueeze(-1) - beam * blocks) * _BLOCK + torch.arange(_BLOCK)
    index = (beam * vocabulary + word.clamp(max=vocabulary - 1)).flatten(1)
    score = lprob_BbV.flatten(1).gather(1, index)
    score += score_Bb.gather(1, beam.squeeze(-1)).repeat_interleave(_BLOCK, dim=1)
    score.masked_fill_((word >= vocabulary).flatten(1), float("-inf"))
    best = score.topk(count)
    return best.values, index.gather(1, best.indices)


def _block_maxima(lprob_BbV: Tensor) -> Tensor:
    whole = lprob_BbV.size(-1) // _BLOCK * _BLOCK
    top: Tensor = lprob_BbV[..., :whole].unflatten(-1, (-1, _BLOCK)).amax(dim=-1)
    if whole == lprob_BbV.size(-1):
        return top
    rest = lprob_BbV[..., whole:].amax(dim=-1, keepdim=True)
    return torch.cat([top, rest], dim=-1)
