"""--shape-buckets: few shapes, little padding, and every sentence as often as without."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.data import LanguagePairDataset, ListDataset, data_utils
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from hypothesis import given
from hypothesis import strategies as st

import seqattn_fairseq  # noqa: F401 keeps fairseq from dropping sentences
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.tasks.shape_buckets import (
    NO_PADDING,
    Capacity,
    ShapeBuckets,
    log_padding,
    partition,
    share_of_padding,
)
from seqattn_fairseq.tasks.translation import SeqAttnTranslationConfig, SeqAttnTranslationTask
from tests.launch import support
from tests.support.models import small_model, toy_dictionary
from tests.support.toy_corpus import corpus, train

NO_LIMIT = Capacity(None, None, 1)


def likely_lengths(count: int, seed: int = 1) -> Any:
    """Return pairs of lengths as those of short captions: log-normal and correlated."""
    generator = np.random.default_rng(seed)
    source = generator.lognormal(2.62, 0.33, count)
    target = source * generator.lognormal(0.0, 0.2, count)
    return np.clip(np.stack([source, target], 1).round(), 3, 60).astype(np.int64)


def dataset(sizes: Any, **options: Any) -> LanguagePairDataset:
    dictionary = toy_dictionary()
    dice = random.Random(3)

    def sentences(lengths: Sequence[int]) -> ListDataset:
        words = [[dice.randrange(4, len(dictionary)) for _ in range(n - 1)] for n in lengths]
        lines = [torch.tensor([*line, dictionary.eos()]) for line in words]
        return ListDataset(lines, list(lengths))

    sides = [sentences([int(n) for n in lengths]) for lengths in np.asarray(sizes).T]
    return LanguagePairDataset(
        sides[0], sides[0].sizes, dictionary, sides[1], sides[1].sizes, dictionary, **options
    )


def batches_of(data: Any, seed: int = 1, **limits: Any) -> list[Any]:
    with data_utils.numpy_seed(seed):
        indices = data.ordered_indices()
    found: list[Any] = data.batch_by_size(indices, **limits)
    return found


lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=80)


@given(sizes=lengths, most=st.integers(1, 9), tokens=st.integers(30, 200))
def test_a_partition_depends_on_the_lengths_alone(
    sizes: list[tuple[int, int]], most: int, tokens: int
) -> None:
    capacity = Capacity(tokens, None, 4)
    pairs = np.array(sizes)
    numbers = partition(pairs, most, capacity)
    assert set(numbers) == set(range(numbers.max() + 1))
    assert numbers.max() < most
    order = np.random.default_rng(1).permutation(len(pairs))
    assert np.array_equal(partition(pairs[order], most, capacity), numbers[order])
    if numbers.max() > 0:  # every part of a cut fills a batch
        for number in set(numbers):
            inside = pairs[numbers == number]
            assert len(inside) >= capacity.of(inside.max())


@given(
    sizes=lengths,
    most=st.integers(1, 9),
    tokens=st.one_of(st.none(), st.integers(30, 200)),
    sentences=st.one_of(st.none(), st.integers(1, 20)),
    multiple=st.sampled_from([1, 4, 8]),
)
def test_batches_hold_every_sentence_once_and_no_more_than_they_may(
    sizes: list[tuple[int, int]],
    most: int,
    tokens: int | None,
    sentences: int | None,
    multiple: int,
) -> None:
    data = ShapeBuckets(_Sizes(np.array(sizes)), most)
    found = batches_of(
        data, max_tokens=tokens, max_sentences=sentences, required_batch_size_multiple=multiple
    )
    assert sorted(np.concatenate(found)) == list(range(len(sizes)))
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for batch in found:
        shapes = np.unique(data._padded[batch], axis=0)
        assert len(shapes) == 1
        assert (np.array(sizes)[batch] <= shapes[0]).all()
        assert len(batch) * shapes[0].max() <= (tokens or np.inf)
        assert len(batch) <= (sentences or np.inf)
        by_shape.setdefault(tuple(shapes[0]), []).append(len(batch))
    for counts in by_shape.values():
        assert len(set(counts[:-1])) <= 1
        assert counts[-1] <= counts[0]
        assert len(counts) == 1 or counts[0] < multiple or counts[0] % multiple == 0


class _Sizes:
    """As much of a dataset of pairs as making batches takes."""

    shuffle = True

    def __init__(self, sizes: Any) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)


@pytest.mark.parametrize(("tokens", "most"), [(4096, 24), (16384, 16)])
def test_few_shapes_and_hardly_more_padding_than_fairseq(tokens: int, most: int) -> None:
    sizes = likely_lengths(29000)
    stock = LanguagePairDataset.__new__(LanguagePairDataset)
    stock.src_sizes, stock.tgt_sizes = sizes.T
    stock.buckets, stock.shuffle, stock.src = None, True, range(len(sizes))
    limits: Any = {"max_tokens": tokens, "required_batch_size_multiple": 8}
    theirs = batches_of(stock, **limits)
    data = ShapeBuckets(_Sizes(sizes), most)
    ours = batches_of(data, **limits)

    def shapes(batches: Any) -> set[Any]:
        return {(len(batch), *sizes[batch].max(axis=0)) for batch in batches}

    filled = [
        1 - share_of_padding(sizes, batches, lambda batch: sizes[batch].max(axis=0)).mean()
        for batches in (ours, theirs)
    ]
    assert filled[0] > filled[1] - 0.02
    assert len({tuple(data._padded[batch[0]]) for batch in ours}) <= most
    assert len({(len(batch), *data._padded[batch[0]]) for batch in ours}) <= 2 * most
    assert len(shapes(theirs)) > 0.8 * len(theirs)
    assert len(ours) < 1.25 * len(theirs)


def test_remainders_are_spread() -> None:
    """100 sentences in batches of at most 48 are 40 + 40 + 20, not 48 + 48 + 4."""
    data = ShapeBuckets(_Sizes(np.full((100, 2), 10)), 4)
    found = batches_of(data, max_tokens=480, required_batch_size_multiple=8)
    assert [len(batch) for batch in found] == [40, 40, 20]


def test_epochs_differ_in_batches_but_not_in_shapes() -> None:
    data = ShapeBuckets(_Sizes(likely_lengths(500)), 5)
    first, second, again = (batches_of(data, seed, max_tokens=300) for seed in (1, 2, 1))

    def shapes(batches: Any) -> list[Any]:
        return [(len(batch), *data._padded[batch[0]]) for batch in batches]

    assert shapes(first) == shapes(second)
    order = [lengths for _, *lengths in shapes(first)]
    assert order == sorted(order)  # what --curriculum begins with
    assert any(set(a) != set(b) for a, b in zip(first, second, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_nothing_but_the_sentences_that_are_asked_for() -> None:
    data = ShapeBuckets(_Sizes(likely_lengths(50)), 3)
    some = np.arange(0, 50, 3)
    assert sorted(np.concatenate(data.batch_by_size(some, max_tokens=100))) == some.tolist()
    assert data.batch_by_size([], max_tokens=100) == []
    assert data.collater([]) == {}


@pytest.mark.parametrize("left_pad_source", [True, False])
@pytest.mark.parametrize("left_pad_target", [True, False])
@pytest.mark.parametrize("multiple", [1, 8])
def test_batches_are_fairseqs_with_more_padding(
    left_pad_source: bool, left_pad_target: bool, multiple: int
) -> None:
    pairs = dataset(
        likely_lengths(40), left_pad_source=left_pad_source, left_pad_target=left_pad_target,
        pad_to_multiple=multiple,
    )  # fmt: skip
    data = ShapeBuckets(pairs, 3, multiple)
    for indices in batches_of(data, max_tokens=160):
        samples = [data[int(index)] for index in indices]
        ours, stock = data.collater(samples), pairs.collater(samples)
        assert torch.equal(ours["id"], stock["id"])
        assert ours["ntokens"] == stock["ntokens"]
        wide = (ours["net_input"]["src_tokens"], ours["target"])
        assert [x.size(1) for x in wide] == data._padded[indices[0]].tolist()
        assert all(x.size(1) % multiple == 0 for x in wide)
        names = ("src_tokens", "prev_output_tokens")
        narrow = [(ours["net_input"][n], stock["net_input"][n]) for n in names]
        narrow.append((ours["target"], stock["target"]))
        lefts = (left_pad_source, left_pad_target, left_pad_target)
        for (x, y), left in zip(narrow, lefts, strict=True):
            columns = x[:, -y.size(1) :] if left else x[:, : y.size(1)]
            if x is ours["net_input"]["prev_output_tokens"] and left:
                continue  # its first column is the end of sentence, wherever padding is
            assert torch.equal(columns, y)
            assert int(x.ne(pairs.src_dict.pad()).sum()) == int(y.ne(pairs.src_dict.pad()).sum())


def test_padding_is_counted() -> None:
    pairs = dataset([(3, 4), (2, 6), (3, 6)])
    data = ShapeBuckets(pairs, 1)
    (indices,) = batches_of(data, max_tokens=100)
    padding = data.collater([data[int(index)] for index in indices])["padding"]
    assert padding == {
        "source_positions": 9, "source_padding": 1, "target_positions": 18, "target_padding": 2,
    }  # fmt: skip
    with metrics.aggregate() as log:
        log_padding([{**padding, "loss": 1.0}, {name: 2 * n for name, n in padding.items()}])
    assert log.get_smoothed_values() == {"source_padding": 0.111, "target_padding": 0.111}
    with metrics.aggregate() as log:
        log_padding([{"loss": 1.0}])
    assert not log.get_smoothed_values()


@pytest.mark.parametrize("criterion", ["loss of a batch", "loss of the same sentences alone"])
def test_the_loss_does_not_depend_on_the_padding(criterion: str) -> None:
    pairs = dataset(likely_lengths(24))
    model = small_model("softmax").double()
    data = ShapeBuckets(pairs, 2)

    def loss(batch: dict[str, Any]) -> float:
        logits, _ = model(**batch["net_input"])
        return float(
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), batch["target"].flatten(), reduction="sum",
                ignore_index=pairs.src_dict.pad(), label_smoothing=0.1,
            )
        )  # fmt: skip

    for indices in batches_of(data, max_tokens=200):
        samples = [data[int(index)] for index in indices]
        groups = [samples] if criterion == "loss of a batch" else [[x] for x in samples]
        expected = sum(loss(pairs.collater(group)) for group in groups)
        assert loss(data.collater(samples)) == pytest.approx(expected, rel=1e-9)


def test_a_sentence_that_fits_into_no_batch() -> None:
    data = ShapeBuckets(_Sizes(np.array([(3, 3), (9, 4)])), 2, length_multiple=8)
    with pytest.raises(SeqAttnError, match=r"--max-tokens 12 is less than the 16 positions"):
        data.batch_by_size([0, 1], max_tokens=12)


# ---- the task ----------------------------------------------------------------------------------


def task(**options: Any) -> SeqAttnTranslationTask:
    cfg = SeqAttnTranslationConfig(
        data=str(corpus()[1]), source_lang="src", target_lang="tgt", train_subset="train",
        dataset_impl="mmap", required_seq_len_multiple=1, upsample_primary=1,
    )  # fmt: skip
    for name, value in options.items():
        setattr(cfg, name, value)
    made: SeqAttnTranslationTask = SeqAttnTranslationTask.setup_task(cfg)
    made.load_dataset("train")
    made.load_dataset("valid")
    return made


@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_share_an_epoch(ranks: int) -> None:
    made, found, counts = task(shape_buckets=4), [], set()
    for rank in range(ranks):
        iterator = made.get_batch_iterator(
            made.dataset("train"), max_tokens=100, num_shards=ranks, shard_id=rank, epoch=2,
            update_epoch_batch_itr=True,
        )  # fmt: skip
        counts.add(len(iterator))
        samples = list(iterator.next_epoch_itr())
        found += [int(i) for sample in samples if sample for i in sample["id"]]
    assert sorted(found) == list(range(200))
    assert len(counts) == 1


def test_only_training_batches_are_bucketed() -> None:
    made = task(shape_buckets=4)
    iterators = [
        made.get_batch_iterator(made.dataset(split), max_tokens=100) for split in ("train", "valid")
    ]
    buckets = iterators[0].dataset
    assert isinstance(buckets, ShapeBuckets)
    assert iterators[1].dataset is made.dataset("valid")
    again = made.get_batch_iterator(
        made.dataset("train"), max_tokens=100, update_epoch_batch_itr=True
    )
    assert again.dataset is buckets
    made.load_dataset("train", epoch=2)  # of several data folders, the next
    other = made.get_batch_iterator(made.dataset("train"), max_tokens=100)
    assert other.dataset is not buckets
    stock = task()
    iterator = stock.get_batch_iterator(stock.dataset("train"), max_tokens=100)
    assert iterator.dataset is stock.dataset("train")


def test_every_batch_logs_the_same_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank without a batch repeats one, of the validation perhaps; ranks add their logs up."""
    stock, made, nothing = task(), task(shape_buckets=4), torch.nn.Module()
    samples = []
    for split in ("train", "valid"):
        iterator = made.get_batch_iterator(made.dataset(split), max_tokens=100)
        samples.append(iterator.first_batch)
        stock.get_batch_iterator(stock.dataset(split), max_tokens=100)
    monkeypatch.setattr(FairseqTask, "train_step", lambda *_: (0.0, 1, {"loss": 0.0}))

    def keys(of: SeqAttnTranslationTask, sample: dict[str, Any]) -> set[str]:
        return set(of.train_step(sample, nothing, nothing, nothing, 0)[2])

    found = [keys(made, sample) for sample in samples]
    assert found[0] == found[1] == {"loss", *NO_PADDING}
    assert set(samples[0]["padding"]) == set(NO_PADDING)
    assert keys(stock, samples[1]) == {"loss"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape_buckets": -1}, "--shape-buckets -1: must be at least 0"),
        (
            {"shape_buckets": 2, "num_batch_buckets": 2},
            "--shape-buckets and --num-batch-buckets both group sentences",
        ),
    ],
)
def test_refusals(options: dict[str, int], message: str) -> None:
    made = task(**options)
    with pytest.raises(SeqAttnError, match=message):
        made.get_batch_iterator(made.dataset("train"), max_tokens=100)


FLAGS = (
    "--task", "seqattn_translation", "--shape-buckets", "4", "--update-freq", "2", "--dropout",
    "0.1", "--criterion", "seqattn_label_smoothed_cross_entropy", "--save-interval-updates", "3",
)  # fmt: skip


@pytest.mark.xdist_group("commands")
def test_a_training_logs_padding_and_resumes_within_an_epoch(tmp_path: Path) -> None:
    logs, states = [], []
    for folder, stops in (("straight", ("12",)), ("stopped", ("7", "12"))):
        for updates in stops:
            result = train(
                corpus()[1], tmp_path / folder, *FLAGS, "--max-update", updates,
                arch="seqattn_softmax",
            )  # fmt: skip
            assert result.status == 0, result.stderr
        logs.append(result.stdout + result.stderr)
        states.append(torch.load(tmp_path / folder / "checkpoint_last.pt", weights_only=False))
    for name, value in states[0]["model"].items():
        assert torch.equal(states[1]["model"][name], value), name
    assert "training batches:" in logs[0]
    line = next(x for x in logs[0].splitlines() if "| epoch 001 |" in x or "epoch 001 | loss" in x)
    assert "source_padding 0." in line and "target_padding 0." in line
    valid = next(x for x in logs[0].splitlines() if "valid on 'valid'" in x)
    assert "padding" not in valid


@pytest.mark.slow
@pytest.mark.xdist_group("commands")
def test_two_ranks_train_like_one_with_twice_the_passes(tmp_path: Path) -> None:
    recipes = support.recipes(tmp_path / "recipes")
    words = ("+task.shape_buckets=4", "dataset.max_tokens=60")
    found = []
    for ranks in (1, 2):
        run = tmp_path / str(ranks)
        freq = f"optimization.update_freq=[{2 // ranks}]"
        (result, *_) = support.train(ranks, run, recipes, *words, freq)
        assert "training batches:" in result.stdout + result.stderr
        found.append(support.state(run)["model"])
    for name, value in found[0].items():
        assert torch.equal(found[1][name], value), name
