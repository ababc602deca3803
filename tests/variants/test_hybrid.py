"""``hybrid``: the options of both sides, whatever the two variants are."""

from __future__ import annotations

import pickle
from dataclasses import fields
from itertools import product

import pytest
import torch

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.transformer.config import EncoderDecoderConfig
from seqattn_fairseq.transformer.registry import get_variant, make_config
from tests.support.models import SINGLE_VARIANTS, batch, build, shifted, small_config, small_model


def test_an_option_means_the_same_in_every_variant():
    shared = {option.name for option in fields(EncoderDecoderConfig)}
    found: dict[str, str] = {}
    for name in SINGLE_VARIANTS:
        for option in fields(get_variant(name).config):
            if option.name not in shared:
                described = option.metadata["help"]
                assert found.setdefault(option.name, described) == described, option.name


def test_it_has_the_options_of_all():
    known = vars(get_variant("hybrid").config())
    for name in SINGLE_VARIANTS:
        assert vars(get_variant(name).config()).keys() <= known.keys()


@pytest.mark.parametrize(("encoder", "decoder"), [*product(SINGLE_VARIANTS, repeat=2)])
def test_every_pair_trains_and_decodes(encoder, decoder):
    model = small_model(f"{encoder}+{decoder}").train()
    source, target = batch([5, 3]), shifted([4, 4])
    logits, _ = model(source, None, target)
    logits.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    model.eval()
    with torch.no_grad():
        full, _ = model(source, None, target)
        state = model.decoder.start(model.encoder.encode(source))
        steps = [model.decoder.step(t, state) for t in target.split(1, dim=1)]
        stepped = model.decoder.output_layer(torch.cat(steps, dim=1))
    torch.testing.assert_close(stepped, full, rtol=1e-4, atol=1e-5)


def test_a_twin_of_itself():
    """softmax in both places is softmax."""
    hybrid, twin = small_model("softmax+softmax"), small_model("softmax")
    assert hybrid.state_dict().keys() == twin.state_dict().keys()
    source, target = batch([5, 3]), shifted([4, 4])
    assert torch.equal(hybrid(source, None, target)[0], twin(source, None, target)[0])


def test_official_is_what_both_sides_call_so():
    model = build("hybrid", small_config("rela_g+softmax", official=True))
    assert model.cfg.embedding_bias
    assert model.cfg.official
    assert not small_config("rela_g+softmax", official=True).embedding_bias


def test_the_configuration_survives_pickling():
    cfg = small_config("rela_g+topk")
    assert pickle.loads(pickle.dumps(cfg)) == cfg


def test_unknown_sides_are_refused():
    with pytest.raises(SeqAttnError, match="hybrid, option 'encoder_variant'"):
        make_config("hybrid", encoder_variant="musee")
