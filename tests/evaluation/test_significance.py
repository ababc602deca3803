"""Paired tests: the figures of sacreBLEU's own command, and what cannot be compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.significance import TestKind, compare
from seqattn_fairseq.evaluation.system import System
from tests.evaluation.test_scores import RAW, TEXT


def _worse(lines: list[str], every: int) -> list[str]:
    return [" ".join(line.split()[1:]) if i % every == 0 else line for i, line in enumerate(lines)]


NAMES = ("base", "one", "two")
SIDES = dict(zip(NAMES, (TEXT, _worse(TEXT, 2), _worse(TEXT, 30)), strict=True))
SYSTEMS = [System(name, text=text, references=RAW) for name, text in SIDES.items()]


# sacreBLEU's command can print the bootstrap of BLEU alone as JSON
@pytest.mark.parametrize(
    ("test", "samples", "metrics"),
    [("bs", 100, ["bleu"]), ("ar", 200, ["bleu", "chrf", "ter"])],
)
def test_equal_to_the_command_line(
    tmp_path: Path, test: TestKind, samples: int, metrics: list[str]
) -> None:
    for name, lines in {**SIDES, "ref": RAW}.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", *NAMES, "-m", *metrics]
    command += [f"--paired-{test}", f"--paired-{test}-n", str(samples), "-f", "json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = compare(SYSTEMS, "detokenized", metrics, [test], samples=samples)
    found = {(row.system, row.metric): row for row in rows}
    theirs = json.loads(done.stdout)
    assert len(found) == 3 * len(metrics)
    for line in theirs:
        name = line["system"].removeprefix("Baseline: ")
        for metric, expected in line.items():
            if metric == "system":
                continue
            ours = found[name, metric]
            assert ours.score == pytest.approx(expected["score"], abs=1e-9)
            assert ours.p_value == expected["p_value"]
            assert (ours.mean, ours.interval) == (expected["mean"], expected["ci"])


def test_a_large_difference_is_one_and_a_small_one_is_not() -> None:
    rows = compare(SYSTEMS, "detokenized", ["bleu"], ["bs", "ar"], samples=300)
    chances = {(row.system, row.test): row.p_value for row in rows}
    for test in ("bs", "ar"):
        assert chances["base", test] is None
        large, small = chances["one", test], chances["two", test]
        assert large is not None and small is not None
        assert large < 0.01 < small


def test_the_same_translations_are_no_better() -> None:
    twin = System("twin", text=TEXT, references=RAW)
    rows = compare([SYSTEMS[0], twin], "detokenized", ["bleu", "ter"], ["bs", "ar"], samples=50)
    assert [row.p_value for row in rows] == [None, 1.0] * 4


def test_flavour_decides_about_the_text() -> None:
    same = [System(f"{i}", ["a-b c d e f"], ["a-b c d e g"], ["x"], ["y"]) for i in range(2)]
    rows = {
        flavour: compare(same, flavour, ["bleu"], ["bs"], samples=10)[0]
        for flavour in ("tokenized", "compound_split", "detokenized")
    }
    assert rows["tokenized"].score < rows["compound_split"].score
    assert rows["detokenized"].score == 0
    assert "|tok:none|smooth:none|" in rows["tokenized"].signature
    assert "|tok:13a|smooth:exp|" in rows["detokenized"].signature


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([*RAW[:3], "other", *RAW[4:]], "other: reference 4 differs from base; compare"),
        (RAW[:-1], "60 hypotheses but 59 references"),
    ],
)
def test_other_references_are_refused(references: list[str], message: str) -> None:
    other = System("other", text=TEXT, references=references)
    with pytest.raises(SeqAttnError, match=message):
        compare([SYSTEMS[0], other], "detokenized", ["bleu"], ["bs"])
    shorter = System("other", text=TEXT[1:], references=RAW[1:])
    with pytest.raises(SeqAttnError, match="other: 59 references, not 60 from base"):
        compare([SYSTEMS[0], shorter], "detokenized", ["bleu"], ["bs"])


def test_one_system_or_twice_the_same() -> None:
    with pytest.raises(SeqAttnError, match="one system cannot be compared"):
        compare(SYSTEMS[:1], "detokenized", ["bleu"], ["bs"])
    with pytest.raises(SeqAttnError, match="base: given twice"):
        compare([SYSTEMS[0], SYSTEMS[0]], "detokenized", ["bleu"], ["bs"])
