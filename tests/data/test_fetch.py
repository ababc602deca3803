"""The fetcher against a server on this machine: good, wrong, broken, resumed, refused."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from seqattn_fairseq.data import fetch as fetching
from seqattn_fairseq.data.fetch import fetch, recorded_sha256, verify
from seqattn_fairseq.errors import SeqAttnError

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``content`` under /file; the flags are its faults."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ranges: list[str | None] = []
        self.supports_ranges = True
        self.breaks_after: list[int] = []
        self.status: list[int] = []
        self.tag = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.ranges.append(self.headers["Range"])
        if server.status or self.path != "/file":
            self.send_error(server.status.pop(0) if server.status else 404)
            return
        start = self._start()
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        self.wfile.write(body[: server.breaks_after.pop(0)] if server.breaks_after else body)

    def _start(self) -> int:
        asked = self.headers["Range"]
        if asked is None or not self.server.supports_ranges:
            return 0
        if self.headers["If-Range"] not in (None, self.server.tag):
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "with space" / "train.en.gz"


@pytest.fixture
def part(path: Path) -> Path:
    path.parent.mkdir()
    return path.with_name(f".{path.name}.download")


def assert_fetched(path: Path) -> None:
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


def test_good(server: Server, path: Path) -> None:
    sizes: list[int] = []
    fetch(server.url, SHA256, path, sizes.append)
    assert_fetched(path)
    assert sum(sizes) == len(CONTENT)
    fetch(server.url, SHA256, path)
    assert len(server.ranges) == 1, "a file that is there is not fetched again"


def test_another_file_of_that_name_is_replaced(server: Server, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"something else")
    fetch(server.url, SHA256, path)
    assert_fetched(path)


def test_wrong_hash(server: Server, path: Path) -> None:
    with pytest.raises(SeqAttnError, match=r"SHA-256 is .* expected 00.* --from DIR"):
        fetch(server.url, "00", path)
    assert list(path.parent.iterdir()) == []


def test_broken_connection_is_taken_up_where_it_broke(server: Server, path: Path) -> None:
    server.breaks_after = [1000, 70_000]
    fetch(server.url, SHA256, path)
    assert_fetched(path)
    assert server.ranges == [None, "bytes=1000-", "bytes=71000-"]


def test_killed_download_is_resumed_by_the_next_call(
    server: Server, path: Path, part: Path
) -> None:
    part.write_bytes(CONTENT[:100_000])
    fetch(server.url, SHA256, path)
    assert_fetched(path)
    assert server.ranges == ["bytes=100000-"]


def test_part_that_is_already_complete(server: Server, path: Path, part: Path) -> None:
    part.write_bytes(CONTENT)
    fetch(server.url, SHA256, path)
    assert_fetched(path)


def test_part_of_another_version_is_thrown_away(server: Server, path: Path, part: Path) -> None:
    part.write_bytes(b"other" * 100)
    fetch(server.url, SHA256, path)
    assert_fetched(path)
    assert server.ranges == ["bytes=500-", None]


def test_server_without_ranges(server: Server, path: Path, part: Path) -> None:
    server.supports_ranges = False
    part.write_bytes(CONTENT[:100_000])
    fetch(server.url, SHA256, path)
    assert_fetched(path)


def test_server_error_is_retried(server: Server, path: Path) -> None:
    server.status = [503, 429]
    fetch(server.url, SHA256, path)
    assert_fetched(path)


def test_missing_file_is_not_retried(server: Server, path: Path) -> None:
    with pytest.raises(SeqAttnError, match=r"cannot fetch .*elsewhere: HTTP 404 .* --from DIR"):
        fetch(server.url + "/elsewhere", SHA256, path)
    assert len(server.ranges) == 1


def test_always_broken_connection_gives_up_and_keeps_the_part(server: Server, path: Path) -> None:
    server.breaks_after = [10] * fetching.ATTEMPTS
    with pytest.raises(SeqAttnError, match="connection closed 255,960 bytes before the end"):
        fetch(server.url, SHA256, path)
    assert len(server.ranges) == fetching.ATTEMPTS
    fetch(server.url, SHA256, path)
    assert_fetched(path)
    assert server.ranges[-1] == "bytes=40-"


def test_no_server(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(SeqAttnError, match=r"cannot fetch .*[Rr]efused.* --from DIR"):
        fetch("http://127.0.0.1:9/file", SHA256, path)


def record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def test_next_place_after_one_that_fails(server: Server, path: Path) -> None:
    places = [server.url + "/gone", "http://127.0.0.1:9/file", server.url]
    fetch(places, SHA256, path)
    assert_fetched(path)
    path.unlink()
    with pytest.raises(SeqAttnError, match=r"file/gone: HTTP 404.*; cannot .*--from DIR") as caught:
        fetch(places[:2], SHA256, path)
    assert "\n" not in str(caught.value)


def test_first_download_without_a_known_hash_is_recorded(server: Server, path: Path) -> None:
    fetch(server.url, None, path)
    assert path.read_bytes() == CONTENT
    assert record_of(path).read_text() == f"{SHA256}  {path.name}\n"
    assert sorted(path.parent.iterdir()) == [path, record_of(path)]
    fetch(server.url, None, path)
    assert len(server.ranges) == 1
    # The record outlives the file, and the file cannot change unnoticed.
    path.unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(SeqAttnError, match=rf"SHA-256 is .* expected {SHA256}"):
        fetch(server.url, None, path)
    assert list(path.parent.iterdir()) == [record_of(path)]
    path.write_bytes(CONTENT[1:])
    with pytest.raises(SeqAttnError, match=rf"\.sha256 beside it records {SHA256}"):
        fetch(server.url, None, path)


def test_file_that_was_brought_by_hand_is_recorded(server: Server, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert recorded_sha256(path) is None
    fetch(server.url, None, path)
    assert recorded_sha256(path) == SHA256 and server.ranges == []


def test_verify(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    verify(path)
    verify(path, SHA256)
    with pytest.raises(SeqAttnError, match=r"SHA-256 is .* but it must be 00; get the file again"):
        verify(path, "00")
    for content, message in [(b"", "empty file"), (b"<html>", "a web page")]:
        path.write_bytes(content)
        with pytest.raises(SeqAttnError, match=message):
            verify(path)


def test_known_size(server: Server, path: Path) -> None:
    with pytest.raises(SeqAttnError, match="256,000 bytes, expected 255,999; "):
        fetch(server.url, None, path, size=len(CONTENT) - 1)
    assert list(path.parent.iterdir()) == []
    fetch(server.url, None, path, size=len(CONTENT))
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!doctype HTML><title>Quota exceeded</title>", r"file: the server sent a web page"),
        (b"", r"an empty file \(0 bytes\)"),
    ],
)
@pytest.mark.parametrize("sha256", [None, SHA256])
def test_no_file(
    server: Server, path: Path, content: bytes, message: str, sha256: str | None
) -> None:
    server.content = content
    with pytest.raises(SeqAttnError, match=rf"{message}.*--from DIR"):
        fetch(server.url, sha256, path)
    assert list(path.parent.iterdir()) == []


def test_unpinned_part_is_continued_by_its_version_alone(
    server: Server, path: Path, part: Path
) -> None:
    def break_off() -> None:
        server.breaks_after = [100] * fetching.ATTEMPTS
        with pytest.raises(SeqAttnError, match="connection closed"):
            fetch(server.url, None, path)
        server.ranges.clear()

    server.tag = '"v1"'
    break_off()
    fetch(server.url, None, path)
    assert server.ranges == [f"bytes={100 * fetching.ATTEMPTS}-"]
    assert path.read_bytes() == CONTENT
    path.unlink()
    record_of(path).unlink()
    break_off()
    server.tag, server.content = '"v2"', CONTENT[::-1]
    fetch(server.url, None, path)
    assert path.read_bytes() == CONTENT[::-1]
    path.unlink()
    record_of(path).unlink()
    # Where the server names no version, nothing is appended to old bytes.
    server.tag = ""
    break_off()
    fetch(server.url, None, path)
    assert server.ranges == [None]
    assert path.read_bytes() == CONTENT[::-1]
