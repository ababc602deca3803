"""The encoder stack, with fairseq's border.

Shapes: B batch, S source length, C width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoder
from fairseq.modules import LayerDropModuleList
from torch import Tensor, nn

from seqattn_fairseq.transformer.attention import AttentionLog
from seqattn_fairseq.transformer.cache import Memory
from seqattn_fairseq.transformer.config import EncoderDecoderConfig, stack_config
from seqattn_fairseq.transformer.embedding import EmbedsTokens
from seqattn_fairseq.transformer.norms import make_norm
from seqattn_fairseq.transformer.padding import mask_if_any

# fairseq's border: a dictionary of lists, sequences first
EncoderOut = dict[str, list[Tensor]]


def layer_list(layers: list[nn.Module], layerdrop: float) -> nn.ModuleList:
    """Return the layers as a list that drops some while training (Fan et al. 2019)."""
    if layerdrop > 0:
        dropping: nn.ModuleList = LayerDropModuleList(p=layerdrop, modules=layers)
        return dropping
    return nn.ModuleList(layers)


class Companion(nn.Module):
    """Makes the second sequence that a variant's layers carry along; the variant defines it."""

    def start(self, memory: Memory) -> Memory:
        """Return the companion of embedded sentences, before the first layer."""
        raise NotImplementedError(f"{type(self).__name__} does not define start()")

    def finish(self, companion: Memory) -> Memory:
        """Return it as the decoder reads it, after the last layer."""
        return companion


class Encoder(EmbedsTokens, FairseqEncoder):
    """Embedding and N layers; gives the memory that the decoder reads."""

    def __init__(
        self,
        cfg: EncoderDecoderConfig,
        dictionary: Dictionary,
        tokens: nn.Embedding,
        layers: list[nn.Module],
        companion: Companion | None = None,
    ) -> None:
        super().__init__(dictionary)
        stack = stack_config(cfg, "encoder")
        self.companion = companion
        self.padding_visible = cfg.source_padding_visible
        self.max_source_positions = cfg.max_source_positions
        self.build_embedding(cfg, "encoder", tokens)
        self.layers = layer_list(layers, stack.layerdrop)
        self.layer_norm = make_norm(cfg, stack.embed_dim) if stack.normalize_before else None

    def encode(
        self,
        src_tokens_BS: Tensor,
        log: AttentionLog | None = None,
        states: list[Tensor] | None = None,
    ) -> Memory:
        """Return the memory of a batch of sentences, padded left or right.

        Args:
            src_tokens_BS: token ids.
            log: receives the self-attention weights.
            states: receives the embeddings and every layer's output, (B, S, C) each.
        """
        mask = mask_if_any(src_tokens_BS.eq(self.padding_idx))
        x = self.embed(src_tokens_BS)
        if mask is not None and not self.padding_visible:
            x = x.masked_fill(mask.unsqueeze(-1), 0.0)
        memory = Memory(x, mask)
        if self.companion is not None:
            memory = replace(memory, companion=self.companion.start(memory))
        states = [] if states is None else states
        states.append(x)
        for layer in self.layers:
            memory = layer(memory, log)
            states.append(memory.x_BSC)
        return self._finished(memory)

    def _finished(self, memory: Memory) -> Memory:
        if self.layer_norm is not None:
            memory = replace(memory, x_BSC=self.layer_norm(memory.x_BSC))
        if self.companion is not None and memory.companion is not None:
            memory = replace(memory, companion=self.companion.finish(memory.companion))
        return memory

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        return_all_hiddens: bool = False,
        attention_log: AttentionLog | None = None,
        **_: Any,
    ) -> EncoderOut:
        """Return fairseq's encoder output: ``encoder_out`` [(S, B, C)], masks, lengths.

        ``companion`` [(L, B, C)] and its mask are there for the variants that carry one.
        ``rows`` [(B,)] numbers the sentences, so that the decoder can tell after any number of
        ``reorder_encoder_out`` which rows are hypotheses of one sentence.
        """
        states: list[Tensor] = []
        memory = self.encode(src_tokens, attention_log, states)
        lengths = src_tokens.ne(self.padding_idx).sum(dim=1, dtype=torch.int32).view(-1, 1)
        return {
            **_border("encoder_out", "encoder_padding_mask", memory),
            **_border("companion", "companion_padding_mask", memory.companion),
            "encoder_embedding": [],
            "encoder_states": [s.transpose(0, 1) for s in states] if return_all_hiddens else [],
            "src_tokens": [],
            "src_lengths": [lengths],
            "rows": [torch.arange(src_tokens.size(0), device=src_tokens.device)],
        }

    def reorder_encoder_out(self, encoder_out: EncoderOut, new_order: Tensor) -> EncoderOut:
        """Return the output with row r taken from the old row ``new_order[r]``."""
        rows = encoder_out["rows"][0]
        if torch.equal(rows.index_select(0, new_order), rows):
            return encoder_out  # hypotheses moved within their sentences: nothing to copy
        sequence_first = ("encoder_out", "companion", "encoder_states")
        return {
            key: [t.index_select(1 if key in sequence_first else 0, new_order) for t in tensors]
            for key, tensors in encoder_out.items()
        }

    def max_positions(self) -> int:
        """Longest source sentence in tokens."""
        return self.position_limit(self.max_source_positions)


def _border(name: str, mask_name: str, memory: Memory | None) -> EncoderOut:
    if memory is None:
        return {name: [], mask_name: []}
    mask = memory.padding_mask_BS
    return {name: [memory.x_BSC.transpose(0, 1)], mask_name: [] if mask is None else [mask]}


def memory_of(encoder_out: EncoderOut) -> Memory:
    """Return fairseq's encoder output as our memory (batch first)."""

    def read(name: str, mask_name: str, companion: Memory | None) -> Memory:
        mask = encoder_out[mask_name]
        x_BSC = encoder_out[name][0].transpose(0, 1)
        return Memory(x_BSC, mask[0] if mask else None, companion)

    companion = None
    if encoder_out["companion"]:
        companion = read("companion", "companion_padding_mask", None)
    return read("encoder_out", "encoder_padding_mask", companion)
