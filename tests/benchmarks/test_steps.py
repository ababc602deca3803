"""The contenders of the training step do the same; batches have the shapes they should."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import measure, steps, training_step
from benchmarks.batches import CORPORA, Corpus, batch, dictionary

SHORT = Corpus("short", "tiny", 23, 9, 0.8, 3)


@pytest.mark.parametrize("name", CORPORA)
def test_a_batch_is_filled_as_its_corpus_is(name: str) -> None:
    corpus = CORPORA[name]
    symbols = dictionary(corpus.vocabulary)
    sample = batch(corpus, symbols)
    assert len(symbols) == corpus.vocabulary
    source, target = sample["net_input"]["src_tokens"], sample["target"]
    for tokens in (source, target):
        real = tokens.ne(symbols.pad())
        assert float(real.float().mean()) == pytest.approx(corpus.fill, abs=0.02)
        assert float(real.sum(1).float().mean()) == pytest.approx(corpus.tokens, abs=0.5)
    assert sample["ntokens"] == int(target.ne(symbols.pad()).sum())
    assert source[:, -1].eq(symbols.eos()).all()  # padding is on the left
    assert target[:, 0].ne(symbols.pad()).all()
    assert sample["net_input"]["prev_output_tokens"][:, 0].eq(symbols.eos()).all()
    assert torch.equal(sample["net_input"]["src_lengths"], source.ne(symbols.pad()).sum(1))


@pytest.mark.parametrize("variant", ["softmax", "lightconv", "dynamicconv"])
def test_stock_models_have_our_weights(variant: str) -> None:
    symbols = dictionary(SHORT.vocabulary)
    parts = training_step.contenders(variant, SHORT, symbols)
    assert len(parts) == 3
    errors = training_step.errors(parts, batch(SHORT, symbols), symbols)
    assert max(errors.values()) < 1e-5


@pytest.mark.parametrize("name", ["ours", "naive"])
def test_a_step_moves_the_parameters(name: str) -> None:
    symbols = dictionary(SHORT.vocabulary)
    part = training_step.contenders("muse", SHORT, symbols)[name]
    before = [p.detach().clone() for p in part.model.parameters()]
    steps.step(part, batch(SHORT, symbols))()
    moved = [not torch.equal(p, q) for p, q in zip(part.model.parameters(), before, strict=True)]
    assert all(moved)


def test_rows_tell_ratio_and_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CORPORA, "multi30k", SHORT)
    out = tmp_path / "cpu.csv"
    arguments = "--variants topk --corpora multi30k --repeats 1 --out"
    training_step.main([*arguments.split(), str(out)])
    rows = measure.read_rows(out)
    assert [row["contender"] for row in rows] == ["ours", "naive"]
    for row in rows:
        assert float(row["error"]) < 1e-5
        speed = float(row["tokens"]) / float(row["seconds"])
        assert float(row["tokens_per_second"]) == pytest.approx(speed, rel=1e-3)
        assert row["device"] == "cpu" and row["size"] == "tiny"
