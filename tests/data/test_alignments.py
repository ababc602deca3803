"""Alignment files: three formats of one gold standard, and what is refused."""

from __future__ import annotations

import gzip
import random
import time
from pathlib import Path

import pytest

from seqattn_fairseq.data.alignments import (
    Links,
    load_alignments,
    read_alignments,
)
from seqattn_fairseq.errors import SeqAttnError
from tests.support.alignments import word_numbers, write_pharaoh

SURE = [{(0, 0), (1, 1), (2, 2)}, {(0, 0), (1, 1), (2, 3), (3, 4), (4, 2)}, {(0, 0), (1, 3)}]
ONLY_POSSIBLE: list[set[tuple[int, int]]] = [set(), {(1, 2), (4, 1)}, {(1, 4)}]
GOLD = [
    Links(frozenset(sure), frozenset(sure | possible))
    for sure, possible in zip(SURE, ONLY_POSSIBLE, strict=True)
]
TALP = "1-1 2-2 3-3\n1-1 2-2 2p3 3-4 4-5 5p2 5-3\n1-1 2-4 2p5\n"
PHARAOH = "0-0 1-1 2-2\n0-0 1-1 1p2 2-3 3-4 4p1 4-2\n0-0 1-3 1p4\n"
NAACL = """0001 1 1 S
0001 2 2
0001 3 3 S 0.9
0003 2 5 P
0002 1 1 S
0002 2 2 S
0002 2 3 P
0002 3 4 S
0002 4 5
0002 5 2 P 1
0002 5 3 S
0003 1 1 S
0003 2 4 S
"""

HYPOTHESIS = "0-0 1-1 2-2\n0-0 1-1 1-2 2-4 3-4 4-2\n0-0 1-2\n"
# links between the pieces of these sentences that make those between their words
SOURCE_PIECES = ["das klein@@ e haus", "er hat das buch ge@@ les@@ en", "lei@@ der nicht"]
TARGET_PIECES = ["the small house", "he has read the book", "un@@ fortun@@ ately this is not so"]
PIECE_LINKS = "0-0 1-1 2-1 3-2\n0-0 1-1 1-2 2-4 3-4 4-2 6-2\n0-0 1-2 2-4\n"


def written(folder: Path, text: str, name: str = "links.txt") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("format", "text"), [("talp", TALP), ("pharaoh", PHARAOH), ("naacl", NAACL)]
)
def test_three_formats_of_one_gold_standard(tmp_path: Path, format: str, text: str) -> None:
    path = written(tmp_path, text)
    assert read_alignments(path, format) == GOLD
    assert read_alignments(path, format, 3) == GOLD
    compact = load_alignments(path, format)
    assert [len(compact.links(pair)) for pair in range(len(compact))] == [3, 7, 3]


def test_links_between_pieces_become_those_between_words(tmp_path: Path) -> None:
    pieces = read_alignments(written(tmp_path, PIECE_LINKS), "pharaoh")
    words = []
    for links, source, target in zip(pieces, SOURCE_PIECES, TARGET_PIECES, strict=True):
        of_source = word_numbers(source.split(), "subword_nmt")
        of_target = word_numbers(target.split(), "subword_nmt")
        words.append({(of_source[i], of_target[j]) for i, j in links.possible})
    expected = read_alignments(written(tmp_path, HYPOTHESIS), "pharaoh")
    assert words == [set(links.possible) for links in expected]


def test_lines_may_be_empty_have_several_blanks_and_end_as_on_windows(tmp_path: Path) -> None:
    path = written(tmp_path, "\n 0-0  1-1\t2-2 \r\n\n")
    assert [len(links.possible) for links in read_alignments(path, "pharaoh")] == [0, 3, 0]


def test_sentences_without_links_in_naacl(tmp_path: Path) -> None:
    path = written(tmp_path, "2 1 1 S\n4 1 2\n")
    counts = [len(links.possible) for links in read_alignments(path, "naacl")]
    assert counts == [0, 1, 0, 1]
    assert [len(links.sure) for links in read_alignments(path, "naacl", 6)] == [*counts, 0, 0]


def test_an_empty_file_and_a_compressed_one(tmp_path: Path) -> None:
    for format in ("pharaoh", "talp", "naacl"):
        assert read_alignments(written(tmp_path, ""), format) == []
    path = tmp_path / "links.gz"
    path.write_bytes(gzip.compress(PHARAOH.encode()))
    assert read_alignments(path, "pharaoh") == GOLD


REFUSED = [
    ("pharaoh", "0-0\n0-1 1=1\n", r"links.txt:2: '1=1' is no link; .* from 0 to 9999"),
    ("pharaoh", "0-0 ||| -3.5\n", r"links.txt:1: '\|\|\|' is no link"),
    ("pharaoh", "0-0-0\n", r"links.txt:1: '0-0-0' is no link"),
    ("pharaoh", "0-00 0-\n", r"links.txt:1: '0-' is no link"),
    ("pharaoh", "0-12345\n", r"links.txt:1: '0-12345' is no link"),
    ("pharaoh", "-1-0\n", r"links.txt:1: '-1-0' is no link"),
    ("pharaoh", "٣-0\n", r"links.txt:1: '٣-0' is no link"),
    ("talp", "1-1\n1-1 0-2\n", r"links.txt:2: word number 0 .* its format is pharaoh"),
    ("naacl", "1 1 1 S\n1 0 2 S\n", r"links.txt:2: word number 0 .*nonullalign"),
    ("naacl", "1 1 1 X\n", r"links.txt:1: no link; .*SENTENCE SOURCE TARGET"),
    ("naacl", "1-1 2-2\n", r"links.txt:1: no link; .*SENTENCE SOURCE TARGET"),
    ("naacl", "\n", r"links.txt:1: no link"),
    ("naacl", "0 1 1\n", r"links.txt:1: sentence 0"),
    ("talps", "", r"'talps' is no format of alignments \(did you mean talp\?\)"),
]


@pytest.mark.parametrize(("format", "text", "message"), REFUSED)
def test_malformed_lines_are_refused(tmp_path: Path, format: str, text: str, message: str) -> None:
    with pytest.raises(SeqAttnError, match=message):
        read_alignments(written(tmp_path, text), format)


@pytest.mark.parametrize(("format", "text"), [("pharaoh", PHARAOH), ("naacl", NAACL)])
def test_another_number_of_pairs_is_refused(tmp_path: Path, format: str, text: str) -> None:
    with pytest.raises(SeqAttnError, match=r"links.txt.* 2 sentence pairs; align the very text"):
        read_alignments(written(tmp_path, text), format, 2)


def test_more_pairs_than_lines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SeqAttnError, match=r"links.txt: 3 lines, but there are 4 sentence pairs"):
        read_alignments(written(tmp_path, PHARAOH), "pharaoh", 4)


def test_random_links_are_read(tmp_path: Path) -> None:
    dice = random.Random(1)
    pairs = [{(dice.randrange(30), dice.randrange(30)) for _ in range(n)} for n in range(40)]
    path = tmp_path / "links.txt"
    write_pharaoh(path, pairs)
    assert [set(links.sure) for links in read_alignments(path, "pharaoh")] == pairs
    assert path.read_text().startswith("\n")  # the first pair has no links


def test_many_lines_are_read_quickly_and_kept_small(tmp_path: Path) -> None:
    line = " ".join(f"{i}-{i + 1}" for i in range(25))
    path = written(tmp_path, f"{line}\n" * 20_000)
    begin = time.process_time()
    alignments = load_alignments(path, "pharaoh")
    assert time.process_time() - begin < 10
    assert len(alignments) == 20_000 and alignments.links(19_999).tolist()[-1] == [24, 25]
    size = alignments.words.nbytes + alignments.sure.nbytes + alignments.starts.nbytes
    assert size < 5 * 25 * 20_000 + 9 * 20_000
