"""The contenders of the decoding benchmark find the same."""

from __future__ import annotations

import pytest

from benchmarks.decoding import STOCK, TRANSFORMER, errors, sample, searches, words
from benchmarks.measure import OURS


@pytest.mark.parametrize("variant", ["softmax", "rela_g", "muse"])
def test_contenders_agree(variant: str) -> None:
    found = searches(variant, sample(2))
    assert found.keys() == {OURS, STOCK, *([TRANSFORMER] if variant == "softmax" else [])}
    assert all(error < 1e-5 for error in errors(found).values())


def test_other_words_are_told() -> None:
    found = searches("softmax", sample(2))
    other = found[STOCK]()
    other[1][0]["tokens"][0] += 1
    with pytest.raises(ValueError, match="ours finds other hypotheses"):
        errors({**found, OURS: lambda: other})
    assert words(other) != words(found[STOCK]())
