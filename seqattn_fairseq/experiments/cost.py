"""What a training will take: tokens, updates, disk space and, from a short probe, hours."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fairseq import models
from fairseq.data import Dictionary, data_utils

from seqattn_fairseq.data.recipes import RECIPES
from seqattn_fairseq.data.stages import SubwordNmt
from seqattn_fairseq.experiments.plan import Experiment
from seqattn_fairseq.launch import devices
from seqattn_fairseq.planning.machine import device_name
from seqattn_fairseq.planning.step import USUAL_LENGTH, Shape, Step, Subject, stand_in

PROBE_SECONDS = 15.0
_TYPES = 32_000  # of a corpus that this project does not prepare
_CPU_TOKENS = 512  # of a probed batch on a CPU, whose speed hardly depends on it

# tensors of a parameter's size that an optimiser keeps
_OPTIMIZER_STATES = {"apollo": 3, "nag": 1, "sgd": 1}


@dataclass(frozen=True)
class Cost:
    """The size of a training.

    Attributes:
        parameters: trained numbers, tied ones once.
        types: source and target dictionary sizes; assumed where the data is not there yet.
        assumed: whether they are.
        tokens_per_update: target tokens and padding of an update, over all devices.
        updates: how many, at most; None where epochs decide and the data is not there.
        tokens_per_epoch: target tokens of the training set; None where it is not there.
        checkpoint_bytes: a checkpoint with the optimiser's state.
        checkpoints: how many stay on disk; None where every epoch's does and epochs are unknown.
    """

    parameters: int
    types: tuple[int, int]
    assumed: bool
    tokens_per_update: int
    updates: int | None
    tokens_per_epoch: int | None
    checkpoint_bytes: int
    checkpoints: int | None


def cost(experiment: Experiment) -> Cost:
    """Return what the training of an experiment takes, as far as it is known beforehand.

    Raises:
        SeqAttnError: options of the model that contradict each other.
    """
    cfg = experiment.cfg
    source, target, assumed = dictionaries(experiment)
    with torch.device("meta"):
        model = _build_model(cfg, source, target)
    parameters = sum(p.numel() for p in model.parameters())
    tokens = tokens_per_update(cfg)
    epoch = _tokens_per_epoch(experiment, target)
    updates = _updates(cfg, tokens, epoch)
    epochs = None if updates is None or not epoch else max(1, updates * tokens // epoch)
    return Cost(
        parameters,
        (len(source), len(target)),
        assumed,
        tokens,
        updates,
        epoch,
        _checkpoint_bytes(cfg, parameters),
        _checkpoints(cfg.checkpoint, epochs),
    )


def tokens_per_update(cfg: Any) -> int:
    """Return the target tokens and padding of an update, over all devices and accumulation."""
    if cfg.batch.tokens:
        return int(cfg.batch.tokens)
    world = int(cfg.distributed_training.distributed_world_size)
    return int(cfg.dataset.max_tokens) * world * int(cfg.optimization.update_freq[0])


def dictionaries(experiment: Experiment) -> tuple[Dictionary, Dictionary, bool]:
    """Return the dictionaries of both languages, and whether their size had to be assumed."""
    task = experiment.cfg.task
    paths = [
        experiment.data_bin / f"dict.{lang}.txt" for lang in (task.source_lang, task.target_lang)
    ]
    if all(path.is_file() for path in paths):
        source, target = (Dictionary.load(str(path)) for path in paths)
        return source, source if source == target else target, False
    assumed = stand_in(_likely_types(experiment))
    return assumed, assumed, True


def _likely_types(experiment: Experiment) -> int:
    """Return the size that a dictionary will have: about one type for every BPE merge."""
    stages = RECIPES[experiment.corpus].stages if experiment.corpus else ()
    merges = [stage.merges for stage in stages if isinstance(stage, SubwordNmt)]
    return merges[0] if merges else _TYPES


def _build_model(cfg: Any, source: Dictionary, target: Dictionary) -> torch.nn.Module:
    task = SimpleNamespace(source_dictionary=source, target_dictionary=target)
    model: torch.nn.Module = models.build_model(cfg.model, task)
    return model


def _tokens_per_epoch(experiment: Experiment, target: Dictionary) -> int | None:
    task = experiment.cfg.task
    pairs = (f"{task.source_lang}-{task.target_lang}", f"{task.target_lang}-{task.source_lang}")
    for pair in pairs:
        path = f"{experiment.data_bin}/train.{pair}.{task.target_lang}"
        if Path(f"{path}.idx").is_file():
            dataset = data_utils.load_indexed_dataset(path, target)
            return int(dataset.sizes.sum())  # a view of the file that the dataset holds open
    return None


def _updates(cfg: Any, tokens: int, tokens_per_epoch: int | None) -> int | None:
    limits = []
    if cfg.optimization.max_update:
        limits.append(int(cfg.optimization.max_update))
    if cfg.optimization.max_epoch and tokens_per_epoch:
        limits.append(int(cfg.optimization.max_epoch) * -(-tokens_per_epoch // tokens))
    return min(limits, default=None)


def _checkpoint_bytes(cfg: Any, parameters: int) -> int:
    weights = 2 if cfg.common.fp16 or cfg.common.bf16 else 4
    states = 0 if cfg.checkpoint.no_save_optimizer_state else _states(cfg.optimizer._name)
    return parameters * (weights + 4 * states)


def _states(optimizer: str) -> int:
    return _OPTIMIZER_STATES.get(optimizer, 2)


def _checkpoints(options: Any, epochs: int | None) -> int | None:
    """Return how many checkpoints stay: last, best, of epochs, of updates, the best ones."""
    of_epochs = 0 if options.no_epoch_checkpoints else int(options.keep_last_epochs)
    if of_epochs < 0:
        if epochs is None:
            return None
        of_epochs = epochs
    of_updates = max(0, options.keep_interval_updates) if options.save_interval_updates else 0
    single = int(not options.no_last_checkpoints) + 1
    return single + of_epochs + int(of_updates) + max(0, int(options.keep_best_checkpoints))


# ---- the probe ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """A measured speed.

    Attributes:
        tokens_per_second: of training, forward, backward and update, on one device.
        batches: how many batches were measured.
        tokens: target tokens of each.
        device: what it ran on.
    """

    tokens_per_second: float
    batches: int
    tokens: int
    device: str


def probe(experiment: Experiment, seconds: float = PROBE_SECONDS) -> Probe:
    """Train on made-up sentences for some seconds, to tell hours from updates.

    Raises:
        SeqAttnError: options of the model that contradict each other.
    """
    source, target, _ = dictionaries(experiment)
    cfg, device = experiment.cfg, _device(experiment.cfg)
    step = Step(Subject(cfg, source, target), device, precision(experiment, device))
    limit = int(cfg.dataset.max_tokens or 4096)
    rows = max(1, (limit if device.type == "cuda" else min(limit, _CPU_TOKENS)) // USUAL_LENGTH)
    sample = step.sample(Shape(rows, USUAL_LENGTH, USUAL_LENGTH))
    tokens, name = rows * USUAL_LENGTH, device_name(device)

    def train() -> None:
        step.passes(sample)
        step.update(tokens)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    start = time.perf_counter()
    train()
    first = time.perf_counter() - start
    if first > seconds:  # slow enough for its own start-up not to matter
        return Probe(tokens / first, 1, tokens, name)
    start, batches = time.perf_counter(), 0
    while batches < 2 or time.perf_counter() - start < seconds:
        train()
        batches += 1
    return Probe(batches * tokens / (time.perf_counter() - start), batches, tokens, name)


def _device(cfg: Any) -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() and not cfg.common.cpu else "cpu")


def precision(experiment: Experiment, device: torch.device) -> torch.dtype:
    """Return what ``seqattn train`` computes in on such a device, which it may choose itself."""
    common = experiment.cfg.common
    if common.fp16:
        return torch.float16
    open_to_choice = device.type == "cuda" and not devices.chooses_precision(
        common, experiment.overrides
    )
    chosen = open_to_choice and devices.precision_words(1)
    return torch.bfloat16 if common.bf16 or chosen else torch.float32
