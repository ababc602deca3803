"""Our models with naive operations are those of the official codes, and ours to rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import measure, naive, steps
from benchmarks.batches import Corpus, batch, dictionary
from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.optim.adam import SeqAttnAdam
from seqattn_fairseq.parity.comparison import Tolerance
from seqattn_fairseq.parity.kinds import KINDS
from seqattn_fairseq.parity.runner import find_files, run_file
from seqattn_fairseq.transformer.registry import VARIANTS
from seqattn_fairseq.variants import mega_modules, register
from tests.support.goldens import GOLDENS

register()
FILES = list(find_files([GOLDENS]))
# lengths above a half of the widest kernel and below the whole
SHORT = Corpus("short", "tiny", 23, 9, 0.8, 3)


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_naive_operations_give_what_the_official_codes_gave(path: Path) -> None:
    with naive.naive_forms():
        row = run_file(path, KINDS, Tolerance())
    assert (row.reason, row.misses) == ("", ())
    assert row.checked > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_naive_operations_equal_the_references(variant: str) -> None:
    symbols = dictionary(SHORT.vocabulary)
    sample = batch(SHORT, symbols)
    model = steps.our_model(variant, SHORT.size, symbols).double()
    part = steps.Part(model, steps.exact_criterion(symbols), SeqAttnAdam)
    with backend("reference"):
        loss, gradients = steps.loss_and_gradients(part, sample)
    found = steps.loss_and_gradients(part._replace(within=naive.naive_forms), sample)
    names = sorted(gradients)
    assert sorted(found[1]) == names
    exact = [loss, *(gradients[name] for name in names)]
    assert measure.error([found[0], *(found[1][name] for name in names)], exact) < 1e-10


def test_the_swap_ends_with_its_block() -> None:
    before = mega_modules.MovingAverage.forward
    with naive.naive_forms():
        assert mega_modules.MovingAverage.forward is not before
    assert mega_modules.MovingAverage.forward is before


def test_a_function_that_nobody_looks_up_is_no_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = {"seqattn_fairseq.variants.softmax": {"no_such_function": torch.softmax}}
    monkeypatch.setattr(naive, "REPLACED", lost)
    with pytest.raises(AttributeError, match="no_such_function"), naive.naive_forms():
        pass
