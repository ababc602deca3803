"""``seqattn prepare`` with archives that are damaged or mean harm: one line, nothing written."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from seqattn_fairseq.cli.main import main
from tests.data import miniature

Member = tuple[tarfile.TarInfo, bytes]
NAME = "de-en/train.tags.de-en.de"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("good")
    miniature.write_iwslt14(folder)
    return (folder / "iwslt14" / "de-en.tgz").read_bytes()


@pytest.fixture
def archive(tmp_path: Path, good: bytes) -> Path:
    path = tmp_path / "from here" / "de-en.tgz"
    path.parent.mkdir()
    path.write_bytes(good)
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the user's, which is no business of any archive."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    return folder


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", text: bytes = b"") -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(text)
    return info, text


def changed(good: bytes, *added: Member, first: bool) -> bytes:
    """Return the archive with further members before or after its own."""
    with tarfile.open(fileobj=io.BytesIO(good)) as tar:
        own = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, content in [*added, *own] if first else [*own, *added]:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def bomb() -> bytes:
    info, _ = member(NAME)
    info.size = 80 << 20
    return gzip.compress(info.tobuf() + bytes(info.size), compresslevel=1)


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refused(
    archive: Path, outside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], None]:
    """Prepare with the archive as it is: status 1, one line with these words, nothing written."""

    def check(*words: str) -> None:
        to = tmp_path / "result"
        before = files(tmp_path)
        command = ["prepare", "iwslt14_de_en", "--from", str(archive.parent), "--to", str(to)]
        assert main([*command, "--workers", "1"]) == 1
        shown = capsys.readouterr().err
        (error,) = [line for line in shown.split("\n") if "error" in line.lower()]
        assert "Traceback" not in shown
        assert error.startswith(f"seqattn prepare: error: {archive}")
        for word in words:
            assert word in error
        after = files(tmp_path)
        new = {path for path in after if before.get(path) != after[path]}
        assert new <= {to / "manifest.json", to / ".lock"}
        assert [path for path in tmp_path.rglob("*") if path.is_symlink()] == []

    return check


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize(
    ("name", "kind", "link", "words"),
    [
        ("{outside}/evil", tarfile.REGTYPE, "", "is an absolute path or has '..' in it"),
        ("../precious/evil", tarfile.REGTYPE, "", "is an absolute path or has '..' in it"),
        ("de-en/../../precious/evil", tarfile.REGTYPE, "", "has '..' in it"),
        ("de-en/out", tarfile.SYMTYPE, "{outside}", "is a link out of the archive"),
        ("de-en/out", tarfile.SYMTYPE, "../../precious", "is a link out of the archive"),
        ("de-en/out", tarfile.LNKTYPE, "{outside}/thesis.tex", "is a link out of the archive"),
        ("de-en/out", tarfile.LNKTYPE, "../precious/thesis.tex", "is a link out of the archive"),
        ("de-en/null", tarfile.CHRTYPE, "", "is a device"),
        ("de-en/pipe", tarfile.FIFOTYPE, "", "is a device"),
        (NAME, tarfile.REGTYPE, "", "is there twice"),
    ],
)
def test_malicious_archive(
    archive: Path,
    good: bytes,
    outside: Path,
    refused: Callable[[str], None],
    name: str,
    kind: bytes,
    link: str,
    words: str,
    first: bool,
) -> None:
    evil = member(name.format(outside=outside), kind, link.format(outside=outside))
    archive.write_bytes(changed(good, evil, first=first))
    refused(words)


def test_link_that_later_members_would_follow(
    archive: Path, good: bytes, outside: Path, refused: Callable[[str], None]
) -> None:
    link = member("de-en", tarfile.SYMTYPE, str(outside))
    archive.write_bytes(changed(good, link, first=True))
    refused("'de-en' is a link out of the archive")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_link_in_the_place_of_a_file(
    archive: Path, good: bytes, refused: Callable[[str], None], kind: bytes
) -> None:
    archive.write_bytes(changed(good, member(NAME, kind, "README"), first=True))
    refused(NAME)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file (0 bytes)"),
        (b"<!DOCTYPE html>\n<title>Not found</title>", "a web page (HTML)"),
        (b"PK\x03\x04 no tar", "damaged or cut archive"),
        (gzip.compress(b""), "damaged or cut archive"),
        (bytes(10_240), "holds no de-en/"),
    ],
    ids=["empty", "page", "another format", "gzip of nothing", "zeros"],
)
def test_no_archive(
    archive: Path, refused: Callable[..., None], content: bytes, words: str
) -> None:
    archive.write_bytes(content)
    refused(words)


def test_size_bomb(archive: Path, refused: Callable[..., None]) -> None:
    archive.write_bytes(bomb())
    refused("unpacks to more than 200 times its size")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.9999])
def test_truncated_archive(
    archive: Path, good: bytes, refused: Callable[..., None], kept: float
) -> None:
    archive.write_bytes(good[: int(kept * len(good))])
    refused("damaged or cut archive", "get it again")


@pytest.mark.parametrize("place", [0.2, 0.8, 0.9999])
def test_flipped_bit(
    archive: Path, good: bytes, refused: Callable[..., None], place: float
) -> None:
    damaged = bytearray(good)
    damaged[int(place * len(good))] ^= 1
    archive.write_bytes(damaged)
    refused("damaged or cut archive")


def test_wrong_hash(archive: Path, refused: Callable[..., None]) -> None:
    (archive.parent / "de-en.tgz.sha256").write_text(f"{'0' * 64}  de-en.tgz\n")
    refused("SHA-256 is ", f"de-en.tgz.sha256 beside it records {'0' * 64}")


def test_missing_member(archive: Path, refused: Callable[..., None]) -> None:
    miniature.write_tar(archive, {"de-en/train.tags.de-en.en": b"x\n"})
    refused(f"holds no {NAME}", "did you mean de-en/train.tags.de-en.en?")


def test_good_archive_in_the_place_of_a_bad_one(
    archive: Path, good: bytes, refused: Callable[..., None], tmp_path: Path
) -> None:
    archive.write_bytes(good[:1000])
    refused("damaged or cut archive")
    archive.write_bytes(good)
    command = ["prepare", "iwslt14_de_en", "--from", str(archive.parent), "--to"]
    assert main([*command, str(tmp_path / "result"), "--workers", "1"]) == 0
    assert (tmp_path / "result" / "data-bin" / "corpus.json").is_file()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.vi", b"<html><body>404</body></html>\n", "a web page (HTML)"),
        ("tst2013.en", b"", "empty file (0 bytes)"),
        ("train.en", bytes(70 << 20), "train.en:1: a line of 67,108,864 bytes or more"),
    ],
    ids=["page", "empty", "endless line"],
)
def test_text_that_is_none(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
    words: str,
) -> None:
    miniature.write_iwslt15(tmp_path)
    (tmp_path / "iwslt15" / name).write_bytes(content)
    to = tmp_path / "result"
    assert main(["prepare", "iwslt15_en_vi", "--from", str(tmp_path), "--to", str(to)]) == 1
    (error,) = [line for line in capsys.readouterr().err.split("\n") if "error" in line]
    assert name in error and words in error
    assert {path.name for path in to.rglob("*")} <= {"manifest.json", ".lock"}


def test_gzipped_text_that_never_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    miniature.write_multi30k(tmp_path)
    text = tmp_path / "multi30k" / "data" / "task1" / "raw" / "train.de.gz"
    text.write_bytes(gzip.compress(b"x" * (70 << 20), compresslevel=1))
    command = ["prepare", "multi30k_en_de", "--from", str(tmp_path), "--to"]
    assert main([*command, str(tmp_path / "result")]) == 1
    assert f"error: {text}:1: a line of 67,108,864 bytes or more" in capsys.readouterr().err
