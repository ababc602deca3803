"""Cross-attention of one sentence: the right weights, and a picture of them."""

from __future__ import annotations

import shutil
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.data.description import CorpusDescription
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.attention_map import AttentionMap, cross_attention, draw
from tests.support import toy_corpus
from tests.support.models import EOS, small_model, toy_dictionary

PNG = b"\x89PNG\r\n\x1a\n"
TASK = Namespace(source_dictionary=toy_dictionary(), target_dictionary=toy_dictionary())
SOURCE = torch.tensor([4, 5, 6, 7, EOS])
TARGET = torch.tensor([8, 9, EOS])


def test_weights_are_those_of_the_model() -> None:
    model = small_model("softmax")
    previous = torch.tensor([[EOS, 8, 9]])
    layers = model.attention_weights(SOURCE[None], None, previous)["cross"]
    mean = cross_attention(model, TASK, SOURCE, TARGET)
    assert torch.equal(mean.weights, layers[1][0].mean(0))
    assert mean.source == ["w0", "w1", "w2", "w3", "</s>"]
    assert mean.target == ["w4", "w5", "</s>"]
    assert mean.title == "softmax, layer 2, mean of heads"
    one = cross_attention(model, TASK, SOURCE, TARGET, layer=1, head=4)
    assert torch.equal(one.weights, layers[0][0, 3])
    torch.testing.assert_close(one.weights.sum(-1), torch.ones(3))


def test_rectified_weights_are_not_normalised() -> None:
    weights = cross_attention(small_model("rela_g"), TASK, SOURCE, TARGET).weights
    assert weights.min() >= 0
    assert (weights.sum(-1) - 1).abs().max() > 1e-3


def test_no_such_layer_or_head() -> None:
    model = small_model("softmax")
    with pytest.raises(SeqAttnError, match="--layer 3: the decoder has layers 1 to 2"):
        cross_attention(model, TASK, SOURCE, TARGET, layer=3)
    with pytest.raises(SeqAttnError, match="--head 0: the layer has heads 1 to 4"):
        cross_attention(model, TASK, SOURCE, TARGET, head=0)


def test_missing_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    attention = AttentionMap(torch.ones(1, 1), ["a"], ["b"], "title")
    with pytest.raises(SeqAttnError, match=r"pip install 'seqattn_fairseq\[report\]'"):
        draw(attention, tmp_path / "map.png")


def test_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("matplotlib.image")
    weights = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    path = tmp_path / "new folder" / "map.png"
    draw(AttentionMap(weights, ["▁Haus", "</s>"], ["▁house", "</s>"], "rela_g"), path)
    assert path.read_bytes().startswith(PNG)
    pixels = image.imread(path)[..., :3]
    dark = ((pixels[..., 2] - pixels[..., 0] > 0.2) & (pixels.mean(-1) < 0.5)).nonzero()
    # the one positive weight is a dark block, left of the colour bar and above the empty row
    block = dark[1] < pixels.shape[1] / 2
    assert block.sum() > 1000
    assert dark[0][block].max() < pixels.shape[0] * 0.75


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    run = toy_corpus.trained()
    common = ["attention", "--checkpoint", str(run.checkpoint), "--data", str(run.data_bin)]
    for extra in (["--sentence", "0"], ["--sentence", "4", "--decode", "--layer", "1"]):
        output = tmp_path / "a map.png"
        assert main([*common, *extra, "-o", str(output)]) == 0
        assert output.read_bytes().startswith(PNG)
        output.unlink()
    capsys.readouterr()
    errors = {
        "test has 5 sentences, counted from 0": ["--sentence", "5"],
        "has no corpus.json": ["--text", "a b c"],
    }
    for message, extra in errors.items():
        assert main([*common, *extra, "-o", str(tmp_path / "none.png")]) == 1
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert main([*common[:-1], str(tmp_path), "--sentence", "0", "-o", "none.png"]) == 1
    assert "holds no dictionary" in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()


def test_raw_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    run = toy_corpus.trained()
    data_bin = tmp_path / "a bin"
    shutil.copytree(run.data_bin, data_bin)
    CorpusDescription("src", "tgt").save(data_bin)
    common = ["attention", "--checkpoint", str(run.checkpoint), "--data", str(data_bin)]
    output = tmp_path / "map.png"
    assert main([*common, "--text", "a b c", "-o", str(output)]) == 0
    assert output.read_bytes().startswith(PNG)
    assert main([*common, "--text", " ", "-o", str(output)]) == 1
    assert "--text is empty" in capsys.readouterr().err.splitlines()[-1]
    output.unlink()
    assert main([*common, "--text", "a " * 30, "-o", str(output)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the source sentence has 31 tokens, but the model takes 30" in error
    assert not output.exists()


def test_target_longer_than_the_positions() -> None:
    model = small_model("softmax", max_target_positions=2)
    with pytest.raises(SeqAttnError, match="the target sentence has 3 tokens, .* takes 2"):
        cross_attention(model, TASK, SOURCE, TARGET)


def test_stock_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = toy_corpus.trained("transformer")
    arguments = ["--checkpoint", str(run.checkpoint), "--data", str(run.data_bin)]
    output = str(tmp_path / "map.png")
    assert main(["attention", *arguments, "--sentence", "0", "-o", output]) == 1
    assert "does not tell its attention weights" in capsys.readouterr().err
