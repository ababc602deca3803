"""The table of workarounds, and the doctor that prints it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import fairseq.options
import pytest
from fairseq.data import data_utils
from fairseq.trainer import Trainer

from seqattn_fairseq import compat
from seqattn_fairseq.cli import main as cli
from tests.support import toy_corpus


def test_names_are_unique_and_reasons_short() -> None:
    names = [workaround.name for workaround in compat.WORKAROUNDS]
    assert len(set(names)) == len(names)
    assert all(20 < len(workaround.reason) < 240 for workaround in compat.WORKAROUNDS)


def test_applying_twice_changes_nothing() -> None:
    before = (
        data_utils.batch_by_size,
        Trainer.load_checkpoint,
        fairseq.options.add_preprocess_args,
    )
    compat.apply()
    importlib.reload(compat).apply()
    after = (data_utils.batch_by_size, Trainer.load_checkpoint, fairseq.options.add_preprocess_args)
    assert before == after


def test_a_defect_that_is_gone_is_left_alone() -> None:
    """What is repaired by a feature test no longer looks broken, so it would not be repeated."""
    tested = {
        "safe checkpoint loading",
        "length buckets",
        "no sentence dropped",
    }
    still = {w.name for w in compat.WORKAROUNDS if w.name in tested and w.needed()}
    assert still <= {"length buckets"}  # numpy itself stays as it is


def test_installed_and_user_dir_imports_are_one(tmp_path: Path) -> None:
    program = (
        "import argparse, seqattn_fairseq, fairseq.options as o, fairseq.utils as u\n"
        "before = o.parse_args_and_arch\n"
        f"u.import_user_module(argparse.Namespace(user_dir={toy_corpus.USER_DIR!r}))\n"
        "assert o.parse_args_and_arch is before\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_doctor_prints_versions_and_workarounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    report = capsys.readouterr().out
    for name in ("python", "torch", "fairseq-fixed", "numpy", "hydra-core", "omegaconf", "triton"):
        assert f"\n{name} " in f"\n{report}"
    for workaround in compat.active():
        assert workaround.name in report
        assert workaround.reason.split()[0] in report
