"""Luna's layers, and P, the short sequence that they carry from the first to the last.

Shapes: B sentences, R rows (hypotheses), T target length, n new positions, S source length,
L length of P, C width, H heads, P heads of the pack, d = C / H.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.transformer.attention import AttentionLog, Site, by_hypothesis
from seqattn_fairseq.transformer.cache import Memory, TwoSidedCache
from seqattn_fairseq.transformer.dropout import Dropout
from seqattn_fairseq.transformer.embedding import SinusoidalPositions
from seqattn_fairseq.transformer.encoder import Companion
from seqattn_fairseq.transformer.layers import LayerPlace, ResidualLayer
from seqattn_fairseq.transformer.norms import make_norm
from seqattn_fairseq.transformer.residual import added
from seqattn_fairseq.variants.luna_attention import (
    LunaAttention,
    LunaCausalAttention,
    RunningSums,
)

if TYPE_CHECKING:
    from seqattn_fairseq.variants.luna import LunaConfig


def pack_heads(cfg: LunaConfig, side: str) -> int:
    """Return the number of heads of P's attention on a side.

    Raises:
        SeqAttnError: it does not divide the width.
    """
    heads = getattr(cfg, f"{side}_projected_attention_heads")
    heads = getattr(cfg, f"{side}_attention_heads") if heads is None else int(heads)
    width = getattr(cfg, f"{side}_embed_dim")
    if heads < 1 or width % heads:
        divisors = ", ".join(str(n) for n in range(1, 65) if width % n == 0)
        raise SeqAttnError(
            f"--{side}-projected-attention-heads {heads} does not divide "
            f"--{side}-embed-dim {width}; heads that do: {divisors}"
        )
    return heads


def _check_side(cfg: LunaConfig, side: str) -> None:
    if cfg.layernorm_embedding and getattr(cfg, f"{side}_normalize_before"):
        raise SeqAttnError(
            f"--layernorm-embedding excludes --{side}-normalize-before in Luna, whose pre-norm "
            "layers normalise the embeddings; drop one of the two"
        )


def make_attention(cfg: LunaConfig, site: Site) -> LunaAttention:
    """Return the attention of the encoder, or of the decoder to the source."""
    side = "encoder" if site is Site.ENCODER_SELF else "decoder"
    return LunaAttention(
        site,
        getattr(cfg, f"{side}_embed_dim"),
        getattr(cfg, f"{side}_attention_heads"),
        pack_heads(cfg, side),
        cfg.attention_dropout,
        tie_kv=not cfg.untie_luna_kv,
    )


def make_causal_attention(cfg: LunaConfig) -> LunaCausalAttention:
    """Return the self-attention of the decoder."""
    return LunaCausalAttention(
        cfg.decoder_embed_dim,
        cfg.decoder_attention_heads,
        cfg.attention_dropout,
        tie_kv=not cfg.untie_luna_kv,
        activation=str(cfg.luna_activation),
        exact_sums=not cfg.luna_low_precision_sums,
    )


class ShortSequence(Companion):
    """P before the first layer: learned rows, positions from 0, dropout a sentence.

    Parameter: ``projected_embeddings`` (L, C).

    Args:
        cfg: the options.
        read: whether the decoder reads what the encoder makes of P.

    Raises:
        SeqAttnError: P has no rows.
    """

    def __init__(self, cfg: LunaConfig, read: bool) -> None:
        super().__init__()
        if cfg.projection_length < 1:
            raise SeqAttnError(
                f"--projection-length is {cfg.projection_length}, but must be at least 1"
            )
        dim = cfg.encoder_embed_dim
        self.dynamic = not cfg.fix_projection_length
        self.embed_scale = 1.0 if cfg.no_scale_embedding else dim**0.5
        self.projected_embeddings = nn.Parameter(torch.empty(cfg.projection_length, dim))
        nn.init.normal_(self.projected_embeddings, std=dim**-0.5)
        sinusoidal = not (cfg.no_token_positional_embeddings or cfg.encoder_learned_pos)
        self.projected_positions = SinusoidalPositions(dim, start=0) if sinusoidal else None
        self.layernorm_projected_embedding = (
            make_norm(cfg, dim) if cfg.layernorm_embedding else None
        )
        self.proj_layer_norm = (
            make_norm(cfg, dim) if cfg.encoder_normalize_before and read else None
        )
        self.dropout_module = Dropout(cfg.dropout, module_name=type(self).__name__)

    def start(self, memory: Memory) -> Memory:
        """See :class:`Companion`; unless fixed, a sentence of n tokens uses n rows at most."""
        length = self.projected_embeddings.size(0)
        if self.dynamic:
            length = min(length, memory.x_BSC.size(1))
        p_LC = self.embed_scale * self.projected_embeddings[:length]
        if self.projected_positions is not None:
            index = torch.arange(1, length + 1, device=p_LC.device)
            p_LC = p_LC + self.projected_positions(index, length)
        if self.layernorm_projected_embedding is not None:
            p_LC = self.layernorm_projected_embedding(p_LC)
        p_BLC = p_LC.expand(memory.x_BSC.size(0), -1, -1)
        return Memory(self.dropout_module(p_BLC), self._unused(memory, length))

    def _unused(self, memory: Memory, length: int) -> Tensor | None:
        if not self.dynamic or memory.padding_mask_BS is None:
            return None
        tokens_B1 = (~memory.padding_mask_BS).sum(dim=1, keepdim=True)
        return torch.arange(length, device=tokens_B1.device) >= tokens_B1

    def finish(self, companion: Memory) -> Memory:
        """See :class:`Companion`."""
        if self.proj_layer_norm is None:
            return companion
        return replace(companion, x_BSC=self.proj_layer_norm(companion.x_BSC))


class LunaLayer(ResidualLayer):
    """What the layers of both sides share: P's way around an attention.

    Args:
        cfg: the options.
        side: "encoder" or "decoder".
        place: where the layer stands; P is renewed only if something reads it.
    """

    def __init__(self, cfg: LunaConfig, side: str, place: LayerPlace) -> None:
        _check_side(cfg, side)
        super().__init__(cfg, side)
        self.renews = place.companion_read

    def norm_of_p(self, cfg: LunaConfig) -> nn.Module | None:
        """Return the norm of P; post-norm layers need none for a P that they do not renew."""
        return make_norm(cfg, self.embed_dim) if self.normalize_before or self.renews else None

    def entered(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        """Return what a sub-block reads."""
        return norm(x) if self.normalize_before and norm is not None else x

    def left(self, x: Tensor, y: Tensor, norm: nn.Module | None) -> Tensor:
        """Return the residual sum of a sub-block's input and output, normed if post-norm."""
        return added(x, y, self.dropout_module, None if self.normalize_before else norm)

    def renewed(self, memory: Memory, packed_BLC: Tensor, norm: nn.Module | None) -> Memory:
        """Return the memory with P renewed by what it has read, if something reads it."""
        if not self.renews:
            return memory
        p = companion_of(memory)
        p_BLC = self.left(p.x_BSC, packed_BLC, norm)
        return replace(memory, companion=replace(p, x_BSC=p_BLC))


def companion_of(memory: Memory) -> Memory:
    """Return P, which a stack with Luna layers always carries."""
    assert memory.companion is not None
    return memory.companion


class LunaEncoderLayer(LunaLayer):
    """Luna self-attention, then feed-forward; P has no feed-forward."""

    def __init__(self, cfg: LunaConfig, place: LayerPlace) -> None:
        super().__init__(cfg, "encoder", place)
        self.self_attn = make_attention(cfg, Site.ENCODER_SELF)
        self.self_attn_layer_norm = make_norm(cfg, self.embed_dim)
        self.self_attn_proj_layer_norm = self.norm_of_p(cfg)

    def forward(self, memory: Memory, log: AttentionLog | None = None) -> Memory:
        """See :class:`EncoderBlock`."""
        attn, mask, p = self.self_attn, memory.padding_mask_BS, companion_of(memory)
        p_BLC = self.entered(p.x_BSC, self.self_attn_proj_layer_norm)
        x_BSC = self.entered(memory.x_BSC, self.self_attn_layer_norm)
        packed = attn.pack(p_BLC, x_BSC, mask)
        key, value = attn.read(packed)
        if log is not None:
            unpack = attn.unpack_weights(x_BSC, key, p.padding_mask_BS)
            attn.log_weights(log, unpack, attn.pack_weights(p_BLC, x_BSC, mask))
        y_BSC = attn.unpack(x_BSC, key, value, p.padding_mask_BS)
        x_BSC = self.left(memory.x_BSC, y_BSC, self.self_attn_layer_norm)
        memory = self.renewed(memory, packed, self.self_attn_proj_layer_norm)
        return replace(memory, x_BSC=self.feed_forward(x_BSC, mask))


@dataclass
class SourceSide:
    """What a decoder layer reads of the source, once a sentence.

    Attributes:
        pquery_BHLd: P's queries to the target.
        key_BHLd: keys of the packed source.
        value_BHLd: values of the packed source.
        padding_mask_BL: True at rows of P that the sentence does not use.
        p_BLC: P as the pack of the source reads it; with ``memory`` it tells the pack's weights.
        memory: what was packed, of all sentences there were at first.
        rows_B: the rows of it that are left, in their order; None for all.
    """

    pquery_BHLd: Tensor
    key_BHLd: Tensor
    value_BHLd: Tensor
    padding_mask_BL: Tensor | None
    p_BLC: Tensor
    memory: Memory
    rows_B: Tensor | None = None

    def reorder_memory(self, order_B: Tensor) -> None:
        """Let row b be the old row ``order_B[b]``; the long memory is not copied."""
        for name in ("pquery_BHLd", "key_BHLd", "value_BHLd", "padding_mask_BL", "p_BLC"):
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(self, name, tensor.index_select(0, order_B))
        self.rows_B = order_B if self.rows_B is None else self.rows_B.index_select(0, order_B)

    def pack_weights(self, attn: LunaAttention) -> Tensor:
        """Return the weights of P over the source, (B, P, L, S)."""
        memory = self.memory if self.rows_B is None else self.memory.select(self.rows_B)
        return attn.pack_weights(self.p_BLC, memory.x_BSC, memory.padding_mask_BS)


# sums over the target, and P with the packed source
LunaLayerCache = TwoSidedCache[RunningSums, SourceSide]


class LunaDecoderLayer(LunaLayer):
    """Causal Luna attention, Luna attention to the source, then feed-forward.

    The attention to the source renews P; a renewal from the target would leak the future.
    """

    def __init__(self, cfg: LunaConfig, place: LayerPlace) -> None:
        super().__init__(cfg, "decoder", place)
        self.self_attn = make_causal_attention(cfg)
        self.self_attn_layer_norm = make_norm(cfg, self.embed_dim)
        self.encoder_attn = make_attention(cfg, Site.CROSS)
        self.encoder_attn_layer_norm = make_norm(cfg, self.embed_dim)
        self.encoder_attn_proj_layer_norm = self.norm_of_p(cfg)

    def read_source(self, memory: Memory) -> tuple[SourceSide, Memory]:
        """Return all that this layer reads of the source, and the next layer's memory."""
        p, attn, norm = companion_of(memory), self.encoder_attn, self.encoder_attn_proj_layer_norm
        # the target reads P as it comes, also in a pre-norm layer: as in the official code
        pquery = self.self_attn.pack_query(p.x_BSC)
        p_BLC = self.entered(p.x_BSC, norm)
        packed = attn.pack(p_BLC, memory.x_BSC, memory.padding_mask_BS)
        source = SourceSide(pquery, *attn.read(packed), p.padding_mask_BS, p_BLC, memory)
        return source, self.renewed(memory, packed, norm)

    def forward(
        self,
        x_BTC: Tensor,
        padding_mask_BT: Tensor | None,
        memory: Memory,
        log: AttentionLog | None = None,
    ) -> tuple[Tensor, Memory]:
        """See :class:`DecoderBlock`."""
        source, memory = self.read_source(memory)
        mask_BL = source.padding_mask_BL
        x_BTC = self.residual(
            x_BTC,
            self.self_attn_layer_norm,
            lambda x: self.self_attn(x, source.pquery_BHLd, mask_BL, padding_mask_BT, log),
        )
        return self._read_and_feed(x_BTC, source, log, padding_mask_BT), memory

    def new_cache(self, memory: Memory) -> tuple[LunaLayerCache, Memory]:
        """See :class:`DecoderBlock`."""
        source, memory = self.read_source(memory)
        return TwoSidedCache(RunningSums(self.self_attn.exact_sums), source), memory

    def step(self, x_RnC: Tensor, cache: LunaLayerCache, log: AttentionLog | None = None) -> Tensor:
        """See :class:`DecoderBlock`; logs no weights over the target, of which sums are left."""
        source = cache.cross
        x_RnC = self.residual(
            x_RnC,
            self.self_attn_layer_norm,
            lambda x: self.self_attn.step(
                x, source.pquery_BHLd, source.padding_mask_BL, cache.target
            ),
        )
        return self._read_and_feed(x_RnC, source, log)

    def _read_and_feed(
        self,
        x: Tensor,
        source: SourceSide,
        log: AttentionLog | None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        x = self.residual(
            x, self.encoder_attn_layer_norm, lambda y: self._read_packed(y, source, log)
        )
        return self.feed_forward(x, padding_mask)

    def _read_packed(self, x_RnC: Tensor, source: SourceSide, log: AttentionLog | None) -> Tensor:
        attn, key, mask = self.encoder_attn, source.key_BHLd, source.padding_mask_BL
        # queries do not see each other here: the beams of a sentence are just more of them
        x_BTC = x_RnC.reshape(key.size(0), -1, x_RnC.size(-1))
        if log is not None:
            unpack = attn.unpack_weights(x_BTC, key, mask)
            log = log.through(lambda weights: by_hypothesis(weights, x_RnC.size(1)))
            attn.log_weights(log, unpack, source.pack_weights(attn))
        return attn.unpack(x_BTC, key, source.value_BHLd, mask).view_as(x_RnC)
