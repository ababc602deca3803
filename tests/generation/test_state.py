"""A search leaves nothing behind, neither on the model nor for the next search."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from seqattn_fairseq.generation.generator import BeamSearchGenerator
from tests.generation.test_search import LENGTHS, compare, decided_model, sample
from tests.support.models import PAIRS, SINGLE_VARIANTS, shifted

WORDS = 40


def attributes(model: nn.Module) -> dict[str, Any]:
    """Return what every module has besides its parameters and children, by name."""
    return {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if not key.startswith("_")
    }


@pytest.mark.parametrize("variant", [*SINGLE_VARIANTS, *PAIRS])
def test_training_does_not_notice_a_search(variant: str) -> None:
    model = decided_model(variant, WORDS).train()
    given = sample(WORDS)

    def loss_and_gradients() -> list[torch.Tensor]:
        torch.manual_seed(3)
        logits = model(*given["net_input"].values(), shifted(LENGTHS))[0]
        loss = logits.log_softmax(-1)[..., 5].sum()
        return [loss, *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)]

    before, state = loss_and_gradients(), attributes(model)
    search = BeamSearchGenerator([model], model.decoder.dictionary, beam_size=5, max_len_b=9)
    search.generate([model], given)
    model.train()
    assert attributes(model).keys() == state.keys()
    for known, now in zip(before, loss_and_gradients(), strict=True):
        assert known is now or torch.equal(known, now)


@pytest.mark.parametrize("beams", [(5, 1), (1, 5)], ids=str)
def test_one_search_after_another(beams: tuple[int, int]) -> None:
    model = decided_model("softmax", WORDS)
    for beam in beams:
        compare([model], sample(WORDS), {"beam_size": beam, "max_len_b": 9})


def test_parameters_may_change_between_searches() -> None:
    model = decided_model("softmax", WORDS)
    dictionary, given = model.decoder.dictionary, sample(WORDS)
    search = BeamSearchGenerator([model], dictionary, beam_size=3, max_len_b=9)
    search.generate([model], given)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    fresh = BeamSearchGenerator([model], dictionary, beam_size=3, max_len_b=9)
    for old, new in zip(
        search.generate([model], given), fresh.generate([model], given), strict=True
    ):
        assert [h["tokens"].tolist() for h in old] == [h["tokens"].tolist() for h in new]


def test_results_can_be_changed_in_place() -> None:
    model = decided_model("softmax", WORDS)
    search = BeamSearchGenerator([model], model.decoder.dictionary, beam_size=3, max_len_b=9)
    for hypotheses in search.generate([model], sample(WORDS)):
        for hypothesis in hypotheses:
            hypothesis["positional_scores"].div_(0.7)  # as fairseq-generate does
            assert not hypothesis["tokens"].is_inference()
