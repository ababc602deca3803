"""Small dictionaries, models and batches."""

from __future__ import annotations

from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import MODEL_REGISTRY
from torch import Tensor

from seqattn_fairseq.transformer.config import SIDES, EncoderDecoderConfig
from seqattn_fairseq.transformer.layers import LayerPlace
from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.transformer.registry import VARIANTS, get_variant, make_config
from seqattn_fairseq.variants import register

PAD, EOS = 1, 2

register()
SINGLE_VARIANTS = [name for name in VARIANTS if name != "hybrid"]
# encoder+decoder: pairs that meet every seam (own caches, companion made or read by one side only)
PAIRS = ["mega+softmax", "softmax+luna", "luna+dynamicconv", "muse+mega_chunk"]

# small sizes of the variants' own options, for those that have them
_SMALL = {
    **{f"{side}_embed_dim": 16 for side in SIDES},
    **{f"{side}_ffn_embed_dim": 24 for side in SIDES},
    **{f"{side}_layers": 2 for side in SIDES},
    **{f"{side}_attention_heads": 4 for side in SIDES},
    "weight_dropout": 0.0,  # muse has some by default; without it, training is repeatable
}


def named(variant: str) -> tuple[str, dict[str, str]]:
    """Return the registered name of a variant or pair, and the options that make the pair."""
    encoder, plus, decoder = variant.partition("+")
    if not plus:
        return variant, {}
    return "hybrid", {"encoder_variant": encoder, "decoder_variant": decoder}


def small_config(variant: str, **options: Any) -> EncoderDecoderConfig:
    """Return a configuration of 2+2 layers of width 16."""
    name, pair = named(variant)
    known = vars(get_variant(name).config())
    small = {key: value for key, value in _SMALL.items() if key in known}
    return make_config(name, "tiny", **{**small, **pair, **options})


def toy_dictionary(size: int = 23) -> Dictionary:
    """Return a dictionary of ``size`` symbols, the four special ones included."""
    dictionary = Dictionary()
    for i in range(size - len(dictionary)):
        dictionary.add_symbol(f"w{i}")
    return dictionary


def build(
    variant: str, cfg: EncoderDecoderConfig, dictionary: Dictionary | None = None
) -> SeqAttnModel:
    """Return the variant's model over one dictionary for both sides."""
    dictionary = dictionary or toy_dictionary()
    registered: type[SeqAttnModel] = MODEL_REGISTRY[f"seqattn_{named(variant)[0]}"]
    return registered.build(cfg, dictionary, dictionary)


def small_model(variant: str, seed: int = 1, **options: Any) -> SeqAttnModel:
    """Return a 2+2-layer model of width 16 in evaluation mode."""
    torch.manual_seed(seed)
    model = build(variant, small_config(variant, **options))
    model.eval()
    return model


def place(index: int = 0) -> LayerPlace:
    """Return the place of a layer of a stack of two whose companion is read to the end."""
    return LayerPlace(index, layers=2, companion_read=True)


def batch(lengths: list[int], left: bool = True, seed: int = 0, vocabulary: int = 23) -> Tensor:
    """Return (B, S) random tokens of those lengths, eos last, padded left or right."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in zip(rows, lengths, strict=True):
        tokens = torch.randint(4, vocabulary, (length,), generator=generator)
        tokens[-1] = EOS
        row[-length if left else 0 : None if left else length] = tokens
    return rows


def shifted(lengths: list[int], seed: int = 0, vocabulary: int = 23) -> Tensor:
    """Return (B, T) decoder inputs: eos first, then tokens, padded right."""
    rows = batch(lengths, left=False, seed=seed, vocabulary=vocabulary)
    rows = rows.masked_fill(rows.eq(EOS), 4)
    rows[:, 0] = EOS
    return rows
