"""Maps of cross-attention: which sentences, which weights, and what is refused."""

from __future__ import annotations

import base64
import gzip
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.analysis import maps
from seqattn_fairseq.analysis.maps import analyse_maps, choose, cross_weights, quantise, read_maps
from seqattn_fairseq.analysis.subject import Pair, Subject, find_subject
from seqattn_fairseq.cli.main import main
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.transformer.attention import Site
from tests.analysis.models import Parrot, loaded, toy_run
from tests.evaluation import corpus
from tests.support import toy_corpus
from tests.support.models import EOS, small_model

pytestmark = pytest.mark.xdist_group("commands")


def weights_of(one: dict[str, Any]) -> Tensor:
    """Return the weights that a line of the file stands for, by its definition."""
    values = torch.frombuffer(bytearray(base64.b64decode(one["weights"])), dtype=torch.uint8)
    weights: Tensor = values.reshape(one["shape"]) / 255 * one["scale"]
    return weights


# ---- which sentences ---------------------------------------------------------------------------


def test_sentences_are_spread_over_the_set_and_neither_empty_nor_long() -> None:
    lengths = [1, 62, *([10, 1, 61, 62] * 50)]
    chosen = choose(lengths, 20)
    assert len(chosen) == len(set(chosen)) == 20 and chosen == sorted(chosen)
    assert {lengths[number] for number in chosen} <= {10, 61}
    assert min(chosen) < 15 and max(chosen) > len(lengths) - 15
    gaps = [after - before for before, after in pairwise(chosen)]
    assert max(gaps) <= 2 * len(lengths) // 20


@pytest.mark.parametrize(("fit", "count"), [(3, 20), (20, 20), (0, 20), (50, 1)])
def test_no_more_than_there_are(fit: int, count: int) -> None:
    chosen = choose([*([5] * fit), 1], count)
    assert len(chosen) == min(fit, count) and set(chosen) <= set(range(fit))


# ---- which weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [0.0, 1e-6, 1.0, 37.5])
def test_bytes_are_the_weights_to_half_a_step(largest: float) -> None:
    weights = torch.rand(2, 3, 4, 5)
    weights *= largest / weights.max()
    scale, values = quantise(weights)
    read = torch.frombuffer(bytearray(values), dtype=torch.uint8).reshape(2, 3, 4, 5) / 255 * scale
    assert float((read - weights).abs().max()) <= scale / 510 * 1.001
    assert scale == pytest.approx(largest)


def test_weights_are_those_of_the_model() -> None:
    model = small_model("rela_g")
    source, target = torch.tensor([4, 5, 6, EOS]), torch.tensor([8, 9, EOS])
    expected = model.attention_weights(source[None], None, torch.tensor([[EOS, 8, 9]]))["cross"]
    found = cross_weights(loaded(model), Pair(source, target))
    assert found.shape == (2, 4, 3, 4)
    assert torch.equal(found, torch.stack(expected)[:, 0])


def subject_of(folder: Path, variant: str = "rela_g") -> Subject:
    return find_subject(toy_run(folder, variant), "test", cpu=True)


def test_file_of_references(tmp_path: Path) -> None:
    subject = subject_of(tmp_path)
    made = analyse_maps(subject)
    assert made.fresh and made.result["ids"] == [0, 1, 2, 3, 4]
    assert made.result["target"] == "reference"
    found = list(read_maps(subject.folder))
    assert [one["id"] for one in found] == made.result["ids"]
    for one, source in zip(found, toy_corpus.sentences(5, 2), strict=True):
        assert one["source"] == [*source.split(), "</s>"]
        assert one["target"] == [*reversed(source.split()), "</s>"]
        assert one["shape"] == [2, 4, len(one["target"]), len(one["source"])]
        pair = subject.pairs().read(one["id"])
        expected = cross_weights(subject.loaded, pair)
        torch.testing.assert_close(weights_of(one), expected, rtol=0, atol=one["scale"] / 500)
    before = (subject.folder / maps.FILE).read_bytes()
    assert not analyse_maps(subject).fresh
    assert analyse_maps(subject, [3, 1]).result["ids"] == [1, 3]
    assert analyse_maps(subject).fresh
    assert (subject.folder / maps.FILE).read_bytes() == before


def test_all_variants_choose_the_same(tmp_path: Path) -> None:
    found = {
        tuple(analyse_maps(subject_of(tmp_path, variant), count=3).result["ids"])
        for variant in ("softmax", "mega")
    }
    assert len(found) == 1 and len(next(iter(found))) == 3


def test_targets_are_the_translations_where_there_are_any(tmp_path: Path) -> None:
    run, data = corpus.run_copy(tmp_path), corpus.described(tmp_path)
    assert main(["evaluate", str(run), "--data", str(data), *corpus.DECODING]) == 0
    subject = find_subject(run, "test", data_bin=data, cpu=True)
    assert subject.checkpoint == run / "checkpoint_best.pt"
    made = analyse_maps(subject).result
    assert made["target"] == "hypothesis" and made["differing"] == []
    written = (run / "evaluation" / "test" / "hyp.tok.txt").read_text().splitlines()
    for one in read_maps(subject.folder):
        assert one["target"][-1] == "</s>"
        text = " ".join(one["target"])  # its last piece may be the beginning of a word
        assert text.replace("@@ ", "").removesuffix("</s>").rstrip() == written[one["id"]]
    changed = [f"{line} ." if n == 5 else line for n, line in enumerate(written)]
    (run / "evaluation" / "test" / "hyp.tok.txt").write_text("\n".join(changed) + "\n")
    assert analyse_maps(subject, [4, 5, 6]).result["differing"] == [5]
    shutil.rmtree(run / "evaluation")
    again = find_subject(run, "test", data_bin=data, cpu=True)
    assert analyse_maps(again).result["target"] == "reference"


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sentences": [5]}, "--sentences 5: test has 5 sentences, counted from 0"),
        ({"sentences": [-1]}, "--sentences -1: test has 5 sentences, counted from 0"),
        ({"sentences": []}, "0 sentences: attention is kept of 1 to 50"),
        ({"count": 51}, "51 sentences: attention is kept of 1 to 50"),
    ],
)
def test_sentences_that_cannot_be(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    subject = subject_of(tmp_path)
    with pytest.raises(SeqAttnError, match=message):
        analyse_maps(subject, **arguments)
    assert not subject.folder.exists()


def test_a_sentence_longer_than_the_positions(tmp_path: Path) -> None:
    run = toy_run(tmp_path, "softmax", max_source_positions=4)
    subject = find_subject(run, "test", cpu=True)
    long = [n for n, (length, _) in enumerate(subject.pairs().lengths) if length > 4]
    assert long
    with pytest.raises(SeqAttnError, match=f"--sentences {long[0]}: longer than the model's pos"):
        analyse_maps(subject, long)
    assert not set(analyse_maps(subject).result["ids"]) & set(long)


def test_a_model_without_cross_attention() -> None:
    parrot = loaded(Parrot(Site.DECODER_SELF, torch.ones(1, 1, 3, 3)))
    pair = Pair(torch.tensor([4, EOS]), torch.tensor([4, 5, EOS]))
    with pytest.raises(SeqAttnError, match="parrot: the model tells no cross-attention"):
        cross_weights(parrot, pair)


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-12], lambda data: b"no gzip", lambda data: gzip.compress(b"{no json")],
    ids=["cut short", "no gzip", "no json"],
)
def test_a_damaged_file_is_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / maps.RECORD).write_text('{"ids": [0]}')
    path = tmp_path / maps.FILE
    path.write_bytes(damage(gzip.compress(b'{"id": 0, "source": ["a", "b", "c"]}\n' * 3)))
    with pytest.raises(SeqAttnError, match="maps.jsonl.gz: damaged or cut short .*; delete it and"):
        list(read_maps(tmp_path))
