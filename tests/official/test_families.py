"""What the key maps of all families share: lengths, positions, pruned layers, older names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.official.conversion import Conversion, OfficialModel
from seqattn_fairseq.official.importing import recognise
from seqattn_fairseq.parity.imported import read
from seqattn_fairseq.parity.modules import build_converted
from tests.support.goldens import GOLDENS
from tests.support.models import batch, shifted

CONVOLUTION = "lightconv_dynamicconv/model_lightconv_glu_shared_postnorm"
SPARSE = "rela_sparse/est_model_topk3_left"
MUSE = ["muse/model_simple", "muse/model_bm_simple"]
LUNA = "luna/model_post_tied_nopos_noscale"
MEGA = "mega/model_tiny_softmax_simple_left"
ATTENTION = [CONVOLUTION, SPARSE, LUNA, *MUSE]
LENGTHS = {"encoder": 50, "decoder": 40}


def official(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state and the arguments of an official model."""
    model = read(GOLDENS / f"{name}.npz").model
    return dict(model.state), dict(model.options)


def convert(state: dict[str, Tensor], options: dict[str, Any]) -> Conversion:
    model = OfficialModel(state, options)
    return recognise(model).convert(model)


@pytest.mark.parametrize("told", [False, True], ids=["bare", "arguments"])
@pytest.mark.parametrize("name", ATTENTION)
def test_learned_positions_tell_the_longest_sequence(name: str, told: bool) -> None:
    state, options = official(name)
    options["no_token_positional_embeddings"] = False
    for side, length in LENGTHS.items():
        width = state[f"{side}.embed_tokens.weight"].size(1)
        state[f"{side}.embed_positions.weight"] = torch.randn(length + 2, width)
    if not told:
        missing = ("learned_pos", "source_positions", "target_positions", "positional_embeddings")
        options = {k: v for k, v in options.items() if not k.endswith(missing)}
    model = build_converted(convert(state, options))
    with torch.no_grad():
        logits, _ = model(batch([50], vocabulary=9), None, shifted([40], vocabulary=9))
    assert logits.isfinite().all()
    assert (model.encoder.max_positions(), model.decoder.max_positions()) == (50, 40)


@pytest.mark.parametrize("name", [*ATTENTION, MEGA])
def test_pruned_layers_are_not_pruned_again(name: str) -> None:
    state, options = official(name)
    keep = {f"{side}_layers_to_keep": "0,5" for side in LENGTHS}
    converted = convert(state, {**options, **keep})
    assert not converted.options.keys() & keep.keys()
    build_converted(converted)


@pytest.mark.parametrize("name", [*ATTENTION, MEGA])
@pytest.mark.parametrize("new_first", [True, False])
def test_either_name_of_a_dropout_may_be_zero(name: str, new_first: bool) -> None:
    state, options = official(name)
    names = ("activation_dropout", "relu_dropout")
    without = {k: v for k, v in options.items() if k not in names}
    for rates in ((0.0, 0.1), (0.1, 0.0), (None, 0.1), (0.1, None), (0.1, 0.2)):
        given = dict(sorted(zip(names, rates, strict=True), reverse=not new_first))
        assert convert(state, {**without, **given}).options["activation_dropout"] == 0.1


def in_chunks(state: dict[str, Tensor], sides: tuple[str, ...], size: int) -> None:
    """Give Mega's self-attention on some sides the distances within a chunk."""
    for name in state:
        if name.startswith(sides) and name.endswith("mega_layer.rel_pos_bias.rel_pos_bias"):
            state[name] = state[name][: 2 * size - 1]


CHUNKED: dict[str, tuple[dict[str, int], dict[str, int], tuple[int, int]]] = {
    "nothing told": ({"encoder": 4, "decoder": 4}, {}, (32, 32)),
    "told": ({"encoder": 4, "decoder": 4}, {"source": 32, "target": 20}, (32, 20)),
    "told wrong": ({"encoder": 4, "decoder": 4}, {"source": 9, "target": 20}, (32, 32)),
    "told too long": ({"encoder": 4, "decoder": 4}, {"source": 1024, "target": 1024}, (32, 32)),
    "encoder only": ({"encoder": 4, "decoder": -1}, {}, (32, 32)),
    "decoder only": ({"encoder": -1, "decoder": 4}, {"target": 20}, (32, 20)),
}


@pytest.mark.parametrize(("chunks", "told", "expected"), CHUNKED.values(), ids=list(CHUNKED))
def test_megas_cross_attention_tells_the_longest_sequence(
    chunks: dict[str, int], told: dict[str, int], expected: tuple[int, int]
) -> None:
    state, options = official(MEGA)
    options = {k: v for k, v in options.items() if not k.endswith("_positions")}
    options |= {f"max_{end}_positions": length for end, length in told.items()}
    for side, size in chunks.items():
        options[f"{side}_chunk_size"] = size
        if size > 0:
            in_chunks(state, (side,), size)
    model = build_converted(convert(state, options))
    assert (model.encoder.max_positions(), model.decoder.max_positions()) == expected


@pytest.mark.parametrize("told", [{}, {"no_token_positional_embeddings": False}], ids=str)
def test_mega_adds_no_sinusoids(told: dict[str, bool]) -> None:
    state, options = official(MEGA)
    model = build_converted(convert(state, {**options, **told}))
    assert model.encoder.embed_positions is None
    assert model.decoder.embed_positions is None
