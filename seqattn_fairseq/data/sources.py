"""Where the text of a corpus comes from: public files, at hand or fetched, and their members."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from seqattn_fairseq.data.archives import extract
from seqattn_fairseq.data.checks import TextCount
from seqattn_fairseq.data.fetch import fetch, verify
from seqattn_fairseq.data.pipeline import Pipeline
from seqattn_fairseq.data.workspace import Progress, Step
from seqattn_fairseq.errors import SeqAttnError

MEMBERS_FOLDER = "orig"


@dataclass(frozen=True)
class Download:
    """A public file: an archive, or text (plain, or gzipped when its name ends in .gz).

    Attributes:
        name: its public name.
        urls: where it is offered, to be tried in this order.
        folders: folders below ``--from`` that may hold it.
        sha256: of the published file; None where nobody publishes it (the first download's is
            recorded then).
        size: of the published file in bytes, where it is known.
    """

    name: str
    urls: tuple[str, ...] = ()
    folders: tuple[str, ...] = ("",)
    sha256: str | None = None
    size: int | None = None

    def find(self, folder: Path) -> Path | None:
        """Return where the file lies below ``folder``, gzipped or plain if it is text."""
        for place in self.folders:
            for name in self._names:
                if (folder / place / name).is_file():
                    return folder / place / name
        return None

    @property
    def _names(self) -> list[str]:
        return list(dict.fromkeys([self.name, self.name.removesuffix(".gz")]))

    @property
    def names(self) -> str:
        """The names that serve, for a message: "x.tgz", "neither x.gz nor x"."""
        return f"neither {' nor '.join(self._names)}" if len(self._names) > 1 else f"no {self.name}"


@dataclass(frozen=True)
class Side:
    """One side of a piece: its download, and its name in there if that is an archive."""

    download: Download
    member: str | None = None


@dataclass(frozen=True)
class Piece:
    """A parallel piece of a corpus: a side for each language, and the name of their reader."""

    sides: Mapping[str, Side]
    reader: str = "lines"


Located = Mapping[Download, Path]


def locate(downloads: Iterable[Download], folder: Path) -> Located:
    """Return where all files lie below ``folder``.

    Raises:
        SeqAttnError: some do not; says what was looked for and where. Or a public file is empty,
            an HTML page, or not what is recorded beside it (see :func:`fetch`).
    """
    if not folder.is_dir():
        raise SeqAttnError(f"--from {folder}: no such folder")
    found = {download: download.find(folder) for download in downloads}
    missing = [download for download, path in found.items() if path is None]
    if missing:
        first, *others = missing
        places = " and ".join(str(folder / place) for place in first.folders)
        also = f" (and not {', '.join(other.name for other in others)} either)" if others else ""
        raise SeqAttnError(f"--from {folder}: found {first.names} in {places}{also}")
    located = {download: path for download, path in found.items() if path}
    for download, path in located.items():
        if download.urls:
            verify(path)
    return located


def fetch_all(downloads: Iterable[Download], folder: Path) -> Located:
    """Bring all files to ``folder`` and return where they lie; those at hand there stay.

    Raises:
        SeqAttnError: a file cannot be fetched.
    """
    paths = {download: folder / download.name for download in downloads}
    with tqdm(desc="fetch", unit="B", unit_scale=True) as bar:
        for download, path in paths.items():
            bar.set_postfix_str(download.name)
            fetch(download.urls, download.sha256, path, bar.update, download.size)
    return paths


def unpack(sides: Iterable[Side], located: Located, pipeline: Pipeline) -> dict[Side, Path]:
    """Unpack the members that the sides name and return the text file of every side."""
    files: dict[Side, Path] = {}
    members: dict[Download, dict[str, Path]] = {}
    for side in sides:
        if side.member is None:
            files[side] = located[side.download]
        else:
            # Unpacking bounds the size of what was packed twice.
            files[side] = pipeline.folder / MEMBERS_FOLDER / side.member.removesuffix(".gz")
            members.setdefault(side.download, {})[side.member] = files[side]
    steps = [_unpack_step(located[archive], names) for archive, names in members.items()]
    pipeline.do(steps, unit="B")
    return files


def _unpack_step(archive: Path, members: dict[str, Path]) -> Step:
    action = partial(_unpack, archive, members)
    parameters = {"members": list(members)}
    size = archive.stat().st_size
    return Step("unpack", archive.name, [archive], list(members.values()), parameters, action, size)


def _unpack(archive: Path, members: dict[str, Path], progress: Progress) -> TextCount:
    extract(archive, members, progress)
    return TextCount(0, 0)  # lines are counted by the check, which reads them
