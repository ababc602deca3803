"""NaN and infinity: where they began is said, and training stops at once."""

from __future__ import annotations

from pathlib import Path

import fairseq.trainer
import pytest
import torch
from torch import Tensor, nn

import seqattn_fairseq  # noqa: F401 applies the workarounds
from tests.support import toy_corpus

pytestmark = pytest.mark.xdist_group("commands")


class Broken(nn.Module):
    """Returns a dict of lists, as fairseq encoders do, and divides by zero on request."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.inner = Root()

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        return {"states": [self.second(self.inner(self.first(x)))], "none": []}


class Root(nn.Module):
    """Square root: finite at 0, with an infinite gradient there."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 0).sqrt()


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (float("nan"), "NaN in the output of first"),
        (float("inf"), "infinity in the output of first"),
        (1.0, "NaN in the gradient of the output of first"),
    ],
)
def test_the_first_layer_is_named(value: float, place: str) -> None:
    model = Broken()
    nn.init.ones_(model.first.weight)
    detector = fairseq.trainer.NanDetector
    with detector(model):
        model(torch.full((2, 3), value))["states"][0].sum().backward()
    assert detector.finding == place
    with detector(model.first):
        model.first(torch.ones(2, 3)).sum().backward()
    assert detector.finding == ""


def test_training_stops_with_one_line(tmp_path: Path) -> None:
    result = toy_corpus.train(
        toy_corpus.corpus()[1], tmp_path, "--max-update", "20", "--lr", "1e30",
        arch="seqattn_rela_g",
    )  # fmt: skip
    assert result.status == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "error: update 2: " in last or "error: update 3: " in last
    assert " in the output of encoder." in last
    assert "tensor(" not in result.stderr + result.stdout
