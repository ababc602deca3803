"""Unpacking: named members and nothing else, all or nothing, whatever the archive tries."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from seqattn_fairseq.data import archives
from seqattn_fairseq.data.archives import extract
from seqattn_fairseq.errors import SeqAttnError

TEXT = b"ein Haus\nein Hund\n"
RANDOM = random.Random(1).randbytes(300_000)

Member = tuple[tarfile.TarInfo, bytes]


def regular(name: str, content: bytes = TEXT) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def special(name: str, kind: bytes, link: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


def pack(path: Path, members: Sequence[Member]) -> Path:
    """Write a tar archive, gzipped if its name says so."""
    mode = "w" if path.suffix == ".tar" else "w:gz"
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(params=["a b.tgz", "ä.tar", "plain.tar.gz"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where an archive of the test goes, of each kind in turn."""
    return tmp_path / "in" / str(request.param)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[..., dict[str, bytes]]:
    """Unpack members into files of their base names; nothing may appear beside them."""

    def run(archive: Path, *names: str) -> dict[str, bytes]:
        folder = tmp_path / "out put"
        before = set(tmp_path.rglob("*"))
        targets = {name: folder / name.removesuffix(".gz").rpartition("/")[2] for name in names}
        try:
            extract(archive, targets, lambda size: None)
        finally:
            after = set(tmp_path.rglob("*")) - before - {folder}
            found = {path.name: path.read_bytes() for path in after if path.parent == folder}
            assert len(found) == len(after), "something was written elsewhere"
            assert found == {} or set(found) == {target.name for target in targets.values()}
        return found

    return run


@pytest.fixture
def refused(
    tmp_path: Path, unpack: Callable[..., dict[str, bytes]]
) -> Callable[[Path, str, str], None]:
    """Assert that unpacking fails in one line and leaves no file anywhere."""

    def check(archive: Path, name: str, message: str) -> None:
        before = {path for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(SeqAttnError, match=message) as caught:
            unpack(archive, name)
        assert str(archive) in str(caught.value) and "\n" not in str(caught.value)
        assert {path for path in tmp_path.rglob("*") if path.is_file()} == before

    return check


def test_named_members_and_no_others(archive: Path, unpack: Callable[..., object]) -> None:
    members = [special("de-en", tarfile.DIRTYPE), regular("de-en/README"), regular("./de-en/a.de")]
    pack(archive, [*members, regular("de-en/a.en", RANDOM), special("x", tarfile.SYMTYPE, "de-en")])
    assert unpack(archive, "de-en/a.de", "./de-en/a.en") == {"a.de": TEXT, "a.en": RANDOM}


def test_gzipped_member_is_decompressed_unless_its_file_is_gzipped(
    archive: Path, tmp_path: Path
) -> None:
    packed = gzip.compress(RANDOM)
    pack(archive, [regular("giga.en.gz", packed), regular("giga.fr.gz", packed)])
    targets = {"giga.en.gz": tmp_path / "giga.en", "giga.fr.gz": tmp_path / "giga.fr.gz"}
    extract(archive, targets, lambda size: None)
    assert (tmp_path / "giga.en").read_bytes() == RANDOM
    assert (tmp_path / "giga.fr.gz").read_bytes() == packed


def test_progress_adds_up_to_the_archive(archive: Path, tmp_path: Path) -> None:
    pack(archive, [regular("a", RANDOM), regular("b", RANDOM)])
    sizes: list[int] = []
    extract(archive, {"a": tmp_path / "a"}, sizes.append)
    assert sum(sizes) == archive.stat().st_size


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (regular("/elsewhere/evil"), "'/elsewhere/evil' is an absolute path"),
        (regular("a/../../evil"), r"is an absolute path or has '\.\.'"),
        (special("d", tarfile.SYMTYPE, "/else"), "'d' is a link out of the archive, to '/else'"),
        (special("d/l", tarfile.SYMTYPE, "../.."), r"link out of the archive, to '\.\./\.\.'"),
        (special("l", tarfile.LNKTYPE, "../x"), "link out of the archive"),
        (special("l", tarfile.LNKTYPE, "/etc/passwd"), "link out of the archive"),
        (special("null", tarfile.CHRTYPE), "'null' is a device"),
        (special("disk", tarfile.BLKTYPE), "'disk' is a device"),
        (special("pipe", tarfile.FIFOTYPE), "'pipe' is a device"),
        (regular("wanted"), "wanted' is there twice"),
        (regular("./wanted"), "wanted' is there twice"),
        (special("line\nend", tarfile.CHRTYPE), r"'line\\nend' is a device"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_malicious_member(
    archive: Path, refused: Callable[..., None], member: Member, message: str, first: bool
) -> None:
    pack(archive, [member, regular("wanted")] if first else [regular("wanted"), member])
    refused(archive, "wanted", message)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_wanted_member_must_be_a_regular_file(
    archive: Path, refused: Callable[..., None], kind: bytes
) -> None:
    pack(archive, [regular("other"), special("wanted", kind, "other")])
    refused(archive, "wanted", "'wanted' is no regular file")


def test_missing_member_names_the_nearest(archive: Path, refused: Callable[..., None]) -> None:
    pack(archive, [regular("training/europarl-v7.de-en.de"), regular("README")])
    refused(archive, "training/europarl-v7.de-en.en", r"holds no .*\.en \(did you mean .*de-en.de")


def test_size_bomb_stops_early(tmp_path: Path, refused: Callable[..., None]) -> None:
    info, _ = regular("wanted")
    info.size = 256 << 20
    with gzip.open(tmp_path / "in" / "bomb.tgz", "wb", compresslevel=1) as stream:
        stream.write(info.tobuf())
        for _ in range(256):
            stream.write(bytes(1 << 20))
    refused(tmp_path / "in" / "bomb.tgz", "wanted", "more than 200 times its size")


def test_size_bomb_inside_a_member(tmp_path: Path, refused: Callable[..., None]) -> None:
    bomb = gzip.compress(bytes(80 << 20), compresslevel=1)
    archive = pack(tmp_path / "in" / "bomb.tar", [regular("wanted.gz", bomb)])
    refused(archive, "wanted.gz", "more than 200 times its size")


def test_sparse_member_is_refused(archive: Path, refused: Callable[..., None]) -> None:
    # Holes cost nothing in the archive and any amount on disk.
    info = tarfile.TarInfo("wanted")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    info.pax_headers["GNU.sparse.realsize"] = str(1 << 30)
    content = b"1\n0\n0\n".ljust(512, b"\0")
    info.size = len(content)
    pack(archive, [(info, content)])
    refused(archive, "wanted", "is a sparse file")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MAX_MEMBER_BYTES", 100_000, "has 300,000 bytes, more than the 100,000"),
        ("MAX_TOTAL_BYTES", 200_000, "unpacks to more than 200,000 bytes"),
        ("MAX_MEMBERS", 1, "'wanted' is one file more than the 1 that may be"),
    ],
)
def test_bounds(
    archive: Path,
    refused: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: int,
    message: str,
) -> None:
    monkeypatch.setattr(archives, name, value)
    pack(archive, [regular("other"), regular("wanted", RANDOM)])
    refused(archive, "wanted", message)


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.999])
@pytest.mark.parametrize("name", ["a.tgz", "a.tar"])
def test_cut_archive(tmp_path: Path, refused: Callable[..., None], name: str, kept: float) -> None:
    archive = pack(tmp_path / "in" / name, [regular("wanted", RANDOM)])
    content = archive.read_bytes()
    size = min(int(kept * len(content)), len(RANDOM) - 1)
    archive.write_bytes(content[:size])
    refused(archive, "wanted", "damaged or cut archive")


@pytest.mark.parametrize("place", [0.3, 0.9, 0.99999])
def test_flipped_bit(tmp_path: Path, refused: Callable[..., None], place: float) -> None:
    # The last place is the checksum, after all members.
    archive = pack(tmp_path / "in" / "a.tgz", [regular("wanted", RANDOM)])
    content = bytearray(archive.read_bytes())
    content[int(place * len(content))] ^= 4
    archive.write_bytes(content)
    refused(archive, "wanted", "damaged or cut archive")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"empty file \(0 bytes\)"),
        (b"\n <!DOCTYPE html><html><body>404</body></html>", r"a web page \(HTML\).*--from DIR"),
        (b"\xef\xbb\xbf<HTML>" + bytes(1000), "a web page"),
        (b"no archive" * 100, "damaged or cut archive"),
        (gzip.compress(b"no archive" * 100), "damaged or cut archive"),
        (bytes(10_240), "holds no wanted"),
    ],
    ids=["empty", "web page", "web page with BOM", "text", "gzipped text", "zeros"],
)
def test_no_archive(
    tmp_path: Path, refused: Callable[..., None], content: bytes, message: str
) -> None:
    path = tmp_path / "in" / "a.tgz"
    path.write_bytes(content)
    refused(path, "wanted", message)


def test_missing_archive(tmp_path: Path, refused: Callable[..., None]) -> None:
    refused(tmp_path / "in" / "a.tgz", "wanted", "a.tgz: no such file")


def test_random_damage_never_ends_in_a_traceback(tmp_path: Path) -> None:
    members = [regular("./d/a", RANDOM[:2000]), special("d/l", tarfile.SYMTYPE, "a")]
    for name in ("a.tgz", "a.tar"):
        archive = pack(tmp_path / "in" / name, [*members, regular("d/wanted")])
        content, draw = archive.read_bytes(), random.Random(name)
        for _ in range(150):
            damaged = bytearray(content)
            for _ in range(draw.randint(1, 3)):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
            archive.write_bytes(damaged)
            target = tmp_path / "out" / "wanted"
            with contextlib.suppress(SeqAttnError):  # anything else is a traceback for the user
                extract(archive, {"d/wanted": target}, lambda size: None)
            assert not target.exists() or len(target.read_bytes()) == len(TEXT)
            target.unlink(missing_ok=True)


def test_archives_of_the_fixtures(shared: Path, tmp_path: Path) -> None:
    folder = shared / "fixtures"
    for archive in sorted([*folder.rglob("*.tgz"), *folder.rglob("*.tar"), *folder.rglob("*.gz")]):
        if "expected" in archive.parts or "multi30k" in archive.parts:
            continue
        with tarfile.open(archive) as tar:
            members = {info.name: tar.extractfile(info) for info in tar if info.isreg()}
            contents = {name: file.read() for name, file in members.items() if file}
        targets = {name: tmp_path / f"{number}.gz" for number, name in enumerate(contents)}
        extract(archive, targets, lambda size: None)
        assert {name: target.read_bytes() for name, target in targets.items()} == contents
