"""The schedules: closed forms, the papers' numbers, resuming, wrong options."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.optim import build_optimizer
from fairseq.optim.lr_scheduler import (
    LR_SCHEDULER_DATACLASS_REGISTRY,
    LR_SCHEDULER_REGISTRY,
    build_lr_scheduler,
)
from omegaconf import OmegaConf

import seqattn_fairseq  # noqa: F401 registers the schedules
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.checkpoints import load_checkpoint
from tests.support.toy_corpus import TINY, USER_DIR, corpus, run

OURS = ("linear_decay", "milestones", "cosine_once")


def schedule(name: str, lr: float = 1e-3, **options: Any) -> Any:
    params = [torch.nn.Parameter(torch.zeros(1))]
    adam = OmegaConf.create(
        {"_name": "adam", "lr": [lr], "adam_betas": "(0.9, 0.98)", "adam_eps": 1e-8,
         "weight_decay": 0.0, "use_old_adam": False, "fp16_adam_stats": False, "tpu": False}
    )  # fmt: skip
    known = LR_SCHEDULER_DATACLASS_REGISTRY[name].__dataclass_fields__
    unset = {"max_update": 0} if "max_update" in known else {}
    cfg = OmegaConf.create({"_name": name, "lr": [lr], **unset, **options})
    return build_lr_scheduler(cfg, build_optimizer(adam, params))


def rates(scheduler: Any, *updates: int) -> list[float]:
    return [scheduler.step_update(n) for n in updates]


MEGA: dict[str, Any] = {"warmup_updates": 4000, "warmup_init_lr": 1e-7, "max_update": 500_000}
LUNA: dict[str, Any] = {
    "lr": 0.1,
    "warmup_updates": 1000,
    "warmup_init_lr": 1e-5,
    "milestones": "300000,450000",
}
WU: dict[str, Any] = {
    "warmup_updates": 10_000,
    "warmup_init_lr": 1e-7,
    "end_lr": 1e-7,
    "decay_updates": 20_000,
}


def test_mega_decays_linearly_to_zero() -> None:
    scheduler = schedule("linear_decay", **MEGA)
    assert scheduler.optimizer.get_lr() == 1e-7  # of the first update
    assert rates(scheduler, 0, 4000, 252_000, 500_000, 600_000) == [1e-7, 1e-3, 5e-4, 0, 0]
    assert rates(scheduler, 2000)[0] == pytest.approx((1e-7 + 1e-3) / 2)


def test_linear_decay_is_fairseqs_polynomial_after_the_warmup() -> None:
    ours = schedule("linear_decay", end_lr=1e-5, **MEGA)
    theirs = schedule(
        "polynomial_decay", warmup_updates=4000, total_num_update=500_000, power=1.0,
        end_learning_rate=1e-5, force_anneal=None,
    )  # fmt: skip
    updates = (4001, 77_777, 499_999, 500_001)
    assert rates(ours, *updates) == pytest.approx(rates(theirs, *updates), rel=1e-12)


def test_luna_divides_by_ten_at_the_milestones() -> None:
    scheduler = schedule("milestones", **LUNA)
    updates = (0, 500, 1000, 299_999, 300_000, 449_999, 450_000, 500_000)
    middle = 1e-5 + (0.1 - 1e-5) / 2
    expected = [1e-5, middle, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    assert rates(scheduler, *updates) == pytest.approx(expected)


def test_the_cosine_ends_at_its_floor() -> None:
    scheduler = schedule("cosine_once", **WU)
    assert rates(scheduler, 0, 10_000) == [1e-7, 1e-3]
    assert rates(scheduler, 20_000)[0] == pytest.approx((1e-3 + 1e-7) / 2)
    assert rates(scheduler, 30_000, 30_001, 90_000) == pytest.approx([1e-7] * 3)


def test_the_cosine_is_fairseqs_inside_its_period() -> None:
    ours = schedule("cosine_once", **WU)
    theirs = schedule(
        "cosine", warmup_updates=10_000, warmup_init_lr=1e-7, min_lr=1e-7, t_mult=1.0,
        lr_period_updates=20_000, lr_shrink=1.0,
    )  # fmt: skip
    inside = range(0, 30_000, 997)
    assert rates(ours, *inside) == pytest.approx(rates(theirs, *inside), rel=1e-9)
    assert rates(theirs, 30_000)[0] == 1e-3, "fairseq's restarts"


@pytest.mark.parametrize(
    ("update", "logged"),
    [(10_373, 7.00e-4), (20_753, 6.60e-4), (41_511, 4.05e-4), (62_271, 1.05e-4), (78_878, 5.44e-7)],
)
def test_the_cosine_follows_the_log_of_prime(update: int, logged: float) -> None:
    scheduler = schedule("cosine_once", **{**WU, "lr": 7e-4, "decay_updates": 70_000})
    assert rates(scheduler, update)[0] == pytest.approx(logged, rel=0.006)


@pytest.mark.parametrize(("factor", "warmup"), [(1.0, 4000), (2.0, 8000)])
def test_noam_is_inverse_sqrt(factor: float, warmup: int) -> None:
    """ReLA's schedule (factor 1) and Tensor2Tensor's base (2) need no code of their own."""
    peak = factor * (512 * warmup) ** -0.5
    scheduler = schedule("inverse_sqrt", lr=peak, warmup_updates=warmup, warmup_init_lr=0.0)
    for n in (1, 100, warmup - 1, warmup, warmup + 1, 35_000, 300_000):
        noam = factor * 512**-0.5 * min(n**-0.5, n * warmup**-1.5)
        assert rates(scheduler, n)[0] == pytest.approx(noam, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [("linear_decay", MEGA), ("milestones", LUNA), ("cosine_once", WU)],
)
def test_the_rate_depends_on_the_number_of_updates_alone(
    name: str, options: dict[str, Any]
) -> None:
    straight, resumed = schedule(name, **options), schedule(name, **options)
    all_rates = rates(straight, *range(0, 600_000, 1009))
    resumed.load_state_dict(straight.state_dict())
    assert rates(resumed, 1009 * 300) == [all_rates[300]]
    straight.step(3, val_loss=1.0)
    straight.step_begin_epoch(4)
    assert straight.optimizer.get_lr() == all_rates[-1]


@pytest.mark.parametrize("name", OURS)
def test_without_warmup_the_first_rate_is_the_peak(name: str) -> None:
    assert rates(schedule(name, **({} if name == "milestones" else {"max_update": 10})), 0) == [
        1e-3
    ]
    assert LR_SCHEDULER_REGISTRY[name].name == name


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("milestones", {"lr": -1.0}, "--lr is -1.0, but must be one number above 0"),
        ("milestones", {"warmup_updates": -1}, "--warmup-updates is -1, but must be at least 0"),
        (
            "cosine_once",
            {"warmup_init_lr": 0.1},
            "--warmup-init-lr is 0.1, but must be from 0 to --lr, which is 0.001",
        ),
        ("linear_decay", {}, "--max-update is 0, but must be large enough"),
        (
            "linear_decay",
            {"warmup_updates": 10, "decay_updates": 10},
            "--decay-updates is 10, but must be large enough to end the decay after "
            "--warmup-updates 10",
        ),
        ("cosine_once", {"decay_updates": 0}, "--decay-updates is 0, but must be large enough"),
        ("cosine_once", {"decay_updates": 9, "end_lr": 1.0}, "--end-lr is 1.0, but must be from 0"),
        ("milestones", {"milestones": "soon"}, "--milestones is soon, but must be numbers of upd"),
        ("milestones", {"milestones": "9,5"}, "--milestones is 9,5, but must be increasing"),
        (
            "milestones",
            {"milestones": "5", "warmup_updates": 5},
            "--milestones is 5, but must be increasing and above --warmup-updates 5",
        ),
        ("milestones", {"milestone_decay": 0.0}, "--milestone-decay is 0.0, but must be above 0"),
    ],
)
def test_wrong_options_are_one_clear_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SeqAttnError) as error:
        schedule(name, **options)
    assert str(error.value).startswith(f"--lr-scheduler {name}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.xdist_group("commands")
@pytest.mark.parametrize(
    ("name", "options", "last"),
    [
        ("linear_decay", ("--warmup-updates", "2", "--warmup-init-lr", "1e-7"), 0.0),
        ("milestones", ("--milestones", "2,3", "--milestone-decay", "0.5"), 0.00025),
        ("cosine_once", ("--decay-updates", "2", "--end-lr", "1e-5"), 1e-5),
    ],
)
def test_fairseq_train_takes_them(
    tmp_path: Path, name: str, options: tuple[str, ...], last: float
) -> None:
    result = run(
        "train", str(corpus()[1]), "--user-dir", USER_DIR, "--arch", "seqattn_softmax_tiny", *TINY,
        "--optimizer", "adam", "--lr", "0.001", "--lr-scheduler", name, *options, "--cpu",
        "--max-tokens", "200", "--max-update", "4", "--num-workers", "0", "--save-dir",
        str(tmp_path),
    )  # fmt: skip
    assert result.status == 0, result.stderr
    state = load_checkpoint(tmp_path / "checkpoint_last.pt")
    lr = state["last_optimizer_state"]["param_groups"][0]["lr"]
    assert math.isclose(lr, last, abs_tol=1e-12)


@pytest.mark.xdist_group("commands")
def test_wrong_options_end_fairseq_train_with_one_line(tmp_path: Path) -> None:
    result = run(
        "train", str(corpus()[1]), "--user-dir", USER_DIR, "--arch", "seqattn_softmax_tiny", *TINY,
        "--optimizer", "adam", "--lr", "0.001", "--lr-scheduler", "linear_decay", "--cpu",
        "--max-tokens", "200", "--max-epoch", "1", "--save-dir", str(tmp_path),
    )  # fmt: skip
    assert result.status == 1
    assert "Traceback" not in result.stderr
    assert "--lr-scheduler linear_decay: --max-update is 0" in result.stderr.splitlines()[-1]
