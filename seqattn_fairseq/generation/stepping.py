"""One or several models, step by step, over the hypotheses of a batch.

Shapes: B sentences, b hypotheses of a sentence, R = B b rows, V vocabulary, C width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.transformer.attention import AttentionLog, Site
from seqattn_fairseq.transformer.encoder import memory_of


class Stepping:
    """The decoding states of an ensemble.

    Args:
        models: of ours.
        net_input: of a batch, as fairseq's.
        temperature: what logits are divided by.
    """

    def __init__(
        self, models: Sequence[Any], net_input: dict[str, Any], temperature: float
    ) -> None:
        self._decoders = [model.decoder for model in models]
        self._temperature = temperature
        self.rows = net_input["src_tokens"].size(0)
        self._states = []
        for model in models:
            memory = memory_of(model.encoder.forward_torchscript(net_input))
            self._states.append(model.decoder.start(memory))
        self._features: list[Tensor] = []

    def step(self, word_R1: Tensor) -> Tensor | None:
        """Read the next word of each row; return attention (R, S) if the decoders make it."""
        self._features, logs = [], []
        for decoder, state in zip(self._decoders, self._states, strict=True):
            log = AttentionLog()
            wanted = {len(decoder.layers) - 1: log} if decoder.need_attn else None
            self._features.append(decoder.step(word_R1, state, wanted)[:, -1])
            logs += log.weights.get(Site.CROSS.value, [])
        if not logs:
            return None
        return torch.stack([log[:, :, -1].mean(1) for log in logs]).mean(0)

    def log_probs(self, rows: slice) -> Tensor:
        """Return the log-probabilities (rows, V) of the next words of some rows."""
        found = [
            self._normalised(decoder.output_layer(features[rows]))
            for decoder, features in zip(self._decoders, self._features, strict=True)
        ]
        if len(found) == 1:
            return found[0]
        return torch.logsumexp(torch.stack(found), dim=0) - math.log(len(found))

    def _normalised(self, logits: Tensor) -> Tensor:
        if self._temperature != 1.0:
            logits = logits.div_(self._temperature)
        if logits.dtype == torch.float32:
            return torch.log_softmax(logits, -1, out=logits)
        return F.log_softmax(logits, -1, dtype=torch.float32)

    def move(self, order_R: Tensor, sentences: Tensor, beam: int) -> None:
        """Let row r continue the old row ``order_R[r]``.

        Args:
            order_R: rows before, sentence by sentence.
            sentences: those that are left, in their order.
            beam: how many rows each row becomes; 1 but after the first step.
        """
        for state in self._states:
            state.move(order_R, sentences, beam)
        self.rows = order_R.numel()
