"""What parity makes of files that are wrong, tampered with, or of no known kind."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.parity.comparison import Tolerance
from seqattn_fairseq.parity.kinds import KINDS
from seqattn_fairseq.parity.runner import Row, find_files, run_file
from tests.support.goldens import GOLDENS, Arrays, changed

# one file of each kind of this family
ATTENTION = "rela_sparse/est_topk2_dec_self.npz"
RELA = "rela_sparse/rela_i_cross_right.npz"
MODEL = "rela_sparse/entmax15_model_right.npz"
RELA_MODEL = "rela_sparse/rela_g_model_right.npz"
FUNCTIONS = "rela_sparse/entmax_functions.npz"
ALL = [ATTENTION, RELA, MODEL, RELA_MODEL, FUNCTIONS]


def run(path: Path, tolerance: Tolerance | None = None) -> Row:
    return run_file(path, KINDS, tolerance or Tolerance())


def run_changed(name: str, folder: Path, change: Callable[[Arrays, Any], object]) -> Row:
    return run(changed(name, folder, change))


def results(name: str) -> list[str]:
    with np.load(GOLDENS / name) as arrays:
        return [n for n in arrays.files if n.startswith(("output/", "grad"))]


def test_a_file_is_known_by_its_contents(tmp_path: Path) -> None:
    for name in ALL:
        path = tmp_path / "x.npz"
        shutil.copyfile(GOLDENS / name, path)
        row = run(path)
        assert (row.reason, row.misses) == ("", ())
        assert row.checked == len(results(name))


@pytest.mark.parametrize(
    ("name", "array"), [(n, a) for n in (ATTENTION, RELA, FUNCTIONS) for a in results(n)]
)
def test_a_tampered_array_is_missed(tmp_path: Path, name: str, array: str) -> None:
    """Each single array is really compared: no other error makes up for one."""

    def tamper(arrays: Arrays, _: Any) -> None:
        tensor = arrays[array]
        by = 1 if tensor.dtype.kind == "i" else 3e-3 * max(1.0, np.abs(tensor).max())
        tensor.reshape(-1)[0] += by

    row = run_changed(name, tmp_path, tamper)
    assert row.reason == ""
    assert len(row.misses) == 1
    assert row.misses[0].startswith(array)


@pytest.mark.parametrize("name", [MODEL, RELA_MODEL])
def test_every_array_of_a_model_is_compared(tmp_path: Path, name: str) -> None:
    def tamper(arrays: Arrays, _: Any) -> None:
        for array in results(name):
            by = 1 if arrays[array].dtype.kind == "i" else 10 * max(1, np.abs(arrays[array]).max())
            arrays[array] = arrays[array] + arrays[array].dtype.type(by)

    row = run_changed(name, tmp_path, tamper)
    assert len(row.misses) == len(results(name))


@pytest.mark.parametrize("name", [ATTENTION, RELA, MODEL, RELA_MODEL])
def test_other_parameters_are_missed(tmp_path: Path, name: str) -> None:
    def tamper(arrays: Arrays, _: Any) -> None:
        last = [n for n in arrays if n.startswith("param/") and arrays[n].ndim == 2][-1]
        arrays[last] = arrays[last] * np.float32(1.01)

    assert run_changed(name, tmp_path, tamper).misses


def test_other_options_are_missed(tmp_path: Path) -> None:
    def tamper(_: Arrays, meta: Any) -> None:
        meta["config"]["div"] = -3

    assert run_changed(ATTENTION, tmp_path, tamper).misses


def test_nan_is_a_miss(tmp_path: Path) -> None:
    def tamper(arrays: Arrays, _: Any) -> None:
        arrays["output/out"][0, 0, 0] = np.nan

    (miss,) = run_changed(ATTENTION, tmp_path, tamper).misses
    assert miss.startswith("output/out off by inf")


def test_another_shape_is_a_miss(tmp_path: Path) -> None:
    def tamper(arrays: Arrays, _: Any) -> None:
        arrays["output/out"] = arrays["output/out"][:-1]

    (miss,) = run_changed(ATTENTION, tmp_path, tamper).misses
    assert miss == "output/out is (6, 3, 16), not (5, 3, 16)"


@pytest.mark.parametrize("array", ["output/more", "grad/more", "grad_other/query"])
@pytest.mark.parametrize("name", ALL)
def test_arrays_that_would_be_overlooked_are_refused(tmp_path: Path, name: str, array: str) -> None:
    row = run_changed(name, tmp_path, lambda arrays, _: arrays.update({array: np.ones(2)}))
    assert row.kind
    assert array in row.reason or array.partition("/")[2] in row.reason


def _without_inputs(arrays: Arrays, _: Any) -> None:
    for name in [n for n in arrays if n.startswith("input/")]:
        del arrays[name]


UNINTERPRETABLE: dict[str, Callable[[Arrays, Any], object]] = {
    "no parameters": lambda arrays, _: [arrays.pop(n) for n in list(arrays) if "param/" in n],
    "no results": lambda arrays, _: [arrays.pop(n) for n in list(arrays) if "put/" in n],
    "no inputs": _without_inputs,
    "one parameter less": lambda arrays, _: arrays.pop("param/q_proj.bias"),
    "one parameter more": lambda arrays, _: arrays.update({"param/more": np.ones(2)}),
    "another width": lambda _, meta: meta["config"].update(embed_dim=12),
    "heads that do not divide": lambda _, meta: meta["config"].update(num_heads=3),
    "an unknown entmax": lambda _, meta: meta["config"].update(entmax=4),
    "an unknown site": lambda _, meta: meta.update(kind="encoder"),
    "no kind": lambda _, meta: meta.clear(),
    "options of another kind": lambda _, meta: meta.update(config=[1, 2]),
    "widths as words": lambda _, meta: meta["config"].update(embed_dim="wide"),
}


@pytest.mark.parametrize("change", UNINTERPRETABLE.values(), ids=list(UNINTERPRETABLE))
def test_what_cannot_be_interpreted_has_a_reason_of_one_line(
    tmp_path: Path, change: Callable[[Arrays, Any], object]
) -> None:
    row = run_changed(ATTENTION, tmp_path, change)
    assert row.reason
    assert "\n" not in row.reason
    assert row.misses == ()


def _npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


FOREIGN = {
    "empty": b"",
    "text": b"no archive\n",
    "half": (GOLDENS / ATTENTION).read_bytes()[:4000],
    "no meta": _npz(x=np.ones(3)),
    "meta no JSON": _npz(meta="{"),
    "meta no object": _npz(meta="[1]"),
    "objects": _npz(meta="{}", x=np.array([{"a": 1}], dtype=object)),
    "words": _npz(meta="{}", x=np.array(["a"])),
    "nothing known": _npz(meta='{"config": {"div": 1}}', x=np.ones(3)),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=list(FOREIGN))
def test_foreign_files_have_a_reason(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    row = run(tmp_path / "x.npz")
    assert row.reason
    assert "\n" not in row.reason


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"any": "thing"}', "\x00"])
def test_foreign_json_has_a_reason(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert run(tmp_path / "x.json").reason


@pytest.mark.parametrize("known", [True, False], ids=["dropped", "unknown"])
def test_statistics_of_a_parameter_are_not_skipped_silently(tmp_path: Path, known: bool) -> None:
    manifest = json.loads((GOLDENS / "luna/state_dict_manifest.json").read_text())
    statistics = next(manifest[key] for key in manifest if key.startswith("init_stats"))
    name = "decoder.proj_layer_norm.weight" if known else "decoder.layers.N.nothing"
    if known:
        for model in manifest.values():
            if isinstance(model, dict) and "state_dict" in model:
                model["state_dict"][name] = [512]
                model["trainable_params"] += 512
    statistics[name] = [1.0, 0.0, 1.0]
    (tmp_path / "x.json").write_text(json.dumps(manifest))
    row = run(tmp_path / "x.json")
    assert row.misses == ()
    assert row.reason == "" if known else row.reason.endswith(f"{name} is no parameter here")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_bytes_are_never_a_traceback(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "x.npz"
    with np.load(GOLDENS / "rela_sparse/rela_i_enc_self_right.npz") as stored:
        save(path, **{name: stored[name] for name in stored.files})
    whole, generator = path.read_bytes(), random.Random(1)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged[: generator.choice([None, generator.randrange(len(damaged))])])
        row = run(path)
        assert "\n" not in row.reason


def test_a_file_of_two_kinds_is_refused() -> None:
    row = run_file(GOLDENS / ATTENTION, [*KINDS, *KINDS], Tolerance())
    assert "of several kinds: Explicit Sparse attention, Explicit Sparse attention" in row.reason


def test_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("b/c/2.npz", "b/1.json", "b/README.md"):
        (tmp_path / name).write_text(json.dumps({}))
    found = [path.name for path in find_files([tmp_path, tmp_path / "b" / "1.json"])]
    assert found == ["1.json", "2.npz", "1.json"]
    with pytest.raises(SeqAttnError, match="no such file or folder"):
        list(find_files([tmp_path / "none"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SeqAttnError, match="no golden files"):
        list(find_files([tmp_path / "empty"]))
