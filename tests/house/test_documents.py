"""What the documents tell people to type or to open is there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from seqattn_fairseq.cli.main import COMMANDS
from tests.house import tree

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SHELL = {"bash", "sh", "shell", "console"}
TARGET = re.compile(r"(?:^|[;&|] *)(?:\w+=\S+ +)*make +((?:[a-z][a-z-]*\b(?!=) *)+)", re.MULTILINE)
COMMAND = re.compile(r"(?<![\w/-])seqattn +([a-z][\w-]*)")
FILE = re.compile(
    r"(?<![\w./$}-])((?:scripts|examples|configs|tests|docs|benchmarks|seqattn_fairseq)/"
    r"[\w./-]+\.(?:sh|py|yaml|md))\b"
)
CONFIG = re.compile(r"--config-name[ =](\w+)")
LINK = re.compile(r"(?<!!)\[[^]]*\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def _documents() -> dict[str, str]:
    return {name: text for name, text in tree.texts().items() if name.endswith(".md")}


def _shell_blocks() -> Iterator[tuple[str, str]]:
    for name, text in _documents().items():
        for language, block in FENCE.findall(text):
            if language in SHELL:
                yield name, block


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", tree.texts()["Makefile"], re.MULTILINE))


def _missing(pattern: re.Pattern[str], known: set[str]) -> list[str]:
    return [
        f"{name}: {word}"
        for name, block in _shell_blocks()
        for match in pattern.findall(block)
        for word in match.split()
        if word not in known
    ]


def test_the_readme_shows_commands() -> None:
    assert any(name == "README.md" for name, _ in _shell_blocks())


def test_make_targets_exist() -> None:
    tree.assert_none(_missing(TARGET, _targets()))


def test_seqattn_commands_exist() -> None:
    tree.assert_none(_missing(COMMAND, set(COMMANDS)))


def test_files_exist() -> None:
    tree.assert_none(_missing(FILE, set(tree.texts())))


def test_configs_exist() -> None:
    names = {name.rpartition("/")[2].removesuffix(".yaml") for name in tree.texts()}
    tree.assert_none(_missing(CONFIG, names))


def test_links_between_documents_lead_somewhere() -> None:
    dead = [
        f"{name}: {link}"
        for name, text in _documents().items()
        for link in LINK.findall(text)
        if not (tree.ROOT / name).parent.joinpath(link).exists()
    ]
    tree.assert_none(dead)


@pytest.mark.parametrize(
    ("pattern", "line", "found"),
    [
        (TARGET, "cd x && TORCH_SPEC=torch make setup test\n", ["setup test"]),
        (TARGET, "make setup PYTHON=python3.12\n", ["setup "]),
        (COMMAND, 'fairseq-train --user-dir "$(seqattn path)"', ["path"]),
        (FILE, "bash scripts/setup.sh; cat $DIR/docs/x.md", ["scripts/setup.sh"]),
        (CONFIG, "--config-name multi30k_en_de variant=rela_g", ["multi30k_en_de"]),
    ],
)
def test_patterns_find_what_they_look_for(
    pattern: re.Pattern[str], line: str, found: list[str]
) -> None:
    assert pattern.findall(line) == found
