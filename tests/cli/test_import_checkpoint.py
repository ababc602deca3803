"""``seqattn import-checkpoint``: the same function, in a checkpoint that everything here reads."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.models.lightconv import LightConvModel, base_architecture
from torch import Tensor

from seqattn_fairseq.cli.main import main
from seqattn_fairseq.parity import imported
from seqattn_fairseq.parity.golden import Golden
from seqattn_fairseq.parity.modules import dictionary_of
from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.transformer.registry import make_config
from tests.support import toy_corpus
from tests.support.goldens import GOLDENS, changed
from tests.support.models import PAD, batch, build, shifted, toy_dictionary

MODELS = sorted(p for p in GOLDENS.rglob("*model*.npz"))
RELA = "rela_sparse/rela_g_model_right.npz"


def run(*arguments: object) -> int:
    return main(["import-checkpoint", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], output: Path, *arguments: object) -> str:
    """Run, expecting one line of error and nothing written; return the line."""
    before = {p: p.read_bytes() for p in output.parent.rglob("*") if p.is_file()}
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert {p: p.read_bytes() for p in output.parent.rglob("*") if p.is_file()} == before
    return error


# ---- a stock model, from training to translation ------------------------------------------------


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> tuple[toy_corpus.Run, toy_corpus.Run]:
    """A run of stock fairseq's transformer, and what the command makes of it."""
    trained = toy_corpus.trained("transformer")
    folder = tmp_path_factory.mktemp("imported with spaces")
    assert run(trained.checkpoint, folder / "ours.pt") == 0
    ours = toy_corpus.Run(trained.text, trained.data_bin, folder, folder / "ours.pt")
    return trained, ours


def test_the_same_translations(stock: tuple[toy_corpus.Run, toy_corpus.Run]) -> None:
    results = [toy_corpus.generate(run_, "-s", "src", "-t", "tgt") for run_ in stock]
    assert results[1].status == 0, results[1].stderr
    for kind in ("H", "P"):
        assert results[1].lines(kind) == results[0].lines(kind)
    assert len(results[1].lines("H")) == 5


def test_the_checkpoint_is_like_one_of_a_training(
    stock: tuple[toy_corpus.Run, toy_corpus.Run],
) -> None:
    state = torch.load(stock[1].checkpoint, weights_only=True)
    assert state["cfg"]["model"]["_name"] == "seqattn_softmax"
    assert state["cfg"]["model"]["encoder_embed_dim"] == 16
    assert state["cfg"]["task"]["_name"] == "seqattn_translation"
    assert state["cfg"]["task"]["data"] == str(stock[0].data_bin)
    assert state["last_optimizer_state"] is None
    assert state["args"] is None


def test_it_is_exported(stock: tuple[toy_corpus.Run, toy_corpus.Run], tmp_path: Path) -> None:
    assert main(["export", str(stock[1].checkpoint), str(tmp_path / "x")]) == 0
    hub = SeqAttnModel.from_pretrained(str(tmp_path / "x"))
    assert isinstance(hub.translate("a b c"), str)


@pytest.mark.parametrize("how", ["--finetune-from-model", "--restore-file"])
def test_it_is_trained_further(
    stock: tuple[toy_corpus.Run, toy_corpus.Run], tmp_path: Path, how: str
) -> None:
    positions = ["--max-source-positions", "30"]
    result = toy_corpus.train(
        stock[1].data_bin, tmp_path / "run", how, str(stock[1].checkpoint), "--max-update", "1",
        "--lr", "1e-9", *positions, arch="seqattn_softmax",
    )  # fmt: skip
    assert result.status == 0, result.stderr
    before, after = (
        torch.load(path, weights_only=True)["model"]
        for path in (stock[1].checkpoint, tmp_path / "run" / "checkpoint_last.pt")
    )
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-7)


def test_what_it_says(
    stock: tuple[toy_corpus.Run, toy_corpus.Run],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(stock[0].checkpoint, tmp_path / "ours.pt") == 0
    said, complaints = capsys.readouterr()
    count = sum(p.numel() for p in _built(tmp_path / "ours.pt").parameters())
    for line in (
        "written by: fairseq transformer\n",
        "variant: softmax\n",
        " encoder_attention_heads=2 ",
        "dropped, a version number: encoder.version, decoder.version\n",
        f"parameters: {count:,}\n",
        f"{tmp_path / 'ours.pt'}: written; read back, its logits differ by 0",
    ):
        assert line in said
    assert complaints == ""


# ---- every family's official models --------------------------------------------------------------


def _built(checkpoint: Path) -> SeqAttnModel:
    """Return the model as its configuration alone describes it."""
    state = torch.load(checkpoint, weights_only=True)
    options = dict(state["cfg"]["model"])
    variant = options.pop("_name").removeprefix("seqattn_")
    sizes = [state["model"][f"{s}.embed_tokens.weight"].size(0) for s in ("encoder", "decoder")]
    dictionaries = [dictionary_of(size) for size in sizes]
    model = type(build(variant, make_config(variant, "tiny"))).build(
        make_config(variant, **options), *dictionaries
    )
    model.load_state_dict(state["model"])
    model.eval()
    return model


def _source(golden: Golden) -> Tensor:
    names = ("src_tokens", "src_tokens_left_pad", "src_tokens_right_padded")
    return golden[next(f"input/{n}" for n in names if f"input/{n}" in golden)]


@pytest.mark.parametrize(
    "path", [p for p in MODELS if p.stem != Path(RELA).stem], ids=lambda p: p.stem
)
def test_official_logits(path: Path, tmp_path: Path) -> None:
    golden, output = Golden(path), tmp_path / "ours.pt"
    assert run(path, output) == 0
    source, target = _source(golden), golden["input/prev_output_tokens"]
    with torch.no_grad():
        logits, _ = _built(output)(source, None, target)
    real = golden["input/loss_weight"].ne(0).any(-1) & target.ne(1)
    torch.testing.assert_close(logits[real], golden["output/logits"][real], rtol=0, atol=2e-5)


def test_official_logits_of_rela(tmp_path: Path) -> None:
    """Its dictionary begins with <pad> and </s>; ours with <s>, <pad>, </s>, <unk>."""
    golden, output = Golden(GOLDENS / RELA), tmp_path / "ours.pt"
    assert run(GOLDENS / RELA, output) == 0
    ours_of = torch.tensor([1, 2, *range(4, 33)])
    source, target = (ours_of[golden[f"input/{n}"].long()] for n in ("source", "target"))
    start = torch.cat([torch.full_like(target[:, :1], 2), target[:, :-1]], dim=1)
    with torch.no_grad():
        logits, _ = _built(output)(source, None, start)
    expected = golden["output/logits"]
    assert logits.size(-1) == expected.size(-1) + 2
    torch.testing.assert_close(logits[..., ours_of], expected, rtol=0, atol=2e-5)
    # what is new is as likely as padding
    assert torch.equal(logits[..., [0, 3]], logits[..., [1, 1]])


def test_a_mixed_convolution_model_becomes_a_hybrid(tmp_path: Path) -> None:
    """Lightweight convolutions in the encoder, dynamic ones in the decoder."""
    sizes = {"embed_dim": 16, "ffn_embed_dim": 32, "layers": 2, "attention_heads": 4}
    both = {f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in sizes.items()}
    kernels = {f"{side}_kernel_size_list": [3, 5] for side in ("encoder", "decoder")}
    args = argparse.Namespace(
        **both, **kernels, encoder_conv_type="lightweight", decoder_conv_type="dynamic",
        encoder_glu=True, decoder_glu=True, weight_softmax=True, input_dropout=0.0,
        weight_dropout=0.0, max_source_positions=50, max_target_positions=50,
    )  # fmt: skip
    base_architecture(args)
    dictionary = toy_dictionary()
    task = argparse.Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    theirs = LightConvModel.build_model(args, task).eval()
    state = theirs.state_dict()
    dropped = next(name for name in state if name.endswith("conv_bias"))
    state[dropped].fill_(float("nan"))  # memory that fairseq neither sets nor uses
    torch.save({"args": args, "model": state}, tmp_path / "mixed.pt")
    assert run(tmp_path / "mixed.pt", tmp_path / "ours.pt") == 0
    cfg = torch.load(tmp_path / "ours.pt", weights_only=True)["cfg"]["model"]
    assert (cfg["_name"], cfg["encoder_variant"], cfg["decoder_variant"]) == (
        "seqattn_hybrid", "lightconv", "dynamicconv",
    )  # fmt: skip
    source, target = batch([7, 5]), shifted([6, 3])
    with torch.no_grad():
        expected, _ = theirs(source, source.ne(PAD).sum(1), target)
        actual, _ = _built(tmp_path / "ours.pt")(source, None, target)
    real = target.ne(PAD)
    torch.testing.assert_close(actual[real], expected[real], rtol=0, atol=2e-5)


# ---- arguments -----------------------------------------------------------------------------------


def test_a_bare_state_dict_needs_its_heads(
    stock: tuple[toy_corpus.Run, toy_corpus.Run],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bare, output = tmp_path / "bare.pt", tmp_path / "ours.pt"
    torch.save(torch.load(stock[0].checkpoint, weights_only=True)["model"], bare)
    error = refused(capsys, output, bare, output)
    assert "does not tell encoder_attention_heads; --set encoder_attention_heads=VALUE" in error
    heads = ["--set", "encoder-attention-heads=2", "--set", "decoder_attention_heads=2"]
    assert run(bare, output, *heads) == 0
    ours, theirs = (
        torch.load(path, weights_only=True)["model"] for path in (output, stock[1].checkpoint)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    error = refused(capsys, output, bare, output, *heads, "--set", "heads=2", "--force")
    assert "--set heads: nothing here depends on it" in error
    error = refused(capsys, output, bare, output, "--set", "heads", "--force")
    assert "--set heads: needs NAME=VALUE" in error


def test_values_are_numbers_truths_and_words(tmp_path: Path) -> None:
    output = tmp_path / "ours.pt"
    given = ["div=-2", "use_att=['ds']", "activation_fn=gelu", "no_scale_embedding=true"]
    words = [word for text in given for word in ("--set", text)]
    path = GOLDENS / "rela_sparse/est_model_topk3_left.npz"
    assert run(path, output, *words) == 0
    model = torch.load(output, weights_only=True)["cfg"]["model"]
    assert (model["topk"], model["attention_sites"]) == (2, "decoder_self")
    assert (model["activation_fn"], model["no_scale_embedding"]) == ("gelu", True)


def test_nothing_is_overwritten_unless_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "ours.pt"
    output.write_text("precious")
    path = GOLDENS / RELA
    assert "exists; --force overwrites it" in refused(capsys, output, path, output)
    assert "is a folder" in refused(capsys, output, path, tmp_path)
    assert run(path, output, "--force") == 0
    assert output.stat().st_size > 1000
    assert "is the input" in refused(capsys, output, output, output, "--force")


# ---- what is refused -----------------------------------------------------------------------------


def _poison(arrays: dict[str, Any]) -> None:
    arrays["param/embedding"][0, 0] = np.nan


def _tall(arrays: dict[str, Any]) -> None:
    name = "param/encoder/layer_1/feed_forward/ffn_layer/enlarge/W_0_0"
    arrays[name] = np.concatenate([arrays[name]] * 2)


UNUSABLE: dict[str, Callable[[dict[str, Any]], object]] = {
    "embedding holds NaN or infinity": _poison,
    "no parameter encoder/layer_0/feed_forward": lambda a: a.pop(
        "param/encoder/layer_0/feed_forward/ffn_layer/output/b_0"
    ),
    "without a place here: more": lambda a: a.update({"param/more": np.ones(1)}),
    "size mismatch": _tall,
    "holds no parameters": lambda a: [a.pop(n) for n in list(a) if n.startswith("param/")],
    "of no code that is known here": lambda a: [
        a.pop(n) for n in list(a) if n.startswith("param/enc")
    ],
}


@pytest.mark.parametrize(("message", "change"), UNUSABLE.items(), ids=list(UNUSABLE))
def test_unusable_files_leave_nothing_behind(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    message: str,
    change: Callable[[dict[str, Any]], object],
) -> None:
    path = changed(RELA, tmp_path, lambda arrays, _: change(arrays))
    error = refused(capsys, tmp_path / "ours.pt", path, tmp_path / "ours.pt")
    assert message in error and str(path) in error


def test_a_difference_after_reading_back_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imported, "_difference", lambda *_: float("nan"))
    error = refused(capsys, tmp_path / "ours.pt", GOLDENS / RELA, tmp_path / "ours.pt")
    assert "read back, its logits are off by nan" in error


def test_truncated_and_missing_files_and_places(
    stock: tuple[toy_corpus.Run, toy_corpus.Run],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "ours.pt"
    half = tmp_path / "half.pt"
    half.write_bytes(stock[0].checkpoint.read_bytes()[:5000])
    assert "truncated, damaged or no fairseq checkpoint" in refused(capsys, output, half, output)
    assert "no such file" in refused(capsys, output, tmp_path / "none.pt", output)
    assert "no golden file" in refused(capsys, output, tmp_path / "none.npz", output)
    assert "already (seqattn_softmax)" in refused(capsys, output, stock[1].checkpoint, output)
    nowhere = Path("/proc/x/ours.pt")
    error = refused(capsys, output, stock[0].checkpoint, nowhere)
    assert f"{nowhere}: cannot be written" in error
