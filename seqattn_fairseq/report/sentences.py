"""The sentences of a report: what was translated, and every run's translation, as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

from seqattn_fairseq.data.files import read_lines


class Hypotheses(Sequence[list[str]]):
    """The translations of every run, read when they are asked for and not kept.

    A run that has none has an empty list.
    """

    def __init__(self, files: Sequence[Path | None]) -> None:
        self._files = list(files)

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> list[str]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[list[str]]: ...
    def __getitem__(self, index: int | slice) -> list[str] | Sequence[list[str]]:
        if isinstance(index, slice):
            return Hypotheses(self._files[index])
        path = self._files[index]
        return [] if path is None else list(read_lines(path))
