"""Alignment error rates: the worked examples, the reading traps, and models that align by heart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.analysis.alignment import (
    HardAlignment,
    Tally,
    align,
    analyse_alignment,
    score_files,
    word_links,
)
from seqattn_fairseq.analysis.gold import Gold
from seqattn_fairseq.analysis.subject import Subject, find_subject
from seqattn_fairseq.data.alignments import read_alignments
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.transformer.attention import Site
from tests.analysis.models import Parrot, loaded, pairs_of, toy_run
from tests.evaluation import corpus
from tests.support.alignments import word_numbers, write_pharaoh
from tests.support.models import EOS

pytestmark = pytest.mark.xdist_group("commands")

GOLD = Path(__file__).parent / "gold"
EXPECTED = json.loads((GOLD / "expected.json").read_text())
NOTHING = -1
# four source pieces and, by heart, a row for each of four target pieces
ROWS = torch.tensor([[0.6, 0.1, 0.2, 0.1], [0, 0, 0, 0], [0.1, 0.1, 0.7, 0.1], [0, 0.2, 0.3, 0.4]])
WORDS = torch.ones(1, 4, dtype=torch.bool)


def pieces_of(weights_BHTS: Tensor, words_BS: Tensor) -> Tensor:
    log = HardAlignment(words_BS)
    log.add(Site.CROSS, weights_BHTS)
    log.add(Site.DECODER_SELF, weights_BHTS)  # is no alignment
    (layer,) = log.layers
    return layer


# ---- error rates -------------------------------------------------------------------------------


def test_the_worked_example_of_one_sentence() -> None:
    tally = Tally()
    sure = {(0, 0), (1, 2)}
    tally.add({(0, 0), (2, 1), (1, 1)}, sure, sure | {(2, 1), (2, 2)})
    rate = tally.rate()
    assert (rate.aer, rate.precision, rate.recall) == pytest.approx((0.4, 2 / 3, 0.5))
    assert rate.links == 3


@pytest.mark.parametrize(
    ("links", "gold", "format", "turned"),
    [
        ("hyp.pharaoh", "gold.talp", "talp", False),
        ("hyp.pharaoh", "gold.naacl", "naacl", False),
        ("hyp.reverse.pharaoh", "gold.talp", "talp", True),
        ("hyp.reverse.pharaoh", "gold.naacl", "naacl", True),
    ],
)
def test_files_score_as_the_public_tool_scores_them(
    links: str, gold: str, format: str, turned: bool
) -> None:
    rate = score_files(GOLD / links, Gold(GOLD / gold, format, turned))
    assert rate.aer == pytest.approx(EXPECTED["aer"], abs=1e-12)
    assert rate.precision == pytest.approx(EXPECTED["precision"])
    assert rate.recall == pytest.approx(EXPECTED["recall"])
    assert rate.links == EXPECTED["hyp"]


def test_what_the_traps_would_give(tmp_path: Path) -> None:
    marked = (GOLD / "gold.talp").read_text()
    only_sure = " \n".join(
        " ".join(item for item in line.split() if "p" not in item) for line in marked.splitlines()
    )
    for text, aer in ((marked.replace("p", "-"), 0.25), (only_sure, 0.238095)):
        (tmp_path / "gold").write_text(f"{text.strip()}\n")
        rate = score_files(GOLD / "hyp.pharaoh", Gold(tmp_path / "gold", "talp"))
        assert rate.aer == pytest.approx(aer, abs=1e-6)
    wrong_base = score_files(GOLD / "hyp.pharaoh", Gold(GOLD / "gold.talp", "pharaoh"))
    assert wrong_base.aer is not None and wrong_base.aer > 0.5


def test_links_of_pieces_are_links_of_their_words(tmp_path: Path) -> None:
    sides = [(GOLD / f"{side}.bpe").read_text().splitlines() for side in ("source", "target")]
    found = []
    lines = zip(read_alignments(GOLD / "hyp.bpe.pharaoh", "pharaoh"), *sides, strict=True)
    for links, source, target in lines:
        words = [word_numbers(side.split(), "subword_nmt") for side in (source, target)]
        found.append({(words[0][i], words[1][j]) for i, j in links.possible})
    write_pharaoh(tmp_path / "words", found)
    assert read_alignments(tmp_path / "words", "pharaoh") == read_alignments(
        GOLD / "hyp.pharaoh", "pharaoh"
    )


def test_nothing_to_divide_by() -> None:
    assert Tally().rate().aer is None
    tally = Tally()
    tally.add(set(), {(0, 0)}, {(0, 0)})
    rate = tally.rate()
    assert (rate.aer, rate.precision, rate.recall, rate.links) == (1.0, None, 0.0, 0)


# ---- from weights to links ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("normal", {(0, 0), (1, 1), (2, 2)}), ("shifted", {(1, 1), (2, 1)})],
)
def test_the_worked_example_of_weights(kind: str, expected: set[tuple[int, int]]) -> None:
    pieces = pieces_of(ROWS[None, None], WORDS)[0, 0].tolist()
    assert pieces == [0, NOTHING, 2, 3]
    assert word_links(pieces, [0, 0, 1, 2], [0, 1, 1, 2], kind) == expected


def test_the_end_of_the_source_and_padding_are_no_words() -> None:
    weights = torch.tensor([[0.9, 0.1, 0.3, 0.9], [0.5, 0.0, 0.0, 0.5]])[None, None]
    words = torch.tensor([[False, True, True, False]])  # padding, two pieces, eos
    assert pieces_of(weights, words)[0].tolist() == [[1, NOTHING]] * 2


def test_the_first_of_equal_weights_wins_and_the_mean_is_a_row_of_its_own() -> None:
    first, second = [0.0, 0.4, 0.4, 0.2], [0.9, 0.0, 0.5, 0.0]
    weights = torch.tensor([[first], [second]])[None]
    # the mean of the weights, not of the choices: .45 .2 .45 .1
    assert pieces_of(weights, WORDS)[0, :, 0].tolist() == [1, 0, 0]
    nothing = torch.zeros(1, 2, 1, 4)
    assert pieces_of(nothing, WORDS).eq(NOTHING).all()


def test_shifted_rows_align_what_the_decoder_reads() -> None:
    # source a b, target x y: the row of BOS sees b, that of x sees a, that of y (eos) b
    by_heart = torch.eye(3)[[1, 0, 1]][None, None]
    subject = loaded(Parrot(Site.CROSS, by_heart, by_heart))
    pair = torch.tensor([4, 5, EOS]), torch.tensor([6, 7, EOS])
    (batch,) = subject.batches(pairs_of([pair]), [0], 100)
    layers = align(subject, batch)
    assert len(layers) == 2
    rows = layers[1][0, 0].tolist()
    assert word_links(rows, [0, 1], [0, 1], "normal") == {(1, 0), (0, 1)}
    assert word_links(rows, [0, 1], [0, 1], "shifted") == {(0, 0), (1, 1)}


# ---- a model against a gold alignment ----------------------------------------------------------


def gold_of(subject: Subject, path: Path, turned: bool = False) -> Gold:
    """Write the true alignment of the toy corpus, whose targets are the sources reversed."""
    lengths = [source - 1 for source, _ in subject.pairs().lengths]
    links = [[(i, length - 1 - i) for i in range(length)] for length in lengths]
    write_pharaoh(path, [[(j, i) for i, j in pair] for pair in links] if turned else links)
    return Gold(path, "pharaoh", turned)


class Reverser(Parrot):
    """Attends, in its two heads, to what the next and to what the last target piece is."""

    def __init__(self) -> None:
        super().__init__(Site.CROSS)

    def __call__(self, source: Tensor, lengths: None, previous: Tensor, attention_log: Any) -> None:
        mirror = torch.eye(source.size(1))[:-1].flip(0)  # row t sees piece length - 1 - t
        heads = torch.zeros(len(source), 2, previous.size(1), source.size(1))
        heads[:, 0, : len(mirror)] = mirror
        heads[:, 1, 1 : len(mirror) + 1] = mirror
        attention_log.add(self.site, heads)


@pytest.mark.parametrize("turned", [False, True])
def test_a_model_that_aligns_perfectly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turned: bool
) -> None:
    subject = find_subject(toy_run(tmp_path, "softmax"), "test", cpu=True, max_tokens=1)
    by_heart: Any = Reverser()
    monkeypatch.setitem(subject.__dict__, "loaded", replace(subject.loaded, model=by_heart))
    gold = gold_of(subject, tmp_path / "gold", turned)
    result = analyse_alignment(subject, gold).result
    (layer,) = result["layers"]
    perfect = {"aer": 0.0, "precision": 1.0, "recall": 1.0}
    assert perfect.items() <= layer["normal"]["heads"][0].items()
    assert perfect.items() <= layer["shifted"]["heads"][1].items()
    assert layer["normal"]["heads"][1]["aer"] > 0.5 and layer["shifted"]["heads"][0]["aer"] > 0.5
    assert result["sentences"] == 5 and result["uncertain"] == 0
    assert not analyse_alignment(subject, gold).fresh


@pytest.mark.parametrize("variant", ["softmax", "rela_g", "luna", "mega"])
def test_models_have_rates_for_every_head(tmp_path: Path, variant: str) -> None:
    subject = find_subject(toy_run(tmp_path, variant), "test", cpu=True)
    result = analyse_alignment(subject, gold_of(subject, tmp_path / "gold")).result
    heads = 1 if variant == "mega" else 4
    for layer in result["layers"]:
        for rates in layer.values():
            assert len(rates["heads"]) == heads
            assert all(0 <= rate["aer"] <= 1 for rate in (*rates["heads"], rates["mean"]))


def test_a_model_that_has_learnt_to_copy_reads_what_it_is_about_to_write(tmp_path: Path) -> None:
    run = corpus.run_copy(tmp_path)
    subject = find_subject(run, "test", data_bin=corpus.data_bin(), cpu=True)
    words = [len(line.replace("@@ ", "").split()) for line in corpus.sentences(13, 2)]
    write_pharaoh(tmp_path / "gold", [[(i, i) for i in range(count)] for count in words])
    last = analyse_alignment(subject, Gold(tmp_path / "gold", "pharaoh")).result["layers"][-1]
    normal, shifted = (last[kind]["mean"]["aer"] for kind in ("normal", "shifted"))
    assert normal < 0.6 < shifted


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0-0"] * 4, "gold: 4 lines, but there are 5 sentence pairs"),
        (["0-0", "9-0", "", "", ""], "gold:2: links source word 10 to target word 1, but the pair"),
        (["0-0", "zero", "", "", ""], "gold:2: 'zero' is no link"),
    ],
)
def test_gold_that_does_not_fit(tmp_path: Path, lines: list[str], message: str) -> None:
    subject = find_subject(toy_run(tmp_path, "softmax"), "test", cpu=True)
    gold = tmp_path / "gold"
    gold.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(SeqAttnError, match=message):
        analyse_alignment(subject, Gold(gold, "pharaoh"))
    assert not subject.folder.exists()
