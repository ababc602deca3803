"""``mega`` and ``mega_chunk``: moving average equipped gated attention (Ma et al. 2023).

Every layer is a gated unit of a moving average and a single head, in the decoder a gated unit of
cross-attention, and a feed-forward network. ``mega_chunk`` cuts self-attention into chunks, which
only the average connects: linear in the length.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum
from fairseq.utils import get_available_activation_fns
from torch import Tensor, nn

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops.mega import ATTENTIONS
from seqattn_fairseq.transformer.attention import AttentionLog
from seqattn_fairseq.transformer.cache import Memory, TwoSidedCache
from seqattn_fairseq.transformer.config import (
    SIDES,
    EncoderDecoderConfig,
    check_probability,
    check_within_positions,
    option,
)
from seqattn_fairseq.transformer.layers import LayerPlace
from seqattn_fairseq.transformer.registry import Preset, PublishedCount, Variant
from seqattn_fairseq.variants.mega_modules import MegaSide, NormalizedFeedForward
from seqattn_fairseq.variants.mega_units import (
    CrossCache,
    GatedCrossAttention,
    GatedSelfAttention,
    SelfCache,
)

# Of mega_chunk, where nothing is said: WMT sentences of some 30 subwords span one or two chunks
_CHUNK_SIZE = 32
_NO_CHUNKS = -1


@dataclass
class MegaConfig(EncoderDecoderConfig):
    """Mega; its order of words comes from moving average and biases, so positions are off."""

    no_token_positional_embeddings: bool = option(True, "no position embeddings")
    encoder_attention_heads: int = option(
        1, "Mega has one head whatever this says; must divide the width all the same"
    )
    decoder_attention_heads: int = option(
        1, "Mega has one head whatever this says; must divide the width all the same"
    )

    encoder_hidden_dim: int = option(1024, "encoder width of values")
    encoder_z_dim: int = option(128, "encoder width of queries and keys")
    encoder_n_dim: int = option(16, "states of the encoder's moving average for each channel")
    encoder_chunk_size: Optional[int] = option(  # noqa: UP045 fairseq's parser needs Optional
        None,
        "encoder self-attention within chunks of so many tokens; -1: everywhere; default: "
        f"-1 for mega, {_CHUNK_SIZE} for mega_chunk",
    )
    decoder_hidden_dim: Optional[int] = option(  # noqa: UP045
        None, "decoder width of values; default: the encoder's"
    )
    decoder_z_dim: Optional[int] = option(  # noqa: UP045
        None, "decoder width of queries and keys; default: the encoder's"
    )
    decoder_n_dim: Optional[int] = option(  # noqa: UP045
        None, "states of the decoder's moving average; default: the encoder's"
    )
    decoder_chunk_size: Optional[int] = option(  # noqa: UP045
        None, "decoder self-attention within chunks; default: the encoder's"
    )
    attention_activation_fn: ChoiceEnum(list(ATTENTIONS)) = option(  # type: ignore[valid-type]
        "softmax", "what makes scores weights; laplace and relu2 do not sum to one"
    )
    rel_pos_bias: ChoiceEnum(["simple", "rotary"]) = option(  # type: ignore[valid-type]
        "simple",
        "bias of scores by distance: a number for each up to the longest, or (rotary) the product "
        "of two rotated vectors",
    )
    mega_activation_fn: ChoiceEnum(  # type: ignore[valid-type]
        ["silu", *get_available_activation_fns()]
    ) = option("silu", "activation of values, candidates and feed-forward (not --activation-fn)")
    activation_fn: ChoiceEnum(get_available_activation_fns()) = option(  # type: ignore[valid-type]
        "relu", "not read by Mega: see --mega-activation-fn"
    )
    truncation_length: Optional[int] = option(  # noqa: UP045
        None,
        "lags of the moving average that count, in whole sequences (steps never truncate); "
        "0 or nothing: all",
    )
    hidden_dropout: float = option(0.0, "dropout of values")
    feature_dropout: bool = option(
        False, "drop whole channels of a sentence, except attention weights and embeddings"
    )
    mega_init_std: Optional[float] = option(  # noqa: UP045
        None,
        "deviation of initial projections; default: 0.02 as released, times sqrt(512 / width) "
        "where narrower than the released models: those learn late otherwise",
    )
    mega_chunk_by_column: bool = option(
        False,
        "chunks, and the key counts of causal laplace and relu2, begin at the padded row's start "
        "and not at the first real token (release): padding then moves them",
    )
    mega_bias_by_column: bool = option(
        False,
        "cross-attention takes distances between padded columns, not between tokens (release): a "
        "sentence then depends on its batch",
    )
    mega_feature_dropout_whole: bool = option(
        False,
        "--feature-dropout drops all values of a sentence or chunk at once in self-attention "
        "(release)",
    )


def mega_side(cfg: Any, side: str, chunk_size: int = _NO_CHUNKS) -> MegaSide:
    """Return the checked options of ``side``; ``chunk_size`` is what no option stands for.

    Raises:
        SeqAttnError: an option is out of its range, or two contradict each other.
    """

    def own(name: str) -> Any:
        value = getattr(cfg, f"{side}_{name}")
        return getattr(cfg, f"encoder_{name}") if value is None else value

    chunk = own("chunk_size")
    position_option = "max_source_positions" if side == "encoder" else "max_target_positions"
    found = MegaSide(
        name=side,
        embed_dim=own("embed_dim"),
        memory_dim=cfg.encoder_embed_dim,
        hidden_dim=own("hidden_dim"),
        z_dim=own("z_dim"),
        n_dim=own("n_dim"),
        ffn_embed_dim=own("ffn_embed_dim"),
        chunk_size=chunk_size if chunk is None else chunk,
        max_positions=getattr(cfg, position_option),
        normalize_before=own("normalize_before"),
        init_std=_init_std(cfg, own("embed_dim")),
    )
    _check_sizes(found)
    _check_options(cfg, found)
    return found


def _init_std(cfg: Any, width: int) -> float:
    if cfg.mega_init_std is not None:
        return float(cfg.mega_init_std)
    return 0.02 * max(1.0, math.sqrt(512 / max(width, 1)))


def _check_sizes(side: MegaSide) -> None:
    for name in ("hidden_dim", "z_dim", "n_dim"):
        if getattr(side, name) < 1:
            flag = f"--{side.name}-{name}".replace("_", "-")
            raise SeqAttnError(f"{flag} is {getattr(side, name)}, but must be at least 1")
    if side.chunk_size != _NO_CHUNKS and side.chunk_size < 1:
        raise SeqAttnError(
            f"--{side.name}-chunk-size is {side.chunk_size}, but must be at least 1, or "
            f"{_NO_CHUNKS} for no chunks"
        )


def _check_options(cfg: Any, side: MegaSide) -> None:
    if str(cfg.rel_pos_bias) == "rotary" and side.z_dim % 2:
        raise SeqAttnError(
            f"--rel-pos-bias rotary needs an even --{side.name}-z-dim, not {side.z_dim}"
        )
    if cfg.layernorm_embedding and side.normalize_before:
        raise SeqAttnError(
            f"--layernorm-embedding excludes --{side.name}-normalize-before, as in Mega's release"
        )
    if (cfg.truncation_length or 0) < 0:
        raise SeqAttnError(
            f"--truncation-length is {cfg.truncation_length}, but must be at least 1, or 0 for none"
        )
    what = f"--{side.name}-chunk-size {side.chunk_size}"
    check_within_positions(cfg, side.name, what, side.chunk_size)
    if not side.init_std >= 0:
        raise SeqAttnError(f"--mega-init-std is {side.init_std}, but must be at least 0")
    check_probability("hidden_dropout", cfg.hidden_dropout)


def _feed_forward(cfg: Any, side: MegaSide) -> NormalizedFeedForward | None:
    return NormalizedFeedForward(cfg, side) if side.ffn_embed_dim > 0 else None


class MegaEncoderLayer(nn.Module):
    """Gated self-attention, then feed-forward if it has a width."""

    def __init__(self, cfg: Any, side: MegaSide) -> None:
        super().__init__()
        self.mega_layer = GatedSelfAttention(cfg, side)
        self.nffn = _feed_forward(cfg, side)

    def forward(self, memory: Memory, log: AttentionLog | None = None) -> Memory:
        """See :class:`EncoderBlock`."""
        mask = memory.padding_mask_BS
        x_BSC = self.mega_layer(memory.x_BSC, mask, log)
        return replace(memory, x_BSC=x_BSC if self.nffn is None else self.nffn(x_BSC, mask))


MegaLayerCache = TwoSidedCache[SelfCache, CrossCache]


class MegaDecoderLayer(nn.Module):
    """Causal gated self-attention, gated cross-attention, then feed-forward if it has a width."""

    def __init__(self, cfg: Any, side: MegaSide) -> None:
        super().__init__()
        self.mega_layer = GatedSelfAttention(cfg, side)
        self.cross_attn = GatedCrossAttention(cfg, side)
        self.nffn = _feed_forward(cfg, side)

    def forward(
        self,
        x_BTC: Tensor,
        padding_mask_BT: Tensor | None,
        memory: Memory,
        log: AttentionLog | None = None,
    ) -> tuple[Tensor, Memory]:
        """See :class:`DecoderBlock`; the memory is handed on as it is."""
        x_BTC = self.mega_layer(x_BTC, padding_mask_BT, log)
        x_BTC = self.cross_attn(x_BTC, padding_mask_BT, memory, log)
        return x_BTC if self.nffn is None else self.nffn(x_BTC, padding_mask_BT), memory

    def new_cache(self, memory: Memory) -> tuple[MegaLayerCache, Memory]:
        """See :class:`DecoderBlock`."""
        cross = self.cross_attn.memory_cache(memory)
        return TwoSidedCache(SelfCache(self.mega_layer), cross), memory

    def step(self, x_RnC: Tensor, cache: MegaLayerCache, log: AttentionLog | None = None) -> Tensor:
        """Return the output (R, n, C) for the next n target positions."""
        x_RnC = self.mega_layer.step(x_RnC, cache.target, log)
        x_RnC = self.cross_attn.step(x_RnC, cache.cross, log)
        return x_RnC if self.nffn is None else self.nffn(x_RnC)


def _encoder_layer(cfg: Any, _: LayerPlace) -> nn.Module:
    return MegaEncoderLayer(cfg, mega_side(cfg, "encoder"))


def _decoder_layer(cfg: Any, _: LayerPlace) -> nn.Module:
    return MegaDecoderLayer(cfg, mega_side(cfg, "decoder"))


def _chunk_side(cfg: Any, name: str) -> MegaSide:
    side = mega_side(cfg, name, _CHUNK_SIZE)
    if side.chunk_size < 1:
        raise SeqAttnError(
            f"mega_chunk needs chunks: --{name}-chunk-size is {side.chunk_size}, but must be at "
            "least 1 (the variant mega does without)"
        )
    return side


def _encoder_chunk_layer(cfg: Any, _: LayerPlace) -> nn.Module:
    return MegaEncoderLayer(cfg, _chunk_side(cfg, "encoder"))


def _decoder_chunk_layer(cfg: Any, _: LayerPlace) -> nn.Module:
    return MegaDecoderLayer(cfg, _chunk_side(cfg, "decoder"))


def _sizes(z_dim: int, hidden_dim: int, ffn_dim: int) -> dict[str, Any]:
    return {
        **{f"{side}_attention_heads": 1 for side in SIDES},
        **{f"{side}_ffn_embed_dim": ffn_dim for side in SIDES},
        **{f"{side}_z_dim": z_dim for side in SIDES},
        **{f"{side}_hidden_dim": hidden_dim for side in SIDES},
        **{f"{side}_n_dim": 16 for side in SIDES},
    }


_DROPOUTS = {"attention_dropout": 0.1, "hidden_dropout": 0.1, "activation_dropout": 0.1}
_IWSLT = {**_sizes(128, 512, 640), **_DROPOUTS}
_BIG = {**_sizes(256, 2048, 2048), **_DROPOUTS}

PRESETS = {
    "tiny": Preset("ours: as many parameters as Transformer-Tiny", _sizes(32, 128, 128)),
    "iwslt_de_en": Preset("ours: as many parameters as the Transformer's", _IWSLT),
    "iwslt_en_vi": Preset("ours: the size of iwslt_de_en", _IWSLT),
    "wmt_en_de": Preset(
        "Ma et al. 2023, table 10", {**_sizes(128, 1024, 1024), **_DROPOUTS, "dropout": 0.15}
    ),
    "wmt_en_de_big": Preset("official mega_wmt_en_de_big", {**_BIG, "dropout": 0.3}),
    "wmt_en_fr": Preset("ours: the size of wmt_en_de_big, less dropout", {**_BIG, "dropout": 0.1}),
}


def _in_chunks(preset: Preset, size: int) -> Preset:
    source = f"{preset.source}; chunks of {size}: ours"
    return Preset(source, {**preset.options, **{f"{side}_chunk_size": size for side in SIDES}})


# The paper translates without chunks. Multi30k's sentences have some 14 subwords: smaller chunks,
# or there would be but one.
CHUNK_PRESETS = {
    size: _in_chunks(preset, 8 if size == "tiny" else _CHUNK_SIZE)
    for size, preset in PRESETS.items()
}

_TIED = {"share_all_embeddings": True}
PUBLISHED = (
    PublishedCount(
        "wmt_en_de",
        33008,
        33008,
        63_300_000,
        100_000,
        why="README.mt of the release",
        options=_TIED,
    ),
    PublishedCount(
        "wmt_en_de_big",
        32771,
        32771,
        217_500_000,
        100_000,
        why="the released code, counted",
        options=_TIED,
    ),
)

# What official=true sets. Not among them, because nothing here is kept on a module or masked twice:
# kernels that outlive the weights they were made from, a search cache that keeps its sentences'
# order, NaN where a query sees no key. Nor, because it only loses what training needs: coefficients
# of the moving average rounded to half precision; sentences refused whose last chunk, once filled
# up, exceeds the positions of the bias although they themselves do not.
OFFICIAL = {
    "mega_chunk_by_column": True,
    "mega_bias_by_column": True,
    "mega_feature_dropout_whole": True,
    "mega_init_std": 0.02,
}

VARIANTS = (
    Variant(
        "mega",
        "gated attention over a damped moving average (Mega)",
        MegaConfig,
        _encoder_layer,
        _decoder_layer,
        presets=PRESETS,
        official=OFFICIAL,
        published=PUBLISHED,
    ),
    Variant(
        "mega_chunk",
        "Mega with self-attention in chunks, linear in the length",
        MegaConfig,
        _encoder_chunk_layer,
        _decoder_chunk_layer,
        presets=CHUNK_PRESETS,
        official=OFFICIAL,
    ),
)
