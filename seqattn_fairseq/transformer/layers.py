"""The standard layers: mixers and feed-forward, each inside residual + LayerNorm.

Shapes: B batch, R rows (hypotheses), T target or source length, S source length, C width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from fairseq import utils
from fairseq.modules import FairseqDropout
from torch import Tensor, nn

from seqattn_fairseq.transformer.attention import AttentionLog, MultiheadAttention
from seqattn_fairseq.transformer.cache import KeyValueCache, LayerCache, Memory, MemoryCache
from seqattn_fairseq.transformer.config import EncoderDecoderConfig, stack_config


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
    ) -> Tensor:
        """Return (B, T, C) for whole target sequences; position t sees no later one."""

    def new_cache(self, memory: Memory) -> LayerCache:
        """Return the state before the first target position."""

    def step(self, x_RnC: Tensor, cache: Any, log: AttentionLog | None = None) -> Tensor:
        """Return (R, n, C) for the next n target positions; the cache is this layer's own."""


class ResidualLayer(nn.Module):
    """Feed-forward network, residual connection and LayerNorm of one side's layers."""

    def __init__(self, cfg: EncoderDecoderConfig, side: str) -> None:
        super().__init__()
        stack = stack_config(cfg, side)
        self.embed_dim = stack.embed_dim
        self.normalize_before = stack.normalize_before
        self.layer_norm_eps = cfg.layer_norm_eps
        name = type(self).__name__
        self.dropout_module = FairseqDropout(cfg.dropout, module_name=name)
        self.activation_dropout_module = FairseqDropout(cfg.activation_dropout, module_name=name)
        self.activation_fn: Callable[[Tensor], Tensor] = utils.get_activation_fn(cfg.activation_fn)
        self.fc1 = nn.Linear(stack.embed_dim, stack.ffn_embed_dim)
        self.fc2 = nn.Linear(stack.ffn_embed_dim, stack.embed_dim)
        self.final_layer_norm = self.new_norm()

    def new_norm(self) -> nn.LayerNorm:
        """Return a LayerNorm over this layer's width."""
        return nn.LayerNorm(self.embed_dim, eps=self.layer_norm_eps)

    def residual(self, x: Tensor, norm: nn.Module, block: Callable[[Tensor], Tensor]) -> Tensor:
        """Return x + dropout(block(x)), normalised before the block or after the sum."""
        y = block(norm(x) if self.normalize_before else x)
        x = x + self.dropout_module(y)
        return x if self.normalize_before else norm(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return the position-wise feed-forward sub-block, residual and norm included."""
        return self.residual(x, self.final_layer_norm, self._fc)

    def _fc(self, x: Tensor) -> Tensor:
        hidden = self.activation_dropout_module(self.activation_fn(self.fc1(x)))
        out: Tensor = self.fc2(hidden)
        return out


class EncoderLayer(ResidualLayer):
    """Self-attention, then feed-forward."""

    def __init__(self, cfg: EncoderDecoderConfig, self_attn: MultiheadAttention) -> None:
        super().__init__(cfg, "encoder")
        self.self_attn = self_attn
        self.self_attn_layer_norm = self.new_norm()

    def forward(
        self, x_BTC: Tensor, padding_mask_BT: Tensor | None, log: AttentionLog | None = None
    ) -> Tensor:
        """Return the layer's output (B, T, C); the mask is True at padding."""
        x_BTC = self.residual(
            x_BTC,
            self.self_attn_layer_norm,
            lambda x: self.self_attn(x, x, padding_mask_BT, log),
        )
        return self.feed_forward(x_BTC)


class AttentionLayerCache(LayerCache):
    """Target keys and values per hypothesis, memory keys and values per sentence."""

    def __init__(self, cross: MemoryCache) -> None:
        self.target = KeyValueCache()
        self.cross = cross

    def reorder(self, order_R: Tensor) -> None:
        """See :class:`LayerCache`."""
        self.target.reorder(order_R)

    def reorder_memory(self, order_B: Tensor) -> None:
        """See :class:`LayerCache`."""
        self.cross.reorder_memory(order_B)


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
        self.self_attn_layer_norm = self.new_norm()
        self.encoder_attn = encoder_attn
        self.encoder_attn_layer_norm = self.new_norm()

    def forward(
        self,
        x_BTC: Tensor,
        padding_mask_BT: Tensor | None,
        memory: Memory,
        log: AttentionLog | None = None,
    ) -> Tensor:
        """Return the layer's output (B, T, C) for whole target sequences."""
        x_BTC = self.residual(
            x_BTC,
            self.self_attn_layer_norm,
            lambda x: self.self_attn(x, x, padding_mask_BT, log),
        )
        x_BTC = self.residual(
            x_BTC,
            self.encoder_attn_layer_norm,
            lambda x: self.encoder_attn(x, memory.x_BSC, memory.padding_mask_BS, log),
        )
        return self.feed_forward(x_BTC)

    def new_cache(self, memory: Memory) -> AttentionLayerCache:
        """Return the cache before the first target position."""
        return AttentionLayerCache(self.encoder_attn.memory_cache(memory))

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
