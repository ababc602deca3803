"""The stages one by one, where the whole preparation would not show what they do."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from subword_nmt.learn_bpe import learn_bpe

from seqattn_fairseq.data.cleaning import CleanRule
from seqattn_fairseq.data.pipeline import Part, Pipeline, Stage, Text, Texts
from seqattn_fairseq.data.segmentation import count_words, learn_codes, segment_lines
from seqattn_fairseq.data.stages import Clean, HoldOut, Rewrite, SubwordNmt
from seqattn_fairseq.data.text_chain import TextChain, TextChains
from seqattn_fairseq.data.workers import LineWorkers, line_workers
from seqattn_fairseq.data.workspace import open_workspace
from seqattn_fairseq.errors import SeqAttnError
from tests.data.corpus import sentences

CHAIN = TextChain("-", lowercase=True, normalize_punctuation=True, tokenize=True)
LANGS = ("en", "de")


@pytest.fixture(params=[1, 2], ids=["alone", "two workers"])
def pipeline(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pipeline]:
    chains = TextChains(CHAIN, CHAIN)
    with open_workspace(tmp_path / "to", "x", {}) as work, line_workers(request.param) as workers:
        yield Pipeline(LANGS, chains, work, workers)


def texts_of(folder: Path, splits: dict[str, tuple[list[str], list[str]]]) -> Texts:
    """Write parallel lines in two files a side, as corpora of several pieces come."""
    texts: Texts = {}
    for split, sides in splits.items():
        for lang, lines in zip(LANGS, sides, strict=True):
            parts = []
            for number, part in enumerate((lines[:1], lines[1:])):
                path = folder / f"{split}{number}.{lang}"
                path.write_text("".join(f"{line}\n" for line in part), "utf-8", newline="\n")
                parts.append(Part(path))
            texts[split, lang] = Text(tuple(parts), len(lines))
    return texts


def numbered(count: int) -> tuple[list[str], list[str]]:
    return [f"line {n}" for n in range(1, count + 1)], [f"Zeile {n}" for n in range(1, count + 1)]


def contents(texts: Texts) -> dict[tuple[str, str], list[str]]:
    return {pair: list(text.read()) for pair, text in texts.items()}


def numbers(text: Text) -> list[int]:
    return [int(line.split()[-1]) for line in text.read()]


@pytest.mark.parametrize(("count", "every"), [(7, 7), (1000, 7), (1500, 500), (2000, 501)])
def test_hold_out(tmp_path: Path, pipeline: Pipeline, count: int, every: int) -> None:
    texts = texts_of(tmp_path, {"train": numbered(count), "test": numbered(3)})
    made = HoldOut("split", every).run(texts, pipeline)
    assert [split for split, _ in made] == ["train", "train", "valid", "valid", "test", "test"]
    for lang in LANGS:
        valid = list(range(every, count + 1, every))
        assert numbers(made["valid", lang]) == valid
        assert numbers(made["train", lang]) == [n for n in range(1, count + 1) if n % every]
        assert numbers(made["test", lang]) == [1, 2, 3]
    assert all(text.lines == len(list(text.read())) for text in made.values())


def test_too_few_lines_to_hold_out(tmp_path: Path, pipeline: Pipeline) -> None:
    texts = texts_of(tmp_path, {"train": numbered(22)})
    with pytest.raises(SeqAttnError, match=r"train0\.en.*: 22 lines are too few .* every 23th"):
        HoldOut("split", 23).run(texts, pipeline)


def test_clean_keeps_both_sides_parallel(tmp_path: Path, pipeline: Pipeline) -> None:
    source, target = numbered(1200)
    source[10], target[20], source[1100] = " \u00a0 ", "", "a " * 9
    texts = texts_of(tmp_path, {"train": (source, target), "test": (source, target)})
    made = Clean("clean", CleanRule(1, 250, 1.5)).run(texts, pipeline)
    kept = [n for n in range(1, 1201) if n not in {11, 21, 1101}]
    assert numbers(made["train", "en"]) == numbers(made["train", "de"]) == kept
    assert made["train", "en"].lines == len(kept)
    assert contents(made)["test", "en"] == source


@pytest.mark.parametrize("kept", [["a|b", "c|d"], ["ab", "cd"]])
def test_first_line_decides_about_bars(tmp_path: Path, pipeline: Pipeline, kept: list[str]) -> None:
    """clean-corpus-n.perl deletes vertical bars unless the first line has one."""
    lines = [kept[0], "c|d"]
    texts = texts_of(tmp_path, {"train": (lines, lines)})
    made = Clean("clean", CleanRule(1, 9, 9)).run(texts, pipeline)
    assert contents(made)["train", "de"] == kept


def test_cleaning_that_leaves_nothing(tmp_path: Path, pipeline: Pipeline) -> None:
    texts = texts_of(tmp_path, {"train": (["a", "b"], ["a b c", ""])})
    with pytest.raises(SeqAttnError, match="cleaning leaves no pair of train"):
        Clean("clean", CleanRule(1, 250, 1.5)).run(texts, pipeline)


def test_steps_of_evaluation_sets(tmp_path: Path, pipeline: Pipeline) -> None:
    lines = ["", "A \u2013 B\u2028C usw."]
    texts = texts_of(tmp_path, {"train": (lines, lines), "test": (lines, lines)})
    stage = Rewrite("tok", ("lowercase", "normalize_punctuation", "tokenize"), ("tokenize",))
    made = contents(stage.run(texts, pipeline))
    assert made["train", "de"] == ["", "a - b c usw ."]
    assert made["test", "de"] == ["", "A \u2013 B C usw ."]


@pytest.mark.parametrize(
    "stage", [Rewrite("a"), Rewrite("a", ("tokenize",)), HoldOut("a", 2), SubwordNmt(9, "a")]
)
def test_stages_write_all_splits_once(tmp_path: Path, pipeline: Pipeline, stage: Stage) -> None:
    texts = texts_of(tmp_path, {"train": numbered(9), "test": numbered(4)})
    made = stage.run(texts, pipeline)
    folder = pipeline.folder / "a"
    assert {path.name for path in folder.iterdir()} == {".".join(pair) for pair in made}
    done = pipeline.steps_done
    assert stage.run(texts, pipeline) == made
    assert pipeline.steps_done == done


@pytest.mark.parametrize("workers", [1, 2])
def test_codes_of_counted_words_are_those_of_the_text(tmp_path: Path, workers: int) -> None:
    lines = [CHAIN.encode(line) for side in range(2) for line in next_side(side)]
    with line_workers(workers) as pool:
        counts = count_words(lines, pool, lambda size: None)
    assert counts.lines == len(lines)
    learn_codes(counts.words, tmp_path / "codes", 200)
    expected = io.StringIO()
    learn_bpe(lines, expected, 200)
    assert (tmp_path / "codes").read_text("utf-8") == expected.getvalue()


def next_side(side: int) -> list[str]:
    return [sentence[side] for sentence in sentences(1500, seed=3)]


@given(st.lists(st.text(alphabet="ab \u00a0\u2028\r\t", max_size=12)))
def test_words_are_parted_by_blanks_alone(lines: list[str]) -> None:
    counts = count_words(lines, LineWorkers(None, 1), lambda size: None)
    words = [word for line in lines for word in line.replace("\r", " ").split(" ") if word]
    assert sum(counts.words.values()) == counts.count.tokens == len(words)


def test_blanks_around_a_line_stay(tmp_path: Path) -> None:
    codes = tmp_path / "codes"
    learn_codes({"ab": 3, "abc": 2}, codes, 1)
    assert segment_lines(codes, "", ["", " ", "  abc  ab ", "ab"]) == [
        "",
        " ",
        "  a@@ b@@ c ab ",
        "ab",
    ]
    # Tools that read with Python's universal newlines would break the lines there.
    assert segment_lines(codes, "", ["\r", "ab\rab\r", " \r "]) == ["", "ab ab", "   "]
