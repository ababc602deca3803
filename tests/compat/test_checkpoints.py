"""Unreadable checkpoints: one line naming the file; nothing in them is executed."""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

import seqattn_fairseq  # noqa: F401 applies the workarounds
from seqattn_fairseq.checkpoint_files import read_checkpoint
from seqattn_fairseq.errors import SeqAttnError
from tests.support import toy_corpus

pytestmark = pytest.mark.xdist_group("commands")


class Payload:
    """Pickles to a call that leaves a folder behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def message(path: Path) -> str:
    with pytest.raises(SeqAttnError) as caught:
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_payload_is_refused_and_not_executed(tmp_path: Path, legacy: bool) -> None:
    path, trace = tmp_path / "model.pt", tmp_path / "trace"
    state = {"model": {}, "cfg": Payload(trace)}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    assert message(path).startswith(f"{path}: refused and not executed: its pickle calls ")
    assert "mkdir" in message(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists()  # it would have worked


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"")
    assert message(path).startswith(f"{path}: empty file")
    path.write_text("not a checkpoint")
    assert message(path).startswith(f"{path}: truncated, damaged or no fairseq checkpoint")
    whole = toy_corpus.trained().checkpoint.read_bytes()
    for length in (10, len(whole) // 3, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert message(path).startswith(f"{path}: truncated")
    for foreign in ({"weight": torch.ones(3)}, [1, 2], torch.ones(2), {"model": {}, "cfg": [1]}):
        torch.save(foreign, path)
        assert "fairseq checkpoint" in message(path)
    for part in ("cfg", "args", "extra_state"):
        torch.save({"model": {}, "cfg": {"a": 1}, part: ["no", "group"]}, path)
        assert "fairseq checkpoint" in message(path)
        with pytest.raises(SeqAttnError, match="no fairseq checkpoint"):
            read_checkpoint(path)
    torch.save({"weight": torch.ones(3)}, path)  # a plain state dict
    assert message(path).startswith(f"{path}: no fairseq checkpoint ('model' and 'cfg'")


def _write_array(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.ones(3))


FOREIGN: dict[str, Callable[[Path], object]] = {
    "array": _write_array,
    "raw pickle": lambda path: path.write_bytes(pickle.dumps({"model": {}})),
    "raw pickled array": lambda path: path.write_bytes(pickle.dumps(np.ones(3))),
    "escapes in a call": lambda path: path.write_bytes(b"\x80\x02c\x1b[31mred\n\x1b[0m\n."),
    "escapes": lambda path: path.write_bytes(b"\x1b[31m"),
    "escapes in a name": lambda path: torch.save(
        {"model": {"\x1b[31m": torch.ones(1)}, "cfg": {"a": 1}}, path
    ),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN)
def test_messages_hold_no_advice_of_torch_and_no_escapes(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    path = tmp_path / "file.pt"
    write(path)
    texts = [message(path)]
    with pytest.raises(SeqAttnError) as caught:
        read_checkpoint(path)
    texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert texts[0].startswith(f"{path}: ")
    assert texts[0].isprintable()
    assert "weights_only" not in texts[0] and "orch.load" not in texts[0]


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    checkpoint = toy_corpus.trained().checkpoint
    weights = torch.load(checkpoint, weights_only=True)["model"]["encoder.embed_tokens.weight"]
    data = bytearray(checkpoint.read_bytes())
    data[data.index(weights.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(data)
    assert "wrong checksum" in message(path)


def test_namespaces_and_numpy_scalars_load(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    counts = np.array([1, 2, 3])
    state = {
        "namespace": argparse.Namespace(arch="transformer", dropout=0.1),
        "array": counts,
        "scalars": [np.float64(0.5), np.float32(2), np.int64(3), np.bool_(True), counts.sum()],
    }
    torch.save(state, path)
    loaded = torch.load(path)
    assert loaded["namespace"] == state["namespace"]
    assert (loaded["array"] == counts).all()
    assert loaded["scalars"] == state["scalars"]


def test_a_copy_replaces_the_old_file_only_when_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, copy = tmp_path / "checkpoint1.pt", tmp_path / "checkpoint_last.pt"
    source.write_bytes(b"new" * 1000)
    copy.write_bytes(b"old")

    def interrupted(src: str, dst: str) -> None:
        Path(dst).write_bytes(b"new")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copyfile", interrupted)
        PathManager.copy(str(source), str(copy), overwrite=True)
    assert copy.read_bytes() == b"old"
    assert PathManager.copy(str(source), str(copy), overwrite=True)
    assert copy.read_bytes() == source.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name, copy.name]


def test_commands_refuse_a_payload_in_one_line(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"model": {}, "cfg": Payload(trace)}, tmp_path / "checkpoint_last.pt")
    data_bin = toy_corpus.corpus()[1]
    path = tmp_path / "checkpoint_last.pt"
    shutil.copy(toy_corpus.trained().checkpoint, tmp_path / "checkpoint1.pt")
    for command, result in {
        "generate": toy_corpus.run(
            "generate", str(data_bin), "--user-dir", toy_corpus.USER_DIR, "--path", str(path)
        ),
        "train": toy_corpus.train(data_bin, tmp_path, "--max-epoch", "3", arch="seqattn_softmax"),
    }.items():
        assert result.status == 1
        assert f"fairseq-{command}: error: {path}: refused and not executed" in result.stderr
        assert "Traceback" not in result.stderr
    assert not trace.exists()


def test_a_missing_checkpoint_is_named() -> None:
    result = toy_corpus.run(
        "generate",
        str(toy_corpus.corpus()[1]),
        "--user-dir",
        toy_corpus.USER_DIR,
        "--path",
        "no.pt",
    )
    assert result.status == 1
    assert result.stderr.strip().endswith(
        "Model file not found: no.pt; --path takes checkpoint files"
    )


def test_evaluating_bleu_leaves_checkpoints_that_load(tmp_path: Path) -> None:
    """--eval-bleu saves numpy numbers in the meters, and stock architectures a Namespace."""
    data_bin = toy_corpus.corpus()[1]
    options = ("--eval-bleu", "--eval-bleu-args", '{"beam": 1, "max_len_b": 5}')
    first = toy_corpus.train(data_bin, tmp_path, *options, "--max-epoch", "1")
    assert first.status == 0, first.stderr
    again = toy_corpus.train(data_bin, tmp_path, *options, "--max-epoch", "2")
    assert again.status == 0, again.stderr
    assert "Loaded checkpoint" in again.stdout + again.stderr
    translated = toy_corpus.run(
        "generate", str(data_bin), "--user-dir", toy_corpus.USER_DIR, "--cpu", "--max-len-b", "9",
        "--num-workers", "0", "--path", str(tmp_path / "checkpoint_last.pt"),
    )  # fmt: skip
    assert translated.status == 0, translated.stderr
