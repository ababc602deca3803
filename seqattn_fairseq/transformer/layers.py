"""The standard layers: mixers and feed-forward, each inside residual + LayerNorm.

Shapes: B batch, R rows (hypotheses), T target or source length, S source length, C width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fairseq import utils
from torch import Tensor, nn

from seqattn_fairseq.transformer.attention import AttentionLog, MultiheadAttention
from seqattn_fairseq.transformer.cache import (
    BeamCache,
    LayerCache,
    Memory,
    MemoryCache,
    TwoSidedCache,
)
from seqattn_fairseq.transformer.config import (
    EncoderDecoderConfig,
    check_positive,
    stack_config,
)
from seqattn_fairseq.transformer.dropout import Dropout
from seqattn_fairseq.transformer.linear import Linear
from seqattn_fairseq.transformer.norms import make_norm
from seqattn_fairseq.transformer.padding import on_real_rows
from seqattn_fairseq.transformer.residual import added


@dataclass(frozen=True)
class LayerPlace:
    """Where in its stack a layer stands.

    Attributes:
        index: its number from 0; a pruned stack keeps the numbers of the whole one.
        layers: the number of layers of the whole stack.
        companion_read: whether anything after it reads the memory's companion that it returns.
    """

    index: int
    layers: int
    companion_read: bool


class EncoderBlock(Protocol):
    """What the encoder asks of a layer; a variant may bring a layer of its own making."""

    def forward(self, memory: Memory, log: AttentionLog | None = None) -> Memory:
        """Return the memory with its positions, and its companion if it has one, renewed."""


class DecoderBlock(Protocol):
    """What the decoder asks of a layer; a variant may bring a layer of its own making.

    ``forward`` and ``step`` are one function: the outputs of any sequence of steps are the
    columns of the whole pass.
    """

    def forward(
        self,
        x_BTC: Tensor,
        padding_mask_BT: Tensor | None,
        memory: Memory,
        log: AttentionLog | None = None,
    ) -> tuple[Tensor, Memory]:
        """Return (B, T, C) for whole target sequences, and the memory for the next layer.

        Position t sees no later one; the memory depends on the source alone.
        """

    def new_cache(self, memory: Memory) -> tuple[LayerCache, Memory]:
        """Return the state before the first target position, and the next layer's memory."""

    def step(self, x_RnC: Tensor, cache: Any, log: AttentionLog | None = None) -> Tensor:
        """Return (R, n, C) for the next n target positions; the cache is this layer's own."""


class ResidualLayer(nn.Module):
    """Feed-forward network, residual connection and LayerNorm of one side's layers."""

    def __init__(self, cfg: EncoderDecoderConfig, side: str) -> None:
        super().__init__()
        stack = stack_config(cfg, side)
        check_positive(stack, side, "ffn_embed_dim")
        self.embed_dim = stack.embed_dim
        self.normalize_before = stack.normalize_before
        name = type(self).__name__
        self.dropout_module = Dropout(cfg.dropout, module_name=name)
        self.activation_dropout_module = Dropout(cfg.activation_dropout, module_name=name)
        self.activation_fn: Callable[[Tensor], Tensor] = utils.get_activation_fn(cfg.activation_fn)
        self.fc1 = Linear(stack.embed_dim, stack.ffn_embed_dim)
        self.fc2 = Linear(stack.ffn_embed_dim, stack.embed_dim)
        self.final_layer_norm = make_norm(cfg, self.embed_dim)

    def residual(self, x: Tensor, norm: nn.Module, block: Callable[[Tensor], Tensor]) -> Tensor:
        """Return x + dropout(block(x)), normalised before the block or after the sum."""
        y = block(norm(x) if self.normalize_before else x)
        return added(x, y, self.dropout_module, None if self.normalize_before else norm)

    def feed_forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Return the position-wise feed-forward sub-block, residual and norm included.

        Positions that ``padding_mask`` hides may be left as they are.
        """
        return self.residual(
            x, self.final_layer_norm, lambda y: on_real_rows(self, self._fc, y, padding_mask)
        )

    def _fc(self, x: Tensor) -> Tensor:
        hidden = self.activation_dropout_module(self.activation_fn(self.fc1(x)))
        out: Tensor = self.fc2(hidden)
        return out


class EncoderLayer(ResidualLayer):
    """Self-attention, then feed-forward."""

    def __init__(self, cfg: EncoderDecoderConfig, self_attn: MultiheadAttention) -> None:
        super().__init__(cfg, "encoder")
        self.self_attn = self_attn
        self.self_attn_layer_norm = make_norm(cfg, self.embed_dim)

    def forward(self, memory: Memory, log: AttentionLog | None = None) -> Memory:
        """See :class:`EncoderBlock`."""
        x_BSC = self.residual(
            memory.x_BSC,
            self.self_attn_layer_norm,
            lambda x: self.self_attn(x, x, memory.padding_mask_BS, log),
        )
        return replace(memory, x_BSC=self.feed_forward(x_BSC, memory.padding_mask_BS))


# keys and values of the target and of the memory
AttentionLayerCache = TwoSidedCache[BeamCache, MemoryCache]


class DecoderLayer(ResidualLayer):
    """Causal self-attention, cross-attention, then feed-forward."""

    def __init__(
        self,
        cfg: EncoderDecoderConfig,
        self_attn: MultiheadAttention,
        encoder_attn: MultiheadAttention,
    ) -> None:
        super().__init__(cfg, "decoder")
        self.self_attn = self_attn
        self.self_attn_layer_norm = make_norm(cfg, self.embed_dim)
        self.encoder_attn = encoder_attn
        self.encoder_attn_layer_norm = make_norm(cfg, self.embed_dim)

    def forward(
        self,
        x_BTC: Tensor,
        padding_mask_BT: Tensor | None,
        memory: Memory,
        log: AttentionLog | None = None,
    ) -> tuple[Tensor, Memory]:
        """See :class:`DecoderBlock`; the memory is handed on as it is."""
        x_BTC = self.residual(
            x_BTC,
            self.self_attn_layer_norm,
            lambda x: self.self_attn(x, x, padding_mask_BT, log),
        )
        x_BTC = self.residual(
            x_BTC,
            self.encoder_attn_layer_norm,
            lambda x: self.encoder_attn(
                x, memory.x_BSC, memory.padding_mask_BS, log, padding_mask_BT
            ),
        )
        return self.feed_forward(x_BTC, padding_mask_BT), memory

    def new_cache(self, memory: Memory) -> tuple[AttentionLayerCache, Memory]:
        """See :class:`DecoderBlock`."""
        return TwoSidedCache(BeamCache(), self.encoder_attn.memory_cache(memory)), memory

    def step(
        self, x_RnC: Tensor, cache: AttentionLayerCache, log: AttentionLog | None = None
    ) -> Tensor:
        """Return the output (R, n, C) for the next n target positions."""
        x_RnC = self.residual(
            x_RnC,
            self.self_attn_layer_norm,
            lambda x: self.self_attn.step_self(x, cache.target, log),
        )
        x_RnC = self.residual(
            x_RnC,
            self.encoder_attn_layer_norm,
            lambda x: self.encoder_attn.step_cross(x, cache.cross, log),
        )
        return self.feed_forward(x_RnC)
