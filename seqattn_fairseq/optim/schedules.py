"""Learning-rate schedules that fairseq lacks; importing this registers them under their names.

* ``linear_decay``: warm-up from a rate of its own, then a straight line (Mega)
* ``milestones``: a factor at each of some updates (Luna)
* ``cosine_once``: half a cosine, then its floor; fairseq's ``cosine`` jumps back to the peak

Every rate is a function of the number of updates done, so that a resumed run has the rates of one
that was never stopped. (T2T's "noam" schedule is fairseq's ``inverse_sqrt`` with
``--warmup-init-lr 0`` and the peak ``(width * warmup) ** -0.5`` times its factor.)
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, List, Optional  # noqa: UP035 fairseq's parser needs List

from fairseq.dataclass import FairseqDataclass
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.transformer.config import option


@dataclass
class WarmupConfig(FairseqDataclass):
    """What all schedules here share: a straight line to the peak, which is ``--lr``."""

    warmup_updates: int = option(0, "updates in which the rate rises on a straight line to --lr")
    warmup_init_lr: float = option(0.0, "rate before the first update, where there is a warm-up")
    lr: List[float] = II("optimization.lr")  # noqa: UP006, RUF009


@dataclass
class LinearDecayConfig(WarmupConfig):
    """Options of ``--lr-scheduler linear_decay``."""

    end_lr: float = option(0.0, "rate at the end of the line and after it")
    decay_updates: Optional[int] = option(  # noqa: UP045 fairseq's parser needs Optional
        None, "update at which --end-lr is reached, the warm-up counted; default: --max-update"
    )
    max_update: int = II("optimization.max_update")


@dataclass
class MilestonesConfig(WarmupConfig):
    """Options of ``--lr-scheduler milestones``."""

    milestones: str = option("", "updates at which the rate is multiplied, as 300000,450000")
    milestone_decay: float = option(0.1, "the factor")


@dataclass
class CosineOnceConfig(WarmupConfig):
    """Options of ``--lr-scheduler cosine_once``."""

    end_lr: float = option(0.0, "rate at the end of the cosine and after it")
    decay_updates: Optional[int] = option(  # noqa: UP045
        None, "updates from --lr to --end-lr, the warm-up not counted; default: to --max-update"
    )
    max_update: int = II("optimization.max_update")


def _refuse(schedule: str, flag: str, value: object, wanted: str) -> None:
    raise SeqAttnError(f"--lr-scheduler {schedule}: {flag} is {value}, but must be {wanted}")


class WarmupSchedule(FairseqLRScheduler):
    """A rate that depends on the number of updates alone.

    Attributes:
        name: what the user types.
        peak: the rate at the end of the warm-up.
        warmup: updates of the warm-up.

    Raises:
        SeqAttnError: an option is out of range.
    """

    name = ""

    def __init__(self, cfg: Any, optimizer: Any) -> None:
        super().__init__(cfg, optimizer)
        rates = list(cfg.lr) if isinstance(cfg.lr, Sequence) else [cfg.lr]
        self.peak, self.warmup = float(rates[0]), int(cfg.warmup_updates)
        if len(rates) > 1 or not self.peak > 0:
            _refuse(self.name, "--lr", ",".join(map(str, rates)), "one number above 0")
        if self.warmup < 0:
            _refuse(self.name, "--warmup-updates", self.warmup, "at least 0")
        if not 0 <= cfg.warmup_init_lr <= self.peak:
            wanted = f"from 0 to --lr, which is {self.peak}"
            _refuse(self.name, "--warmup-init-lr", cfg.warmup_init_lr, wanted)
        self.check()
        self.step_update(0)

    def check(self) -> None:
        """Refuse options of the schedule's own that are out of range."""

    @abstractmethod
    def after_warmup(self, updates: int) -> float:
        """Return the rate after so many updates, which are at least those of the warm-up."""

    def rate(self, updates: int) -> float:
        """Return the rate of the update that follows so many updates."""
        if updates >= self.warmup:
            return self.after_warmup(updates)
        start = self.cfg.warmup_init_lr
        return float(start + (self.peak - start) * updates / self.warmup)

    def step_update(self, num_updates: int) -> float:
        """Set the rate of the next update, as fairseq asks after every update."""
        self.optimizer.set_lr(self.rate(num_updates))
        return float(self.optimizer.get_lr())


def _check_decay(schedule: WarmupSchedule, end: int) -> int:
    """Return the update at which a decay ends, having checked it and the rate there."""
    cfg = schedule.cfg
    if end <= schedule.warmup:
        flag, value = "--decay-updates", cfg.decay_updates
        if value is None:
            flag, value = "--max-update", cfg.max_update
        wanted = f"large enough to end the decay after --warmup-updates {schedule.warmup}"
        _refuse(schedule.name, flag, value, wanted)
    if not 0 <= cfg.end_lr <= schedule.peak:
        wanted = f"from 0 to --lr, which is {schedule.peak}"
        _refuse(schedule.name, "--end-lr", cfg.end_lr, wanted)
    return end


@register_lr_scheduler("linear_decay", dataclass=LinearDecayConfig)
class LinearDecay(WarmupSchedule):
    """After the warm-up a straight line to ``--end-lr``, where the rate stays."""

    name = "linear_decay"

    def check(self) -> None:
        """Find the end of the line."""
        cfg = self.cfg
        end = cfg.max_update if cfg.decay_updates is None else cfg.decay_updates
        self.end = _check_decay(self, end)

    def after_warmup(self, updates: int) -> float:
        """Return the rate on the line."""
        left = max(0.0, (self.end - updates) / (self.end - self.warmup))
        return float(self.cfg.end_lr + (self.peak - self.cfg.end_lr) * left)


@register_lr_scheduler("cosine_once", dataclass=CosineOnceConfig)
class CosineOnce(WarmupSchedule):
    """After the warm-up half a cosine to ``--end-lr``, where the rate stays."""

    name = "cosine_once"

    def check(self) -> None:
        """Find the end of the cosine."""
        cfg = self.cfg
        after = cfg.decay_updates
        self.end = _check_decay(self, cfg.max_update if after is None else self.warmup + after)

    def after_warmup(self, updates: int) -> float:
        """Return the rate on the cosine."""
        done = min(1.0, (updates - self.warmup) / (self.end - self.warmup))
        height = 0.5 * (1 + math.cos(math.pi * done))
        return float(self.cfg.end_lr + (self.peak - self.cfg.end_lr) * height)


@register_lr_scheduler("milestones", dataclass=MilestonesConfig)
class Milestones(WarmupSchedule):
    """After the warm-up the peak, multiplied by ``--milestone-decay`` once for each milestone."""

    name = "milestones"

    def check(self) -> None:
        """Read the milestones."""
        words = str(self.cfg.milestones).strip("[]() ").replace(",", " ").split()
        if not all(word.isdecimal() for word in words):
            wanted = "numbers of updates, as 300000,450000"
            _refuse(self.name, "--milestones", self.cfg.milestones, wanted)
        self.at = [int(word) for word in words]
        if self.at != sorted(set(self.at)) or (self.at and self.at[0] <= self.warmup):
            wanted = f"increasing and above --warmup-updates {self.warmup}"
            _refuse(self.name, "--milestones", self.cfg.milestones, wanted)
        if not self.cfg.milestone_decay > 0:
            _refuse(self.name, "--milestone-decay", self.cfg.milestone_decay, "above 0")

    def after_warmup(self, updates: int) -> float:
        """Return the rate after the milestones that lie behind."""
        passed = sum(updates >= milestone for milestone in self.at)
        return float(self.peak * self.cfg.milestone_decay**passed)
