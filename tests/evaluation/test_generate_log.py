"""Reading the output of fairseq-generate by ids."""

from __future__ import annotations

import random

import pytest

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.generate_log import parse

LOG = [
    "2026-01-01 00:00:00 | INFO | fairseq_cli.generate | loading",
    *(f"{kind}-{ident}\t{kind.lower()}{ident} ." for ident in range(12) for kind in "ST"),
    *(
        f"{kind}-{ident}\t-0.{ident}\t{kind.lower()}{ident} ."
        for ident in range(12)
        for kind in "HD"
    ),
    *(f"P-{ident}\t-0.1000 -0.2000" for ident in range(12)),
    "Generate test with beam=5: BLEU4 = 61.04",
]


def test_any_order_gives_corpus_order() -> None:
    lines = random.Random(1).sample(LOG, len(LOG))
    log = parse(lines, "log")
    for side, letter in ((log.sources, "s"), (log.targets, "t"), (log.hypotheses, "h")):
        assert side == [f"{letter}{ident} ." for ident in range(12)]
    assert log.detokenized == [f"d{ident} ." for ident in range(12)]


def test_empty_output_keeps_its_place() -> None:
    log = parse(["H-1\t0.0\t", "H-0\t-1\ta"], "log")
    assert log.hypotheses == log.detokenized == ["a", ""]
    assert log.sources == log.targets == []


def test_best_of_several_hypotheses() -> None:
    assert parse(
        ["H-0\t-0.5\tworse", "H-0\t-0.1\tbest", "H-0\t-0.3\tmiddle"], "log"
    ).hypotheses == ["best"]


def test_missing_ids_are_named() -> None:
    lines = [line for line in LOG if not line.startswith(("H-3\t", "H-7\t", "H-8\t", "H-9\t"))]
    with pytest.raises(SeqAttnError, match=r"log: no H line for 4 of 12 sentences: ids 3, 7-9;"):
        parse(lines, "log")
    with pytest.raises(SeqAttnError, match=r"no T line for 1 of 12 sentences: ids 5;"):
        parse([line for line in LOG if not line.startswith("T-5\t")], "log")


def test_two_logs_in_one() -> None:
    with pytest.raises(SeqAttnError, match=r"log:64: S-0 comes twice"):
        parse([*LOG, *LOG], "log")


def test_not_a_log() -> None:
    with pytest.raises(SeqAttnError, match="no H line"):
        parse(["hello"], "log")
    with pytest.raises(SeqAttnError, match="log:1: 'good' is not a score"):
        parse(["H-0\tgood\ttext"], "log")


def test_lines_after_the_score_and_odd_separators_inside_a_line() -> None:
    odd = "a\u2028b\x85c\rd"
    lines = [f"S-0\t{odd}", f"T-0\t{odd}", f"H-0\t-1.5\t{odd}", "P-0\t-1.5000 -1.5000"]
    log = parse([*lines, "Generate test with beam=5: BLEU4 = 1.00", "INFO | bye"], "log")
    assert log.hypotheses == log.targets == log.sources == [odd]


def test_detokenised_lines_are_kept_apart() -> None:
    log = parse(["H-0\t-1\tes ist gut .", "D-0\t-1\tEs ist gut."], "log")
    assert (log.hypotheses, log.detokenized) == (["es ist gut ."], ["Es ist gut."])
