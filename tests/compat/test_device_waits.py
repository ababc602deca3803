"""What an update asks of the device, and what it logs all the same."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.optim import FP16Optimizer
from fairseq.tasks import setup_task
from fairseq.trainer import Trainer
from torch.utils._python_dispatch import TorchDispatchMode

import seqattn_fairseq  # noqa: F401 applies the workarounds
from seqattn_fairseq.compat.device_waits import LaterValues
from tests.support.toy_corpus import TINY, corpus

pytestmark = pytest.mark.xdist_group("commands")


class Counted(TorchDispatchMode):
    """Counts the operations that are dispatched within a ``with`` block, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[op._schema.name.partition("::")[2]] += 1
        return op(*args, **(kwargs or {}))


def configured(*extra: str, optimizer: str = "seqattn_adam") -> Any:
    arguments = [
        str(corpus()[1]), "--arch", "seqattn_softmax", *TINY, "--optimizer", optimizer, "--lr",
        "0.01", "--clip-norm", "0.1", "--max-tokens", "100", "--cpu", "--num-workers", "0",
        "--distributed-world-size", "1", *extra,
    ]  # fmt: skip
    args = options.parse_args_and_arch(options.get_training_parser(), arguments)
    return convert_namespace_to_omegaconf(args)


def one_update(*, original: bool, clip: str = "0.1") -> tuple[dict[str, Any], Counter[str], Any]:
    """Return the train metrics of an update, what logging dispatched, and what it returned."""
    cfg = configured("--task", "translation", "--clip-norm", clip)
    task = setup_task(cfg.task)
    torch.manual_seed(1)
    trainer = Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))
    ours = Trainer._reduce_and_log_stats
    log = ours.__wrapped__ if original else ours
    counted = Counted()

    def reduce_and_log(*args: Any, **kwargs: Any) -> Any:
        with counted:
            return log(trainer, *args, **kwargs)

    trainer._reduce_and_log_stats = reduce_and_log
    sample = next(iter(trainer.get_train_iterator(1).next_epoch_itr()))
    with metrics.aggregate(new_root=True) as meters:
        returned = trainer.train_step([sample])
    return meters.get_smoothed_values(), counted.counts, returned


TIMES = ("ups", "wps", "wall", "train_wall")


@pytest.mark.parametrize("clip", ["0.1", "1000", "0"])
def test_an_update_logs_what_fairseq_logs_without_reading_it(clip: str) -> None:
    ours, counts, returned = one_update(original=False, clip=clip)
    stock, stock_counts, expected = one_update(original=True, clip=clip)
    assert ours.keys() == stock.keys()
    assert {k: v for k, v in ours.items() if k not in TIMES} == {
        k: v for k, v in stock.items() if k not in TIMES
    }
    assert counts["_local_scalar_dense"] == 0
    assert stock_counts["_local_scalar_dense"] >= 3
    assert isinstance(returned, LaterValues)
    assert {k: v for k, v in returned.items() if k not in TIMES} == {
        k: v for k, v in expected.items() if k not in TIMES
    }
    assert len(returned) == len(expected)


def half_precision(name: str, *, original: bool) -> tuple[list[torch.nn.Parameter], Counter[str]]:
    """Return the parameters after three updates under --bf16, and the operations of the last."""
    torch.manual_seed(3)
    params = [torch.nn.Parameter(torch.randn(n, 3).bfloat16()) for n in range(2, 12)]
    params[4].requires_grad = False
    cfg = configured("--bf16", optimizer=name)
    optimizer: Any = FP16Optimizer.build_optimizer(cfg, [p for p in params if p.requires_grad])
    if original:
        for method in ("_sync_fp16_grads_to_fp32", "_sync_fp32_params_to_fp16", "zero_grad"):
            function = getattr(FP16Optimizer, method).__wrapped__
            setattr(optimizer, method, function.__get__(optimizer))
    params[6].requires_grad = False  # frozen later
    for update in range(3):
        counted = Counted()
        optimizer.zero_grad()
        used = params[1:] if update == 1 else params  # one has no gradient
        optimizer.backward(sum((p.float() ** 2).sum() for p in used))
        with counted:
            optimizer.multiply_grads(0.5)
            optimizer.clip_grad_norm(0.1)
            optimizer.step()
            optimizer.zero_grad()
    return params, counted.counts


@pytest.mark.parametrize("name", ["adam", "seqattn_adam"])
def test_half_precision_is_copied_at_once(name: str) -> None:
    ours, counts = half_precision(name, original=False)
    stock, stock_counts = half_precision(name, original=True)
    assert all(torch.equal(a, b) for a, b in zip(ours, stock, strict=True))
    assert counts["copy_"] == 0
    assert counts["_foreach_copy_"] == 2
    assert stock_counts["copy_"] == 2 * 8
    assert counts["zero_"] == 0
    assert stock_counts["zero_"] == 9


def test_our_adam_takes_as_many_operations_for_more_parameters() -> None:
    cfg = configured("--bf16")

    def operations(count: int) -> int:
        params = [torch.nn.Parameter(torch.randn(4).bfloat16()) for _ in range(count)]
        optimizer: Any = FP16Optimizer.build_optimizer(cfg, copy.copy(params))
        optimizer.zero_grad()
        optimizer.backward(sum((p.float() ** 2).sum() for p in params))
        with Counted() as counted:
            optimizer.clip_grad_norm(0.1)
            optimizer.step()
            optimizer.zero_grad()
        views = ("empty_like", "detach", "alias", "zeros_like")
        return sum(n for name, n in counted.counts.items() if name not in views)

    assert operations(5) == operations(50) < 40
