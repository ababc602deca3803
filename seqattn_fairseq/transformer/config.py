"""The options every variant shares, as one flat dataclass, and their sizes in the papers.

fairseq turns the fields into command-line options and Hydra keys; a variant's own options are
fields of a subclass. The dataclass stays flat on purpose: fairseq cannot parse nested defaults.
Modules that define one do without postponed annotations: fairseq reads the types of the fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.utils import get_available_activation_fns

from seqattn_fairseq.errors import SeqAttnError


def option(default: Any, help: str) -> Any:
    """Return a dataclass field with a default and the help text that fairseq prints."""
    return field(default=default, metadata={"help": help})


_NORMS = ["layernorm", "scalenorm", "rmsnorm"]  # the keys of transformer.norms.NORMS


@dataclass
class EncoderDecoderConfig(FairseqDataclass):
    """Options of the shared encoder-decoder Transformer; defaults are fairseq's base model."""

    encoder_embed_dim: int = option(512, "encoder width")
    encoder_ffn_embed_dim: int = option(2048, "encoder feed-forward width")
    encoder_layers: int = option(6, "number of encoder layers")
    encoder_attention_heads: int = option(8, "number of encoder attention heads")
    encoder_normalize_before: bool = option(False, "pre-norm encoder (default: post-norm)")
    encoder_learned_pos: bool = option(False, "learned encoder positions (default: sinusoidal)")
    encoder_layerdrop: float = option(0.0, "LayerDrop probability of encoder layers")
    encoder_layers_to_keep: Optional[str] = option(  # noqa: UP045 fairseq's parser needs Optional
        None, "comma-separated encoder layers kept when a LayerDrop model is pruned on loading"
    )
    encoder_embed_path: Optional[str] = option(  # noqa: UP045
        None, "pre-trained source embeddings (fairseq's text format)"
    )
    decoder_embed_dim: int = option(512, "decoder width")
    decoder_ffn_embed_dim: int = option(2048, "decoder feed-forward width")
    decoder_layers: int = option(6, "number of decoder layers")
    decoder_attention_heads: int = option(8, "number of decoder attention heads")
    decoder_normalize_before: bool = option(False, "pre-norm decoder (default: post-norm)")
    decoder_learned_pos: bool = option(False, "learned decoder positions (default: sinusoidal)")
    decoder_layerdrop: float = option(0.0, "LayerDrop probability of decoder layers")
    decoder_layers_to_keep: Optional[str] = option(  # noqa: UP045
        None, "comma-separated decoder layers kept when a LayerDrop model is pruned on loading"
    )
    decoder_embed_path: Optional[str] = option(  # noqa: UP045
        None, "pre-trained target embeddings (fairseq's text format)"
    )
    no_decoder_final_norm: bool = option(False, "no LayerNorm after a pre-norm decoder stack")

    dropout: float = option(0.1, "dropout of embeddings and of every sub-block's output")
    word_dropout: float = option(0.0, "dropout of whole tokens: their embeddings, not positions")
    attention_dropout: float = option(0.0, "dropout of attention weights")
    activation_dropout: float = option(0.0, "dropout after the feed-forward activation")
    activation_fn: ChoiceEnum(get_available_activation_fns()) = option(  # type: ignore[valid-type]
        "relu", "feed-forward activation"
    )

    share_decoder_input_output_embed: bool = option(
        False, "tie the decoder's input embedding and output projection"
    )
    share_all_embeddings: bool = option(
        False, "tie source, target and output embeddings (needs a joined dictionary)"
    )
    no_token_positional_embeddings: bool = option(False, "no position embeddings")
    no_scale_embedding: bool = option(False, "do not scale token embeddings by sqrt(width)")
    layernorm_embedding: bool = option(False, "LayerNorm after the embeddings")
    norm_type: ChoiceEnum(_NORMS) = option(  # type: ignore[valid-type]
        "layernorm", "normalisation wherever there is one"
    )
    layer_norm_eps: float = option(1e-5, "epsilon of every normalisation")
    max_source_positions: int = option(1024, "longest source, in tokens")
    max_target_positions: int = option(1024, "longest target, in tokens")

    official: bool = option(
        False,
        "behave as the variant's official code does, its defects included: sets every option that "
        "`seqattn list VARIANT` names as official",
    )
    source_padding_visible: bool = option(
        False,
        "padded source positions keep the embedding of the padding symbol instead of zero (MUSE "
        "release); matters where a variant lets padding leak",
    )
    embedding_bias: bool = option(
        False, "one learned vector added to every scaled embedding of both sides (ReLA release)"
    )
    position_start: Optional[int] = option(  # noqa: UP045
        None,
        "sinusoid argument of the first token; default: fairseq's padding index + 1 (2); "
        "the ReLA release uses 0",
    )
    position_by_column: bool = option(
        False, "positions count padding columns too, which depends on the batch (ReLA release)"
    )
    zero_start: bool = option(
        False, "the decoder starts from a zero vector instead of the eos embedding (ReLA release)"
    )
    target_padding_visible: bool = option(
        False,
        "padded target positions are read like any other (official codes); moves nothing but the "
        "outputs at padding, unless targets are padded on the left",
    )


SIDES = ("encoder", "decoder")

_BIG: Mapping[str, Any] = {
    **{f"{side}_embed_dim": 1024 for side in SIDES},
    **{f"{side}_ffn_embed_dim": 4096 for side in SIDES},
    **{f"{side}_layers": 6 for side in SIDES},
    **{f"{side}_attention_heads": 16 for side in SIDES},
}
_IWSLT: Mapping[str, Any] = {
    **{f"{side}_embed_dim": 512 for side in SIDES},
    **{f"{side}_ffn_embed_dim": 1024 for side in SIDES},
    **{f"{side}_layers": 6 for side in SIDES},
    **{f"{side}_attention_heads": 4 for side in SIDES},
}

# Sizes by the name users type: seqattn_<variant>_<size>, size=<size>. "tiny" is Transformer-Tiny
# of Wu et al. 2021; the others are fairseq's transformer_<size> (iwslt_en_vi: iwslt_de_en's;
# wmt_en_fr: fairseq's transformer_vaswani_wmt_en_fr_big). A variant whose paper differs brings
# a preset of its own.
SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tiny": {
            **{f"{side}_embed_dim": 128 for side in SIDES},
            **{f"{side}_ffn_embed_dim": 256 for side in SIDES},
            **{f"{side}_layers": 4 for side in SIDES},
            **{f"{side}_attention_heads": 4 for side in SIDES},
        },
        "iwslt_de_en": _IWSLT,
        "iwslt_en_vi": _IWSLT,
        "wmt_en_de": {
            **{f"{side}_embed_dim": 512 for side in SIDES},
            **{f"{side}_ffn_embed_dim": 2048 for side in SIDES},
            **{f"{side}_layers": 6 for side in SIDES},
            **{f"{side}_attention_heads": 8 for side in SIDES},
        },
        "wmt_en_de_big": {**_BIG, "dropout": 0.3},
        "wmt_en_fr": {**_BIG, "dropout": 0.1},
    }
)


@dataclass(frozen=True)
class StackConfig:
    """The options of one side (encoder or decoder), without the side's name."""

    embed_dim: int
    ffn_embed_dim: int
    layers: int
    attention_heads: int
    normalize_before: bool
    learned_pos: bool
    layerdrop: float


def stack_config(cfg: EncoderDecoderConfig, side: str) -> StackConfig:
    """Return the options of ``side`` ("encoder" or "decoder").

    Raises:
        SeqAttnError: a count or length is not positive, a probability not in 0 to 1, a kept layer
            does not exist, or the heads do not divide the width.
    """
    stack = StackConfig(
        embed_dim=getattr(cfg, f"{side}_embed_dim"),
        ffn_embed_dim=getattr(cfg, f"{side}_ffn_embed_dim"),
        layers=len(kept_layers(cfg, side)),
        attention_heads=getattr(cfg, f"{side}_attention_heads"),
        normalize_before=getattr(cfg, f"{side}_normalize_before"),
        learned_pos=getattr(cfg, f"{side}_learned_pos"),
        layerdrop=getattr(cfg, f"{side}_layerdrop"),
    )
    _check_stack(stack, side)
    check_within_positions(cfg, side, "1 position", 1)
    if not cfg.layer_norm_eps > 0:
        raise SeqAttnError(f"--layer-norm-eps is {cfg.layer_norm_eps}, but must be above 0")
    dropouts = ("dropout", "word_dropout", "attention_dropout", "activation_dropout")
    for name in (*dropouts, f"{side}_layerdrop"):
        check_probability(name, getattr(cfg, name))
    return stack


def _flag(name: str) -> str:
    return f"--{name}".replace("_", "-")


def kept_layers(cfg: EncoderDecoderConfig, side: str) -> list[int]:
    """Return the indices of the layers to build: all, or those LayerDrop's pruning keeps.

    Raises:
        SeqAttnError: a kept layer does not exist.
    """
    layers = int(getattr(cfg, f"{side}_layers"))
    keep = getattr(cfg, f"{side}_layers_to_keep")
    if not keep:
        return list(range(layers))
    kept = keep.split(",")
    valid = [index for index in map(str.strip, kept) if index.isdecimal() and int(index) < layers]
    if len(set(map(int, valid))) < len(kept):
        raise SeqAttnError(
            f"{_flag(f'{side}_layers_to_keep')} {keep}: needs different layers, counted from 0, "
            f"of {layers}"
        )
    return sorted(map(int, valid))


def check_positive(stack: StackConfig, side: str, name: str) -> None:
    """Make sure that a size is positive; layers check ``ffn_embed_dim``, which some do without.

    Raises:
        SeqAttnError: it is not.
    """
    if getattr(stack, name) < 1:
        flag = _flag(f"{side}_{name}")
        raise SeqAttnError(f"{flag} is {getattr(stack, name)}, but must be at least 1")


def check_within_positions(cfg: EncoderDecoderConfig, side: str, what: str, length: int) -> None:
    """Make sure that ``what``, of a certain length, fits into the longest sequence of a side.

    Raises:
        SeqAttnError: it does not.
    """
    limit = "max_source_positions" if side == "encoder" else "max_target_positions"
    if length > getattr(cfg, limit):
        raise SeqAttnError(f"{what} exceeds {_flag(limit)} {getattr(cfg, limit)}")


def check_probability(name: str, value: float) -> None:
    """Make sure that the value of the option ``name`` is a probability.

    Raises:
        SeqAttnError: it is not.
    """
    if not 0 <= value <= 1:
        raise SeqAttnError(f"{_flag(name)} is {value}, but must be from 0 to 1")


def _check_stack(stack: StackConfig, side: str) -> None:
    for name in ("embed_dim", "layers", "attention_heads"):
        check_positive(stack, side, name)
    if stack.embed_dim % stack.attention_heads:
        divisors = [n for n in range(1, 65) if stack.embed_dim % n == 0]
        raise SeqAttnError(
            f"--{side}-attention-heads {stack.attention_heads} does not divide "
            f"--{side}-embed-dim {stack.embed_dim}; heads that do: {', '.join(map(str, divisors))}"
        )


def ties_output(cfg: EncoderDecoderConfig) -> bool:
    """Tell whether the output projection is the decoder's input embedding."""
    return cfg.share_decoder_input_output_embed or cfg.share_all_embeddings
