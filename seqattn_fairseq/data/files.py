"""Reading and writing corpus files: only a line feed ends a line; nothing is half written."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from seqattn_fairseq.errors import SeqAttnError

PARTIAL_SUFFIX = ".partial"
# What has no line feed for so long is no text, and may be a small gzip file that never ends.
MAX_LINE_BYTES = 64 << 20
_BYTE_ORDER_MARK = "\ufeff"


def open_binary(path: Path) -> BinaryIO:
    """Open a plain or gzip file (by its name) for reading bytes."""
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else open(path, "rb")


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a plain or gzip UTF-8 file, without their line ends, one at a time.

    Only the line feed ends a line: U+0085, U+2028 and carriage returns occur inside sentences.
    A byte order mark (U+FEFF) at the start of the file is no part of its first line.

    Raises:
        SeqAttnError: missing or unreadable file, folder, damaged gzip, invalid UTF-8
            (file:line:byte, from 1), or a line longer than ``MAX_LINE_BYTES``.
    """
    try:
        with open_binary(path) as stream:
            lines = iter(lambda: stream.readline(MAX_LINE_BYTES), b"")
            for number, line in enumerate(lines, start=1):
                if len(line) == MAX_LINE_BYTES:
                    raise SeqAttnError(
                        f"{path}:{number}: a line of {MAX_LINE_BYTES:,} bytes or more; this is no "
                        "text with a sentence a line"
                    )
                yield _decode(path, number, line.removesuffix(b"\n"))
    except FileNotFoundError:
        raise SeqAttnError(f"{path}: no such file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SeqAttnError(f"{path}: damaged gzip file ({error}); get it again") from None
    except OSError as error:
        raise SeqAttnError(f"{path}: {error.strerror}; give a text file that can be read") from None


def _decode(path: Path, number: int, line: bytes) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SeqAttnError(
            f"{path}:{number}:{error.start + 1}: invalid UTF-8 (byte 0x{line[error.start]:02x}); "
            "convert the file, e.g. with iconv -t UTF-8, or repair this line"
        ) from None
    return text.removeprefix(_BYTE_ORDER_MARK) if number == 1 else text


def partial_path(path: Path) -> Path:
    """Return the hidden name beside ``path`` under which this process writes it."""
    return path.with_name(f".{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")


def remove_partial_files(folder: Path) -> None:
    """Delete what killed runs left under ``folder``: all that :func:`partial_path` named."""
    for path in list(folder.rglob(f".*{PARTIAL_SUFFIX}")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def write_atomically(path: Path) -> Iterator[TextIO]:
    """Open ``path`` for writing UTF-8 text; it appears under its name only when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        with open(partial, "w", encoding="utf-8", newline="\n") as stream:
            yield stream
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sha256_of(path: Path, progress: Callable[[int], object] = lambda size: None) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal; ``progress`` receives their numbers."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            progress(len(block))
    return digest.hexdigest()


# ---- results -----------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """Return the value in a JSON file; None if there is no file, or nothing that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty dictionary where there is none."""
    value = read_json(path)
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON, atomically.

    Raises:
        ValueError: it holds NaN or infinity, which JSON cannot.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with write_atomically(path) as stream:
        stream.write(text + "\n")


def file_stamp(path: Path) -> dict[str, str]:
    """Return name and digest of a file: the same for every copy of it."""
    return {"file": path.name, "sha256": sha256_of(path)}


def subset_stamp(data_bin: Path, subset: str) -> dict[str, str]:
    """Return file name -> digest of all that a data-bin holds of a subset, and its dictionaries."""
    names = (f"{subset}.*", "dict.*.txt")
    files = sorted(path for name in names for path in data_bin.glob(name) if path.is_file())
    return {path.name: sha256_of(path) for path in files}
