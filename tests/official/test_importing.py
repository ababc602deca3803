"""Files of the official codes: read safely, recognised as one code's, put in fairseq's order."""

from __future__ import annotations

import pickle
import sys
import types
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.official.conversion import OfficialModel
from seqattn_fairseq.official.importing import (
    ORIGINS,
    SpecialSymbols,
    convert,
    read_checkpoint_file,
    recognise,
)
from seqattn_fairseq.parity.imported import read
from tests.support.baseline import stock_arguments, stock_model
from tests.support.goldens import GOLDENS
from tests.support.models import small_config, toy_dictionary

MODELS = sorted(p for p in GOLDENS.rglob("*model*.npz") if "modules" not in p.stem)


@pytest.fixture
def stock() -> dict[str, Any]:
    """A checkpoint of stock fairseq as fairseq 0.9 wrote it."""
    cfg = small_config("softmax")
    options = {**vars(stock_arguments(cfg)), "arch": "transformer", "task": "translation"}
    task = {"source_lang": "en", "target_lang": "de", "data": "some/bin", "left_pad_source": False}
    return {
        "args": Namespace(**options, **task),
        "model": stock_model(cfg, toy_dictionary()).state_dict(),
        "optimizer_history": [],
        "extra_state": {},
    }


def written(content: Any, folder: Path) -> Path:
    path = folder / "checkpoint.pt"
    torch.save(content, path)
    return path


# ---- reading -----------------------------------------------------------------------------------


def test_arguments_and_task_of_a_namespace(stock: dict[str, Any], tmp_path: Path) -> None:
    file = read_checkpoint_file(written(stock, tmp_path))
    assert file.model.options["encoder_attention_heads"] == 4
    assert file.task == {
        "source_lang": "en", "target_lang": "de", "data": "some/bin", "left_pad_source": False,
    }  # fmt: skip
    assert convert(file.model, {})[1].variant == "softmax"


@pytest.mark.parametrize("nested", [False, True])
def test_arguments_and_task_of_a_configuration(
    stock: dict[str, Any], tmp_path: Path, nested: bool
) -> None:
    options = vars(stock.pop("args"))
    model: Any = Namespace(**options)
    if nested:  # fairseq's dataclass, through Hydra
        sides = ("encoder", "decoder")
        model = {k: v for k, v in options.items() if not k.startswith(sides)} | {"_name": "x"}
        for side in sides:
            start = f"{side}_"
            own = {k.removeprefix(start): v for k, v in options.items() if k.startswith(start)}
            model[side] = own
    stock |= {"cfg": {"model": model, "task": {"source_lang": "fr"}}, "args": None}
    file = read_checkpoint_file(written(stock, tmp_path))
    assert file.model.options["decoder_attention_heads"] == 4
    assert file.task["source_lang"] == "fr"
    assert convert(file.model, {})[1].options["decoder_ffn_embed_dim"] == 24


def test_half_precision_becomes_float32(stock: dict[str, Any], tmp_path: Path) -> None:
    stock["model"] = {name: tensor.half() for name, tensor in stock["model"].items()}
    file = read_checkpoint_file(written(stock, tmp_path))
    _, conversion = convert(file.model, {})
    assert {tensor.dtype for tensor in conversion.state.values()} == {torch.float32}


def test_counters_of_old_checkpoints_do_not_matter(
    stock: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fairseq 0.8 pickled objects of classes that are elsewhere today."""
    module = types.ModuleType("fairseq.meters")
    counter = type("AverageMeter", (), {"__module__": module.__name__})
    module.AverageMeter = counter  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        meter = counter()
        meter.val = 3
        stock["extra_state"] = {"train_meters": {"loss": meter}}
        path = tmp_path / "old.pt"
        torch.save(stock, path, _use_new_zipfile_serialization=False)
    assert read_checkpoint_file(path).task["target_lang"] == "de"


class _Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def test_nothing_is_executed(stock: dict[str, Any], tmp_path: Path) -> None:
    stock["extra_state"] = {"payload": _Payload(tmp_path / "executed")}
    with pytest.raises(SeqAttnError, match="refused and not executed"):
        read_checkpoint_file(written(stock, tmp_path))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["arch", "_name"])
def test_a_model_of_ours_is_refused(stock: dict[str, Any], tmp_path: Path, name: str) -> None:
    setattr(stock["args"], name, "seqattn_rela_g_tiny")
    with pytest.raises(SeqAttnError, match=r"is a model of this project already .seqattn_rela_g"):
        read_checkpoint_file(written(stock, tmp_path))


@pytest.mark.parametrize("content", [{}, [1, 2], {"model": {}}, {"a": torch.ones(1), "b": 2}, 3])
def test_something_else_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(SeqAttnError, match="no fairseq checkpoint"):
        read_checkpoint_file(written(content, tmp_path))


def test_foreign_pickles_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"model": print}))
    with pytest.raises(SeqAttnError):
        read_checkpoint_file(tmp_path / "x.pt")
    with pytest.raises(SeqAttnError, match="no such file"):
        read_checkpoint_file(tmp_path / "none.pt")


# ---- recognising -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODELS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_official_model_is_exactly_one_codes(path: Path) -> None:
    model = read(path).model
    assert [o.name for o in ORIGINS if o.recognises(model)] == [recognise(model).name]


def test_unknown_models_are_refused_with_what_was_looked_at() -> None:
    state = {f"encoder.layers.{i}.lstm.weight": torch.ones(1) for i in range(9)}
    with pytest.raises(SeqAttnError) as error:
        recognise(OfficialModel(state))
    message = str(error.value)
    assert "9 names, shapes and arguments" in message
    assert "encoder.layers.0.lstm.weight" in message
    assert all(origin.name in message for origin in ORIGINS)


def test_given_arguments_win_and_must_matter(stock: dict[str, Any], tmp_path: Path) -> None:
    model = read_checkpoint_file(written(stock, tmp_path)).model
    origin, conversion = convert(model, {"div": -5})
    assert (origin.name[:15], conversion.options["topk"]) == ("Explicit Sparse", 5)
    _, conversion = convert(model, {"activation_fn": "gelu", "relu_dropout": 0.5})
    assert conversion.options["activation_fn"] == "gelu"
    with pytest.raises(SeqAttnError, match="--set encoder_attention_head: nothing here depends"):
        convert(model, {"encoder_attention_head": 3})


# ---- the dictionary ----------------------------------------------------------------------------


def test_special_symbols_of_fairseq_stay() -> None:
    for options in ({}, {"pad": 1, "eos": 2}):
        assert SpecialSymbols.of(OfficialModel({}, options), {}) is None
    symbols = SpecialSymbols.of(OfficialModel({}, {"pad": 0, "eos": 1}), {"eos": 2, "unk": 1})
    assert symbols == SpecialSymbols(pad=0, eos=2, unk=1)


def test_rows_in_fairseqs_order() -> None:
    """<s>, <pad>, </s>, <unk>, then the words; what is new is as padding."""
    assert SpecialSymbols(pad=0, eos=2, unk=1).rows(6) == [0, 0, 2, 1, 3, 4, 5]
    assert SpecialSymbols(pad=0, eos=1, unk=None).rows(4) == [0, 0, 1, 0, 2, 3]
    assert "<s> is new, <pad> was 0, </s> was 2, <unk> was 1" in str(SpecialSymbols(0, 2, 1))
