"""The beam search of the ReLA release, over our decoder's steps.

It differs from fairseq's: scores are divided by ((5 + length) / 6)^alpha at every step, finished
and unfinished hypotheses are kept apart, and no end of sentence may come first.

Shapes: B sentences, K beams, V vocabulary, t steps so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seqattn_fairseq.transformer.model import SeqAttnModel

_FLOOR = torch.finfo(torch.float32).min  # of what is impossible
_FORBIDDEN = 1e8


@dataclass
class _Beams:
    """Hypotheses of one kind: tokens (B, K, t), scores (B, K), and which are real (B, K)."""

    tokens_BKt: Tensor
    scores_BK: Tensor
    real_BK: Tensor

    def best(self, count: int) -> tuple[_Beams, Tensor]:
        """Return the ``count`` with the highest scores, the first of equals first, and which."""
        order = self.scores_BK.sort(dim=1, descending=True, stable=True).indices[:, :count]
        steps = self.tokens_BKt.size(2)
        chosen = _Beams(
            self.tokens_BKt.gather(1, order.unsqueeze(2).expand(-1, -1, steps)),
            self.scores_BK.gather(1, order),
            self.real_BK.gather(1, order),
        )
        return chosen, order


@dataclass(frozen=True)
class ReleaseSearch:
    """The search's settings.

    Attributes:
        beam: K.
        alpha: exponent of the length penalty.
        extra: steps a translation may be longer than its source, end of sentence included.
    """

    beam: int
    alpha: float
    extra: int

    def _penalty(self, length: Tensor | float) -> Tensor:
        return ((5 + torch.as_tensor(length, dtype=torch.float32)) / 6).pow(self.alpha)

    @torch.no_grad()
    def run(self, model: SeqAttnModel, source_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (B, K, steps) and scores (B, K), best first."""
        dictionary = model.decoder.dictionary
        pad, eos, beam = dictionary.pad(), dictionary.eos(), self.beam
        batch, sentences = source_BS.size(0), torch.arange(source_BS.size(0))
        limit_B = source_BS.ne(pad).sum(dim=1) + self.extra
        state = model.decoder.start(
            model.encoder.encode(source_BS), sentences.repeat_interleave(beam)
        )
        first = torch.tensor([0.0] + [_FLOOR] * (beam - 1)).repeat(batch, 1)
        start = torch.full((batch, beam, 1), pad)
        alive = _Beams(start, first, torch.ones(batch, beam, dtype=torch.bool))
        done = _Beams(start, torch.full_like(first, _FLOOR), torch.zeros_like(alive.real_BK))
        log_probability_BK, step = first, 0
        while not self._finished(log_probability_BK, done, limit_B, step):
            last = alive.tokens_BKt[:, :, -1:].flatten(0, 1)
            logits = model.decoder.output_layer(model.decoder.step(last, state))[:, -1]
            following = logits.log_softmax(dim=-1).view(batch, beam, -1)
            if step == 0:
                following[..., eos] -= _FORBIDDEN
            candidates, parent = self._expand(alive, log_probability_BK, following, step)
            ends = candidates.tokens_BKt[:, :, -1].eq(eos) | limit_B.le(step).unsqueeze(1)
            alive, done, order = self._divide(candidates, done, ends, pad)
            rows = sentences.unsqueeze(1) * beam + parent.gather(1, order)
            state.reorder(rows.flatten())
            log_probability_BK = alive.scores_BK * self._penalty(step + 1)
            step += 1
        any_done = done.real_BK.any(dim=1)
        tokens = torch.where(any_done[:, None, None], done.tokens_BKt, alive.tokens_BKt)
        scores = torch.where(any_done[:, None], done.scores_BK, alive.scores_BK)
        return tokens[:, :, 1:], scores

    def _finished(
        self, log_probability_BK: Tensor, done: _Beams, limit_B: Tensor, step: int
    ) -> bool:
        """Tell whether no unfinished hypothesis can beat the finished ones, or all are too long."""
        best_alive = log_probability_BK[:, 0] / self._penalty(limit_B)
        worst = (done.scores_BK * done.real_BK).amin(dim=1)
        worst = worst.masked_fill(~done.real_BK.any(dim=1), _FLOOR)
        return bool((worst > best_alive).all()) or not bool(limit_B.gt(step).any())

    def _expand(
        self, alive: _Beams, log_probability_BK: Tensor, following_BKV: Tensor, step: int
    ) -> tuple[_Beams, Tensor]:
        """Return the 2K best continuations of a step, and the beams they continue."""
        scores = (log_probability_BK.unsqueeze(2) + following_BKV) / self._penalty(step + 1)
        flat, words = scores.flatten(1), following_BKV.size(2)
        order = flat.sort(dim=1, descending=True, stable=True).indices[:, : 2 * self.beam]
        parent = order.div(words, rounding_mode="floor")
        history = alive.tokens_BKt.gather(
            1, parent.unsqueeze(2).expand(-1, -1, alive.tokens_BKt.size(2))
        )
        tokens = torch.cat([history, (order % words).unsqueeze(2)], dim=2)
        real = torch.ones_like(order, dtype=torch.bool)
        return _Beams(tokens, flat.gather(1, order), real), parent

    def _divide(
        self, candidates: _Beams, done: _Beams, ends_BK: Tensor, pad: int
    ) -> tuple[_Beams, _Beams, Tensor]:
        """Return the unfinished K, the finished K, and which candidates the former are."""
        scores = candidates.scores_BK
        unfinished = _Beams(candidates.tokens_BKt, scores + ends_BK * _FLOOR, ends_BK)
        alive, order = unfinished.best(self.beam)
        padding = done.tokens_BKt.new_full((*done.tokens_BKt.shape[:2], 1), pad)
        both = _Beams(
            torch.cat([torch.cat([done.tokens_BKt, padding], 2), candidates.tokens_BKt], dim=1),
            torch.cat([done.scores_BK, scores + ~ends_BK * _FLOOR], dim=1),
            torch.cat([done.real_BK, ends_BK], dim=1),
        )
        return alive, both.best(self.beam)[0], order
