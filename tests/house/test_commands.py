"""The commands of ``seqattn``, their modules and the version say the same."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from seqattn_fairseq.cli.main import COMMANDS, main
from tests.house import tree


def test_every_command_has_a_module_and_every_module_is_a_command() -> None:
    modules = {path.stem for path in (tree.PACKAGE / "cli").glob("*.py")} - {"__init__", "main"}
    commands = {command.replace("-", "_") for command in COMMANDS}
    tree.assert_none(f"{name}.py or its line in COMMANDS" for name in modules ^ commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "-h"])
    assert stop.value.code == 0
    module = importlib.import_module(f"seqattn_fairseq.cli.{command.replace('-', '_')}")
    summary = (module.__doc__ or "").splitlines()[0]
    printed = capsys.readouterr().out
    assert summary
    assert summary in printed
    assert f"usage: seqattn {command} " in printed


def test_unknown_command_is_one_line_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pth"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "did you mean path" in error


def test_path_is_the_folder_that_fairseq_accepts_as_user_dir(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "seqattn_fairseq.cli.main", "path"]
    run = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    folder = Path(run.stdout.removesuffix("\n"))
    assert folder.is_absolute()
    assert folder.name == "seqattn_fairseq"
    assert folder.samefile(tree.PACKAGE)


def test_path_is_accepted_when_the_package_is_loaded_already(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from argparse import Namespace

    from fairseq.utils import import_user_module

    assert main(["path"]) == 0
    import_user_module(Namespace(user_dir=capsys.readouterr().out.strip()))


def test_version_is_the_newest_entry_of_the_changelog() -> None:
    project = re.search(r'^version = "(.+)"$', tree.texts()["pyproject.toml"], re.MULTILINE)
    entry = re.search(r"^## \[(\d[^]]*)\]", tree.texts()["CHANGELOG.md"], re.MULTILINE)
    assert project
    assert entry
    assert project[1] == entry[1]
    assert project[1] == version("seqattn_fairseq"), "installed before the version rose: make setup"
