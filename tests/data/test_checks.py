"""Files and the checks of parallel text: each failure names file, place and remedy."""

from __future__ import annotations

import gzip
import re
from contextlib import suppress
from pathlib import Path

import pytest

from seqattn_fairseq.data.checks import TextCount, check_parallel, count_text
from seqattn_fairseq.data.files import read_lines, remove_partial_files, write_atomically
from seqattn_fairseq.errors import SeqAttnError
from tests.data.corpus import write_text

# Characters that str.splitlines() takes for line ends, inside one line.
ODD = "a\u2028b\u0085c\x0bd\x0ce\rf\x1cg"


@pytest.fixture(params=["text.en", "text.en.gz"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return tmp_path / str(request.param)


def test_only_a_line_feed_ends_a_line(path: Path) -> None:
    write_text(path, f"{ODD}\n\nlast without line feed")
    assert list(read_lines(path)) == [ODD, "", "last without line feed"]
    assert count_text(path).lines == 3


def test_counts(path: Path) -> None:
    write_text(path, "two words\n\n  one \n")
    assert count_text(path) == TextCount(lines=3, tokens=3)


def test_invalid_utf8_is_located(path: Path) -> None:
    write_text(path, b"fine\n" + "Stra\u00dfe".encode("latin-1") + b"\n")
    with pytest.raises(SeqAttnError, match=re.escape(f"{path}:2:5: invalid UTF-8 (byte 0xdf)")):
        count_text(path)


@pytest.mark.parametrize(
    ("content", "message"), [("", "empty file"), ("\n \n", "all 2 lines are blank")]
)
def test_empty_corpus(path: Path, content: str, message: str) -> None:
    write_text(path, content)
    with pytest.raises(SeqAttnError, match=message) as caught:
        count_text(path)
    assert str(path) in str(caught.value)


def test_missing_file(path: Path) -> None:
    with pytest.raises(SeqAttnError, match="no such file"):
        count_text(path)


@pytest.mark.parametrize("damage", ["truncated", "not gzip", "flipped"])
def test_damaged_gzip(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "text.en.gz"
    packed = gzip.compress("".join(f"line {n}\n" for n in range(1000)).encode())
    flipped = packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]
    path.write_bytes(
        {"truncated": packed[:200], "not gzip": b"hello\n", "flipped": flipped}[damage]
    )
    with pytest.raises(SeqAttnError, match="damaged gzip file"):
        count_text(path)


def test_mismatched_line_counts_name_both_files(tmp_path: Path) -> None:
    source, target = tmp_path / "a.en", tmp_path / "a.de.gz"
    write_text(source, "x\n" * 3)
    write_text(target, "x\n" * 4)
    message = f"{source} has 3 lines but {target} has 4"
    with pytest.raises(SeqAttnError, match=re.escape(message)):
        check_parallel(source, target)
    write_text(target, "x y\n" * 3)
    assert check_parallel(source, target) == (TextCount(3, 3), TextCount(3, 6))


def test_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    with write_atomically(path) as stream:
        stream.write("old\n")
    with suppress(RuntimeError), write_atomically(path) as stream:
        stream.write("half")
        raise RuntimeError
    assert path.read_text() == "old\n"
    assert list(path.parent.iterdir()) == [path]


def test_leftovers_of_killed_runs_are_removed(tmp_path: Path) -> None:
    kept = tmp_path / "tok" / "train.en"
    kept.parent.mkdir()
    kept.write_text("x\n")
    (tmp_path / "tok" / ".train.de.12.partial").write_text("half")
    (tmp_path / ".data-bin.12.partial").mkdir()
    (tmp_path / ".data-bin.12.partial" / ".dict.txt.12.partial").write_text("half")
    remove_partial_files(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tok"]
