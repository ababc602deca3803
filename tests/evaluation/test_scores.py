"""Flavours of one system: labels, signatures, values of sacreBLEU's own command, scores.json."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation import bleu, generate_log
from seqattn_fairseq.evaluation.scores import ScoreOptions, flavour_score, score_system
from seqattn_fairseq.evaluation.system import System

WORDS = (
    "der Bus-Fahrer sagt , die U-Bahn &amp; das Not-aus-System sind alt “ ' ja ' . Ein Tag".split()
)


def _sentences(count: int, seed: int, changes: float) -> tuple[list[str], list[str]]:
    """Return made-up references, and hypotheses in which some words are others."""
    generator = random.Random(seed)
    references = [
        " ".join(generator.choices(WORDS, k=generator.randint(3, 14))) for _ in range(count)
    ]
    hypotheses = [
        " ".join(
            generator.choice(WORDS) if generator.random() < changes else word
            for word in line.split()
        )
        for line in references
    ]
    return hypotheses, references


HYPOTHESES, REFERENCES = _sentences(60, 1, 0.2)
TEXT = [bleu.detokenize([line], "de")[0] for line in HYPOTHESES]
RAW = [bleu.detokenize([line], "de")[0] for line in REFERENCES]
SYSTEM = System("a run", HYPOTHESES, REFERENCES, TEXT, RAW)


def sacrebleu(folder: Path, hypotheses: list[str], references: list[str], *options: str) -> Any:
    """Return what sacreBLEU's own command says."""
    for name, lines in {"hyp": hypotheses, "ref": references}.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", str(folder / "ref"), "-i", str(folder / "hyp")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_flavours_are_those_of_sacrebleu(tmp_path: Path) -> None:
    table = score_system(SYSTEM, ScoreOptions(compound_split=True))
    plain = sacrebleu(tmp_path, TEXT, RAW, "-w", "10", "-m", "bleu", "chrf", "ter")
    for key, row in zip(("detokenized", "chrf", "ter"), plain, strict=True):
        assert table.scores[key].value == pytest.approx(row["score"], abs=1e-9)
        assert table.scores[key].signature == row["signature"]
    options = ["-w", "10", "--tokenize", "none", "--force", "-s", "none"]
    sides = {"tokenized": (HYPOTHESES, REFERENCES)}
    split = [[*map(bleu.compound_split, side)] for side in sides["tokenized"]]
    sides["compound_split"] = (split[0], split[1])
    for key, pair in sides.items():
        expected = sacrebleu(tmp_path, *pair, *options)
        assert table.scores[key].value == pytest.approx(expected["score"], abs=1e-9)
    assert table.scores["compound_split"].value != table.scores["tokenized"].value


def test_a_shuffled_log_with_other_lines_gives_the_same() -> None:
    lines = [f"{kind}-{i}\t{text}" for kind, side in (("S", TEXT), ("T", REFERENCES))
             for i, text in enumerate(side)]  # fmt: skip
    lines += [f"H-{i}\t-0.{i}\t{text}" for i, text in enumerate(HYPOTHESES)]
    lines += [f"D-{i}\t-0.{i}\t{text}" for i, text in enumerate(TEXT)]
    lines += ["2026-01-01 | INFO | NOTE: scores are output in base 2", "Generate test: BLEU4 = 1"]
    for seed in range(3):
        shuffled = random.Random(seed).sample(lines, len(lines))
        log = generate_log.parse([*shuffled, "2026-01-01 | INFO | done"], "log")
        system = System("log", log.hypotheses, log.targets, log.detokenized, RAW)
        assert score_system(system, ScoreOptions()).scores == (
            score_system(SYSTEM, ScoreOptions()).scores
        )


def test_the_headline_comes_first_and_is_marked_in_json() -> None:
    table = score_system(SYSTEM, ScoreOptions(headline="compound_split"))
    assert [line.split("  ")[0].strip() for line in table.lines()] == [
        "compound-split BLEU", "tokenised BLEU", "sacreBLEU", "chrF", "TER",
    ]  # fmt: skip
    values = json.loads(json.dumps(table.to_dict()))
    assert values["n"] == 60
    assert values["headline"]["flavour"] == "compound_split"
    assert values["headline"]["score"] == values["scores"]["compound_split"]["score"]
    assert set(values["versions"]) == {"seqattn_fairseq", "sacrebleu", "sacremoses"}
    assert all(f"version:{values['versions']['sacrebleu']}" in score["signature"]
               for score in values["scores"].values())  # fmt: skip


def test_lower_cased_text_meets_a_raw_reference_without_case() -> None:
    small = [line.lower() for line in TEXT]
    raw = System("x", text=small, references=RAW, lowercased=True)
    score = flavour_score(raw, "detokenized")
    assert "|case:lc|" in score.signature
    assert score == flavour_score(SYSTEM, "detokenized", ScoreOptions(lowercase=True))
    assert raw.label("detokenized") == "sacreBLEU (lower-cased)"
    own = System("x", small, small, small, small, own_reference=True, lowercased=True)
    assert "|case:mixed|" in flavour_score(own, "detokenized").signature
    assert own.label("detokenized") == "sacreBLEU (lower-cased, own reference)"
    assert own.label("tokenized") == "tokenised BLEU (lower-cased)"
    table = score_system(raw, ScoreOptions())
    assert list(table.names.values())[1:] == ["chrF (lower-cased)", "TER (lower-cased)"]


def test_missing_texts_are_named() -> None:
    with pytest.raises(SeqAttnError, match="x: tokenised BLEU needs tokenised references: the T"):
        score_system(System("x", text=TEXT, references=RAW), ScoreOptions(headline="tokenized"))
    with pytest.raises(SeqAttnError, match="x: sacreBLEU needs plain references: give the raw"):
        flavour_score(System("x", HYPOTHESES, REFERENCES), "detokenized")
    with pytest.raises(SeqAttnError, match="x: tokenised BLEU needs"):
        score_system(System("x"), ScoreOptions())
    with pytest.raises(SeqAttnError, match="60 hypotheses but 59 references"):
        score_system(System("x", HYPOTHESES, REFERENCES[1:]), ScoreOptions())


def test_empty_lines_count() -> None:
    system = System("x", ["", "a b c d", ""], ["", "a b c d", "e f"], ["", "", ""], ["a", "", "b"])
    table = score_system(system, ScoreOptions())
    assert table.n == 3
    assert table.scores["tokenized"].detail.endswith("(BP 0.607, 4 / 6)")
