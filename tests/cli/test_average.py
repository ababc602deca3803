"""``seqattn average``: the exact mean, ties, selection, and what it refuses."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.cli.main import main

Write = Callable[..., Path]


def _model(value: float) -> dict[str, Tensor]:
    tied = torch.full((2, 3), value)
    return {
        "encoder.embed_tokens.weight": tied,
        "decoder.output_projection.weight": tied,
        "encoder.half": torch.full((2,), value, dtype=torch.float16),
        "decoder.version": torch.tensor([3]),
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(name: str, value: float = 1.0, **changes: Any) -> Path:
        state = {
            "cfg": {"model": {"_name": "seqattn_softmax", "encoder_layers": 2}},
            "args": None,
            "model": _model(value),
            "optimizer_history": [{"num_updates": value}],
            "last_optimizer_state": {"state": torch.ones(3)},
            "extra_state": {"val_loss": value},
            **changes,
        }
        path = tmp_path / "a run" / name
        path.parent.mkdir(exist_ok=True)
        torch.save(state, path)
        return path

    return _write


def _load(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def _fails(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["average", *map(str, arguments)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_mean_of_given_files(write: Write, tmp_path: Path) -> None:
    inputs = [write("a.pt", 1.0), write("b.pt", 2.0), write("c.pt", 6.0)]
    output = tmp_path / "out" / "mean.pt"
    assert main(["average", "--inputs", *map(str, inputs), "--output", str(output)]) == 0
    state = _load(output)
    model = state["model"]
    assert torch.equal(model["encoder.embed_tokens.weight"], torch.full((2, 3), 3.0))
    assert torch.equal(model["encoder.half"], torch.full((2,), 3.0, dtype=torch.float16))
    assert torch.equal(model["decoder.version"], torch.tensor([3]))
    tied = [
        model[f"{name}.weight"] for name in ("encoder.embed_tokens", "decoder.output_projection")
    ]
    assert tied[0].data_ptr() == tied[1].data_ptr()
    assert state["last_optimizer_state"] is None
    assert state["extra_state"]["val_loss"] == 6.0
    assert state["cfg"]["model"]["encoder_layers"] == 2
    assert [path.name for path in output.parent.iterdir()] == ["mean.pt"]


def test_sums_are_exact(write: Write, tmp_path: Path) -> None:
    torch.manual_seed(3)
    values = [torch.randn(1000) * 10.0**scale for scale in (3, 0, -3, 2, -1)]
    values.append(-values[0])
    inputs = [write(f"{i}.pt", model={"w": value}) for i, value in enumerate(values)]
    output = tmp_path / "mean.pt"
    assert main(["average", "--inputs", *map(str, inputs), "--output", str(output)]) == 0
    exact = torch.stack([value.double() for value in values]).sum(0) / 6
    mean = _load(output)["model"]["w"]
    assert mean.dtype == torch.float32
    assert torch.equal(mean, exact.float())


def test_last_epochs_by_number(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    for epoch in (2, 9, 10, 11):
        run = write(f"checkpoint{epoch}.pt", float(epoch)).parent
    write("checkpoint_last.pt", 99.0)
    write("checkpoint_3_400.pt", 99.0)
    assert main(["average", str(run), "--last", "3"]) == 0
    state = _load(run / "checkpoint_average.pt")
    assert state["model"]["encoder.embed_tokens.weight"][0, 0] == 10.0
    assert "checkpoint9.pt, checkpoint10.pt, checkpoint11.pt" in capsys.readouterr().out


def test_last_updates(write: Write) -> None:
    for update in (500, 900, 1000):
        run = write(f"checkpoint_1_{update}.pt", float(update)).parent
    assert main(["average", str(run), "--last-updates", "2"]) == 0
    average = _load(run / "checkpoint_average.pt")["model"]
    assert average["encoder.embed_tokens.weight"][0, 0] == 950.0


@pytest.mark.parametrize(("maximize", "expected"), [(False, 2.5), (True, 3.5)])
def test_best(write: Write, maximize: bool, expected: float) -> None:
    cfg = {"model": {}, "checkpoint": {"maximize_best_checkpoint_metric": maximize}}
    for value in (2.0, 3.0, 4.0):
        run = write(f"checkpoint.best_loss_{value:.3f}1.pt", value, cfg=cfg).parent
    assert main(["average", str(run), "--best", "2"]) == 0
    average = _load(run / "checkpoint_average.pt")["model"]
    assert average["encoder.embed_tokens.weight"][0, 0] == expected


def test_too_few(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    run = write("checkpoint1.pt").parent
    error = _fails([run, "--last", 2], capsys)
    assert "2 epoch checkpoints (checkpoint<epoch>.pt) wanted, 1 found" in error
    assert "no such run folder" in _fails([run / "x", "--last", 2], capsys)


def test_models_that_differ(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write("good.pt")
    others: dict[str, dict[str, Any]] = {
        "model option encoder_layers is 3": {
            "cfg": {"model": {"_name": "seqattn_softmax", "encoder_layers": 3}}
        },
        "no parameter encoder.half": {
            "model": {k: v for k, v in _model(1.0).items() if k != "encoder.half"}
        },
        "encoder.half is (3,)": {
            "model": {**_model(1.0), "encoder.half": torch.ones(3, dtype=torch.float16)}
        },
        "decoder.version holds other": {
            "model": {**_model(1.0), "decoder.version": torch.tensor([4])}
        },
        "is not tied": {
            "model": {**_model(1.0), "decoder.output_projection.weight": torch.zeros(2, 3)}
        },
    }
    for message, changes in others.items():
        other = write("other.pt", **changes)
        error = _fails(["--inputs", good, other, "--output", tmp_path / "mean.pt"], capsys)
        assert message in error and str(other) in error
    assert not (tmp_path / "mean.pt").exists()


def test_legacy_configuration(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def args(arch: str, seed: int) -> dict[str, Any]:
        return {"cfg": None, "args": Namespace(arch=arch, encoder_layers=2, seed=seed)}

    inputs = [write("a.pt", **args("transformer", 1)), write("b.pt", **args("transformer", 2))]
    output = ["--output", tmp_path / "mean.pt"]
    assert main(["average", "--inputs", *map(str, [*inputs, *output])]) == 0
    other = write("c.pt", **args("fconv", 1))
    assert "model option arch is 'fconv'" in _fails(["--inputs", inputs[0], other, *output], capsys)


class _Payload:
    """A pickle that would make a folder if it were executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_bad_files(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write("good.pt")
    data = good.read_bytes()
    (tmp_path / "truncated.pt").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("hello\n")
    torch.save({"weights": 1}, tmp_path / "foreign.pt")
    torch.save({"model": {}, "extra": _Payload(tmp_path / "executed")}, tmp_path / "payload.pt")
    for name in ("truncated", "empty", "text", "foreign", "payload", "missing"):
        bad = tmp_path / f"{name}.pt"
        error = _fails(["--inputs", good, bad, "--output", tmp_path / "mean.pt"], capsys)
        assert str(bad) in error
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "mean.pt").exists()


def test_damaged_bytes_are_found(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = write("good.pt"), write("bad.pt", model={"w": torch.full((9,), 7.0)})
    data = bytearray(bad.read_bytes())
    data[data.index(torch.full((9,), 7.0).numpy().tobytes()) + 3] ^= 1
    bad.write_bytes(data)
    error = _fails(["--inputs", good, bad, "--output", tmp_path / "mean.pt"], capsys)
    assert f"{bad}: damaged, wrong checksum of " in error


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_mean_that_is_not_finite_is_refused(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    good, bad = write("good.pt"), write("bad.pt", value)
    error = _fails(["--inputs", good, bad, "--output", tmp_path / "mean.pt"], capsys)
    assert f"{bad}: encoder.embed_tokens.weight holds NaN or infinity" in error
    assert not (tmp_path / "mean.pt").exists()


def test_a_model_of_other_things_than_tensors_is_refused(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = write("good.pt"), write("bad.pt", model={**_model(1.0), "encoder.half": [1.0]})
    for inputs in ([good, bad], [bad, good]):
        error = _fails(["--inputs", *inputs, "--output", tmp_path / "mean.pt"], capsys)
        assert f"{bad}: parameter encoder.half is a list, not a tensor" in error
    for model in ({1: torch.ones(1)}, {"\x1b[31mred": torch.ones(1)}):
        error = _fails(["--inputs", good, write("bad.pt", model=model), "--output", bad], capsys)
        assert "\x1b" not in error


def test_command_line(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, other = write("good.pt"), write("other.pt")
    assert "needs --output" in _fails(["--inputs", good, other], capsys)
    assert "is one of the inputs" in _fails(["--inputs", good, other, "--output", good], capsys)
    assert "given twice" in _fails(["--inputs", good, good, "--output", tmp_path / "m.pt"], capsys)
    assert "which run" in _fails(["--last", 2], capsys)
    assert "exclude each other" in _fails([good.parent, "--inputs", good], capsys)
    with pytest.raises(SystemExit):
        main(["average", str(good.parent), "--last", "0"])
