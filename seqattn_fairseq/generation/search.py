"""Beam search as fairseq's SequenceGenerator defines it.

A sentence leaves the search when b of its hypotheses have ended, or at the longest length. Until
then the b best of those that have not ended go on, whatever the ended ones' scores are.

Shapes: B sentences still in the search, b hypotheses of a sentence (its beam), R = B b rows, c =
2 b candidates, V vocabulary. At the first step a sentence has one row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seqattn_fairseq.generation.beams import Ends, Paths, Trail, read_paths
from seqattn_fairseq.generation.ranking import Candidates, best_continuations
from seqattn_fairseq.generation.stepping import Stepping
from seqattn_fairseq.generation.words import Rules, apply_rules

# rows whose words are scored and ranked at a time, so that they stay in a CPU's cache
_ROWS = 128
# as fairseq gives them: tokens, score, positional_scores, attention, alignment
Hypothesis = dict[str, Tensor]


@dataclass(frozen=True)
class Task:
    """What is searched for.

    Attributes:
        beam: hypotheses of a sentence.
        first: the word before the first.
        rules: which words may come.
        length_penalty: scores are divided by the length to this power, or by nothing if None.
        source_lengths_B: where a hypothesis may not be longer than its source, else None.
        prefix_BT: the words that hypotheses begin with, ``pad`` behind them; None for none.
    """

    beam: int
    first: int
    rules: Rules
    length_penalty: float | None
    source_lengths_B: Tensor | None
    prefix_BT: Tensor | None


class Search:
    """One search over a batch of sentences; use it once.

    Args:
        stepping: the models, before their first step.
        task: what is searched for.
        device: where.
    """

    def __init__(self, stepping: Stepping, task: Task, device: torch.device) -> None:
        count = stepping.rows
        self.stepping, self.task = stepping, task
        self.device = device
        self.sentences_B = torch.arange(count, device=device)
        self.trail = Trail(count, task.beam, device)
        self.ends = Ends(count, task.beam, device)
        self.score_Bb = torch.zeros(count, 1, device=device)
        self.tokens_RS = torch.full((count, 1), task.first, device=device)
        self.found: list[list[Hypothesis]] = [[] for _ in range(count)]

    def run(self) -> list[list[Hypothesis]]:
        """Return the hypotheses of each sentence, best first.

        Raises:
            AssertionError: no hypothesis of a sentence has a finite score (fairseq's words).
        """
        longest = self.task.rules.longest
        for step in range(longest + 1):
            attention = self.stepping.step(self.tokens_RS[:, -1:])
            if attention is not None:
                self.trail.attention.append(attention.unflatten(0, self.score_Bb.shape))
            candidates = self._candidates(step)
            ended = candidates.word_Bc.eq(self.task.rules.eos) & candidates.score_Bc.isfinite()
            some_ended = bool(ended.any())
            left = self._leave(candidates, ended, step) if some_ended else None
            if len(self.sentences_B) == 0:
                break
            assert step < longest, f"{step} < {longest}"
            if left is not None:
                candidates, ended = candidates.select(left), ended.index_select(0, left)
            self._go_on(
                candidates.without(ended, self.task.beam) if some_ended else candidates, left
            )
        return self.found

    # ---- candidates ----------------------------------------------------------------------------

    def _candidates(self, step: int) -> Candidates:
        """Return the c best continuations of each sentence."""
        sentences, beam = self.score_Bb.shape
        prefix_Bb = self._prefix(step)
        at_once = sentences
        if self.device.type == "cpu":
            at_once = max(1, _ROWS // beam)
        parts = [
            self._ranked(slice(start, start + at_once), step, prefix_Bb)
            for start in range(0, sentences, at_once)
        ]
        found = (
            parts[0] if len(parts) == 1 else Candidates(*map(torch.cat, zip(*parts, strict=True)))
        )
        if prefix_Bb is not None:
            # fairseq lets all hypotheses be the first where the prefix ends the sentence
            found.beam_Bc.masked_fill_(prefix_Bb[:, :1].eq(self.task.rules.eos), 0)
        return found

    def _ranked(self, sentences: slice, step: int, prefix_Bb: Tensor | None) -> Candidates:
        score_Bb = self.score_Bb[sentences]
        count, beam = score_Bb.shape
        rows = slice(sentences.start * beam, sentences.start * beam + count * beam)
        lprob_RV = self.stepping.log_probs(rows)
        prefix_R = None if prefix_Bb is None else prefix_Bb[sentences].flatten()
        apply_rules(lprob_RV, self.task.rules, step, prefix_R)
        blocker = self.task.rules.blocker
        if blocker is not None:
            lprob_RV = blocker(self.tokens_RS[rows], lprob_RV, count, beam, step)
        lprob_BbV = lprob_RV.unflatten(0, (count, beam))
        if prefix_R is not None:
            ends = prefix_R.view(count, beam)[:, 0].eq(self.task.rules.eos)
            lprob_BbV[ends], score_Bb[ends] = lprob_BbV[ends][:, :1], score_Bb[ends][:, :1]
        most = min(2 * self.task.beam, beam * lprob_RV.size(1) - 1)  # pad is no candidate
        return best_continuations(lprob_BbV, score_Bb, most)

    def _prefix(self, step: int) -> Tensor | None:
        """Return the word (B, b) that each hypothesis must go on with, or pad."""
        prefix = self.task.prefix_BT
        if prefix is None or step >= min(prefix.size(1), self.task.rules.longest):
            return None
        return prefix[self.sentences_B, step].unsqueeze(1).expand(self.score_Bb.shape)

    # ---- what ends -----------------------------------------------------------------------------

    def _leave(self, candidates: Candidates, ended_Bc: Tensor, step: int) -> Tensor | None:
        """Take sentences that are finished out of the search; return which are left, if not all."""
        beam = self.task.beam
        score, _, parent = (t[:, :beam] for t in candidates)
        ended = ended_Bc[:, :beam]
        self.ends.add(ended, step, parent, score, self._rank(score, step))
        done = self.ends.count_B.ge(beam)
        if step == self.task.rules.longest:
            done |= ended.any(1)
        if not bool(done.any()):
            return None
        self._collect(done.nonzero().squeeze(1))
        left = done.logical_not().nonzero().squeeze(1)
        self.sentences_B = self.sentences_B.index_select(0, left)
        self.trail, self.ends = self.trail.select(left), self.ends.select(left)
        return left

    def _rank(self, score_Bb: Tensor, step: int) -> Tensor:
        if self.task.length_penalty is not None:
            score_Bb = score_Bb / (step + 1) ** self.task.length_penalty
        if self.task.source_lengths_B is None:
            return score_Bb
        too_long = self.task.source_lengths_B[self.sentences_B].lt(step).unsqueeze(1)
        return score_Bb.masked_fill(too_long, float("-inf"))

    def _collect(self, done: Tensor) -> None:
        ends, trail = self.ends.select(done), self.trail.select(done)
        paths = read_paths(trail, ends, self.task.rules.eos)
        hypotheses = _Hypotheses(paths, ends, trail, self.device)
        for index, sentence in enumerate(self.sentences_B[done].tolist()):
            self.found[sentence] = hypotheses.of(index)

    # ---- what goes on --------------------------------------------------------------------------

    def _go_on(self, candidates: Candidates, left: Tensor | None) -> None:
        """Let the b best candidates of the sentences that are left be the hypotheses."""
        score, word, parent = (t[:, : self.task.beam] for t in candidates)
        self.trail.add(word, parent, score)
        width = self.score_Bb.size(1)
        if left is None:
            left = torch.arange(len(score), device=self.device)
        order = parent.add(left.unsqueeze(1), alpha=width).flatten()
        self.stepping.move(order, left, self.task.beam // width if width == 1 else 1)
        if self.task.rules.blocker is not None:
            self.tokens_RS = torch.cat([self.tokens_RS[order], word.reshape(-1, 1)], dim=1)
        else:
            self.tokens_RS = word.reshape(-1, 1)
        self.score_Bb = score.contiguous()


class _Hypotheses:
    """Finished hypotheses in fairseq's form.

    Args:
        paths, ends, trail: of the sentences that have finished, in one order.
        device: where the tensors shall be.
    """

    def __init__(self, paths: Paths, ends: Ends, trail: Trail, device: torch.device) -> None:
        self.lengths = paths.lengths_Db.tolist()
        self.count = ends.count_B.tolist()
        self.rank = ends.rank_Bb[:, :-1]
        scores = torch.from_numpy(paths.scores_DbL).to(device)
        self.words = torch.from_numpy(paths.words_DbL).to(device)
        self.scores = torch.cat([scores[..., :1], scores.diff(dim=-1)], dim=-1)
        self.rows = torch.from_numpy(paths.rows_DbL).to(device)
        self.attention = trail.attention

    def of(self, sentence: int) -> list[Hypothesis]:
        """Return those of a sentence, best first."""
        rank = self.rank[sentence, : self.count[sentence]]
        best = rank.sort(descending=True, stable=True).indices.tolist()
        return [self._one(sentence, index) for index in best]

    def _one(self, sentence: int, index: int) -> Hypothesis:
        length = self.lengths[sentence][index]
        return {
            "tokens": self.words[sentence, index, :length],
            "score": self.rank[sentence, index],
            "attention": self._attention(sentence, index, length),
            "alignment": torch.empty(0),
            "positional_scores": self.scores[sentence, index, :length],
        }

    def _attention(self, sentence: int, index: int, length: int) -> Tensor:
        if not self.attention:
            return torch.empty(0)
        rows = self.rows[sentence, index, :length].tolist()
        steps = [self.attention[s][sentence, row] for s, row in enumerate(rows)]
        return torch.stack(steps, dim=1)
