"""fairseq's SequenceGenerator with a beam search of our own inside."""

from __future__ import annotations

import logging
from typing import Any

import torch
from fairseq.search import BeamSearch
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.generation.search import Hypothesis, Search, Task
from seqattn_fairseq.generation.stepping import Stepping
from seqattn_fairseq.generation.words import Rules
from seqattn_fairseq.transformer.model import SeqAttnModel

logger = logging.getLogger(__name__)


class _OwnSearch(SequenceGenerator):
    """Takes fairseq's constructor and options; searches itself where it can."""

    _said = False

    @torch.no_grad()
    def _generate(
        self,
        sample: dict[str, Any],
        prefix_tokens: Tensor | None = None,
        constraints: Tensor | None = None,
        bos_token: int | None = None,
    ) -> list[list[Hypothesis]]:
        reason = self._why_stock(constraints)
        if reason:
            if not self._said:
                logger.info(f"{reason}: fairseq's own search is used")
                self._said = True
            stock: list[list[Hypothesis]] = super()._generate(
                sample, prefix_tokens, constraints, bos_token
            )
            return stock
        net_input = sample["net_input"]
        task = self._task(net_input, prefix_tokens, bos_token)
        stepping = Stepping(self.model.models, net_input, self.temperature)
        found: list[list[Hypothesis]] = Search(stepping, task, net_input["src_tokens"].device).run()
        return found

    def _why_stock(self, constraints: Tensor | None) -> str:
        if constraints is not None:
            return "constraints"
        if type(self.search) is not BeamSearch:
            return type(self.search).__name__
        if self.lm_model is not None:
            return "a language model"
        if 2 * self.beam_size > self.vocab_size - 1:
            return "a beam as large as the vocabulary"
        strange = [m for m in self.model.models if not isinstance(m, SeqAttnModel)]
        return f"a model of {type(strange[0]).__module__}" if strange else ""

    def _task(
        self, net_input: dict[str, Any], prefix_tokens: Tensor | None, bos_token: int | None
    ) -> Task:
        source = net_input["src_tokens"]
        longest = min(int(self.max_len_a * source.size(1) + self.max_len_b), self.max_len - 1)
        lengths = None
        if self.match_source_len:
            lengths = net_input["src_lengths"]
            longest = int(lengths.max())
        if self.min_len > longest:
            raise SeqAttnError(
                f"--min-len {self.min_len} is more than the words that a translation may have here "
                f"({longest}, see --max-len-a and --max-len-b); lower it or raise them"
            )
        rules = Rules(
            self.pad,
            self.unk,
            self.eos,
            self.min_len,
            longest,
            self.unk_penalty,
            self.token_indices_to_suppress,
            self.repeat_ngram_blocker,
        )
        first = self.eos if bos_token is None else bos_token
        penalty = self.len_penalty if self.normalize_scores else None
        return Task(self.beam_size, first, rules, penalty, lengths, prefix_tokens)


class BeamSearchGenerator(_OwnSearch):
    """Translates batches."""


class AligningGenerator(SequenceGeneratorWithAlignment, _OwnSearch):
    """Translates batches and aligns the words of hypotheses with those of the source."""
