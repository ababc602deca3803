"""The stock fairseq Transformer beside ours: same weights, same inputs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoderDecoderModel
from fairseq.models.transformer import TransformerModel, base_architecture
from safetensors.torch import load_file
from torch import Tensor

from seqattn_fairseq.transformer.config import SIDES, EncoderDecoderConfig
from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.transformer.registry import make_config
from tests.support.models import build

# option sets under which the twin is compared with stock fairseq
STOCK_OPTIONS: dict[str, dict[str, Any]] = {
    "post-norm": {},
    "pre-norm": {f"{side}_normalize_before": True for side in SIDES},
    "no final norm": {"decoder_normalize_before": True, "no_decoder_final_norm": True},
    "learned positions": {f"{side}_learned_pos": True for side in SIDES},
    "no positions": {"no_token_positional_embeddings": True},
    "layernorm embedding": {"layernorm_embedding": True, "no_scale_embedding": True},
    "gelu": {"activation_fn": "gelu"},
    "tied output": {"share_decoder_input_output_embed": True},
    "all shared": {"share_all_embeddings": True},
}


def options_of(cfg: EncoderDecoderConfig) -> dict[str, Any]:
    """Return the options of a configuration by name."""
    return {name: value for name, value in vars(cfg).items() if not name.startswith("_")}


def stock_arguments(cfg: EncoderDecoderConfig) -> argparse.Namespace:
    """Return the arguments of fairseq's own ``transformer`` with the options of ``cfg``."""
    args = argparse.Namespace(**options_of(cfg))
    base_architecture(args)
    return args


def stock_model(cfg: EncoderDecoderConfig, dictionary: Dictionary) -> FairseqEncoderDecoderModel:
    """Return fairseq's own ``transformer`` with the options of ``cfg``."""
    args = stock_arguments(cfg)
    task = argparse.Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    model: FairseqEncoderDecoderModel = TransformerModel.build_model(args, task)
    return model


def trained_weights(folder: Path) -> dict[str, Tensor]:
    """Return the trained baseline's state dict in float32, tied weights included."""
    state = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
    for tied in ("decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        state[tied] = state["encoder.embed_tokens.weight"]
    return state


def trained_pair(folder: Path) -> tuple[FairseqEncoderDecoderModel, SeqAttnModel]:
    """Return the trained baseline as fairseq's model and as ours, in evaluation mode."""
    dictionary = Dictionary.load(str(folder / "dict.txt"))
    cfg = make_config("softmax", "tiny", share_all_embeddings=True)
    stock, ours = stock_model(cfg, dictionary), build("softmax", cfg, dictionary)
    stock.load_state_dict(trained_weights(folder), strict=False)
    ours.load_state_dict(trained_weights(folder))
    return stock.eval(), ours.eval()


def save_checkpoints(folder: Path, state: dict[str, Tensor], cfg: EncoderDecoderConfig) -> None:
    """Write weights as ``ours.pt`` (seqattn_softmax) and ``stock.pt`` (transformer), en to de."""
    task = {"data": ".", "source_lang": "en", "target_lang": "de"}
    model = {**options_of(cfg), "_name": "seqattn_softmax"}
    ours = {"cfg": {"model": model, "task": {**task, "_name": "translation"}}, "args": None}
    arguments = {**vars(stock_arguments(cfg)), **task, "arch": "transformer"}
    stock = {"args": argparse.Namespace(**arguments, task="translation")}
    history = [{"optimizer_name": "none", "lr_scheduler_state": {}, "num_updates": 0}]
    shared = {"model": state, "extra_state": {}, "optimizer_history": history}
    torch.save({**shared, **ours}, folder / "ours.pt")
    torch.save({**shared, **stock}, folder / "stock.pt")
