"""Translating test sets: every sentence, in order, as fairseq-generate does it."""

from __future__ import annotations

import shutil
from argparse import Namespace
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.data.files import read_lines
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation import translation
from seqattn_fairseq.evaluation.training import read_training
from seqattn_fairseq.evaluation.translation import (
    Job,
    Search,
    Sentence,
    Translator,
    translate,
)
from tests.evaluation import corpus
from tests.support import toy_corpus

pytestmark = pytest.mark.xdist_group("commands")

TINY = Search(beam=2, max_len_b=12)


def _job(subset: str, search: Search = TINY) -> Job:
    checkpoint = corpus.trained() / "checkpoint_best.pt"
    return Job(checkpoint, corpus.data_bin(), subset, "subword_nmt", search, cpu=True)


@pytest.mark.parametrize(("subset", "size"), corpus.COUNTS.items())
def test_as_many_lines_as_sentences(subset: str, size: int) -> None:
    found = translate(_job(subset)).sentences
    assert [sentence.ident for sentence in found] == list(range(size))
    lines = list(read_lines(corpus.data_bin().parent / f"{subset}.src"))
    assert [sentence.source for sentence in found] == [line.replace("@@ ", "") for line in lines]


def test_equal_to_fairseq_generate() -> None:
    search = Search(beam=3, length_penalty=0.6, max_len_b=9, max_tokens=50)
    found = translate(_job("test2", search)).sentences
    result = toy_corpus.run(
        "generate", str(corpus.data_bin()), "--user-dir", toy_corpus.USER_DIR, "--path",
        str(corpus.trained() / "checkpoint_best.pt"), "--cpu", "--max-tokens", "50", "--max-len-b",
        "9", "--beam", "3", "--lenpen", "0.6", "--gen-subset", "test2", "--remove-bpe",
        "--task", "seqattn_translation", "-s", "src", "-t", "tgt",
    )  # fmt: skip
    assert result.status == 0, result.stderr
    sides = {"S": "source", "T": "target", "H": "hypothesis"}
    for kind, name in sides.items():
        assert result.lines(kind) == {one.ident: getattr(one, name) for one in found}
    scores = [line.split("\t") for line in result.stdout.split("\n") if line.startswith("H-")]
    assert {int(row[0][2:]): float(row[1]) for row in scores} == {s.ident: s.score for s in found}


def test_a_stock_model_and_task_lose_no_sentence() -> None:
    run = toy_corpus.trained("transformer")
    found = translate(Job(run.checkpoint, run.data_bin, "valid", "none", TINY, cpu=True)).sentences
    assert len(found) == 13


def test_the_time_is_that_of_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading is slow here, and every batch takes ten seconds by the clock of the search."""
    clock = count(0, 10)
    opened = Translator.open

    def slowly(job: Job, share: int = 0) -> Translator:
        next(clock)
        return opened(job, share)

    monkeypatch.setattr(Translator, "open", slowly)
    monkeypatch.setattr(translation, "time", Namespace(perf_counter=lambda: float(next(clock))))
    job = _job("test4", replace(TINY, max_tokens=60))
    batches = len(list(opened(job).batches()))
    assert batches > 1
    assert translate(job).seconds == 10 * batches


@pytest.mark.slow
@pytest.mark.parametrize("subset", ["test4", "test1"])
def test_processes_share_the_work(subset: str) -> None:
    """One sentence, too, which is fewer batches than processes."""
    search = Search(beam=2, max_len_b=12, max_tokens=60)
    job = _job(subset, search)
    assert translate(job, processes=2).sentences == translate(job).sentences


def test_imported_and_old_checkpoints_translate_alike(tmp_path: Path) -> None:
    """One with the bare sections, and one that holds the arguments of an old command line."""
    state = torch.load(corpus.trained() / "checkpoint_best.pt", weights_only=True)
    model = {name: value for name, value in state["cfg"]["model"].items() if name[0] != "_"}
    task = {"data": "x", "source_lang": "src", "target_lang": "tgt"}
    bare = {"model": state["cfg"]["model"], "task": {**task, "_name": "translation"}}
    arguments = Namespace(**model, **task, arch="seqattn_softmax", task="translation")
    expected = translate(_job("test2")).sentences
    for changes in ({"cfg": bare, "args": None}, {"cfg": None, "args": arguments}):
        path = tmp_path / "checkpoint.pt"
        torch.save({**state, "extra_state": {}, **changes}, path)
        training = read_training(path)
        assert (training.data, training.options["task.source_lang"]) == ("x", "src")
        job = Job(path, corpus.data_bin(), "test2", "subword_nmt", TINY, cpu=True)
        assert translate(job).sentences == expected


def _binarise(folder: Path, lines: list[str]) -> Path:
    for side in ("src", "tgt"):
        text = "".join(f"{line}\n" for line in lines)
        (folder / f"test.{side}").write_text(text, encoding="utf-8")
    result = toy_corpus.run(
        "preprocess", "-s", "src", "-t", "tgt", f"--testpref={folder / 'test'}", "--destdir",
        str(folder / "bin"), "--srcdict", str(corpus.data_bin() / "dict.src.txt"), "--tgtdict",
        str(corpus.data_bin() / "dict.tgt.txt"), "--user-dir", toy_corpus.USER_DIR,
    )  # fmt: skip
    assert result.status == 0, result.stderr
    return folder / "bin"


def test_empty_unknown_and_very_long_lines_keep_their_place(tmp_path: Path) -> None:
    lines = ["", "Das Haus .", "\u2028 日本 .", "alt " * 1100, "sch@@ ön .", ""]
    data_bin = _binarise(tmp_path, lines)
    run = corpus.trained() / "checkpoint_best.pt"
    found = translate(Job(run, data_bin, "test", "subword_nmt", TINY, cpu=True)).sentences
    empty = [sentence.hypothesis == "" for sentence in found]
    assert empty == [True, False, False, True, False, True]
    assert found[2].target == "<<unk>> ."  # matches no <unk> of a hypothesis
    assert (found[0], found[5]) == tuple(Sentence(i, "", "", "", 0.0) for i in (0, 5))


def test_other_dictionaries_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "bin"
    shutil.copytree(corpus.data_bin(), other)
    for side in ("src", "tgt"):
        path = other / f"dict.{side}.txt"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join([*lines[1:], lines[0]]), encoding="utf-8")
    job = Job(corpus.trained() / "checkpoint_best.pt", other, "test", "none", TINY, cpu=True)
    with pytest.raises(SeqAttnError, match="is not the source dictionary of the checkpoint"):
        translate(job)


@pytest.mark.parametrize("name", ["beam", "max_len_b", "max_tokens"])
def test_numbers_that_keep_nothing_are_refused(name: str) -> None:
    values: dict[str, Any] = {name: 0}
    with pytest.raises(SeqAttnError, match=f"{name} is 0; it must be at least 1"):
        Search(**values)


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(SeqAttnError, match="--fp16 needs a GPU"):
        translate(_job("test1", Search(fp16=True)))


def test_a_missing_set_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(corpus.trained()), "--subset", "tset", "--output", str(tmp_path), "--cpu"]
    assert main(["generate", *arguments]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "no split 'tset' for src-tgt (did you mean test" in error
    assert list(tmp_path.iterdir()) == []
