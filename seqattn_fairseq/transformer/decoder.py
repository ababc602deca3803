"""The decoder stack: whole sequences, step by step, and fairseq's border around both.

Shapes: B batch, R rows (hypotheses), T target length, C width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqIncrementalDecoder
from torch import Tensor, nn

from seqattn_fairseq.transformer.attention import AttentionLog, Site
from seqattn_fairseq.transformer.cache import DecodingState, Memory, group_size
from seqattn_fairseq.transformer.config import EncoderDecoderConfig, stack_config, ties_output
from seqattn_fairseq.transformer.embedding import EmbedsTokens
from seqattn_fairseq.transformer.encoder import EncoderOut, layer_list, memory_of
from seqattn_fairseq.transformer.layers import DecoderBlock
from seqattn_fairseq.transformer.linear import Linear
from seqattn_fairseq.transformer.norms import make_norm
from seqattn_fairseq.transformer.padding import mask_if_any

# fairseq hands every decoder one dictionary per search; our state lives there under this key
_STATE = "seqattn_decoding_state"


class Decoder(EmbedsTokens, FairseqIncrementalDecoder):
    """Embedding, N layers that read the memory, output projection."""

    def __init__(
        self,
        cfg: EncoderDecoderConfig,
        dictionary: Dictionary,
        tokens: nn.Embedding,
        layers: list[nn.Module],
    ) -> None:
        super().__init__(dictionary)
        stack = stack_config(cfg, "decoder")
        self.max_target_positions = cfg.max_target_positions
        self.target_padding_visible = cfg.target_padding_visible
        self.need_attn = False
        self.build_embedding(cfg, "decoder", tokens)
        self.layers = layer_list(layers, stack.layerdrop)
        self.layer_norm = (
            make_norm(cfg, stack.embed_dim)
            if stack.normalize_before and not cfg.no_decoder_final_norm
            else None
        )
        self.output_projection = Linear(stack.embed_dim, len(dictionary), bias=False)
        if ties_output(cfg):
            self.output_projection.weight = tokens.weight
        else:
            nn.init.normal_(self.output_projection.weight, std=stack.embed_dim**-0.5)

    def decode(
        self, tokens_BT: Tensor, memory: Memory, logs: dict[int, AttentionLog] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return features (B, T, C) of whole sequences, and the input and output of every layer.

        ``logs`` maps the index of a layer to the log that receives its attention weights.
        """
        x = self.embed(tokens_BT)
        mask = self._padding_mask(tokens_BT)
        states = [x]
        for index, layer in enumerate(self.layers):
            x, memory = layer(x, mask, memory, logs.get(index) if logs else None)
            states.append(x)
        return self._normalized(x), states

    def _padding_mask(self, tokens_BT: Tensor) -> Tensor | None:
        if self.target_padding_visible:
            return None
        return mask_if_any(tokens_BT.eq(self.padding_idx))

    def _normalized(self, x: Tensor) -> Tensor:
        return x if self.layer_norm is None else self.layer_norm(x)

    def start(self, memory: Memory, sentence_R: Tensor | None = None) -> DecodingState:
        """Return the state before the first target position.

        Args:
            memory: one row per sentence.
            sentence_R: for each hypothesis its row of the memory, in runs of equal length;
                None for one hypothesis per sentence.
        """
        sentences = memory.x_BSC.size(0)
        if sentence_R is None:
            sentence_R = torch.arange(sentences, device=memory.x_BSC.device)
        caches = []
        for index in range(len(self.layers)):
            cache, memory = self._block(index).new_cache(memory)
            caches.append(cache)
        return DecodingState(caches, sentence_R, sentence_R.numel() // sentences)

    def step(
        self,
        tokens_Rn: Tensor,
        state: DecodingState,
        logs: dict[int, AttentionLog] | None = None,
    ) -> Tensor:
        """Return features (R, n, C) of the next n target positions and advance the state.

        ``logs`` is as in ``decode``.
        """
        x = self.embed(tokens_Rn, state.length)
        for index, cache in enumerate(state.layers):
            x = self._block(index).step(x, cache, logs.get(index) if logs else None)
        state.length += tokens_Rn.size(1)
        return self._normalized(x)

    def _block(self, index: int) -> DecoderBlock:
        return cast(DecoderBlock, self.layers[index])

    def output_layer(self, features: Tensor) -> Tensor:
        """Project features (..., C) to the vocabulary (..., V)."""
        logits: Tensor = self.output_projection(features)
        return logits

    # fairseq's border

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: EncoderOut,
        incremental_state: dict[str, Any] | None = None,
        features_only: bool = False,
        alignment_layer: int | None = None,
        alignment_heads: int | None = None,
        return_all_hiddens: bool = False,
        src_lengths: Tensor | None = None,
        attention_log: AttentionLog | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return logits (B, T, V), or features, and fairseq's extras.

        With ``incremental_state`` the tokens are the whole prefix, of which only the positions
        not yet consumed are computed and returned. ``attn`` is the (B, T, S) cross-attention of
        one layer (``alignment_layer``, default the last) averaged over the first
        ``alignment_heads`` heads; it is computed only when asked for: by that argument, or by
        ``--print-alignment`` when generating. ``attention_log`` receives the weights of every
        layer.
        """
        log = AttentionLog()
        logs: dict[int, AttentionLog] = {}
        if attention_log is not None:
            logs = dict.fromkeys(range(len(self.layers)), attention_log)
        if alignment_layer is not None or (self.need_attn and not self.training):
            shown = len(self.layers) - 1 if alignment_layer is None else alignment_layer
            logs[shown] = log.handing_on(logs.get(shown))
        states: list[Tensor] = []
        if incremental_state is None:
            x, states = self.decode(prev_output_tokens, memory_of(encoder_out), logs)
        else:
            x = self._next(prev_output_tokens, encoder_out, incremental_state, logs)
        cross = log.weights.get(Site.CROSS.value)
        extra = {
            "attn": [cross[0][:, :alignment_heads].mean(dim=1) if cross else None],
            "inner_states": [s.transpose(0, 1) for s in states],
        }
        return (x if features_only else self.output_layer(x)), extra

    def extract_features(
        self, prev_output_tokens: Tensor, encoder_out: EncoderOut, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return what ``forward`` returns before the output projection."""
        return self.forward(prev_output_tokens, encoder_out, features_only=True, **kwargs)

    def _next(
        self,
        prefix: Tensor,
        encoder_out: EncoderOut,
        incremental_state: dict[str, Any],
        logs: dict[int, AttentionLog] | None,
    ) -> Tensor:
        state = incremental_state.get(_STATE)
        if state is None:
            state = incremental_state[_STATE] = self._start_of_search(encoder_out)
        return self.step(prefix[:, state.length :], state, logs)

    def _start_of_search(self, encoder_out: EncoderOut) -> DecodingState:
        # fairseq repeats each sentence for its beams; one row of them serves all
        sentence_R = encoder_out["rows"][0]
        memory, group = memory_of(encoder_out), group_size(sentence_R)
        if group > 1:
            first = torch.arange(0, sentence_R.numel(), group, device=sentence_R.device)
            memory = memory.select(first)
        return self.start(memory, sentence_R)

    def reorder_incremental_state_scripting(
        self, incremental_state: dict[str, Any], new_order: Tensor
    ) -> None:
        """Let row r of the search continue the old row ``new_order[r]``."""
        if _STATE in incremental_state:
            incremental_state[_STATE].reorder(new_order)

    def make_generation_fast_(self, need_attn: bool | str | None = False, **_: Any) -> None:
        """Honour fairseq's ``--print-alignment``: return attention from now on."""
        self.need_attn = bool(need_attn)

    def max_positions(self) -> int:
        """Longest target sentence in tokens."""
        return self.position_limit(self.max_target_positions)
