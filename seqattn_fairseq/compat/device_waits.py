"""A training step asks the GPU for fewer values and starts fewer operations one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property, wraps
from typing import Any

import torch
from fairseq.logging import metrics
from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin
from fairseq.trainer import Trainer
from torch import Tensor

from seqattn_fairseq.compat.workaround import Workaround, source_contains


class LaterValues(Mapping[str, Any]):
    """What a training step returns to log: fairseq's dict, computed when somebody reads it.

    fairseq-train only asks whether there is something. Reading waits for the GPU.

    Args:
        meters: of the step.
        sample_size: of the step.
    """

    _LEFT_OUT = ("ppl", "wps", "wpb", "bsz")  # as fairseq does, for old programs

    def __init__(self, meters: Any, sample_size: Any) -> None:
        self._meters = meters
        self._sample_size = sample_size

    @cached_property
    def _values(self) -> dict[str, Any]:
        values = {**self._meters.get_smoothed_values(), "sample_size": self._sample_size}
        return {name: value for name, value in values.items() if name not in self._LEFT_OUT}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _log_without_waiting() -> None:
    original = Trainer._reduce_and_log_stats

    @wraps(original)
    def reduce_and_log_stats(
        self: Any, logging_outputs: Any, sample_size: Any, grad_norm: Any = None
    ) -> Any:
        # validation has no norm; with --amp the norm may be infinite, and is looked at
        if grad_norm is None or self.tpu or self.cfg.common.amp:
            return original(self, logging_outputs, sample_size, grad_norm)
        limit = self.cfg.optimization.clip_norm
        metrics.log_speed("ups", 1.0, priority=100, round=2)
        metrics.log_scalar("gnorm", grad_norm, priority=400, round=3)
        if limit > 0:
            metrics.log_scalar("clip", (grad_norm > limit) * 100.0, priority=500, round=1)
        with metrics.aggregate() as meters:
            self.task.reduce_metrics(logging_outputs, self.get_criterion())
            if "loss" not in meters:
                metrics.log_scalar("loss", -1)
        return LaterValues(meters, sample_size)

    Trainer._reduce_and_log_stats = reduce_and_log_stats


def _pairs(optimizer: Any) -> list[tuple[Tensor, Tensor]]:
    """Return the half-precision parameters that are trained, each with its float32 copy."""
    both = zip(optimizer.fp16_params, optimizer.fp32_params, strict=True)
    return [(half, full) for half, full in both if half.requires_grad]


def _gradients_at_once(original: Any) -> Any:
    @wraps(original)
    def sync_fp16_grads_to_fp32(self: Any) -> None:
        pairs = [] if self.has_flat_params else _pairs(self)
        wide = [full.grad for _, full in pairs if full.grad is not None]
        narrow = [half.grad for half, _ in pairs if half.grad is not None]
        if not self._needs_sync or not pairs or not len(wide) == len(narrow) == len(pairs):
            original(self)
            return
        torch._foreach_copy_(wide, narrow)
        self._needs_sync = False

    return sync_fp16_grads_to_fp32


def _parameters_at_once(original: Any) -> Any:
    @wraps(original)
    def sync_fp32_params_to_fp16(self: Any) -> None:
        if self.has_flat_params:
            original(self)
        elif pairs := _pairs(self):
            torch._foreach_copy_([half.data for half, _ in pairs], [full.data for _, full in pairs])

    return sync_fp32_params_to_fp16


def _zeros_at_once(original: Any) -> Any:
    @wraps(original)
    def zero_grad(self: Any) -> None:
        if self.has_flat_params or self.scaler is not None:
            original(self)
            return
        for half in self.fp16_params:
            half.grad = None
        if gradients := [full.grad for full in self.fp32_params if full.grad is not None]:
            torch._foreach_zero_(gradients)
        self._needs_sync = False

    return zero_grad


def _copy_at_once() -> None:
    """Let copies between half precision and float32 go together, where they are not flat."""
    for name, at_once in (
        ("_sync_fp16_grads_to_fp32", _gradients_at_once),
        ("_sync_fp32_params_to_fp16", _parameters_at_once),
        ("zero_grad", _zeros_at_once),
    ):
        setattr(_FP16OptimizerMixin, name, at_once(getattr(_FP16OptimizerMixin, name)))


WORKAROUNDS = (
    Workaround(
        "waiting for the GPU to log",
        "fairseq reads every metric of every update from the GPU and throws it away unless the "
        "update is at a --log-interval, so that the GPU has nothing to do meanwhile",
        lambda: source_contains(Trainer._reduce_and_log_stats, "agg.get_smoothed_values()"),
        _log_without_waiting,
    ),
    Workaround(
        "copies one by one",
        "with --bf16 fairseq clears float32 gradients, copies to them, and copies parameters back, "
        "one at a time: three operations a parameter in every update",
        lambda: source_contains(
            _FP16OptimizerMixin._sync_fp16_grads_to_fp32, "p32.grad.data.copy_(p.grad.data)"
        ),
        _copy_at_once,
    ),
)
