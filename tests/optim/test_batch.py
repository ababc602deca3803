"""The batch of a recipe is kept whatever the number of GPUs, and said."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.optim.batch import Batch, apply_batch, cut

WU = 458_752  # 8 GPUs x 3,584 x 16


@pytest.mark.parametrize(
    ("tokens", "max_tokens", "processes", "expected"),
    [
        (WU, 3584, 8, (3584, 16)),
        (WU, 3584, 1, (3584, 128)),
        (WU, 4096, 8, (4096, 14)),
        (WU, 16_384, 8, (14_336, 4)),
        (16_000, 4096, 1, (4000, 4)),
        (16_000, 4096, 3, (2666, 2)),
        (8192, 4096, 1, (4096, 2)),
        (8192, 4096, 2, (4096, 1)),
        (8192, 4096, 3, (2730, 1)),
        (25_000, 6250, 1, (6250, 4)),
        (7, 100, 7, (1, 1)),
    ],
)
def test_the_papers_batches(
    tokens: int, max_tokens: int, processes: int, expected: tuple[int, int]
) -> None:
    batch = cut(tokens, max_tokens, processes)
    assert (batch.max_tokens, batch.update_freq) == expected


@pytest.mark.parametrize("tokens", [1000, 8192, 16_001, 65_537, WU])
def test_as_near_as_possible_from_below_in_the_fewest_passes(tokens: int) -> None:
    for max_tokens in (100, 1280, 3584, 4096, 30_000):
        for processes in (1, 2, 3, 7, 8, 64):
            batch = cut(tokens, max_tokens, processes)
            passes = processes * batch.update_freq
            assert batch.max_tokens <= max_tokens
            assert batch.reached <= tokens < batch.reached + passes
            fewer = processes * (batch.update_freq - 1)
            assert fewer * max_tokens < tokens, "one pass less would have held it"


def test_one_line_says_the_arithmetic() -> None:
    assert cut(WU, 3584, 8).describe() == (
        "458,752 tokens an update = 8 GPUs x 3,584 x update_freq 16"
    )
    assert cut(16_000, 4096, 3).describe() == (
        "16,000 tokens an update = 3 GPUs x 2,666 x update_freq 2 = 15,996"
    )
    assert " = 1 GPU x 4,000 x " in cut(16_000, 4096, 1).describe()
    assert " = 2 CPU processes x " in cut(16_000, 4096, 2).describe("CPU process")


def test_sentences_that_fit_into_no_pass_are_named() -> None:
    assert cut(4000, 4000, 3).warning(1024) == ""
    warning = cut(4000, 4000, 8).warning(1024)
    assert warning.startswith("sentences of more than 500 tokens fit into no pass")
    assert "up to 3 devices leave room for the 1,024" in warning


def config(**sections: Any) -> Any:
    defaults = {
        "batch": {"tokens": 8192},
        "dataset": {"max_tokens": 4096},
        "optimization": {"update_freq": [1]},
        "distributed_training": {"distributed_world_size": 1},
    }
    cfg = OmegaConf.create({**defaults, **sections})
    OmegaConf.set_struct(cfg, True)
    return cfg


def test_a_configuration_is_cut_in_place() -> None:
    cfg = config(distributed_training={"distributed_world_size": 3})
    assert apply_batch(cfg) == Batch(8192, 3, 2730, 1)
    assert (cfg.dataset.max_tokens, cfg.optimization.update_freq) == (2730, [1])
    assert cfg.batch == {"tokens": 8192, "max_tokens": 4096}


@pytest.mark.parametrize("cfg", [config(batch={"tokens": None}), config(batch=None), None])
def test_without_tokens_nothing_is_touched(cfg: Any) -> None:
    assert apply_batch(cfg) is None
    if cfg is not None:
        assert (cfg.dataset.max_tokens, cfg.optimization.update_freq) == (4096, [1])


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"optimization": {"update_freq": [2]}},
            r"update_freq=\[2\] and batch.tokens=8192 contradict each other; with batch.token",
        ),
        ({"dataset": {"max_tokens": None}}, "batch.tokens=8192 needs dataset.max_tokens"),
        ({"dataset": {"max_tokens": 0}}, "dataset.max_tokens is 0, but must be at least 1"),
        ({"batch": {"tokens": 0}}, "batch.tokens is 0, but must be at least 1"),
        (
            {"batch": {"tokens": 2}, "distributed_training": {"distributed_world_size": 3}},
            "batch.tokens=2 is less than a token for each of 3 devices",
        ),
    ],
)
def test_contradictions_are_one_clear_line(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(SeqAttnError, match=message) as error:
        apply_batch(config(**sections))
    assert "\n" not in str(error.value)
