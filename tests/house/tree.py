"""The files of the project, as git sees them: everything that is not ignored."""

from __future__ import annotations

import ast
import contextlib
import functools
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "seqattn_fairseq"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def files() -> tuple[Path, ...]:
    """Every file that a commit of this tree would hold.

    A repository of its own makes it work for an unpacked archive too, and shows files that are
    not committed yet.
    """
    with tempfile.TemporaryDirectory() as folder:
        git = ["git", f"--git-dir={folder}", f"--work-tree={ROOT}"]
        subprocess.run(["git", "init", "--quiet", "--bare", folder], check=True)
        listing = subprocess.run(
            [*git, "ls-files", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
    paths = (ROOT / name for name in sorted(listing.stdout.split("\0")))
    return tuple(path for path in paths if path.is_file())


@functools.cache
def texts() -> dict[str, str]:
    """Relative name -> content of every UTF-8 file."""
    found = {}
    for path in files():
        with contextlib.suppress(UnicodeDecodeError):
            text = path.read_bytes().decode("utf-8")
            found[path.relative_to(ROOT).as_posix()] = text
    return {name: text for name, text in found.items() if "\0" not in text}


def code() -> dict[str, str]:
    """Relative name -> content of every file that people program in."""
    endings = (".py", ".sh", ".toml", ".yaml", ".yml")
    return {
        name: text
        for name, text in texts().items()
        if name.endswith(endings) or name in ("Makefile", ".ci/run")
    }


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Relative name -> syntax tree of every Python file."""
    return {name: ast.parse(text) for name, text in code().items() if name.endswith(".py")}


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method, the nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def assert_none(found: Iterable[str]) -> None:
    """Fail with every find on a line of its own; pytest would show the first few."""
    lines = list(found)
    assert not lines, "\n" + "\n".join(lines)
