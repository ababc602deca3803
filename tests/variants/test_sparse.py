"""Top-k, sparsemax and 1.5-entmax: worked rows, ties, precision, options, presets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops.sparse import entmax15, sparsemax, topk_softmax
from seqattn_fairseq.transformer.registry import get_variant, make_config
from seqattn_fairseq.variants.softmax import SoftmaxAttention
from seqattn_fairseq.variants.sparse import TopKAttention
from tests.support.models import batch, place, shifted, small_model

ROW = [1.0, 0.8, 0.1, -0.5, -2.0]
WORKED = {
    "sparsemax": (sparsemax, [0.6, 0.4, 0, 0, 0]),
    "entmax15": (entmax15, [0.52925, 0.39375, 0.07700, 0, 0]),
    "top-2": (lambda z: topk_softmax(z, torch.tensor([2])), [0.54983, 0.45017, 0, 0, 0]),
}


@pytest.mark.parametrize(("function", "expected"), WORKED.values(), ids=list(WORKED))
def test_worked_row(function, expected) -> None:
    actual = function(torch.tensor(ROW))
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("function", [f for f, _ in WORKED.values()], ids=list(WORKED))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_offsets_precision_and_dead_rows(function, dtype) -> None:
    rows = torch.tensor([ROW, ROW, [float("-inf")] * 5]) + torch.tensor([[0.0], [-1000.0], [0.0]])
    out = function(rows.to(dtype))
    assert out.isfinite().all()
    sums = torch.tensor([1.0, 1.0, 0.0])
    torch.testing.assert_close(out.sum(-1).float(), sums, rtol=0, atol=1e-5)


def test_ties_are_all_kept() -> None:
    z = torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0])
    assert topk_softmax(z, torch.tensor([2])).ne(0).tolist() == [True, True, True, True, False]


def test_a_share_depends_on_the_sentence_alone() -> None:
    options = {"topk": 0, "topk_divisor": 3, "topk_least": 2}
    model = small_model("topk", **options).double()
    source, target = batch([9, 4]), shifted([8, 3])
    with torch.no_grad():
        together, _ = model(source, None, target)
        alone, _ = model(source[1:, 5:], None, target[1:, :3])
        state = model.decoder.start(model.encoder.encode(source))
        steps = [model.decoder.step(t, state) for t in target.split(1, dim=1)]
        stepped = model.decoder.output_layer(torch.cat(steps, dim=1))
    torch.testing.assert_close(together[1:, :3], alone, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(stepped[0], together[0], rtol=1e-9, atol=1e-9)


def test_sites_and_contradictions() -> None:
    cfg = make_config("topk", "tiny", attention_sites="cross")
    layer = get_variant("topk").decoder_layer(cfg, place())
    assert isinstance(layer.self_attn, SoftmaxAttention)
    assert isinstance(layer.encoder_attn, TopKAttention)
    cases: list[dict[str, Any]] = [
        {"topk": 0},
        {"topk_divisor": 2},
        {"topk": -1, "topk_divisor": 2},
    ]
    for options in cases:
        with pytest.raises(SeqAttnError, match="one of them must be positive"):
            get_variant("topk").encoder_layer(make_config("topk", **options), place())


def test_dense_weights_load_and_decode_sparsely() -> None:
    dense, sparse = small_model("softmax"), small_model("topk", topk=40)
    sparse.load_state_dict(dense.state_dict())
    source, target = batch([7, 5]), shifted([6, 3])
    torch.testing.assert_close(sparse(source, None, target)[0], dense(source, None, target)[0])


def test_official_counts_padding_in_a_share() -> None:
    options = {"topk": 0, "topk_divisor": 2}
    source, target = batch([9, 2]), shifted([5, 5])
    for official in (True, False):
        model = small_model("topk", official=official, **options).double()
        together = model.attention_weights(source, None, target)["cross"][0]
        alone = model.attention_weights(source[1:, 7:], None, target[1:])["cross"][0]
        assert torch.allclose(together[1:, ..., 7:], alone) is not official
        assert int(together[1].gt(0).sum(-1).max()) == (2 if official else 1)


def test_presets_are_the_papers() -> None:
    de_en, en_vi = make_config("topk", "iwslt_de_en"), make_config("topk", "iwslt_en_vi")
    assert (de_en.topk, de_en.decoder_ffn_embed_dim, de_en.encoder_attention_heads) == (8, 1024, 4)
    assert (en_vi.topk, en_vi.decoder_ffn_embed_dim, en_vi.encoder_attention_heads) == (6, 2048, 8)
    assert (en_vi.encoder_normalize_before, de_en.encoder_normalize_before) == (True, False)
    assert make_config("topk", "wmt_en_de_big").topk == 8
