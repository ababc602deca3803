"""Unpacking of named members of an archive that is trusted in nothing.

The archive is read once, as a stream, with flat memory. Only regular members that were asked for
are written, each to the file that the caller names, so that no name inside the archive decides
where anything goes. Files get their names when the whole archive has proved good, or never.
"""

from __future__ import annotations

import gzip
import os
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, cast

from seqattn_fairseq.data.checks import check_download
from seqattn_fairseq.data.files import partial_path
from seqattn_fairseq.errors import SeqAttnError, nearest

# The largest public corpora unpack to some 10 GiB, at a ratio of 3 to 6.
MAX_MEMBER_BYTES = 32 << 30
MAX_TOTAL_BYTES = 64 << 30
MAX_RATIO = 200
RATIO_FREE_BYTES = 64 << 20
MAX_MEMBERS = 10_000

_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK = 1 << 20
_REMEDY = "get it again, or from another place"
_UNSAFE = "nothing was unpacked; do not use this archive"

Progress = Callable[[int], object]


def extract(archive: Path, members: Mapping[str, Path], progress: Progress) -> None:
    """Write the named regular members of a tar archive, gzipped or plain, to the files given.

    A member whose name ends in ".gz" is decompressed when its file's name does not. Names are
    compared without a leading "./". ``progress`` receives the bytes of the archive as they are
    read; they add up to its size. All files appear, or none does.

    Raises:
        SeqAttnError: the archive is missing, empty, a web page, damaged or cut; lacks a member or
            has one twice; holds an absolute path, "..", a device, a link that leaves it; or
            unpacks to more than the bounds of this module.
    """
    wanted = {_plain(name): target for name, target in members.items()}
    partials = {name: partial_path(target) for name, target in wanted.items()}
    try:
        with _readable(archive), open(archive, "rb") as stream:
            _unpack(archive, _Counted(stream, progress), wanted, partials)
        for name, partial in partials.items():
            os.replace(partial, wanted[name])
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def _unpack(
    archive: Path, raw: _Counted, wanted: Mapping[str, Path], partials: Mapping[str, Path]
) -> None:
    plain = _decompressed(archive, raw, _is_gzip(archive))
    seen: set[str] = set()
    with tarfile.open(fileobj=cast(IO[bytes], plain), mode="r|") as tar:
        for info in tar:
            _check_member(archive, info, seen)
            name = _plain(info.name)
            if name in wanted:
                _check_wanted(archive, info, name in seen)
                unpack = name.endswith(".gz") and wanted[name].suffix != ".gz"
                member = _Counted(cast(_Stream, tar.extractfile(info)))
                _save(_decompressed(archive, member, unpack), partials[name])
            seen.add(name)
    while plain.read(_BLOCK):
        pass  # the checksum stands at the end
    missing = [name for name in wanted if name not in seen]
    if missing:
        hint = nearest(missing[0], seen)
        raise SeqAttnError(f"{archive}: holds no {missing[0]}{hint}; {_REMEDY}")


def _save(stream: _Bounded, partial: Path) -> None:
    partial.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "wb") as file:
        shutil.copyfileobj(cast(IO[bytes], stream), file, _BLOCK)


def _check_member(archive: Path, info: tarfile.TarInfo, seen: set[str]) -> None:
    """Refuse what a corpus has no use for, whether it was asked for or not."""
    link = posixpath.join(posixpath.dirname(info.name) if info.issym() else "", info.linkname)
    if _is_outside(info.name):
        problem = "is an absolute path or has '..' in it"
    elif (info.issym() or info.islnk()) and _is_outside(posixpath.normpath(link)):
        problem = f"is a link out of the archive, to {info.linkname!a}"
    elif info.isdev() or info.issparse():
        problem = "is a device" if info.isdev() else "is a sparse file"
    elif info.size > MAX_MEMBER_BYTES:
        problem = f"has {info.size:,} bytes, more than the {MAX_MEMBER_BYTES:,} that may be"
    elif len(seen) >= MAX_MEMBERS:
        problem = f"is one file more than the {MAX_MEMBERS:,} that may be"
    else:
        return
    raise SeqAttnError(f"{archive}: {info.name!a} {problem}; {_UNSAFE}")


def _check_wanted(archive: Path, info: tarfile.TarInfo, seen: bool) -> None:
    if seen or not info.isreg():
        what = "is there twice" if seen else "is no regular file"
        raise SeqAttnError(f"{archive}: {info.name!a} {what}; {_UNSAFE}")


def _is_outside(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _plain(name: str) -> str:
    return PurePosixPath(name).as_posix()


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    """Turn what goes wrong while reading into one line for the user."""
    try:
        check_download(archive)
        yield
    except FileNotFoundError as error:
        raise SeqAttnError(f"{error.filename}: no such file") from None
    except (EOFError, ValueError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise SeqAttnError(f"{archive}: damaged or cut archive ({error}); {_REMEDY}") from None


def _is_gzip(archive: Path) -> bool:
    with open(archive, "rb") as stream:
        return stream.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC


class _Stream(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Counted:
    """Counts and reports the bytes that are read."""

    def __init__(self, stream: _Stream, progress: Progress = lambda size: None) -> None:
        self._stream = stream
        self._progress = progress
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most ``size``."""
        block = self._stream.read(size)
        self.count += len(block)
        self._progress(len(block))
        return block


class _Bounded:
    """Stops a stream that grows too large, or out of proportion to its compressed form."""

    def __init__(self, archive: Path, stream: _Stream, compressed: _Counted) -> None:
        self._archive = archive
        self._stream = stream
        self._compressed = compressed
        self._count = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most ``size``."""
        block = self._stream.read(size)
        self._count += len(block)
        suspicious = self._count > RATIO_FREE_BYTES
        if suspicious and self._count > MAX_RATIO * self._compressed.count:
            raise SeqAttnError(
                f"{self._archive}: unpacks to more than {MAX_RATIO} times its size, as no text "
                f"does; {_UNSAFE}"
            )
        if self._count > MAX_TOTAL_BYTES:
            raise SeqAttnError(
                f"{self._archive}: unpacks to more than {MAX_TOTAL_BYTES:,} bytes; {_UNSAFE}"
            )
        return block


def _decompressed(archive: Path, raw: _Counted, compressed: bool) -> _Bounded:
    # A stream of its own rather than tarfile's, which does not look at the checksum.
    stream = gzip.GzipFile(fileobj=cast(IO[bytes], raw), mode="rb") if compressed else raw
    return _Bounded(archive, stream, raw)
