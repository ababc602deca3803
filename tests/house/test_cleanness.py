"""Nothing in the tree names one machine, one package index, or somebody's unfinished work."""

from __future__ import annotations

import re

import pytest

from tests.house import tree

# Spelled with classes, so that this file does not match itself.
MACHINE_PATH = re.compile(
    r"(?<![\w.$}*~)-])/(?:[w]ork|[r]oot|[h]ome|[o]pt|[t]mp|[m]nt|[U]sers)(?:/|\b(?=[\s\"'`]))"
)
PACKAGE_INDEX = re.compile(r"[p]ypi\.\w|[p]ythonhosted|[w]hl/cpu|download\.[p]ytorch|[c]onda\.org")
UNFINISHED = re.compile(r"\b(?:[T]ODO|[F]IXME|[X]XX)\b")


def _matches(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:80]}"
        for name, text in tree.texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


@pytest.mark.parametrize("pattern", [MACHINE_PATH, PACKAGE_INDEX, UNFINISHED])
def test_nothing_of_the_kind(pattern: re.Pattern[str]) -> None:
    tree.assert_none(_matches(pattern))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("cd /{}/main", True),
        ('open("/{}/x")', True),
        ("--from ../{}/data", False),
        ('"$PWD/{}/x"', False),
    ],
)
@pytest.mark.parametrize("folder", ["work", "tmp", "home"])
def test_machine_paths_are_told_from_others(line: str, found: bool, folder: str) -> None:
    assert bool(MACHINE_PATH.search(line.format(folder))) is found


def test_text_files_end_with_one_newline_and_unix_line_ends() -> None:
    odd = [
        name
        for name, text in tree.code().items()
        if text and (not text.endswith("\n") or text.endswith("\n\n") or "\r" in text)
    ]
    tree.assert_none(odd)
