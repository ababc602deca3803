"""The stock fairseq Transformer beside ours: same weights, same inputs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqEncoderDecoderModel
from fairseq.models.transformer import TransformerModel, base_architecture
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from seqattn_fairseq.transformer.config import EncoderDecoderConfig
from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.transformer.registry import make_config
from tests.support.models import build


def stock_model(cfg: EncoderDecoderConfig, dictionary: Dictionary) -> FairseqEncoderDecoderModel:
    """Return fairseq's own ``transformer`` with the options of ``cfg``."""
    args = argparse.Namespace(**{k: v for k, v in vars(cfg).items() if not k.startswith("_")})
    base_architecture(args)
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


def save_checkpoint(path: Path, state: dict[str, Tensor], model: dict[str, Any]) -> None:
    """Write weights as a fairseq checkpoint for translation from en to de."""
    task = {"_name": "translation", "data": ".", "source_lang": "en", "target_lang": "de"}
    cfg = OmegaConf.create({"model": model, "task": task})
    history = [{"optimizer_name": "none", "lr_scheduler_state": {}, "num_updates": 0}]
    checkpoint = {"cfg": OmegaConf.to_container(cfg), "args": None, "model": state}
    torch.save({**checkpoint, "extra_state": {}, "optimizer_history": history}, path)
