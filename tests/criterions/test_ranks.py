"""Two ranks (gloo, CPU) with our criterions: the same weights on both, and as in one process."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.criterions import programs
from tests.criterions.support import OURS, RDROP, STOCK
from tests.launch import support
from tests.support.interruption import differences

pytestmark = pytest.mark.xdist_group("launch")

WRAPPER = "distributed_training.ddp_backend"
DDP, LEGACY = f"{WRAPPER}=pytorch_ddp", f"{WRAPPER}=legacy_ddp"
UNUSED = "distributed_training.find_unused_parameters=true"
# Adam makes steps of what is nothing but rounding, where a gradient is zero
SGD = [
    "optimizer._name=sgd",
    "optimization.lr=[0.1]",
    *(f"+optimizer.{option}" for option in ("lr=[0.1]", "momentum=0.0", "weight_decay=0.0")),
]
# Seven batches: for the second pass of the last update there is none left for rank 1.
SEVEN = [*SGD, "dataset.max_tokens=210"]
FP16 = ["common.fp16=true", "common.fp16_no_flatten_grads=true"]  # flattening needs a GPU

# name: (words of both runs, words of the two ranks alone, batches an update of the two ranks,
# largest difference as a share of a tensor's largest element)
WAYS: dict[str, tuple[list[str], list[str], int, float]] = {
    "pytorch_ddp": ([], [DDP], 1, 0.0),
    "find_unused_parameters": ([], [DDP, UNUSED], 1, 0.0),
    "legacy_ddp": ([], [LEGACY], 1, 0.0),
    "store_ema": ([], ["ema.store_ema=true"], 1, 0.0),
    "update_freq": (SEVEN, [DDP, UNUSED], 2, 1e-6),
    "bf16": ([*SGD, "common.bf16=true"], [], 1, 2**-8),
    "fp16": ([*SGD, *FP16], [], 1, 2**-11),
}
MORE: dict[str, tuple[list[str], list[str], int, float]] = {
    "attention_statistics": ([], ["+criterion.attention_statistics=true"], 1, 0.0),
    "amp": ([], ["common.amp=true"], 1, 0.0),  # which does nothing on a CPU
    "update_freq, all used": (SEVEN, [DDP], 2, 1e-6),
    "update_freq, legacy_ddp": (SEVEN, [LEGACY], 2, 1e-6),
    "tied": (["+model.share_decoder_input_output_embed=true"], [UNUSED], 1, 0.0),
    "stock model": (["model._name=transformer"], [UNUSED], 1, 0.0),
}
CASES = [
    *(pytest.param(*way, id=name) for name, way in WAYS.items()),
    *(pytest.param(*way, id=name, marks=pytest.mark.slow) for name, way in MORE.items()),
]


@pytest.fixture(scope="module")
def recipe_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.recipes(tmp_path_factory.mktemp("recipes"))


def _train(count: int, run: Path, recipe_dir: Path, *words: str, name: str = OURS) -> list[Any]:
    """Train one epoch; return what each rank has learnt."""
    results = support.train(
        count, run, recipe_dir, f"criterion._name={name}", "optimization.max_epoch=1", *words,
        program=programs.remembering,
    )  # fmt: skip
    assert "valid on" in results[0].stdout
    scratch = run.with_name(f"{run.name} scratch")
    return [torch.load(scratch / f"rank{rank}.pt", weights_only=True) for rank in range(count)]


def _freq(value: int) -> str:
    return f"optimization.update_freq=[{value}]"


@pytest.fixture(scope="module")
def one_process(recipe_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that trains in one process, each recipe once."""

    @functools.cache
    def train(*words: str) -> Any:
        return _train(1, tmp_path_factory.mktemp("one") / "run", recipe_dir, *words)[0]

    return train


@pytest.mark.parametrize(("words", "of_two", "freq", "share"), CASES)
def test_two_ranks_equal_one(words, of_two, freq, share, recipe_dir, one_process, tmp_path):
    two = _train(2, tmp_path / "two", recipe_dir, _freq(freq), *words, *of_two)
    assert differences(*two) == []
    one = one_process(_freq(2 * freq), *words)
    assert one.keys() == two[0].keys()
    for key, value in one.items():
        error = (value.double() - two[0][key].double()).abs().max()
        assert error <= share * value.abs().max(), key


@pytest.mark.parametrize(
    "words", [[UNUSED], *(pytest.param(more, marks=pytest.mark.slow) for more in ([], [LEGACY]))]
)
def test_two_ranks_do_r_drop(words, recipe_dir, tmp_path):
    words = [*words, "model.dropout=0.2", "+criterion.rdrop_alpha=3.0"]
    assert differences(*_train(2, tmp_path / "two", recipe_dir, *words, name=RDROP)) == []


DROPPING = [
    f"{prefix}model.{side}_{option}"
    for side in ("encoder", "decoder")
    for prefix, option in (("", "layers=2"), ("+", "layerdrop=0.5"))
]


@pytest.mark.slow
@pytest.mark.parametrize("name", [OURS, RDROP])
@pytest.mark.parametrize("words", [[DDP, UNUSED], [LEGACY]], ids=["pytorch_ddp", "legacy_ddp"])
def test_layers_may_be_dropped(name, words, recipe_dir, tmp_path):
    two = _train(2, tmp_path / "two", recipe_dir, *DROPPING, *words, name=name)
    assert differences(*two) == []


@pytest.mark.slow
def test_two_ranks_learn_what_they_learn_with_fairseqs_criterion(recipe_dir, tmp_path):
    words = [*SGD, "criterion.label_smoothing=0.1"]
    stock = _train(2, tmp_path / "stock", recipe_dir, *words, name=STOCK)
    ours = _train(2, tmp_path / "ours", recipe_dir, *words)
    for key, value in stock[0].items():
        torch.testing.assert_close(ours[0][key], value, rtol=1e-5, atol=1e-6, msg=key)
