"""ReLA: its definition's corner cases, its release's conventions, its presets and counts."""

from __future__ import annotations

import pytest
import torch

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops.rela import rela_weights, rms_norm
from seqattn_fairseq.transformer.attention import AttentionLog, Site
from seqattn_fairseq.transformer.registry import get_variant, make_config
from seqattn_fairseq.variants.rela import RELEASE, RelaAttention
from seqattn_fairseq.variants.softmax import SoftmaxAttention
from tests.support.models import PAD, batch, build, place, shifted, small_model


def test_rms_norm_worked_example():
    h = torch.tensor([[[3.0, -1.0, 0.0, 2.0]]])
    plain = rms_norm(h, torch.ones(4), None, 1e-8)
    gated = rms_norm(h, torch.ones(4), torch.tensor([0.5, -0.5, 1.0, 0.0]), 1e-8)
    expected = torch.tensor([1.603567, -0.534522, 0.0, 1.069045])
    torch.testing.assert_close(plain[0, 0], expected, rtol=0, atol=1e-6)
    expected = torch.tensor([1.311036, -0.332719, 0.0, 0.534522])
    torch.testing.assert_close(gated[0, 0], expected, rtol=0, atol=1e-6)


def test_hidden_scores_weigh_nothing_even_if_infinite():
    q = torch.full((1, 1, 1, 2), 1e30)
    k = torch.tensor([[[[1.0, 0.0], [1e30, 1e30]]]])
    weights = rela_weights(q, k, torch.tensor([[False, True]]), causal=False)
    assert weights.tolist() == [[[[pytest.approx(1e30), 0.0]]]]


def test_float16_sums_do_not_overflow():
    torch.manual_seed(0)
    module = RelaAttention(Site.ENCODER_SELF, 8, 2)
    with torch.no_grad():
        for projection in (module.q_proj, module.k_proj, module.v_proj):
            projection.weight.copy_(torch.eye(8) * 40)
            projection.bias.zero_()
    x = torch.ones(1, 64, 8)
    expected = module(x, x, None)
    out = module.half()(x.half(), x.half(), None)
    torch.testing.assert_close(out.float(), expected, rtol=1e-2, atol=1e-2)


def test_sites_are_selectable():
    cfg = make_config("rela_i", "tiny", attention_sites="cross, encoder_self")
    encoder_layer = get_variant("rela_i").encoder_layer(cfg, place())
    decoder_layer = get_variant("rela_i").decoder_layer(cfg, place())
    assert isinstance(encoder_layer.self_attn, RelaAttention)
    assert isinstance(decoder_layer.self_attn, SoftmaxAttention)
    assert isinstance(decoder_layer.encoder_attn, RelaAttention)
    with pytest.raises(SeqAttnError, match="unknown site 'crosss' .did you mean cross"):
        cfg = make_config("rela_g", attention_sites="crosss")
        get_variant("rela_g").encoder_layer(cfg, place())


def test_initialisation_is_the_papers():
    gated = RelaAttention(Site.CROSS, 512, 8).attn_norm
    assert gated.weight.eq(1).all()
    assert gated.gate is not None
    assert 0.07 < gated.gate.abs().max() <= (3 / 512) ** 0.5
    initialised = RelaAttention(Site.CROSS, 512, 8, gated=False).attn_norm
    assert initialised.gate is None
    assert 0.07 < initialised.weight.abs().max() <= (3 / 512) ** 0.5


@pytest.mark.parametrize("gated", [True, False])
def test_null_attention_gives_the_output_bias(gated):
    """Every head is null at every query: no weight, and gradients that are finite."""
    module = RelaAttention(Site.ENCODER_SELF, 8, 2, gated=gated)
    with torch.no_grad():
        module.q_proj.bias.fill_(1.0)
        module.k_proj.bias.fill_(-1.0)
    x = torch.zeros(1, 5, 8, requires_grad=True)
    log = AttentionLog()
    out = module(x, x, None, log)
    out.sum().backward()
    assert not log.weights["encoder_self"][0].any()
    torch.testing.assert_close(out[0], module.out_proj.bias.expand(5, 8))
    assert x.grad is not None and not x.grad.any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_official_is_the_release():
    plain = small_model("rela_g").cfg
    official = small_model("rela_g", official=True)
    assert {name: getattr(official.cfg, name) for name in RELEASE} == dict(RELEASE)
    changed = [name for name, value in RELEASE.items() if getattr(plain, name) != value]
    assert changed == list(RELEASE)
    assert official.encoder.embed_bias is official.decoder.embed_bias
    assert get_variant("rela_i").official == RELEASE


def test_the_release_lets_the_target_begin_with_nothing():
    """A zero vector and the position, whatever the first token is; the default embeds it."""
    tokens, others = shifted([4, 3]), shifted([4, 3])
    others[:, 0] = 7
    for official in (True, False):
        decoder = small_model("rela_g", official=official).decoder
        first, other = decoder.embed(tokens)[:, 0], decoder.embed(others)[:, 0]
        assert torch.equal(first, other) is official
        if official:  # position 0: sin 0, then cos 0
            assert torch.equal(first, torch.cat([torch.zeros(2, 8), torch.ones(2, 8)], dim=1))


def test_the_releases_positions_depend_on_the_padding_before():
    source = batch([6, 3])
    alone = source[1:, source[1].ne(PAD)]
    for official in (True, False):
        encoder = small_model("rela_g", official=official).encoder
        with torch.no_grad():
            same = torch.allclose(encoder.embed(source)[1:, 3:], encoder.embed(alone))
        assert same is not official


@pytest.mark.parametrize(("variant", "vectors"), [("rela_g", 2), ("rela_i", 1)])
@pytest.mark.parametrize("size", ["tiny", "wmt_en_de"])
def test_parameters_over_the_twin(variant, vectors, size):
    """One or two vectors an attention: 18,432 for ReLA-g at base.

    The release gives 72.31M and 72.34M for softmax and ReLA-g, without the dictionaries.
    """
    counts = []
    with torch.device("meta"):
        for name in (variant, "softmax"):
            model = build(name, make_config(name, size))
            counts.append(sum(p.numel() for p in model.parameters()))
    cfg = make_config(variant, size)
    attentions = cfg.encoder_layers + 2 * cfg.decoder_layers
    overhead = counts[0] - counts[1]
    assert overhead == vectors * cfg.encoder_embed_dim * attentions
    if (variant, size) == ("rela_g", "wmt_en_de"):
        assert overhead == 18_432


@pytest.mark.parametrize("size", ["wmt_en_de", "wmt_en_fr"])
@pytest.mark.parametrize("variant", ["rela_g", "rela_i", "sparsemax", "entmax15"])
def test_the_papers_models_are_base_with_dropout_everywhere(variant, size):
    cfg = make_config(variant, size)
    assert (cfg.encoder_embed_dim, cfg.decoder_ffn_embed_dim) == (512, 2048)
    assert (cfg.encoder_layers, cfg.decoder_attention_heads) == (6, 8)
    assert (cfg.dropout, cfg.attention_dropout, cfg.activation_dropout) == (0.1, 0.1, 0.1)
