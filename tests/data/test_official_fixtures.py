"""Every stage of every corpus against what the official scripts made of the same archives."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from seqattn_fairseq.data.files import read_lines
from seqattn_fairseq.data.prepare import prepare
from seqattn_fairseq.data.recipes import RECIPES
from seqattn_fairseq.data.text_chain import FinalDot

Rules = dict[str, str]  # pattern of an expected file (without .gz) -> our file
Prepare = Callable[["Case"], Path]

LANG = r"\.(de|en|fr|vi)"


class Case(NamedTuple):
    """A corpus, the folder of expected files, and which of our files they are to equal."""

    corpus: str
    expected: str
    rules: Rules
    final_dot: FinalDot | None = None

    @property
    def name(self) -> str:
        return self.corpus if self.final_dot is None else f"{self.corpus}-{self.final_dot}"


CODES = {r"code|bpe\.32000": "bpe.codes"}
DICTIONARIES = {r"data-bin(|\.joined)/dict\.(..)\.txt": r"data-bin\1/dict.\2.txt"}
IWSLT14 = CODES | {
    rf"(train|valid|test){LANG}": r"bpe/\1.\2",
    rf"tmp/train\.tags\.de-en\.(tok|clean){LANG}": r"\1/train.\2",
    rf"tmp/train\.tags\.de-en{LANG}": r"lower/train.\1",
    rf"tmp/(train|valid|test){LANG}": r"split/\1.\2",
}
IWSLT14_DE_EN = {r"data-bin\.de-en(|\.joined)/dict\.(..)\.txt": r"data-bin\1/dict.\2.txt"}
IWSLT14_EN_DE = {r"data-bin\.en-de/dict\.(..)\.txt": r"data-bin/dict.\1.txt"}
IWSLT14_PARTS = rf"tmp/IWSLT14\.(.*)\.de-en{LANG}"
FAIRSEQ_WMT = (CODES | DICTIONARIES) | {
    rf"(train|valid|test){LANG}": r"clean/\1.\2",
    rf"tmp/train\.tags\.en-..\.tok{LANG}": r"tok/train.\1",
    rf"tmp/(train|valid|test){LANG}": r"split/\1.\2",
}
MULTI30K_TOKENS = {
    rf"train\.lc\.norm\.tok{LANG}": r"tok/train.\1",
    rf"val\.lc\.norm\.tok{LANG}": r"tok/valid.\1",
    rf"test_2016_flickr\.lc\.norm\.tok{LANG}": r"tok/test.\1",
    rf"test_2017_flickr\.lc\.norm\.tok{LANG}": r"tok/test1.\1",
    rf"test_2017_mscoco\.lc\.norm\.tok{LANG}": r"tok/test2.\1",
}
MULTI30K = (CODES | DICTIONARIES | MULTI30K_TOKENS) | {
    rf"(train|valid){LANG}": r"bpe/\1.\2",
    rf"test\.2016{LANG}": r"bpe/test.\1",
    rf"test\.2017{LANG}": r"bpe/test1.\1",
    rf"test\.coco{LANG}": r"bpe/test2.\1",
}
EN_VI = (CODES | DICTIONARIES) | {rf"(train|valid|test){LANG}": r"bpe/\1.\2"}
VOCABULARY = r"vocab\.bpe\.32000"
RAW = rf"newstest(2013|2014){LANG}"


def wmt16(last: str) -> Rules:
    return (CODES | DICTIONARIES) | {
        rf"train\.tok{LANG}": r"tok/train.\1",
        rf"train\.tok\.clean\.bpe\.32000{LANG}": rf"{last}/train.\1",
        rf"newstest2013\.tok{LANG}": r"tok/valid.\1",
        rf"newstest2014\.tok{LANG}": r"tok/test.\1",
        rf"newstest2013\.tok\.bpe\.32000{LANG}": rf"{last}/valid.\1",
        rf"newstest2014\.tok\.bpe\.32000{LANG}": rf"{last}/test.\1",
    }


CASES = [
    Case("iwslt14_de_en", "iwslt14", IWSLT14 | IWSLT14_DE_EN),
    Case("iwslt14_en_de", "iwslt14", IWSLT14 | IWSLT14_EN_DE),
    Case("iwslt14_de_en", "iwslt14_old_tokenizer", IWSLT14, "keep"),
    Case("iwslt15_en_vi", "iwslt15_en_vi", EN_VI),
    Case("wmt17_en_de", "wmt17_en_de", FAIRSEQ_WMT),
    Case("wmt14_en_de", "wmt14_en_de_icml17", FAIRSEQ_WMT),
    Case("wmt14_en_fr", "wmt14_en_fr", FAIRSEQ_WMT),
    Case("wmt16_en_de_bpe32k", "wmt16_en_de_google", wmt16("bpe")),
    Case("wmt16_de_en_bpe32k", "wmt16_en_de_google", wmt16("bpe")),
    Case("wmt16_en_de_mega", "wmt16_en_de_mega", wmt16("clean")),
    Case("wmt16_de_en_mega", "wmt16_en_de_mega", wmt16("clean")),
    Case("multi30k_en_de", "multi30k_en_de", MULTI30K),
    Case("multi30k_en_fr", "multi30k_en_fr", MULTI30K),
    Case("multi30k_en_de", "multi30k_en_de/current_tokenizer", MULTI30K_TOKENS, "split"),
    Case("multi30k_en_fr", "multi30k_en_fr/current_tokenizer", MULTI30K_TOKENS, "split"),
]
CASE = {case.name: case for case in CASES}


@pytest.fixture(scope="module")
def fixtures(shared: Path) -> Path:
    return shared / "fixtures"


@pytest.fixture(scope="module")
def prepared(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepare:
    """Prepares a case once; the raw road where there is a shorter one."""
    home, sources = tmp_path_factory.mktemp("corpora"), tmp_path_factory.mktemp("from")
    for folder in ("iwslt14", "iwslt15", "wmt14", "multi30k"):
        (sources / folder).symlink_to(fixtures / folder)

    def run(case: Case) -> Path:
        folder = home / case.name
        if not folder.exists():
            prepare(RECIPES[case.corpus], folder, sources, 2, case.final_dot)
        return folder

    return run


def expected_files(folder: Path, pattern: str) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in sorted(folder.rglob("*.gz")):
        name = path.relative_to(folder).as_posix().removesuffix(".gz")
        if match := re.fullmatch(pattern, name):
            yield path, match


def compared(case: Case, fixtures: Path) -> dict[Path, str]:
    """Return the expected files of a case, each with ours."""
    folder = fixtures / "expected" / case.expected
    return {
        path: match.expand(ours)
        for pattern, ours in case.rules.items()
        for path, match in expected_files(folder, pattern)
    }


def differing_lines(expected: Path, ours: Path) -> int:
    theirs, mine = list(read_lines(expected)), list(read_lines(ours))
    differing = sum(a != b for a, b in zip(theirs, mine, strict=False))
    return differing + abs(len(theirs) - len(mine))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_line_of_every_stage(case: Case, fixtures: Path, prepared: Prepare) -> None:
    files = compared(case, fixtures)
    assert files, "no expected files were found"
    folder = prepared(case)
    if any("data-bin.joined" in ours for ours in files.values()):
        prepare(RECIPES[case.corpus], folder, fixtures, 2, case.final_dot, joined=True)
    differing = {ours: differing_lines(path, folder / ours) for path, ours in files.items()}
    assert {ours: count for ours, count in differing.items() if count} == {}


def test_no_expected_file_is_left_out(fixtures: Path) -> None:
    known = {path for case in CASES for path in compared(case, fixtures)}
    for pattern in (rf".*/{IWSLT14_PARTS}", rf".*/{VOCABULARY}", rf".*/{RAW}"):
        known |= {path for path, _ in expected_files(fixtures / "expected", pattern)}
    assert set((fixtures / "expected").rglob("*.gz")) - known == set()


@pytest.mark.parametrize("lang", ["de", "en"])
def test_test_set_of_iwslt14_is_its_parts_in_order(
    fixtures: Path, prepared: Prepare, lang: str
) -> None:
    parts = "TED.dev2010 TEDX.dev2012 TED.tst2010 TED.tst2011 TED.tst2012".split()
    folder = fixtures / "expected" / "iwslt14" / "tmp"
    lines = [
        line for part in parts for line in read_lines(folder / f"IWSLT14.{part}.de-en.{lang}.gz")
    ]
    assert list(read_lines(prepared(CASE["iwslt14_de_en"]) / "split" / f"test.{lang}")) == lines


@pytest.mark.parametrize("road", ["bpe32k", "mega"])
def test_vocabulary_of_wmt16(fixtures: Path, prepared: Prepare, road: str) -> None:
    """The scripts list the words of both sides by frequency, then by first occurrence."""
    case = CASE[f"wmt16_en_de_{road}"]
    folder = prepared(case) / ("bpe" if road == "bpe32k" else "clean")
    words = Counter(
        word
        for lang in ("en", "de")
        for line in read_lines(folder / f"train.{lang}")
        for word in line.split()
    )
    vocabulary = fixtures / "expected" / case.expected / "vocab.bpe.32000.gz"
    assert sorted(read_lines(vocabulary)) == sorted(words)


@pytest.mark.parametrize("corpus", ["wmt16_en_de_mega", "wmt16_de_en_mega"])
def test_raw_references(fixtures: Path, prepared: Prepare, corpus: str) -> None:
    lang = RECIPES[corpus].target_lang
    data_bin = prepared(CASE[corpus]) / "data-bin"
    for split, year in (("valid", 2013), ("test", 2014)):
        raw = fixtures / "expected" / "wmt16_en_de_mega" / f"newstest{year}.{lang}.gz"
        assert differing_lines(raw, data_bin / f"reference.{split}.{lang}") == 0


@pytest.mark.parametrize("corpus", ["wmt16_en_de_bpe32k", "wmt16_de_en_bpe32k"])
def test_ready_archive_of_google_gives_the_same_data_bin(
    fixtures: Path, prepared: Prepare, tmp_path: Path, corpus: str
) -> None:
    prepare(RECIPES[corpus], tmp_path, fixtures, 1)
    assert not (tmp_path / "tok").exists()
    rebuilt = prepared(CASE[corpus])
    for path in (rebuilt / "data-bin").iterdir():
        if path.suffix != ".json" and not path.name.startswith("reference."):
            assert (tmp_path / "data-bin" / path.name).read_bytes() == path.read_bytes()
