"""The benchmarks' harness: order, medians, errors, the CSV."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import measure
from benchmarks.measure import Contender, alternate, compared, error, read_rows, write_rows


def test_contenders_take_turns_without_the_collector() -> None:
    seen: list[str] = []

    def run(name: str) -> None:
        assert not gc.isenabled()
        assert torch.get_num_threads() == 1
        seen.append(name)

    before = torch.get_num_threads()
    contenders = [Contender(name, partial(run, name)) for name in "ab"]
    seconds = alternate(contenders, repeats=2, least_seconds=0.0)
    assert "".join(seen[4:]) == "abba" * 2
    assert gc.isenabled() and torch.get_num_threads() == before
    assert list(seconds) == ["a", "b"] and min(seconds.values()) >= 0


def test_the_slower_takes_longer() -> None:
    work = {"short": 1_000, "long": 100_000}
    contenders = [Contender(name, partial(sum, range(n))) for name, n in work.items()]
    seconds = alternate(contenders, repeats=3, least_seconds=0.005)
    assert seconds["long"] > 5 * seconds["short"]


def test_error_is_relative_for_large_values_only() -> None:
    exact = [torch.tensor([100.0, 0.5], dtype=torch.double), torch.zeros(1, dtype=torch.double)]
    ours = [torch.tensor([101.0, 0.52]), torch.tensor([0.001])]
    assert error(ours, exact) == pytest.approx(0.02, rel=1e-4)
    assert error([torch.tensor([float("nan")])], exact[1:]) != error(exact, exact)
    with pytest.raises(ValueError, match="shapes differ"):
        error(ours[:1], exact[1:])


def test_a_not_a_number_is_never_a_small_error() -> None:
    bad, good = torch.tensor([float("nan")]), torch.zeros(1)
    assert not error([bad, good], [good.double(), good.double()]) < 1


def test_rows_of_a_benchmark_replace_its_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "cpu.csv"
    rows = compared({"ours": 0.5, "other": 1.0}, {"ours": 1e-7})
    write_rows(path, [{"benchmark": "b", "mechanism": "m", "T": 3, **row} for row in rows])
    write_rows(path, [{"benchmark": "a", "mechanism": "n", "V": 7, **row} for row in rows])
    write_rows(path, [{"benchmark": "b", "mechanism": "m", "T": 4, "threads": 2, **rows[0]}])
    found = read_rows(path)
    kept = ("benchmark", "T", "V", "contender", "ratio", "error", "threads")
    assert [tuple(row[key] for key in kept) for row in found] == [
        ("a", "", "7", "ours", "1", "1e-07", "1"),
        ("a", "", "7", "other", "2", "", "1"),
        ("b", "4", "", "ours", "1", "1e-07", "2"),
    ]
    assert found[0]["torch"] == torch.__version__ and found[0]["machine"] and found[0]["date"]
    assert [p.name for p in tmp_path.iterdir()] == ["cpu.csv"]


def test_peak_is_that_of_the_work_alone() -> None:
    assert measure.peak_mib(_allocate, 64) == pytest.approx(64, abs=8)


def _allocate(mib: int) -> Callable[[], object]:
    torch.ones(2 * mib, 1 << 10)  # getting ready takes less
    return lambda: torch.ones(mib, 1 << 18)
