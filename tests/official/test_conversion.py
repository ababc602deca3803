"""The tools of the key maps place every tensor once, or say why not."""

from __future__ import annotations

import pytest
import torch

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.official.conversion import Keys, OfficialModel


def keys(*names: str) -> Keys:
    return Keys({name: torch.tensor(float(i)) for i, name in enumerate(names)})


def test_every_tensor_is_placed_once():
    left = keys("a.weight", "a.bias", "b", "c.weight")
    left.module("a", "ours")
    left.move("b")
    left.drop("c.weight", "unused")
    left.drop("d", "not there, so not said")
    assert sorted(left.finish()) == ["b", "ours.bias", "ours.weight"]
    assert left.dropped == {"c.weight": "unused"}
    with pytest.raises(SeqAttnError, match="no parameter b"):
        left.take("b")


def test_what_is_left_over_is_named():
    with pytest.raises(SeqAttnError, match=r"without a place here: a, b, c, d, e and 2 more$"):
        keys(*"gfedcba").finish()
    with pytest.raises(SeqAttnError, match=r"without a place here: a$"):
        keys("a").finish()


def test_arguments_that_are_not_told_are_named():
    model = OfficialModel({}, {"known": 3})
    assert model.option("known") == 3
    with pytest.raises(SeqAttnError, match="does not tell heads; --set heads=VALUE does"):
        model.option("heads")
