"""TensorBoard and Weights & Biases through fairseq's own flags: said once, started once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import progress_bar
from fairseq.trainer import Trainer

from seqattn_fairseq.compat.workaround import Workaround, always, rebind, source_contains

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Service:
    """An option of fairseq's section ``common``, and the package without which it does nothing."""

    option: str
    package: str
    is_there: Callable[[], bool]


_SERVICES = (
    _Service("tensorboard_logdir", "tensorboard", lambda: progress_bar.SummaryWriter is not None),
    _Service("wandb_project", "wandb", lambda: progress_bar.wandb is not None),
)

# ---- a missing package -------------------------------------------------------------------------


def _say_what_is_missing(cfg: Any) -> None:
    common = getattr(cfg, "common", cfg)
    if not distributed_utils.is_master(getattr(cfg, "distributed_training", cfg)):
        return
    for service in _SERVICES:
        value = getattr(common, service.option, None)
        if value and not service.is_there():
            flag = service.option.replace("_", "-")
            logger.warning(
                f"--{flag} {value} (common.{service.option}) has no effect: {service.package} is "
                f"not installed; pip install {service.package}"
            )


def _say_it_once() -> None:
    """Say it where the training begins, and keep fairseq's bars from repeating it."""
    begin, bar = Trainer.__init__, progress_bar.progress_bar

    @wraps(begin)
    def init(self: Trainer, cfg: Any, *args: Any, **kwargs: Any) -> None:
        _say_what_is_missing(cfg)
        begin(self, cfg, *args, **kwargs)

    @wraps(bar)
    def quiet_bar(*args: Any, **kwargs: Any) -> Any:
        missing = {service.option: None for service in _SERVICES if not service.is_there()}
        return bar(*args, **{**kwargs, **missing})

    Trainer.__init__ = init
    rebind(bar, quiet_bar)


# ---- several trainings in one process ----------------------------------------------------------


def _end_what_the_last_training_began() -> None:
    begin = Trainer.__init__

    @wraps(begin)
    def init(self: Trainer, cfg: Any, *args: Any, **kwargs: Any) -> None:
        _close_writers()
        _finish_run()
        begin(self, cfg, *args, **kwargs)

    Trainer.__init__ = init


def _close_writers() -> None:
    writers = progress_bar._tensorboard_writers
    while writers:
        writers.popitem()[1].close()


_OURS = "_seqattn_began_run"  # on fairseq's class, as what is patched outlives this module


def _finish_run() -> None:
    """Finish a run of a training before this one; one that the user began goes on."""
    if getattr(progress_bar.WandBProgressBarWrapper, _OURS, False):
        setattr(progress_bar.WandBProgressBarWrapper, _OURS, False)
        progress_bar.wandb.finish()


# ---- Weights & Biases --------------------------------------------------------------------------


def _plain(stats: Mapping[str, Any]) -> dict[str, Any]:
    """Return statistics with numbers in place of tensors that hold one."""
    return {
        key: value.item() if torch.is_tensor(value) and value.numel() == 1 else value
        for key, value in stats.items()
    }


def _begin_one_run() -> None:
    wrapper = progress_bar.WandBProgressBarWrapper
    log = wrapper._log_to_wandb

    def __init__(  # noqa: N807 a method of fairseq's class
        self: Any, wrapped_bar: Any, wandb_project: str, run_name: str | None = None
    ) -> None:
        self.wrapped_bar = wrapped_bar
        wandb = progress_bar.wandb
        if wandb is not None and wandb.run is None:
            wandb.init(project=wandb_project, name=run_name)
            setattr(wrapper, _OURS, True)

    def update_config(self: Any, config: Any) -> None:
        if progress_bar.wandb is not None:
            # a run that goes on may have been given another end
            progress_bar.wandb.config.update(config, allow_val_change=True)
        self.wrapped_bar.update_config(config)

    @wraps(log)
    def _log_to_wandb(
        self: Any, stats: Mapping[str, Any], tag: str | None = None, step: int | None = None
    ) -> None:
        log(self, _plain(stats), tag, step)

    wrapper.__init__ = __init__
    wrapper.update_config = update_config
    wrapper._log_to_wandb = _log_to_wandb


WORKAROUNDS = (
    Workaround(
        "missing loggers",
        "--tensorboard-logdir or --wandb-project without the package: fairseq says so at every "
        "epoch and validation; said once, at the start",
        always,
        _say_it_once,
    ),
    Workaround(
        "loggers of the last training",
        "the second training of a process, as in a Hydra sweep, wrote its curves into the first "
        "one's TensorBoard folder and W&B run",
        always,
        _end_what_the_last_training_began,
    ),
    Workaround(
        "one W&B run",
        "every epoch and validation asked W&B for a run again, which warned and left an empty run "
        "folder each time; statistics that are tensors were dropped",
        lambda: source_contains(progress_bar.WandBProgressBarWrapper.__init__, "reinit=False"),
        _begin_one_run,
    ),
)
