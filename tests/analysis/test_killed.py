"""An analysis that is killed leaves whole files or none, and goes on where it was."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seqattn_fairseq.analysis import attention, maps, subject
from seqattn_fairseq.cli.main import main
from tests.analysis.models import toy_run
from tests.support import toy_corpus

pytestmark = pytest.mark.xdist_group("commands")


def _killed_at_the_second_map(arguments: list[str], log: Path) -> None:
    """Do in a forked process what the command does, until its second map."""
    from seqattn_fairseq.analysis import maps as forked_maps
    from seqattn_fairseq.cli.main import main as forked_main

    toy_corpus._redirect(log, Path(os.devnull))
    real, calls = forked_maps.cross_weights, iter(range(100))

    def last(*given: Any) -> Any:
        if next(calls) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given)

    forked_maps.cross_weights = last  # type: ignore[assignment]
    forked_main(arguments)


def test_killed_and_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = toy_run(tmp_path, "rela_g")
    calm = tmp_path / "calm"
    shutil.copytree(run, calm)
    command = ["analyse", str(run), "--cpu"]
    process = toy_corpus._context.Process(
        target=_killed_at_the_second_map, args=(command, tmp_path / "log")
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "log.err").read_text()
    folder = run / "analysis" / "test"
    assert [path.name for path in folder.iterdir()] == [attention.FILE]
    before = (folder / attention.FILE).stat().st_mtime_ns
    assert main(command) == main(["analyse", str(calm), "--cpu"]) == 0
    assert (folder / attention.FILE).stat().st_mtime_ns == before
    for path in (calm / "analysis" / "test").iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    # all is there: the model is not even read
    monkeypatch.setattr(subject, "_load", None)
    assert main(command) == 0


def test_interrupted_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = toy_run(tmp_path, "softmax")
    show = subject.Loaded.show

    def interrupted(*given: Any) -> Iterator[Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(subject.Loaded, "show", interrupted)
    assert main(["analyse", str(run), "--cpu"]) == 130
    assert not (run / "analysis").exists()
    monkeypatch.setattr(subject.Loaded, "show", show)
    assert main(["analyse", str(run), "--cpu"]) == 0
    folder = run / "analysis" / "test"
    assert {path.name for path in folder.iterdir()} == {attention.FILE, maps.FILE, maps.RECORD}
    capsys.readouterr()
    # a file that somebody has damaged, or removed, is made again
    (folder / attention.FILE).write_text("{")
    (folder / maps.FILE).unlink()
    assert main(["analyse", str(run), "--cpu"]) == 0
    assert len(list(maps.read_maps(folder))) == 5
