"""scripts/setup.sh chooses the interpreter and the torch, and explains what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.house import tree

TOOLS = ("bash", "cat", "cmp", "dirname", "sed")


class Machine:
    """A copy of the checkout's door in a folder with spaces, with only stand-in programs."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "a checkout"
        self.programs = folder / "programs"
        (self.checkout / "scripts").mkdir(parents=True)
        self.programs.mkdir()
        for name in ("pyproject.toml", "scripts/setup.sh"):
            shutil.copy(tree.ROOT / name, self.checkout / name)
        for tool in TOOLS:
            path = shutil.which(tool)
            assert path is not None
            (self.programs / tool).symlink_to(path)
        self.program("c++")

    def program(self, name: str, prints: str = "", status: int = 0) -> None:
        """Add a program that prints a line, whatever it is asked."""
        path = self.programs / name
        path.write_text(f"#!{shutil.which('sh')}\necho '{prints}'\nexit {status}\n")
        path.chmod(0o755)

    def setup(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the script with nothing but the stand-ins on the path."""
        return subprocess.run(
            [self.programs / "bash", "scripts/setup.sh", *arguments],
            cwd=self.checkout,
            env={"PATH": str(self.programs), "HOME": os.environ["HOME"], **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def plan(self, **variables: str) -> str:
        """What a dry run says: its standard output, or the error when it fails."""
        run = self.setup("--dry-run", **variables)
        assert not (self.checkout / ".venv").exists()
        assert bool(run.returncode) is bool(run.stderr)
        return run.stderr or run.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_python3_comes_first(machine: Machine) -> None:
    machine.program("python3", "3.11.7")
    machine.program("python3.13", "3.13.0")
    assert "python3 (3.11.7) and torch==2.13.0" in machine.plan()


@pytest.mark.parametrize(
    "unfit", ["3.9.18", "3.14.0", "3.11.2 ensurepip", "3.12.1 Python.h", ""], ids=str.split
)
def test_newest_supported_python_stands_in_for_an_unfit_one(machine: Machine, unfit: str) -> None:
    machine.program("python3", unfit)
    machine.program("python3.10", "3.10.13")
    machine.program("python3.12", "3.12.1")
    assert "python3.12 (3.12.1)" in machine.plan()


def test_a_program_that_fails_is_no_python(machine: Machine) -> None:
    machine.program("python3", "3.11.7")
    machine.program("python3", "pyenv: version not set", status=127)
    assert "no Python 3.10 to 3.13 found" in machine.plan()


def test_no_python_is_one_line_with_a_reason_and_a_remedy(machine: Machine) -> None:
    machine.program("python3", "3.12.1 ensurepip Python.h")
    error = machine.plan()
    assert error.count("\n") == 1
    assert "python3 (3.12.1) lacks ensurepip Python.h" in error
    assert "make setup PYTHON=" in error


def test_python_can_be_named(machine: Machine) -> None:
    machine.program("python3", "3.11.7")
    machine.program("my python", "3.14.1")
    named = machine.programs / "my python"
    assert f"{named} (3.14.1)" in machine.plan(PYTHON=str(named))
    machine.program("my python", "3.9.1")
    assert "needed is 3.10 or newer" in machine.plan(PYTHON=str(named))


def test_missing_compiler_is_one_line_with_a_remedy(machine: Machine) -> None:
    machine.program("python3", "3.11.7")
    (machine.programs / "c++").unlink()
    error = machine.plan()
    assert error.count("\n") == 1
    assert "no C++ compiler" in error
    assert "build-essential" in error


def test_torch_follows_the_gpu_unless_it_is_named(machine: Machine) -> None:
    machine.program("python3", "3.11.7")
    machine.program("nvidia-smi", "No devices were found")
    assert machine.plan().endswith("and torch==2.13.0\n")
    machine.program("nvidia-smi", "GPU 0: NVIDIA H200 (UUID: GPU-1)")
    assert machine.plan().endswith("and torch\n")
    assert machine.plan(TORCH_SPEC="torch==2.15.0").endswith("and torch==2.15.0\n")


def test_an_environment_of_somebody_else_is_left_alone(machine: Machine) -> None:
    machine.program("python3", "3.11.7")
    (machine.checkout / ".venv").mkdir()
    run = machine.setup()
    assert run.returncode == 1
    assert "mv .venv .venv.old" in run.stderr
    assert list((machine.checkout / ".venv").iterdir()) == []


def test_nothing_is_done_when_everything_is_there(machine: Machine) -> None:
    venv = machine.checkout / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(machine.programs / "c++")
    base = f"{machine.checkout}\nPython 3.11.7\n"
    (venv / "setup.base").write_text(base)
    project = (machine.checkout / "pyproject.toml").read_text()
    (venv / "setup.stamp").write_text(f"{base}torch==2.13.0\n{project}")
    run = machine.setup()
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    (machine.checkout / "pyproject.toml").write_text(project + "\n")
    assert machine.setup().returncode == 1, "no Python at hand, and something to install"


def test_unknown_argument_is_refused(machine: Machine) -> None:
    run = machine.setup("--dryrun")
    assert run.returncode == 1
    assert "--dryrun" in run.stderr
