"""The place in an epoch, told to another number of ranks or with batches of another size."""

from __future__ import annotations

import pytest
from fairseq.data import ListDataset
from fairseq.data.iterators import EpochBatchIterator

import seqattn_fairseq  # noqa: F401  the door applies the workarounds

SENTENCES = 96


def iterator(batch: int, shards: int) -> EpochBatchIterator:
    """Return rank 0's iterator over an epoch in batches of so many sentences."""
    ids = list(range(SENTENCES))
    batches = [ids[start : start + batch] for start in range(0, SENTENCES, batch)]
    return EpochBatchIterator(ListDataset(ids), list, batches, num_shards=shards)


@pytest.mark.parametrize(
    ("before", "after", "position"),
    [
        ((4, 1), (4, 1), 9),
        ((4, 1), (4, 2), 4),  # rounded down
        ((4, 2), (4, 1), 18),
        ((4, 1), (16, 1), 2),  # a card with more memory
        ((4, 2), (6, 1), 12),
    ],
)
def test_the_place_in_an_epoch_is_that_of_the_same_sentences(
    before: tuple[int, int], after: tuple[int, int], position: int
) -> None:
    """Before: 9 batches of each rank are done."""
    stopped = iterator(*before)
    batches = stopped.next_epoch_itr(shuffle=False)
    for _ in range(9):
        next(batches)
    resumed = iterator(*after)
    resumed.load_state_dict(stopped.state_dict())
    assert resumed.iterations_in_epoch == position
    assert next(resumed.next_epoch_itr(shuffle=False))


def test_a_state_of_stock_fairseq_is_taken_as_it_is() -> None:
    resumed = iterator(4, 2)
    resumed.load_state_dict({"version": 2, "epoch": 3, "iterations_in_epoch": 5, "shuffle": False})
    assert (resumed.epoch, resumed.iterations_in_epoch) == (3, 5)
