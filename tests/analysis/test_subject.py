"""Which model is analysed, on which data, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from seqattn_fairseq.analysis.attention import analyse_attention
from seqattn_fairseq.analysis.subject import find_subject, grouped
from seqattn_fairseq.cli.main import main
from seqattn_fairseq.errors import SeqAttnError
from tests.analysis.models import toy_run
from tests.evaluation import corpus
from tests.support import toy_corpus

pytestmark = pytest.mark.xdist_group("commands")


@pytest.mark.parametrize("size", [1, 7, 12, 1000])
def test_groups_hold_every_pair_once_and_no_more_tokens_than_asked(size: int) -> None:
    lengths = [(5, 2), (1, 9), (3, 3), (4, 4), (1, 1), (12, 30)]
    groups = list(grouped(lengths, range(6), size))
    assert sorted(number for group in groups for number in group) == list(range(6))
    for group in groups:
        longest = max(max(lengths[number]) for number in group)
        assert len(group) == 1 or len(group) * longest <= size
    assert list(grouped(lengths, [], size)) == []


def test_the_checkpoint_is_the_one_that_translated(tmp_path: Path) -> None:
    run, data = corpus.run_copy(tmp_path), corpus.described(tmp_path)
    assert find_subject(run, "test").checkpoint.name == "checkpoint_best.pt"
    average = ["--average", "last", "--checkpoints", "2"]
    assert main(["evaluate", str(run), "--data", str(data), *average, *corpus.DECODING]) == 0
    used = run / "checkpoint_average_last2.pt"
    assert find_subject(run, "test").checkpoint == used
    assert find_subject(run, "test", run / "checkpoint_last.pt").checkpoint.name.endswith("last.pt")
    torch.save(torch.load(used, weights_only=True) | {"extra": 1}, used)
    with pytest.raises(SeqAttnError, match=r"has changed since it translated 'test'; run seqattn"):
        find_subject(run, "test")
    used.unlink()
    with pytest.raises(SeqAttnError, match=r"not there, but evaluation/test/generation.json says"):
        find_subject(run, "test")
    assert find_subject(run, "valid").checkpoint.name == "checkpoint_best.pt"


def test_a_checkpoint_by_itself_has_a_folder_beside_it(tmp_path: Path) -> None:
    checkpoint = toy_run(tmp_path, "softmax") / "checkpoint_best.pt"
    subject = find_subject(checkpoint, "test", cpu=True)
    assert analyse_attention(subject).fresh
    written = checkpoint.with_name("checkpoint_best.pt.analysis") / "test" / "attention.json"
    assert written.is_file() and subject.folder == written.parent


def test_stock_transformers_are_read_as_their_twin(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_corpus.trained("transformer").save_dir, run)
    subject = find_subject(run, "test", cpu=True)
    result = analyse_attention(subject).result
    assert result["variant"] == "softmax" and result["sentences"] == 5
    # the conversion computes what the stock model does
    stock = torch.load(subject.checkpoint, weights_only=True)["model"]
    ours = subject.loaded.model.state_dict()
    key = "decoder.layers.0.encoder_attn.q_proj.weight"
    assert torch.equal(stock[key], ours[key])


def test_long_sentences_are_left_out_and_counted(tmp_path: Path) -> None:
    run = toy_run(tmp_path, "softmax", max_source_positions=4)
    result = analyse_attention(find_subject(run, "test", cpu=True)).result
    assert result["left_out"] == 5 - result["sentences"] > 0
    none = toy_run(tmp_path / "none", "softmax", max_target_positions=1)
    with pytest.raises(SeqAttnError, match="test: every sentence is longer than the model's"):
        analyse_attention(find_subject(none, "test", cpu=True))


def test_what_cannot_be_analysed(tmp_path: Path) -> None:
    run = toy_run(tmp_path, "softmax")
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, message in {
        (tmp_path / "none", "test"): "none: no such run folder or checkpoint",
        (empty, "test"): "empty: no checkpoint, and no folder with a checkpoint_best.pt",
        (run, "test", tmp_path / "x.pt"): "x.pt: no such checkpoint",
        (run, "test", None, empty): "empty: holds no dictionary; give the folder of fairseq-pre",
        (run, "test", None, None, 0): "--max-tokens 0: must be at least 1",
    }.items():
        with pytest.raises(SeqAttnError, match=message):
            find_subject(*arguments)  # type: ignore[arg-type]
    with pytest.raises(SeqAttnError, match=r"no split 'tests' for src-tgt \(did you mean test"):
        analyse_attention(find_subject(run, "tests", cpu=True))
    half = tmp_path / "half"
    shutil.copytree(toy_corpus.trained().data_bin, half)
    for file in half.glob("test.src-tgt.tgt.*"):
        file.unlink()
    with pytest.raises(SeqAttnError, match=r"half: 'test' has no target side"):
        analyse_attention(find_subject(run, "test", data_bin=half, cpu=True))
    broken = toy_run(tmp_path / "broken", "softmax")
    corpus.change(broken / "checkpoint_best.pt", "model", "dropout", 0.0, noise=float("nan"))
    with pytest.raises(SeqAttnError, match=r"holds NaN or infinity; give another checkpoint"):
        analyse_attention(find_subject(broken, "test", cpu=True))
