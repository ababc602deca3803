"""The encoder-decoder model, its registration with fairseq, and its use from Python.

Shapes: B batch, S source length, T target length, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import (
    FairseqEncoderDecoderModel,
    register_model,
    register_model_architecture,
)
from torch import Tensor, nn

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.transformer.attention import AttentionLog
from seqattn_fairseq.transformer.config import (
    SIDES,
    SIZES,
    EncoderDecoderConfig,
    kept_layers,
    stack_config,
    ties_output,
)
from seqattn_fairseq.transformer.decoder import Decoder
from seqattn_fairseq.transformer.embedding import token_embedding
from seqattn_fairseq.transformer.encoder import Encoder
from seqattn_fairseq.transformer.layers import LayerPlace
from seqattn_fairseq.transformer.registry import MakeLayer, Variant, resolve_official

# the text chain of an exported model, beside its model.pt
TEXT_CHAIN_FILE = "text_chain.json"

# buffers of stock fairseq checkpoints that hold nothing
_STOCK_BUFFERS = (
    "encoder.version",
    "decoder.version",
    "encoder.embed_positions._float_tensor",
    "decoder.embed_positions._float_tensor",
)


class SeqAttnModel(FairseqEncoderDecoderModel):
    """An encoder-decoder Transformer with the layers of one variant.

    ``register_variant`` makes one subclass per variant; ``seqattn_variant`` is its name.
    """

    seqattn_variant: str
    variant: Variant

    def __init__(self, cfg: EncoderDecoderConfig, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__(encoder, decoder)
        self.cfg = cfg

    @classmethod
    def build_model(cls, cfg: EncoderDecoderConfig, task: Any) -> SeqAttnModel:
        """Build from fairseq's configuration and task."""
        return cls.build(cfg, task.source_dictionary, task.target_dictionary)

    @classmethod
    def build(
        cls, cfg: EncoderDecoderConfig, source: Dictionary, target: Dictionary
    ) -> SeqAttnModel:
        """Build from a configuration and two dictionaries.

        Raises:
            SeqAttnError: options that contradict each other or the dictionaries.
        """
        sides = cls.variant.encoder_and_decoder(cfg)
        cfg = resolve_official(cfg, sides)
        _check_pruning(cfg)
        for side in SIDES:
            stack_config(cfg, side)  # before layers compute with what it refuses
        source_tokens, target_tokens = _embeddings(cfg, source, target)
        read = sides[1].companion is not None
        make_companion = sides[0].companion or sides[1].companion
        companion = None if make_companion is None else make_companion(cfg, read)
        stack = _layers(cfg, "encoder", sides[0].encoder_layer, read)
        encoder = Encoder(cfg, source, source_tokens, stack, companion)
        stack = _layers(cfg, "decoder", sides[1].decoder_layer, False)
        decoder = Decoder(cfg, target, target_tokens, stack)
        if cfg.embedding_bias:
            encoder.embed_bias = decoder.embed_bias = _embedding_bias(cfg)
        return cls(cfg, encoder, decoder)

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str,
        checkpoint_file: str = "model.pt",
        data_name_or_path: str = ".",
        **kwargs: Any,
    ) -> Any:
        """Return fairseq's hub interface to a folder that ``seqattn export`` wrote.

        Its ``translate("raw sentence")`` takes and gives plain text.
        """
        chain = Path(model_name_or_path) / TEXT_CHAIN_FILE
        if chain.is_file():
            kwargs.setdefault("seqattn_text_chain", str(chain.resolve()))
        return super().from_pretrained(
            str(model_name_or_path), checkpoint_file, data_name_or_path, **kwargs
        )

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor,
        attention_log: AttentionLog | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return logits (B, T, V) and extras.

        Args:
            src_tokens: (B, S) source ids, padded left or right.
            src_lengths: (B,) lengths; unused, padding is read off the tokens.
            prev_output_tokens: (B, T) target ids shifted right by one.
            attention_log: receives the weights of every attention, in the order of the layers.
            kwargs: see :meth:`Decoder.forward`.
        """
        encoder_out = self.encoder(src_tokens, src_lengths, attention_log=attention_log)
        out: tuple[Tensor, dict[str, Any]] = self.decoder(
            prev_output_tokens, encoder_out=encoder_out, attention_log=attention_log, **kwargs
        )
        return out

    @torch.no_grad()
    def attention_weights(
        self, src_tokens: Tensor, src_lengths: Tensor | None, prev_output_tokens: Tensor
    ) -> dict[str, list[Tensor]]:
        """Return the weights of every attention, before dropout, in evaluation mode.

        The arguments are as in ``forward``. The keys are "encoder_self", "decoder_self" and
        "cross" (those the variant has); each value has one (B, H, queries, keys) tensor a layer.
        """
        training = self.training
        self.eval()
        try:
            log = AttentionLog()
            memory = self.encoder.encode(src_tokens, log)
            logs = dict.fromkeys(range(len(self.decoder.layers)), log)
            self.decoder.decode(prev_output_tokens, memory, logs)
        finally:
            self.train(training)
        return log.weights

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Accept stock fairseq checkpoints: drop empty buffers, restore tied weights."""
        for key in _STOCK_BUFFERS:
            state_dict.pop(key, None)
        if "decoder.output_projection.weight" not in state_dict:
            shared = state_dict.get("decoder.embed_tokens.weight")
            if shared is not None and ties_output(self.cfg):
                state_dict["decoder.output_projection.weight"] = shared


def _layers(
    cfg: EncoderDecoderConfig, side: str, make: MakeLayer, companion_read: bool
) -> list[nn.Module]:
    """Return a side's layers; ``companion_read`` is about what the last one returns."""
    count = int(getattr(cfg, f"{side}_layers"))
    return [
        make(cfg, LayerPlace(index, count, companion_read or index < count - 1))
        for index in kept_layers(cfg, side)
    ]


def _check_pruning(cfg: EncoderDecoderConfig) -> None:
    # fairseq, told to prune one side only, throws the other side's layers away
    for side, other in (("encoder", "decoder"), ("decoder", "encoder")):
        if getattr(cfg, f"{side}_layers_to_keep") and not getattr(cfg, f"{other}_layers_to_keep"):
            every = ",".join(map(str, range(getattr(cfg, f"{other}_layers"))))
            raise SeqAttnError(
                f"--{side}-layers-to-keep needs the other side's choice too; to keep all of them, "
                f"--{other}-layers-to-keep {every}"
            )


def _embeddings(
    cfg: EncoderDecoderConfig, source: Dictionary, target: Dictionary
) -> tuple[nn.Embedding, nn.Embedding]:
    tokens = token_embedding(source, cfg.encoder_embed_dim, cfg.encoder_embed_path)
    if not cfg.share_all_embeddings:
        return tokens, token_embedding(target, cfg.decoder_embed_dim, cfg.decoder_embed_path)
    if source != target:
        raise SeqAttnError(
            "--share-all-embeddings needs one dictionary for both languages; "
            "run fairseq-preprocess with --joined-dictionary"
        )
    _check_same(cfg, "embed_dim")
    if cfg.decoder_embed_path not in (None, cfg.encoder_embed_path):
        raise SeqAttnError("--share-all-embeddings excludes a --decoder-embed-path of its own")
    return tokens, tokens


def _check_same(cfg: EncoderDecoderConfig, name: str) -> None:
    encoder, decoder = getattr(cfg, f"encoder_{name}"), getattr(cfg, f"decoder_{name}")
    if encoder != decoder:
        flag = name.replace("_", "-")
        raise SeqAttnError(
            f"--encoder-{flag} {encoder} and --decoder-{flag} {decoder} must be equal here"
        )


def _embedding_bias(cfg: EncoderDecoderConfig) -> nn.Parameter:
    _check_same(cfg, "embed_dim")
    dim = cfg.encoder_embed_dim
    limit = math.sqrt(3 / dim)
    return nn.Parameter(torch.empty(dim).uniform_(-limit, limit))


def _arch_function(preset: Mapping[str, Any]) -> Any:
    def set_defaults(args: Any) -> None:
        for name, value in preset.items():
            if not hasattr(args, name):
                setattr(args, name, value)

    return set_defaults


def register_variant(variant: Variant) -> type[SeqAttnModel]:
    """Register ``seqattn_<name>`` and ``seqattn_<name>_<size>`` with fairseq; return the class."""
    name = f"seqattn_{variant.name}"
    members = {
        "variant": variant,
        "seqattn_variant": variant.name,
        "__doc__": f"{variant.summary}.",
        "__module__": __name__,
    }
    cls = type(f"SeqAttn{variant.name.title().replace('_', '')}", (SeqAttnModel,), members)
    globals()[cls.__name__] = cls  # where pickle looks for it
    register_model(name, dataclass=variant.config)(cls)
    for size in SIZES:
        register_model_architecture(name, f"{name}_{size}")(_arch_function(variant.options(size)))
    return cls
