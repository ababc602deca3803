"""BLEU flavours: the hyphen rule, exactness, and the values of the public scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation import bleu, generate_log


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Café-Liebhaber", "Café ##AT##-##AT## Liebhaber"),
        ("a-b-c", "a ##AT##-##AT## b-c"),
        ("1-2-3-4", "1 ##AT##-##AT## 2-3 ##AT##-##AT## 4"),
        ("a--b", "a ##AT##-##AT## -b"),
        ("---", "- ##AT##-##AT## -"),
        ("--", "--"),
        ("x-", "x-"),
        ("-x", "-x"),
        (" - ", " - "),
        ("co @-@ advised", "co @ ##AT##-##AT## @ advised"),
        ("jaguar-schamanen", "jaguar ##AT##-##AT## schamanen"),
        ("a-\u00a0b", "a ##AT##-##AT## \u00a0b"),
    ],
)
def test_compound_split(line: str, expected: str) -> None:
    assert bleu.compound_split(line) == expected


def test_tokenized_bleu_by_hand() -> None:
    # 5 of 6 unigrams, 3 of 5 bigrams, 2 of 4 trigrams, 1 of 3 4-grams; equal lengths
    score = bleu.tokenized_bleu(["a b c d x f"], ["a b c d e f"])
    assert score.value == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert "tok:none" in score.signature and "smooth:none" in score.signature


def test_no_smoothing_hides_a_zero() -> None:
    assert bleu.tokenized_bleu(["a b c"], ["a b c"]).value == 0.0


def test_case() -> None:
    pair = ["A b c d"], ["a b c d"]
    assert (
        bleu.corpus_bleu(*pair).value < 100 == round(bleu.corpus_bleu(*pair, lowercase=True).value)
    )


def test_other_number_of_references() -> None:
    with pytest.raises(SeqAttnError, match="2 hypotheses but 1 references"):
        bleu.corpus_bleu(["a", "b"], ["a"])
    with pytest.raises(SeqAttnError, match="no sentences"):
        bleu.corpus_bleu([], [])


def test_values_of_the_public_scripts(shared: Path) -> None:
    folder = shared / "fixtures" / "scoring"
    expected = json.loads((folder / "expected.json").read_text())
    lines = (folder / "gen.out").read_text(encoding="utf-8").split("\n")
    log = generate_log.parse(lines, "gen.out")
    assert len(log.hypotheses) == expected["lines"]
    for key, split in (("multi_bleu_tokenised", False), ("multi_bleu_compound_split", True)):
        score = bleu.tokenized_bleu(log.hypotheses, log.targets, split)
        assert f"BLEU = {score.value:.2f}, {score.detail.split()[0]} " in expected[key]
    compound = [bleu.compound_split(line) for line in log.hypotheses]
    changed = {
        "sys": sum(ours != line for ours, line in zip(compound, log.hypotheses, strict=True)),
        "ref": sum(bleu.compound_split(line) != line for line in log.targets),
    }
    assert changed == expected["compound_changed_lines"]
    in_log_order = [compound[int(line.split("\t")[0][2:])] for line in lines if line[:2] == "H-"]
    assert in_log_order == (folder / "expected.sys.compound").read_text("utf-8").split("\n")[:-1]
    text = bleu.detokenize(log.hypotheses, "de")
    assert text == (folder / "expected.detok.de").read_text(encoding="utf-8").split("\n")[:-1]
    reference = (folder / "ref.raw.de").read_text(encoding="utf-8").split("\n")[:-1]
    for name, values in expected["sacrebleu"].items():
        tokenize, _, case = name.partition("_")
        score = bleu.corpus_bleu(text, reference, tokenize, lowercase=case == "lc")
        assert score.value == pytest.approx(values["score"], abs=5e-4)
        assert score.signature.split("|version")[0] == values["signature"].split("|version")[0]
