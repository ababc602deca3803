"""Statistics of attention: the worked example as numbers in attention.json, and every variant."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from seqattn_fairseq.analysis.attention import analyse_attention, collect, site_rates
from seqattn_fairseq.analysis.subject import Subject, find_subject
from seqattn_fairseq.data.files import read_json_object
from seqattn_fairseq.ops.attention_statistics import attention_sums
from seqattn_fairseq.transformer.attention import AttentionLog, Site
from tests.analysis.models import Parrot, loaded, pairs_of, toy_run
from tests.ops.test_attention_statistics import HEADS
from tests.support.models import EOS, PAD, PAIRS, SINGLE_VARIANTS, batch, small_model

LENGTHS = [(7, 5), (1, 9), (3, 1), (8, 8), (6, 7)]
# mechanisms whose weights are positive wherever they reach
CHUNKS = {"encoder_chunk_size": 2, "decoder_chunk_size": 2}
DENSE = ["softmax", "mega_chunk", "lightconv", "dynamicconv", "muse", "luna"]


def sentences(lengths: list[tuple[int, int]] = LENGTHS) -> Any:
    return pairs_of([(batch([s], seed=s)[0], batch([t], seed=9 + t)[0]) for s, t in lengths])


def measured(variant: str, max_tokens: int, **options: Any) -> dict[str, Any]:
    """Return the statistics of a small model on some sentences, in batches of a size."""
    subject, pairs = loaded(small_model(variant, **options)), sentences()
    found = collect(subject, subject.batches(pairs, range(len(LENGTHS)), max_tokens))
    return {site: site_rates(layers) for site, layers in found.layers.items()}


def leaves(value: Any) -> list[float]:
    """Return all numbers, -1 for those that are not defined."""
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return [-1.0 if value is None else value]


def test_the_worked_example_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tmp_path / "checkpoint_best.pt"
    checkpoint.write_bytes(b"weights")
    subject = Subject(tmp_path, "test", checkpoint, tmp_path)
    # the last key is padding, of what the model is given as well
    pair = torch.tensor([4, 5, EOS, PAD]), torch.tensor([4, 5, EOS])
    monkeypatch.setattr(Subject, "pairs", lambda self: pairs_of([pair]))
    monkeypatch.setitem(subject.__dict__, "loaded", loaded(Parrot(Site.CROSS, HEADS)))
    assert analyse_attention(subject).fresh
    result = read_json_object(tmp_path / "analysis" / "test" / "attention.json")
    assert (result["sentences"], result["variant"]) == (1, "parrot")
    cross = result["sites"]["cross"]
    assert cross["all"]["sparsity"] == pytest.approx(7 / 18)
    assert cross["all"]["null"] == pytest.approx(1 / 6)
    assert cross["all"]["diversity"] == pytest.approx(0.462098, abs=1e-6)
    assert cross["all"]["diversity_share"] == pytest.approx(0.666667, abs=1e-6)
    assert cross["all"]["dense_diversity"] == pytest.approx(0.346574, abs=1e-6)
    (layer,) = cross["layers"]
    assert layer["all"] == cross["all"]
    assert [head["null"] for head in layer["heads"]] == [pytest.approx(1 / 3), 0.0]
    assert [head["sparsity"] for head in layer["heads"]] == [pytest.approx(5 / 9), 2 / 9]
    assert [head["diversity"] for head in layer["heads"]] == [None, None]
    assert not analyse_attention(subject).fresh


@pytest.mark.parametrize("variant", ["softmax", "rela_g", "luna", "mega_chunk", "dynamicconv"])
def test_batches_do_not_matter(variant: str) -> None:
    together, alone = (leaves(measured(variant, size)) for size in (1000, 1))
    assert together == pytest.approx(alone, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("variant", [*SINGLE_VARIANTS, *PAIRS])
def test_every_variant_tells(variant: str, tmp_path: Path) -> None:
    run = toy_run(tmp_path, variant)
    result = analyse_attention(find_subject(run, "test", cpu=True)).result
    assert result["sentences"] == 5
    assert set(result["sites"]) == {"encoder_self", "decoder_self", "cross"}
    for site in result["sites"].values():
        assert len(site["layers"]) == 2
        assert 0 <= site["all"]["sparsity"] <= 1 and 0 <= site["all"]["null"] <= 1
        assert site["all"]["entropy"] is None or 0 <= site["all"]["entropy"] < math.log(31)


@pytest.mark.parametrize("variant", DENSE)
def test_dense_mechanisms_have_no_zeros_within_their_reach(variant: str) -> None:
    for site in measured(variant, 1000, **_known(variant, CHUNKS)).values():
        assert [site["all"]["sparsity"], site["all"]["null"]] == [0.0, 0.0]


def _known(variant: str, options: dict[str, Any]) -> dict[str, Any]:
    cfg = vars(small_model(variant).cfg)
    return {name: value for name, value in options.items() if name in cfg}


@pytest.mark.parametrize("variant", ["rela_g", "rela_i", "sparsemax", "entmax15", "topk"])
def test_sparse_mechanisms_have_zeros(variant: str) -> None:
    options = _known(variant, {"topk": 2})
    sites = measured(variant, 1000, **options)
    assert all(0 < site["all"]["sparsity"] < 1 for site in sites.values())


class _Without(AttentionLog):
    """Counts zeros at all keys up to the query, as if every mechanism reached everywhere."""

    def add(self, site: Site, weights_BHTS: Any, reach: Any = None) -> None:
        if site is Site.DECODER_SELF:
            visible = torch.ones(weights_BHTS.shape[-2:], dtype=torch.bool).tril()[None]
            queries = torch.ones(1, weights_BHTS.size(2), dtype=torch.bool)
            sums = attention_sums(weights_BHTS, visible, queries)
            self.weights.setdefault("zeros", []).append(sums.zeros_H.sum())


@pytest.mark.parametrize(
    ("variant", "options"),
    [("mega_chunk", CHUNKS), ("lightconv", {}), ("dynamicconv", {})],
)
def test_the_reach_makes_the_difference(variant: str, options: dict[str, Any]) -> None:
    model = small_model(variant, **_known(variant, options))
    log, subject = _Without(), loaded(model)
    pair = batch([12])[0], batch([12], seed=1)[0]
    for one in subject.batches(pairs_of([pair]), [0], 100):
        subject.show(one, log)
        found = collect(subject, [one])
    assert all(float(zeros) > 0 for zeros in log.weights["zeros"])
    assert site_rates(found.layers["decoder_self"])["all"]["sparsity"] == 0.0
