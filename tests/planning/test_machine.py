"""A machine's numbers, and what they make of a step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks.plan import HELD_OUT, subject, update_seconds
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.planning.calibration import PROBES, VARIANTS, calibrate
from seqattn_fairseq.planning.machine import Machine, Rate, Sample, fit, keys, load, save
from seqattn_fairseq.planning.prediction import largest_fitting, predict
from seqattn_fairseq.planning.work import Work

CPU = torch.device("cpu")


def machine(key: str = "a machine") -> Machine:
    rates = {"mul": Rate(1e-6, 2e-10, 0.0), "product": Rate(0.0, 0.0, 1e-11)}
    return Machine(key, rates, Rate(3e-6, 0.0, 0.0), 1.5, 2e-6)


def test_a_fit_finds_what_the_samples_follow() -> None:
    true = Rate(3e-6, 5e-11, 4e-12)
    works = [Work("product", b, f) for b in (10_000, 10**6, 10**7) for f in (10**5, 10**8, 10**9)]
    found = fit([Sample(work, true.seconds(work)) for work in works])
    assert found == pytest.approx(true, rel=1e-3)


def test_a_fit_has_no_negative_numbers() -> None:
    # a larger call that took less
    found = fit([Sample(Work("mul", 1000, 0), 2e-5), Sample(Work("mul", 100_000, 0), 1e-5)])
    assert min(found) >= 0
    assert 1e-5 <= found.seconds(Work("mul", 5000, 0)) <= 2e-5


def test_seconds_are_those_of_operators_and_of_what_is_beside_them() -> None:
    works = Counter({Work("mul", 1000, 0): 2, Work("product", 0, 10**6): 1, Work("new", 9, 0): 4})
    kernels = 2 * (1e-6 + 2e-7) + 1e-5 + 4 * 3e-6
    assert machine().seconds(works) == pytest.approx(1.5 * kernels + 7 * 2e-6)


def test_profiles_are_kept_by_key(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "machines.json"
    assert load("a machine", path) is None
    save(machine(), path)
    save(machine("another"), path)
    assert load("a machine", path) == machine()
    assert keys(path) == ["a machine", "another"]
    assert load("a third", path) is None


@pytest.mark.parametrize("text", ["", "{}", '{"form": 1}', "[1]"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "machines.json"
    path.write_text(text)
    with pytest.raises(SeqAttnError, match="remove it"):
        load("a machine", path)


def test_a_file_of_an_older_form_is_measured_anew(tmp_path: Path) -> None:
    path = tmp_path / "machines.json"
    path.write_text('{"form": 0, "machines": 7}')
    assert load("a machine", path) is None


@pytest.mark.parametrize("room", [99, 100, 1000, 12_345, 10**6, 10**12])
@pytest.mark.parametrize("chunk", [1, 7, 640])
def test_the_largest_that_fits(room: int, chunk: int) -> None:
    traced = []

    def peak(count: int) -> int:
        traced.append(count)
        return 100 + 3 * count + count * count // 5000 + chunk * (count // chunk)

    found = largest_fitting(peak, room, {0: 100, 40: peak(40)}, 50_000)
    assert found == 0 or peak(found) <= room
    exact = max([n for n in range(50_001) if 100 + 3 * n + n * n // 5000 + chunk * (n // chunk)
                 <= room], default=0)  # fmt: skip
    assert 0.97 * exact - 1 <= found <= exact
    assert len(traced) < 12


def test_nothing_of_the_table_was_fitted() -> None:
    fitted = {(variant, width) for variant in VARIANTS for width, _ in PROBES}
    widths = {"tiny": 128, "iwslt_de_en": 512, "wmt_en_de": 512}
    held_out = {(case.variant, widths[case.size]) for case in HELD_OUT}
    assert not fitted & held_out
    assert not {case.shape for case in HELD_OUT} & {shape for _, shape in PROBES}
    assert len({case.variant for case in HELD_OUT} - set(VARIANTS)) >= 8


@pytest.mark.slow
def test_the_speed_of_trainings_that_were_not_fitted() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        measured_here = calibrate(CPU, torch.float32)
        errors = {}
        for case in HELD_OUT:
            found = predict(subject(case), torch.float32, case.shape, machine=measured_here)
            assert found.seconds
            errors[case.variant] = found.seconds / update_seconds(case, 3) - 1
    finally:
        torch.set_num_threads(threads)
    within = [abs(error) <= 0.2 for error in errors.values()]
    assert sum(within) >= 8, errors
