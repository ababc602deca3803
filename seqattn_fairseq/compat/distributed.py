"""Several processes are one training or none: places, memory, data order."""

from __future__ import annotations

import logging
import os
from functools import wraps
from typing import Any

import torch
from fairseq import utils
from fairseq.data.iterators import EpochBatchIterator
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer
from omegaconf import open_dict

from seqattn_fairseq.compat.workaround import Workaround, always, rebind, source_contains
from seqattn_fairseq.errors import SeqAttnError

logger = logging.getLogger(__name__)

# ---- torchrun without the options that fairseq needs -------------------------------------------


def _processes_around() -> int:
    """Return how many processes torchrun, or whoever sets its variables, has started."""
    names = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
    size = os.environ.get("WORLD_SIZE", "")
    return int(size) if size.isdecimal() and all(name in os.environ for name in names) else 1


def _refuse_no_process(training: Any) -> None:
    if training.distributed_init_method is not None and torch.cuda.device_count() == 0:
        raise SeqAttnError(
            "--distributed-init-method without a GPU would start no process at all; start the "
            "processes with torchrun, or each by hand with --distributed-no-spawn"
        )


def _on_cpu(cfg: Any) -> bool:
    return cfg.common.cpu or not torch.cuda.is_available()


def _take_place(cfg: Any) -> None:
    """Tell fairseq the place that torchrun gave this process."""
    from seqattn_fairseq.launch import devices, environment

    place = environment.read()
    training = cfg.distributed_training
    if training.distributed_world_size not in (place.world_size, max(1, torch.cuda.device_count())):
        raise SeqAttnError(
            f"--distributed-world-size {training.distributed_world_size}, but "
            f"{place.world_size} processes were started; leave it out"
        )
    devices.refuse_too_many(place.local_world_size, _on_cpu(cfg))
    with open_dict(training):
        for name, value in environment.fairseq_options(place).items():
            training[name] = value
        training.distributed_no_spawn = True
    logger.warning(f"torchrun: rank {place.rank} of {place.world_size}")


def _choose_for_cpu(cfg: Any) -> None:
    """Replace fairseq's default backend, which needs a GPU."""
    training = cfg.distributed_training
    if _on_cpu(cfg) and training.distributed_backend == "nccl":
        training.distributed_backend = "gloo"


def _understand_torchrun() -> None:
    original = distributed_utils.call_main

    @wraps(original)
    def call_main(cfg: Any, main: Any, **kwargs: Any) -> Any:
        training = cfg.distributed_training
        settled = training.distributed_init_method is not None and training.distributed_no_spawn
        if not (settled or cfg.common.tpu or training.pipeline_model_parallel):
            if _processes_around() > 1:
                _take_place(cfg)
                _choose_for_cpu(cfg)
            else:
                _refuse_no_process(training)
        return original(cfg, main, **kwargs)

    rebind(original, call_main)


def _refuse_lonely_ranks() -> None:
    """Refuse what comes too late to be mended: under Hydra the door opens within the training."""
    original = Trainer.__init__

    @wraps(original)
    def init(self: Trainer, cfg: Any, *args: Any, **kwargs: Any) -> None:
        around = _processes_around()
        if around > 1 and not torch.distributed.is_initialized():
            raise SeqAttnError(
                f"WORLD_SIZE={around}, but this process would train alone and write into the same "
                "folder as the others; start them with `seqattn train`, or unset WORLD_SIZE"
            )
        original(self, cfg, *args, **kwargs)

    Trainer.__init__ = init


# ---- what rank 0 tells the others --------------------------------------------------------------


def _hand_on_by_torch() -> None:
    """Let torch hand objects on: fairseq's own way is ``torch.load``, which refuses its types.

    They come from rank 0 of the same training, which has read the checkpoint safely.
    """

    def _broadcast_object_slow(obj: Any, src_rank: int, group: Any, dist_device: Any) -> Any:
        objects = [obj]
        torch.distributed.broadcast_object_list(objects, src_rank, group, torch.device(dist_device))
        return objects[0]

    distributed_utils._broadcast_object_slow = _broadcast_object_slow


# ---- memory ------------------------------------------------------------------------------------


def _end_all_ranks_without_memory() -> None:
    original = Trainer.train_step

    @wraps(original)
    def train_step(self: Trainer, samples: Any, raise_oom: bool = False) -> Any:
        if self.data_parallel_world_size == 1:
            return original(self, samples, raise_oom)
        try:
            return original(self, samples, raise_oom=True)
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            raise SeqAttnError(
                f"rank {self.data_parallel_rank} is out of memory at update "
                f"{self.get_num_updates() + 1}; lower max_tokens (now "
                f"{self.cfg.dataset.max_tokens}) and raise update_freq by as much, which "
                "batch.tokens of a recipe does by itself"
            ) from error

    Trainer.train_step = train_step


# ---- random numbers ----------------------------------------------------------------------------


def _draw_on_every_rank() -> None:
    original = Trainer._set_seed

    @wraps(original)
    def _set_seed(self: Trainer) -> None:
        original(self)
        if self.data_parallel_rank > 0:
            # far enough that no rank repeats at one update what another draws at a later one
            apart = self.data_parallel_rank * 100_000_007
            utils.set_torch_seed(self.cfg.common.seed + self.get_num_updates() + apart)

    Trainer._set_seed = _set_seed


# ---- a rank that runs out of batches -----------------------------------------------------------


def _count_what_was_learnt_from() -> None:
    original = Trainer.train_step

    @wraps(original)
    def train_step(self: Trainer, samples: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.is_fsdp:  # which wants equally many passes of all ranks
            # of a rank without any batch the first stands in; its gradients do not count
            samples = [sample for sample in samples if sample] or samples[:1]
        return original(self, samples, *args, **kwargs)

    Trainer.train_step = train_step


# ---- data order --------------------------------------------------------------------------------

_SHARDS_KEY = "seqattn_shards"
_BATCHES_KEY = "seqattn_batches"  # of the epoch, on all shards together


def _go_on_at_the_same_sentence() -> None:
    save, load = EpochBatchIterator.state_dict, EpochBatchIterator.load_state_dict

    @wraps(save)
    def state_dict(self: EpochBatchIterator) -> dict[str, Any]:
        batches = len(self.frozen_batches)
        return {**save(self), _SHARDS_KEY: self.num_shards, _BATCHES_KEY: batches}

    @wraps(load)
    def load_state_dict(self: EpochBatchIterator, state: dict[str, Any]) -> None:
        if position := state.get("iterations_in_epoch", 0):
            shards, batches = state.get(_SHARDS_KEY, self.num_shards), len(self.frozen_batches)
            whole = state.get(_BATCHES_KEY, batches) * self.num_shards
            # rounded down: rather a few sentences twice than some not at all
            state = {**state, "iterations_in_epoch": position * shards * batches // whole}
        load(self, state)

    EpochBatchIterator.state_dict = state_dict
    EpochBatchIterator.load_state_dict = load_state_dict


WORKAROUNDS = (
    Workaround(
        "torchrun",
        "under torchrun, fairseq-train on CPUs or with one GPU on each node started separate "
        "trainings in one folder, divided by zero, or trained nothing and ended with status 0",
        always,
        _understand_torchrun,
    ),
    Workaround(
        "ranks that train alone",
        "fairseq-hydra-train reads torchrun's variables only where it sees several GPUs: elsewhere "
        "each process trained by itself, all in one folder",
        always,
        _refuse_lonely_ranks,
    ),
    Workaround(
        "resume on several GPUs",
        "rank 0 reads a checkpoint and hands it on by torch.load, which since torch 2.6 refuses "
        "fairseq's types: no run on several GPUs could be resumed",
        lambda: source_contains(distributed_utils._broadcast_object_slow, "torch.load("),
        _hand_on_by_torch,
    ),
    Workaround(
        "one of several GPUs out of memory",
        "fairseq went on without the batch, and the other GPUs waited for its gradients for ever",
        always,
        _end_all_ranks_without_memory,
    ),
    Workaround(
        "random numbers of several GPUs",
        "all GPUs drew the same random numbers: sentences at the same place of their batches had "
        "the same dropout masks",
        lambda: not source_contains(Trainer._set_seed, "rank"),
        _draw_on_every_rank,
    ),
    Workaround(
        "the last update of an epoch",
        "with --update-freq, a GPU whose last pass of an update found no batch left forgot the "
        "size of its other passes: the gradients of all were divided by too little",
        always,
        _count_what_was_learnt_from,
    ),
    Workaround(
        "resume on another number of GPUs",
        "the place in an epoch is counted in batches of a GPU, so that a run resumed on another "
        "number of them, or with larger batches, read sentences twice or never, or could not start",
        always,
        _go_on_at_the_same_sentence,
    ),
)
