"""Readers of marked-up corpus files: hand-made lines, and the official scripts' output."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seqattn_fairseq.data.readers import read_iwslt_train, read_segments, read_sgm
from seqattn_fairseq.data.text_chain import TextChain
from seqattn_fairseq.errors import SeqAttnError


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        (tmp_path / "file.sgm").write_bytes(text.encode())
        return tmp_path / "file.sgm"

    return write


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('<seg id="1"> Ein Haus. </seg>', "Ein Haus."),
        ('  <seg id="12">\tEin\u2028Haus\u2019s \r</seg>  \r', "  Ein\u2028Haus's"),
        ('<seg id="3"></seg>', ""),
        ('<seg id="4"> a &amp; <b> </seg>', "a &amp; <b>"),
        # What sed does not match stays.
        ("<seg id='5'> a </seg>", "<seg id='5'> a"),
        ('<seg id="6">\xa0a\xa0</seg>', "\xa0a\xa0"),
        ('<seg id="7"> a', "a"),
    ],
)
def test_segments(written: Callable[[str], Path], line: str, sentence: str) -> None:
    text = f"<doc>\n<title> no seg </title>\n{line}\n</doc>"
    assert list(read_segments(written(text))) == [sentence]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ('<seg id="1"> Ein  Haus. </seg>\n', ["Ein Haus."]),
        ("<SEG id=1>a</SEG>\n<Seg 2>\tb\t\tc </sEg>\n", ["a", "b c"]),
        ('<seg id="1">\nEin \nHaus\r\n.\n</seg>\n<p>\n', ["Ein Haus ."]),
        ('<seg id="1">Ein\nHaus</seg>\n', ["EinHaus"]),
        (
            '<seg id="1"></seg>\n<seg id="2"> &quot;\xa0\u3000\u2019 </seg>',
            ["", "&quot;\xa0\u3000\u2019"],
        ),
        ("<p>\n<seg>no attributes</seg>\n<seg id=1>a</seg></p>\n", ["a"]),
    ],
)
def test_sgm(written: Callable[[str], Path], text: str, sentences: list[str]) -> None:
    assert list(read_sgm(written(text))) == sentences


def test_iwslt_train(written: Callable[[str], Path]) -> None:
    text = (
        "<url>http://x</url>\n<keywords>a, b</keywords>\n <talkid>1</talkid>\n"
        "<title>Ein Haus</title>\n<description>TED: b\u2028c</description>\n"
        "<reviewer>d</reviewer>\n\n  e \r\n</title>f<description>\n"
    )
    assert list(read_iwslt_train(written(text))) == [
        *("Ein Haus", "TED: b\u2028c", "<reviewer>d</reviewer>", "", "  e \r", "f")
    ]


@pytest.mark.parametrize("read", [read_segments, read_sgm])
def test_file_without_segments(
    written: Callable[[str], Path], read: Callable[[Path], Iterator[str]]
) -> None:
    with pytest.raises(SeqAttnError, match=r"file\.sgm: holds no <seg>"):
        list(read(written("<html>\nnothing here\n")))


def test_sgm_that_is_cut(written: Callable[[str], Path]) -> None:
    with pytest.raises(SeqAttnError, match=r"file\.sgm:2: <seg> is never closed"):
        list(read_sgm(written('<seg id="1">a</seg>\n<seg id="2">b\nc\n')))


def unpacked(archive: Path, folder: Path, *names: str) -> list[Path]:
    """The members of an archive that the fixtures vouch for, as files."""
    paths = []
    with tarfile.open(archive) as tar:
        for name in names:
            member = tar.extractfile(name)
            assert member is not None
            paths.append(folder / name.rpartition("/")[2])
            paths[-1].write_bytes(member.read())
    return paths


def expected(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().split("\n")[:-1]


@pytest.mark.parametrize("lang", ["de", "en"])
def test_iwslt14_of_the_fixtures(shared: Path, tmp_path: Path, lang: str) -> None:
    archive, stages = (
        shared / "fixtures/iwslt14/de-en.tgz",
        shared / "fixtures/expected/iwslt14/tmp",
    )
    names = [f"de-en/train.tags.de-en.{lang}", f"de-en/IWSLT14.TEDX.dev2012.de-en.{lang}.xml"]
    train, dev = unpacked(archive, tmp_path, *names)
    tokens = TextChain(lang, tokenize=True).encode
    # Blanks around a line are the tokeniser's affair.
    words = [tokens(line).split() for line in read_iwslt_train(train)]
    published = expected(stages / f"train.tags.de-en.tok.{lang}.gz")
    assert words == [line.split() for line in published]
    tokens = TextChain(lang, lowercase=True, tokenize=True).encode
    lines = [tokens(line) for line in read_segments(dev)]
    assert lines == expected(stages / f"IWSLT14.TEDX.dev2012.de-en.{lang}.gz")


def test_wmt_test_sets_of_the_fixtures(shared: Path, tmp_path: Path) -> None:
    fixtures = shared / "fixtures"
    name = "test-full/newstest2014-deen-ref.de.sgm"
    (test,) = unpacked(fixtures / "wmt14/test-full.tgz", tmp_path, name)
    tokens = TextChain("de", tokenize=True, aggressive=True).encode
    lines = [tokens(line) for line in read_segments(test)]
    assert lines == expected(fixtures / "expected/wmt17_en_de/tmp/test.de.gz")
    name = "dev/newstest2014-deen-src.de.sgm"
    (test,) = unpacked(fixtures / "wmt14/dev.tgz", tmp_path, name)
    assert list(read_sgm(test)) == expected(
        fixtures / "expected/wmt16_en_de_mega/newstest2014.de.gz"
    )
