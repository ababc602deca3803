"""The worked example of two heads, and what must not count."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.ops.attention_statistics import AttentionSums, attention_sums, visible_keys

# two heads, three queries, four keys, of which the last is padding
HEADS = torch.tensor(
    [
        [[0.6, 0.2, 0, 0], [0, 0, 0, 0], [0.5, 0.5, 0, 0]],
        [[0.2, 0.2, 0.4, 0], [0, 0.4, 0.4, 0], [0, 0.25, 0.75, 0]],
    ]
)[None]
PADDING = torch.tensor([[False, False, False, True]])
QUERIES = torch.ones(1, 3, dtype=torch.bool)


def example() -> AttentionSums:
    return attention_sums(HEADS, visible_keys(~QUERIES, PADDING, False), QUERIES)


def test_the_worked_example() -> None:
    sums = example()
    assert sums.zeros_H.sum() / sums.keys_H.sum() == pytest.approx(7 / 18)
    assert sums.null_H.tolist() == [1, 0] and sums.rows_H.tolist() == [3, 3]
    assert float(sums.diversity / sums.queries) == pytest.approx(0.462098, abs=1e-6)
    assert float(sums.diversity / sums.queries) / math.log(2) == pytest.approx(0.666667, abs=1e-6)
    assert float(sums.dense_diversity / sums.dense_queries) == pytest.approx(0.346574, abs=1e-6)


@pytest.mark.parametrize(("query", "expected"), enumerate([0.238693, 0.693147, 0.454454]))
def test_divergence_of_one_query(query: int, expected: float) -> None:
    weights, visible = HEADS[:, :, query : query + 1], visible_keys(~QUERIES[:, :1], PADDING, False)
    assert float(attention_sums(weights, visible, QUERIES[:, :1]).diversity) == pytest.approx(
        expected, abs=1e-6
    )


def test_padding_of_either_side_changes_nothing() -> None:
    weights = torch.nn.functional.pad(HEADS, (2, 0, 0, 3), value=0.7)
    queries = torch.nn.functional.pad(QUERIES, (0, 3))
    visible = visible_keys(~queries, torch.nn.functional.pad(PADDING, (2, 0), value=True), False)
    for ours, expected in zip(attention_sums(weights, visible, queries), example(), strict=True):
        torch.testing.assert_close(ours, expected)


def test_batches_add_up() -> None:
    weights, queries = HEADS.repeat(2, 1, 1, 1), QUERIES.repeat(2, 1)
    both = attention_sums(weights, visible_keys(~queries, PADDING.repeat(2, 1), False), queries)
    for ours, expected in zip(both, example().plus(example()), strict=True):
        torch.testing.assert_close(ours, expected)


def test_the_future_and_what_is_out_of_reach_do_not_count() -> None:
    none = torch.zeros(1, 4, dtype=torch.bool)
    weights = torch.eye(4).expand(1, 1, 4, 4)
    causal = attention_sums(weights, visible_keys(none, none, True), ~none)
    assert (int(causal.keys_H), int(causal.zeros_H)) == (10, 6)
    reach = torch.eye(4, dtype=torch.bool)[None, None]
    diagonal = attention_sums(weights, visible_keys(none, none, True, reach), ~none)
    assert (int(diagonal.keys_H), int(diagonal.zeros_H)) == (4, 0)


def test_entropy_is_that_of_the_rows_that_are_not_null() -> None:
    uniform = torch.full((1, 1, 2, 8), 3.0)
    uniform[:, :, 1] = 0.0
    queries = torch.ones(1, 2, dtype=torch.bool)
    visible = visible_keys(~queries, torch.zeros(1, 8, dtype=torch.bool), False)
    sums = attention_sums(uniform, visible, queries)
    assert float(sums.entropy_H) == pytest.approx(math.log(8)) and float(sums.null_H) == 1


def _entropy(shares: list[float]) -> float:
    return -sum(share * math.log(share) for share in shares if share)


def naive(weights_BHTS: Tensor, visible_BHTS: Tensor, query_BT: Tensor) -> list[list[float]]:
    """Return the sums row by row: those of every head, then those over heads."""
    heads = weights_BHTS.size(1)
    by_head = [[0.0] * heads for _ in range(5)]
    diversity = [0.0] * 4
    for b, t in query_BT.nonzero().tolist():
        rows = []
        for h in range(heads):
            seen = weights_BHTS[b, h, t][visible_BHTS[b, h, t]].double().abs()
            if not len(seen):
                continue
            null = not seen.any()
            row = torch.zeros(weights_BHTS.size(-1) + 1, dtype=torch.double)
            row[:-1][visible_BHTS[b, h, t]] = seen if null else seen / seen.sum()
            row[-1] = float(null)
            rows.append(row.tolist())
            entropy = 0.0 if null else _entropy(rows[-1])
            for sums, value in zip(
                by_head, (len(seen), int(seen.eq(0).sum()), 1, null, entropy), strict=True
            ):
                sums[h] += value
        if len(rows) == heads:
            mean = [sum(column) / heads for column in zip(*rows, strict=True)]
            spread = _entropy(mean) - sum(map(_entropy, rows)) / heads
            dense = not any(row[-1] for row in rows)
            for place, value in enumerate((spread, 1, dense * spread, dense)):
                diversity[place] += value
    return [*by_head, *([value] for value in diversity)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seed", range(4))
def test_sums_are_those_of_the_naive_form(seed: int, dtype: torch.dtype) -> None:
    """Weights of either sign, null rows, heads that reach different keys and rows that see none."""
    torch.manual_seed(seed)
    weights = torch.randn(16, 3, 5, 6)
    weights = torch.where(torch.rand_like(weights) < 0.5, 0.0, 300 * weights).to(dtype)
    weights[torch.rand(16, 3, 5) < 0.2] = 0.0
    visible, queries = torch.rand(16, 3, 5, 6) < 0.4, torch.rand(16, 5) < 0.8
    found = attention_sums(weights, visible, queries)
    assert 0 < found.queries < queries.sum() and 0 < found.dense_queries < found.queries
    for sums, wanted in zip(found, naive(weights, visible, queries), strict=True):
        assert sums.flatten().tolist() == pytest.approx(wanted, rel=1e-5)
