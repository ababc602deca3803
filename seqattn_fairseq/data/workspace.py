"""A folder in which a preparation happens step by step, and which it finds again when repeated.

``manifest.json`` records for every finished step the SHA-256 of its inputs and outputs, its
parameters, lines, tokens and seconds. A step is done again only when one of these disagrees
with what is on disk, so that a repeated, killed or altered preparation does just what is missing.
"""

from __future__ import annotations

import fcntl
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from seqattn_fairseq.data.checks import TextCount
from seqattn_fairseq.data.files import remove_partial_files, sha256_of, write_atomically
from seqattn_fairseq.errors import SeqAttnError

MANIFEST_FILE = "manifest.json"
_LOCK_FILE = ".lock"
_LONG_BYTES = 1 << 30  # a file that takes seconds to read gets a progress bar
_TOOLS = (
    "seqattn_fairseq",
    "fairseq-fixed",
    "fairseq",
    "sacremoses",
    "subword-nmt",
    "sentencepiece",
    "torch",
)

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Step:
    """One unit of work that is done completely or not at all.

    Attributes:
        stage: the kind of work, e.g. "tokenize".
        name: what it is done to; unique within its stage.
        inputs: files that it reads.
        outputs: files or folders that it makes, inside the workspace.
        parameters: everything else that its result depends on, in JSON form.
        action: does it, reports lines as they are finished, and returns the size of its text.
        lines: how many lines it will report, where that is known beforehand.
    """

    stage: str
    name: str
    inputs: Sequence[Path]
    outputs: Sequence[Path]
    parameters: dict[str, Any]
    action: Callable[[Progress], TextCount]
    lines: int = 0


class Workspace:
    """A preparation's folder and its manifest; open it with :func:`open_workspace`."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self._digests: dict[Path, str] = {}

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of a file, reading it once unless a step rewrites it."""
        if path not in self._digests:
            size = path.stat().st_size
            hidden = size < _LONG_BYTES
            with tqdm(
                total=size, desc=f"hash {path.name}", unit="B", unit_scale=True, disable=hidden
            ) as bar:
                self._digests[path] = sha256_of(path, bar.update)
        return self._digests[path]

    def record(self, step: Step) -> dict[str, Any]:
        """Return the manifest's entry of a finished step."""
        entry: dict[str, Any] = self.manifest["stages"][step.stage][step.name]
        return entry

    def count(self, step: Step) -> TextCount:
        """Return the lines and tokens of a finished step."""
        entry = self.record(step)
        return TextCount(entry["lines"], entry["tokens"])

    def is_done(self, step: Step) -> bool:
        """Tell whether the step's result is on disk and made of the present inputs."""
        entry = self.manifest["stages"].get(step.stage, {}).get(step.name)
        if entry is None or any(entry.get(key) != value for key, value in self._key(step).items()):
            return False
        return all(self._has(name, sha256) for name, sha256 in entry["outputs"].items())

    def run(self, step: Step, progress: Progress) -> None:
        """Do a step and record it."""
        start = time.perf_counter()
        count = step.action(progress)
        seconds = time.perf_counter() - start
        files = [file for output in step.outputs for file in _files_of(output)]
        for file in files:
            self._digests.pop(file, None)
        entry = {
            **self._key(step),
            "outputs": {self._name(file): self.digest(file) for file in files},
            "lines": count.lines,
            "tokens": count.tokens,
            "seconds": round(seconds, 3),
        }
        self.manifest["stages"].setdefault(step.stage, {})[step.name] = entry
        self.manifest["lines_per_second"] = self._speeds()
        self.save()

    def save(self) -> None:
        """Write the manifest, atomically."""
        with write_atomically(self.folder / MANIFEST_FILE) as stream:
            stream.write(json.dumps(self.manifest, indent=1, ensure_ascii=False) + "\n")

    def _key(self, step: Step) -> dict[str, Any]:
        inputs: dict[str, str] = {}
        for path in step.inputs:
            name = path.name
            if name in inputs:  # two files in different folders may have the same name
                inside = path.is_relative_to(self.folder)
                name = self._name(path) if inside else path.as_posix()
            inputs[name] = self.digest(path)
        return {"inputs": inputs, "parameters": step.parameters}

    def _has(self, name: str, sha256: str) -> bool:
        path = self.folder / name
        return path.is_file() and self.digest(path) == sha256

    def _name(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()

    def _speeds(self) -> dict[str, int]:
        speeds = {}
        for stage, entries in self.manifest["stages"].items():
            seconds = sum(entry["seconds"] for entry in entries.values())
            lines = sum(entry["lines"] for entry in entries.values())
            if lines:
                speeds[stage] = round(lines / max(seconds, 1e-3))
        return speeds


@contextmanager
def open_workspace(folder: Path, corpus: str, facts: dict[str, Any]) -> Iterator[Workspace]:
    """Open ``folder`` for the preparation of ``corpus``, alone; ``facts`` go into the manifest.

    Raises:
        SeqAttnError: the folder holds something else, or another process prepares there.
    """
    manifest = _load_manifest(folder, corpus)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        remove_partial_files(folder)
        header = {"corpus": corpus, **facts, "tools": tool_versions(_TOOLS)}
        workspace = Workspace(folder, {**header, "stages": manifest.get("stages", {})})
        workspace.manifest["lines_per_second"] = manifest.get("lines_per_second", {})
        workspace.save()
        yield workspace
        # Once more: a process of a killed run may have lived, and written, a moment longer.
        remove_partial_files(folder)


def _load_manifest(folder: Path, corpus: str) -> dict[str, Any]:
    path = folder / MANIFEST_FILE
    if not path.exists():
        if folder.exists() and any(not _hidden(entry) for entry in folder.iterdir()):
            raise SeqAttnError(
                f"{folder} is not empty and holds no {MANIFEST_FILE} of an earlier preparation; "
                "name an empty or new folder with --to"
            )
        return {}
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["corpus"]
    except (ValueError, KeyError, TypeError):
        raise SeqAttnError(
            f"{path}: not a manifest of seqattn prepare; delete the folder or choose one with --to"
        ) from None
    if found != corpus:
        raise SeqAttnError(f"{folder} holds {found}, not {corpus}; name another folder with --to")
    return manifest


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / _LOCK_FILE, "w") as stream:
        try:
            # Of the record-lock kind: a killed process loses it although its workers, which
            # share the open file, may live a moment longer.
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SeqAttnError(
                f"{folder}: another seqattn prepare is at work there; wait for it or name another "
                "folder with --to"
            ) from None
        yield


def _files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir()) if path.is_dir() else [path]


def tool_versions(tools: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    versions = {"python": platform.python_version()}
    for tool in tools:
        try:
            versions[tool] = version(tool)
        except PackageNotFoundError:
            continue  # fairseq has two distribution names; one of them is installed
    return versions
