"""Download of public corpus files: pinned or recorded by SHA-256, resumed, from several places.

Where nobody can say beforehand what the SHA-256 is, that of the first download is recorded in
``FILE.sha256`` beside the file, in the format of sha256sum, and holds from then on.
"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from seqattn_fairseq.data.checks import check_download, is_web_page
from seqattn_fairseq.data.files import sha256_of, write_atomically
from seqattn_fairseq.errors import SeqAttnError

ATTEMPTS = 4
TIMEOUT_SECONDS = 30.0
_BLOCK = 1 << 16
_REMEDY = "get the files another way and name their folder with --from DIR"

Progress = Callable[[int], object]


def fetch(
    urls: str | Sequence[str],
    sha256: str | None,
    path: Path,
    progress: Progress = lambda size: None,
    size: int | None = None,
) -> None:
    """Bring a file to ``path`` from the first of ``urls`` that has it, unless it is there.

    Bytes go to a hidden file beside ``path`` that a later call continues (HTTP range request);
    the file gets its name only after its SHA-256 is right. Without ``sha256`` the first download
    is recorded beside the file, and every later one must equal it. ``size`` is that of the file
    in bytes where it is known; ``progress`` receives the size of every block that arrives.

    Raises:
        SeqAttnError: no place gives the file (refused, broken, an HTML page, another size or
            hash), or the file that is there is not what was recorded.
    """
    expected = sha256 or recorded_sha256(path)
    if path.is_file() and sha256 is None:
        verify(path)
        if expected is None:
            _record(path, sha256_of(path))
        return
    if path.is_file() and sha256_of(path) == sha256:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for url in [urls] if isinstance(urls, str) else urls:
        try:
            _fetch_from(url, path, _Wanted(expected, size), progress)
            return
        except _RefusedError as error:
            failures.append(str(error))
    raise SeqAttnError(f"{'; '.join(failures)}; {_REMEDY}")


def verify(path: Path, sha256: str | None = None) -> None:
    """Check a file that is there against its SHA-256: the one given, or the recorded one if any.

    Raises:
        SeqAttnError: it has another one, is empty, or is an HTML page.
    """
    check_download(path)
    expected = sha256 or recorded_sha256(path)
    if expected is None:
        return
    found = sha256_of(path)
    if found != expected:
        source = "it must be" if sha256 else f"{_record_of(path).name} beside it records"
        raise SeqAttnError(
            f"{path}: SHA-256 is {found}, but {source} {expected}; get the file again"
        )


def recorded_sha256(path: Path) -> str | None:
    """Return the SHA-256 in ``FILE.sha256`` beside a file; None when there is no such record."""
    try:
        return _record_of(path).read_text(encoding="utf-8").split()[0]
    except (FileNotFoundError, IndexError):
        return None


class _RefusedError(Exception):
    """Why one place did not give the file; the next one may."""


class _Wanted:
    """What is known of a file beforehand: SHA-256 and size in bytes, each or None."""

    def __init__(self, sha256: str | None, size: int | None) -> None:
        self.sha256 = sha256
        self.size = size

    def problem(self, part: Path) -> str | None:
        """Say what is wrong with a complete download."""
        size = part.stat().st_size if part.exists() else 0
        if self.size not in (None, size):
            return f"{size:,} bytes, expected {self.size:,}"
        if size == 0:
            return "an empty file (0 bytes)"
        if self.sha256 not in (None, found := sha256_of(part)):
            return f"SHA-256 is {found}, expected {self.sha256}"
        return None


def _fetch_from(url: str, path: Path, wanted: _Wanted, progress: Progress) -> None:
    part = path.with_name(f".{path.name}.download")
    if wanted.sha256 is None and not _version_of(part).exists():
        part.unlink(missing_ok=True)  # nothing could tell whether these bytes are of this file
    resumed = part.exists()
    _download(url, part, progress)
    problem = wanted.problem(part)
    if problem and resumed:
        # The old bytes may stem from another version of the file.
        part.unlink()
        _download(url, part, progress)
        problem = wanted.problem(part)
    if problem:
        part.unlink(missing_ok=True)
        _version_of(part).unlink(missing_ok=True)
        raise _RefusedError(f"{url}: {problem}")
    if wanted.sha256 is None:
        _record(path, sha256_of(part))
    os.replace(part, path)
    _version_of(part).unlink(missing_ok=True)


def _download(url: str, part: Path, progress: Progress) -> None:
    """Complete ``part``; a connection that breaks is taken up again where it broke."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _continue_download(url, part, progress)
            return
        except (OSError, HTTPException) as error:
            if attempt == ATTEMPTS or not _temporary(error):
                raise _RefusedError(f"cannot fetch {url}: {_reason(error)}") from None
        time.sleep(0.5 * attempt)


def _continue_download(url: str, part: Path, progress: Progress) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "seqattn", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if _version_of(part).exists():
            # A server that has another version by now sends all of it.
            headers["If-Range"] = _version_of(part).read_text(encoding="utf-8")
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            _save(url, response, part, progress)
    except urllib.error.HTTPError as error:
        # Nothing follows what is there already; its hash tells whether that is the file.
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise


def _save(url: str, response: HTTPResponse, part: Path, progress: Progress) -> None:
    # A server without range requests answers 200 and sends everything again.
    whole = response.status != HTTPStatus.PARTIAL_CONTENT
    missing = int(response.headers.get("Content-Length", 0))
    block = response.read(_BLOCK)
    if whole:
        if is_web_page(block):
            raise _RefusedError(f"{url}: the server sent a web page (HTML), not the file")
        _note_version(part, response)
    with open(part, "wb" if whole else "ab") as stream:
        while block:
            stream.write(block)
            missing -= len(block)
            progress(len(block))
            block = response.read(_BLOCK)
    if missing > 0:
        raise HTTPException(f"connection closed {missing:,} bytes before the end")


def _note_version(part: Path, response: HTTPResponse) -> None:
    """Remember which version of the file arrives, so that no other one is appended to it."""
    tag = response.headers.get("ETag", "")
    version = response.headers.get("Last-Modified", "") if tag[:2] in ("", "W/") else tag
    _version_of(part).unlink(missing_ok=True)
    if version:
        _version_of(part).write_text(version, encoding="utf-8")


def _version_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _record(path: Path, sha256: str) -> None:
    with write_atomically(_record_of(path)) as stream:
        stream.write(f"{sha256}  {path.name}\n")


def _temporary(error: Exception) -> bool:
    if not isinstance(error, urllib.error.HTTPError):
        return True
    return error.code == HTTPStatus.TOO_MANY_REQUESTS or error.code >= 500


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(getattr(error, "reason", error)) or type(error).__name__
