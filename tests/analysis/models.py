"""Models to analyse: checkpoints of any variant over the toy corpus, and one that says by heart."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from torch import Tensor

from seqattn_fairseq.analysis.subject import Loaded, Pair, Pairs
from seqattn_fairseq.transformer.attention import AttentionLog, Site
from tests.support import toy_corpus
from tests.support.models import build, small_config, toy_dictionary

CPU = torch.device("cpu")


def loaded(model: Any, words: int = 23) -> Loaded:
    """Return a model with a task that is not more than what an analysis asks for."""
    cfg = Namespace(left_pad_source=True, left_pad_target=False)
    dictionary = toy_dictionary(words)
    task = Namespace(cfg=cfg, source_dictionary=dictionary, target_dictionary=dictionary)
    return Loaded(model, task, CPU)


def pairs_of(sentences: Sequence[tuple[Tensor, Tensor]]) -> Pairs:
    """Return pairs that are in memory."""
    pairs = [Pair(*sentence) for sentence in sentences]
    lengths = [(pair.source.numel(), pair.target.numel()) for pair in pairs]
    return Pairs("test", lengths, pairs.__getitem__)


class Parrot:
    """A model whose attention of a site is always the same, whatever it reads.

    Args:
        site: where it attends.
        layers: the (B, H, T, S) weights of each layer.
    """

    seqattn_variant = "parrot"

    def __init__(self, site: Site, *layers: Tensor) -> None:
        self.site, self.layers = site, layers

    def __call__(
        self, source: Tensor, lengths: None, previous: Tensor, attention_log: AttentionLog
    ) -> None:
        for weights in self.layers:
            attention_log.add(self.site, weights)

    def max_positions(self) -> tuple[int, int]:
        return 1024, 1024


def toy_run(folder: Path, variant: str, **options: Any) -> Path:
    """Return a run of a variant (or pair, ``a+b``) over the toy corpus that has learnt nothing."""
    trained = toy_corpus.trained()
    state = torch.load(trained.checkpoint, weights_only=True)
    cfg = small_config(variant, **{"max_source_positions": 30, **options})
    dictionary = Dictionary.load(str(trained.data_bin / "dict.src.txt"))
    torch.manual_seed(3)
    model = build(variant, cfg, dictionary)
    values = {name: value for name, value in vars(cfg).items() if not name.startswith("_")}
    state["cfg"]["model"] = {**values, "_name": f"seqattn_{model.seqattn_variant}"}
    run = folder / f"run {variant}"
    run.mkdir(parents=True)
    torch.save({**state, "model": model.state_dict()}, run / "checkpoint_best.pt")
    return run
