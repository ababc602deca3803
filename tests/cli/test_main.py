"""The ``seqattn`` command itself: no command, versions, file errors, a reader that goes away."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from seqattn_fairseq.cli.main import main


def test_without_a_command_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: seqattn") and "average the weights" in error


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == version("seqattn_fairseq") + "\n"


def test_options_of_commands_are_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--archs"]) == 0
    assert "seqattn_softmax_tiny" in capsys.readouterr().out.splitlines()


def test_file_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a file"
    file.write_text("")
    assert main(["configs", str(file)]) == 1
    captured = capsys.readouterr()
    assert captured.err == f"seqattn configs: error: {file / 'size'}: Not a directory\n"


def _list_into(output: int) -> tuple[int, bytes]:
    """Run ``seqattn list --archs``, buffered to the end; return status and complaints."""
    done = subprocess.run(
        [sys.executable, "-m", "seqattn_fairseq.cli.main", "list", "--archs"],
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        stdout=output,
        stderr=subprocess.PIPE,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert _list_into(writer) == (141, b"")
    finally:
        os.close(writer)


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        status, complaint = _list_into(full.fileno())
    assert status == 1
    assert complaint == b"seqattn: error: standard output: No space left on device\n"
