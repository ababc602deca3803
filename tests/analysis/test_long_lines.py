"""Lines of k consecutive sentences: which, their tokens, and what translating them tells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary, LanguagePairDataset, ListDataset

from seqattn_fairseq.analysis.long_lines import (
    BATCH_LINES,
    cut,
    joined,
    sentence_sizes,
    translate_lines,
)
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.translation import Job, Search, Translator, translate
from tests.evaluation import corpus

commands = pytest.mark.xdist_group("commands")

SIZES = np.array([[3, 3]] * 4 + [[8, 1]] + [[1, 1]] * 5)  # 10 sentences


def _cut(count: int, unit: int, source: float, target: float = 99) -> tuple[list[list[int]], int]:
    lines = cut(SIZES, (source, target), count, unit)
    return [list(line) for line in lines.kept], lines.too_long


def test_the_last_line_may_be_shorter() -> None:
    assert _cut(4, 4, 99) == ([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]], 0)
    assert _cut(2, 4, 99) == ([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]], 0)
    assert _cut(1, 1, 99) == ([[number] for number in range(10)], 0)


def test_what_is_too_long_as_one_line_is_left_out_for_every_k() -> None:
    """With four sentences a line, the first has 12 tokens and its end: 12 positions do not do."""
    assert _cut(4, 4, 12) == ([[4, 5, 6, 7], [8, 9]], 1)
    assert _cut(2, 4, 12) == ([[4, 5], [6, 7], [8, 9]], 2)
    assert _cut(1, 4, 12) == ([[4], [5], [6], [7], [8], [9]], 4)
    assert _cut(4, 4, 13) == ([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]], 0)


def test_the_target_counts_too() -> None:
    assert _cut(4, 4, 99, target=12) == ([[4, 5, 6, 7], [8, 9]], 1)


def test_lines_that_never_fit_are_refused() -> None:
    with pytest.raises(SeqAttnError, match="4 consecutive sentences never fit .* 3 source and 99"):
        _cut(1, 4, 3)  # the two of the shorter line at the end would
    with pytest.raises(SeqAttnError, match="10 sentences, fewer than the 16"):
        _cut(1, 16, 99)


def _dataset(sources: list[list[int]], targets: list[list[int]] | None, **options: Any) -> Any:
    dictionary = Dictionary()
    for letter in "abcdefgh":
        dictionary.add_symbol(letter)

    def side(lines: list[list[int]]) -> tuple[ListDataset, list[int], Dictionary]:
        tokens = [torch.tensor([*line, dictionary.eos()]) for line in lines]
        sizes = [len(line) for line in tokens]
        return ListDataset(tokens, sizes), sizes, dictionary

    sides = [*side(sources), *(side(targets) if targets else ())]
    return LanguagePairDataset(*sides, shuffle=False, **options)


@pytest.mark.parametrize("left_pad", [False, True])
def test_joined_sentences_end_once(left_pad: bool) -> None:
    sources, targets = [[4, 5], [6], [], [7, 8]], [[5], [], [4], [9, 9, 9]]
    dataset = _dataset(sources, targets, left_pad_source=left_pad)
    assert sentence_sizes(dataset).tolist() == [[2, 1], [1, 0], [0, 1], [2, 3]]
    long = joined(dataset, [range(3), range(3, 4)])
    items = [long[index] for index in range(len(long))]
    assert [item["source"].tolist() for item in items] == [[4, 5, 6, 2], [7, 8, 2]]
    assert [item["target"].tolist() for item in items] == [[5, 4, 2], [9, 9, 9, 2]]
    assert long.sizes.tolist() == [[4, 3], [3, 4]]
    padded = long.collater(items)["net_input"]["src_tokens"]
    assert padded[1].tolist() == ([1, 7, 8, 2] if left_pad else [7, 8, 2, 1])
    assert dataset[0]["source"].tolist() == [4, 5, 2]  # stays as it is


def test_a_set_without_targets() -> None:
    dataset = _dataset([[4], [5]], None)
    assert sentence_sizes(dataset).tolist() == [[1, 0], [1, 0]]
    assert joined(dataset, [range(2)])[0]["source"].tolist() == [4, 5, 2]


def _job(search: Search) -> Job:
    run = corpus.trained() / "checkpoint_best.pt"
    return Job(run, corpus.data_bin(), "test4", "subword_nmt", search, cpu=True)


SEARCH = Search(beam=2, max_len_b=12)


@commands
def test_single_sentences_are_translated_as_ever() -> None:
    """Batches of other sizes round their sums otherwise (float32); the words are the same."""
    found = translate_lines(_job(SEARCH), count=1, unit=1, first=None)
    expected = translate(_job(SEARCH)).sentences
    scores = [one.score for one in expected]
    assert [one.score for one in found.sentences] == pytest.approx(scores, rel=1e-5)
    assert found.sentences == [
        replace(one, score=new.score) for one, new in zip(expected, found.sentences, strict=True)
    ]
    assert found.source_tokens == sum(len(line) for line in _pieces())


def _pieces() -> list[list[str]]:
    path = corpus.data_bin().parent / "test4.src"
    return [line.split() for line in path.read_text().splitlines()]


@commands
def test_three_sentences_a_line() -> None:
    search = replace(SEARCH, max_len_b=36)
    found = translate_lines(_job(search), count=3, unit=6, first=20)
    assert [list(line) for line in found.lines] == [
        [0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [12, 13, 14], [15, 16, 17], [18, 19],
    ]  # fmt: skip
    single = [sentence.source for sentence in translate(_job(SEARCH)).sentences]
    expected = [" ".join(single[index] for index in line) for line in found.lines]
    assert [sentence.source for sentence in found.sentences] == expected
    assert [sentence.ident for sentence in found.sentences] == list(range(7))
    # every piece of an output and the end of its line
    pieces = sum(len(sentence.hypothesis.split()) + 1 for sentence in found.sentences)
    assert found.tokens >= pieces
    assert found.seconds > 0
    assert found.too_long == 0
    assert found.peak_mib is None or 0 <= found.peak_mib < 2000


@commands
def test_batches_have_as_many_lines_for_every_k() -> None:
    translator = Translator.open(_job(SEARCH))
    for count in (1, 4):
        lines = cut(sentence_sizes(translator.dataset), (99, 99), count, 4).kept
        long = replace(translator, dataset=joined(translator.dataset, lines))
        sizes = [len(sample["id"]) for sample in long.batches(lines=BATCH_LINES)]
        assert set(sizes[: len(lines) // BATCH_LINES]) == {BATCH_LINES}
        assert sum(sizes) == len(lines)


@commands
def test_outputs_at_the_limit_are_counted() -> None:
    found = translate_lines(_job(replace(SEARCH, max_len_b=2)), count=4, unit=4, first=8)
    assert found.truncated == 2
    assert found.tokens == 2 * 3  # two pieces and the end of the line
