"""One rank of a training: ``python -m seqattn_fairseq.launch.worker``, started by torchrun.

It checks its place among the others, tells fairseq what fairseq would guess wrongly, and then is
``fairseq-hydra-train`` with the same words.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import hydra
import torch
from fairseq.dataclass.initialize import hydra_init
from omegaconf import DictConfig, OmegaConf

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.launch import devices, environment, stopping
from seqattn_fairseq.launch.environment import Place

CHOOSE_PRECISION = "--choose-precision"

# What must be the same on all ranks; folders may lie elsewhere on another node.
_SHARED = "model criterion optimizer lr_scheduler optimization dataset task common".split()
_LOCAL = {"task.data", "common.user_dir", "common.log_file", "common.tensorboard_logdir"}


def arguments(dataset: str, config_dir: str, words: Sequence[str], choose: bool) -> list[str]:
    """Return the command line of this module.

    Args:
        dataset: name of the primary config.
        config_dir: the folder of recipes.
        words: overrides.
        choose: whether the ranks choose the precision by their GPUs.
    """
    hydra = ["--config-dir", config_dir, "--config-name", dataset, *words]
    return [*([CHOOSE_PRECISION] if choose else []), *hydra]


def main(argv: Sequence[str]) -> None:
    """Train as the rank that the environment says."""
    choose, words = argv[:1] == [CHOOSE_PRECISION], list(argv)
    place = environment.read()
    options = environment.fairseq_options(place)
    environment.refuse_contradictions(words, options)
    devices.refuse_too_many(place.local_world_size, devices.says_cpu(words))
    precision = devices.precision_words(place.local_world_size) if choose else []
    if choose and place.rank == 0:
        print(f"precision: {'bf16' if precision else 'float32'}, chosen by the GPUs of this node")
    stopping.stop_when_asked()
    stopping.end_with_parent()
    words = [*words[choose:], *precision, *environment.as_words(options), *_hydra_words(place)]
    _enter_fairseq(words, place)


def _hydra_words(place: Place) -> list[str]:
    """Return where Hydra writes: rank 0 alone, since all ranks share the run's folder."""
    if place.rank == 0:
        return ["hydra.job.name=train"]
    return ["hydra.output_subdir=null", "hydra/job_logging=stdout"]


def _enter_fairseq(words: Sequence[str], place: Place) -> None:
    """Do what ``fairseq-hydra-train`` does, with a comparison of the ranks before the training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        from fairseq_cli import hydra_train
    name = words[words.index("--config-name") + 1]
    hooks = {"after_distributed_init_fn": refuse_differences} if place.world_size > 1 else {}

    def train(cfg: DictConfig) -> Any:
        return hydra_train._hydra_main(cfg, **hooks)

    # under this name its errors are shown as those of fairseq's commands are: in one line
    sys.argv = ["fairseq-hydra-train", *words]
    hydra_init(name)
    logging.getLogger("hydra").setLevel(logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        hydra.main(config_path=None, config_name=name, version_base="1.1")(train)()


def _shared_options(cfg: DictConfig) -> dict[str, Any]:
    """Return the options that all ranks must share, by their full names."""
    shared = OmegaConf.masked_copy(cfg, [name for name in _SHARED if name in cfg])
    sections: Any = OmegaConf.to_container(shared, resolve=True, enum_to_str=True)
    options = {
        f"{section}.{name}": value
        for section, values in sections.items()
        for name, value in (values or {}).items()
    }
    return {name: value for name, value in options.items() if name not in _LOCAL}


def refuse_differences(cfg: DictConfig) -> DictConfig:
    """Refuse ranks that were given different recipes; called on all, once they can talk.

    Raises:
        SeqAttnError: an option of some rank is not that of rank 0.
    """
    ranks: list[dict[str, Any]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(ranks, _shared_options(cfg))
    for rank, options in enumerate(ranks):
        for name in sorted(options.keys() | ranks[0].keys()):
            own, first = options.get(name), ranks[0].get(name)
            if own != first:
                raise SeqAttnError(
                    f"rank {rank} has {name}={own}, rank 0 has {first}; start every node with the "
                    "same command and the same kind of GPUs"
                )
    return cfg


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SeqAttnError as error:
        sys.exit(f"fairseq-hydra-train: error: {error}")
