"""fairseq against today's torch and numpy: length buckets, data-parallel CPU."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq import models
from fairseq.data import data_utils
from fairseq.dataclass.configs import DistributedTrainingConfig
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

import seqattn_fairseq  # noqa: F401 applies the workarounds
from tests.support import toy_corpus

pytestmark = pytest.mark.xdist_group("commands")


def test_buckets_are_quantiles_of_the_lengths() -> None:
    assert data_utils.get_buckets(np.array([1, 2, 3, 4, 9]), 2).tolist() == [3, 9]


def test_training_with_length_buckets(tmp_path: Path) -> None:
    result = toy_corpus.train(
        toy_corpus.corpus()[1], tmp_path, "--num-batch-buckets", "3", "--max-update", "3",
        arch="seqattn_softmax",
    )  # fmt: skip
    assert result.status == 0, result.stderr
    assert "bucketing source lengths" in result.stdout + result.stderr


@given(
    lengths=st.lists(st.integers(1, 20), min_size=0, max_size=60),
    max_tokens=st.sampled_from([None, 20, 64]),
    max_sentences=st.sampled_from([None, 1, 5, 8]),
    multiple=st.sampled_from([1, 2, 8]),
)
def test_batches_hold_every_sentence_once(
    lengths: list[int], max_tokens: int | None, max_sentences: int | None, multiple: int
) -> None:
    sizes = np.array(sorted(lengths), dtype=np.int64)
    batches: list[Any] = data_utils.batch_by_size(
        np.arange(len(sizes)),
        num_tokens_fn=lambda index: sizes[index],
        num_tokens_vec=sizes,
        max_tokens=max_tokens,
        max_sentences=max_sentences,
        required_batch_size_multiple=multiple,
    )
    assert [int(index) for batch in batches for index in batch] == list(range(len(sizes)))
    for batch in batches:
        assert max_tokens is None or len(batch) * sizes[batch].max() <= max_tokens
        assert max_sentences is None or len(batch) <= max(max_sentences, multiple)


def test_data_parallel_wrapper_on_the_cpu(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    try:
        config = DistributedTrainingConfig(ddp_backend="pytorch_ddp", device_id=0)
        wrapped = models.DistributedFairseqModel(
            config, nn.Linear(2, 2), torch.distributed.group.WORLD, torch.device("cpu")
        )
        wrapped(torch.ones(1, 2)).sum().backward()
        assert wrapped.weight.grad is not None
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_train_like_one_with_twice_the_batches(tmp_path: Path) -> None:
    options = (*"--dropout 0 --max-update 4 --no-epoch-checkpoints".split(),)
    single = toy_corpus.train(
        toy_corpus.corpus()[1], tmp_path / "single", *options, "--update-freq", "2",
        arch="seqattn_softmax",
    )  # fmt: skip
    assert single.status == 0, single.stderr
    arguments = [
        str(toy_corpus.corpus()[1]), "--user-dir", toy_corpus.USER_DIR, "--arch",
        "seqattn_softmax", *toy_corpus.TINY, *toy_corpus.TRAINING, *options, "--save-dir",
        str(tmp_path / "double"), "--distributed-world-size", "2", "--distributed-no-spawn",
        "--distributed-init-method", f"file://{tmp_path / 'meeting'}", "--distributed-backend",
        "gloo", "--ddp-backend", "pytorch_ddp",
    ]  # fmt: skip
    outputs = [tmp_path / f"rank{rank}" for rank in range(2)]
    processes = [
        toy_corpus.start("train", *arguments, "--distributed-rank", str(rank), output=output)
        for rank, output in enumerate(outputs)
    ]
    for process, output in zip(processes, outputs, strict=True):
        result = toy_corpus.finish(process, output)
        assert result.status == 0, result.stderr
    one, two = (
        torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True)["model"]
        for name in ("single", "double")
    )
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6


def test_a_data_worker_leaves_the_workers_of_its_parent_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    context = multiprocessing.get_context("fork")
    data: Any = [1, 2]
    batches: Any = iter(DataLoader(data, num_workers=1, multiprocessing_context=context))
    assert int(next(batches)) == 1
    child = context.Process(target=batches.__del__)
    child.start()
    child.join(60)
    assert (child.exitcode, capfd.readouterr().err) == (0, "")
    assert int(next(batches)) == 2  # the parent's worker is alive
