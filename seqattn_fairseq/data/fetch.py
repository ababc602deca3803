"""Download of public corpus files: pinned by SHA-256, resumed after an interruption, atomic."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from seqattn_fairseq.data.files import sha256_of
from seqattn_fairseq.errors import SeqAttnError

ATTEMPTS = 4
TIMEOUT_SECONDS = 30.0
_BLOCK = 1 << 16
_REMEDY = "get the files another way and name their folder with --from DIR"

Progress = Callable[[int], object]


def fetch(url: str, sha256: str, path: Path, progress: Progress = lambda size: None) -> None:
    """Bring ``url`` to ``path``, unless a file with that SHA-256 is already there.

    Bytes go to a hidden file beside ``path`` that a later call continues (HTTP range request);
    the file gets its name only after its SHA-256 is right. ``progress`` receives the size in
    bytes of every block that arrives.

    Raises:
        SeqAttnError: the server refuses, the network keeps failing, or the hash is another.
    """
    if path.is_file() and sha256_of(path) == sha256:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.download")
    resumed = part.exists()
    _download(url, part, progress)
    if resumed and sha256_of(part) != sha256:
        # The old bytes may stem from another version of the file.
        part.unlink()
        _download(url, part, progress)
    found = sha256_of(part)
    if found != sha256:
        part.unlink()
        raise SeqAttnError(f"{url}: SHA-256 is {found}, expected {sha256}; {_REMEDY}")
    os.replace(part, path)


def _download(url: str, part: Path, progress: Progress) -> None:
    """Complete ``part``; a connection that breaks is taken up again where it broke."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _continue_download(url, part, progress)
            return
        except (OSError, HTTPException) as error:
            if attempt == ATTEMPTS or not _temporary(error):
                raise SeqAttnError(f"cannot fetch {url}: {_reason(error)}; {_REMEDY}") from None
        time.sleep(0.5 * attempt)


def _continue_download(url: str, part: Path, progress: Progress) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "seqattn", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            _save(response, part, progress)
    except urllib.error.HTTPError as error:
        # Nothing follows what is there already; its hash tells whether that is the file.
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise


def _save(response: HTTPResponse, part: Path, progress: Progress) -> None:
    # A server without range requests answers 200 and sends everything again.
    mode = "ab" if response.status == HTTPStatus.PARTIAL_CONTENT else "wb"
    missing = int(response.headers.get("Content-Length", 0))
    with open(part, mode) as stream:
        while block := response.read(_BLOCK):
            stream.write(block)
            missing -= len(block)
            progress(len(block))
    if missing > 0:
        raise HTTPException(f"connection closed {missing:,} bytes before the end")


def _temporary(error: Exception) -> bool:
    if not isinstance(error, urllib.error.HTTPError):
        return True
    return error.code == HTTPStatus.TOO_MANY_REQUESTS or error.code >= 500


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(getattr(error, "reason", error)) or type(error).__name__
