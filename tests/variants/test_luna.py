"""What only Luna promises: P and its way, causal means, official conventions, counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.official.conversion import OfficialModel
from seqattn_fairseq.official.luna import ORIGINS
from seqattn_fairseq.parity.golden import Golden
from seqattn_fairseq.transformer.attention import AttentionLog, Site
from seqattn_fairseq.transformer.cache import Memory, TwoSidedCache
from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.transformer.registry import get_variant, make_config
from seqattn_fairseq.variants.luna import OFFICIAL
from seqattn_fairseq.variants.luna_attention import (
    LunaAttention,
    LunaCausalAttention,
    RunningSums,
)
from seqattn_fairseq.variants.luna_layers import ShortSequence, companion_of
from tests.support.goldens import GOLDENS
from tests.support.models import PAD, batch, shifted, small_model

SIDES = ("encoder", "decoder")


def both(**options: Any) -> dict[str, Any]:
    """Return options of both sides."""
    return {f"{side}_{name}": value for side in SIDES for name, value in options.items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projection_length": 0}, "--projection-length is 0, but must be at least 1"),
        (
            {"encoder_projected_attention_heads": 3},
            "--encoder-projected-attention-heads 3 does not divide --encoder-embed-dim 16; heads",
        ),
        ({"decoder_projected_attention_heads": 0}, "--decoder-projected-attention-heads 0 does"),
        (
            {"layernorm_embedding": True, "encoder_normalize_before": True},
            "--layernorm-embedding excludes --encoder-normalize-before",
        ),
        (
            {"layernorm_embedding": True, "decoder_normalize_before": True},
            "--layernorm-embedding excludes --decoder-normalize-before",
        ),
        ({"decoder_embed_dim": 32}, "--decoder-embed-dim 32 must be --encoder-embed-dim 16"),
        ({"word_dropout": 1.5}, "--word-dropout is 1.5, but must be from 0 to 1"),
        ({"luna_activation": "relu"}, "luna, option 'luna_activation': Invalid value 'relu'"),
    ],
)
def test_wrong_options_are_one_clear_line(options, message) -> None:
    with pytest.raises(SeqAttnError, match=message) as error:
        small_model("luna", **options)
    assert "\n" not in str(error.value)


class TestShortSequence:
    def start(self, lengths: list[int], left: bool = False, **options: Any) -> Memory:
        cfg = make_config("luna", **both(embed_dim=6), projection_length=4, dropout=0.0, **options)
        torch.manual_seed(0)
        self.made = ShortSequence(cfg, read=True).eval()
        mask = batch(lengths, left).eq(PAD)
        x = torch.randn(len(lengths), max(lengths), 6)
        return self.made.start(Memory(x, mask if mask.any() else None))

    @pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
    def test_a_sentence_uses_no_more_rows_than_tokens(self, left: bool) -> None:
        p = self.start([6, 3, 1], left)
        assert p.x_BSC.shape == (3, 4, 6)
        assert p.padding_mask_BS is not None
        assert p.padding_mask_BS.int().tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 1]]
        assert self.start([3, 2]).x_BSC.size(1) == 3
        assert self.start([3, 3]).padding_mask_BS is None

    def test_or_all_of_them(self) -> None:
        p = self.start([3, 2], fix_projection_length=True)
        assert p.x_BSC.shape == (2, 4, 6)
        assert p.padding_mask_BS is None

    def test_rows_are_scaled_and_numbered_from_zero(self) -> None:
        p = self.start([6])
        rows = p.x_BSC[0] - 6**0.5 * self.made.projected_embeddings
        torch.testing.assert_close(rows[0], torch.tensor([0.0, 0, 0, 1, 1, 1]))
        frequency = 10_000 ** (-torch.arange(3) / 2)
        torch.testing.assert_close(rows[3, :3], (3 * frequency).sin())
        torch.testing.assert_close(rows[3, 3:], (3 * frequency).cos())

    @pytest.mark.parametrize("name", ["no_token_positional_embeddings", "encoder_learned_pos"])
    def test_without_sinusoids(self, name: str) -> None:
        p = self.start([6], no_scale_embedding=True, **{name: True})
        assert torch.equal(p.x_BSC[0], self.made.projected_embeddings)

    def test_the_table_of_positions_is_not_saved(self) -> None:
        state = small_model("luna").state_dict()
        assert not any("positions" in name for name in state)

    def test_each_sentence_has_its_own_dropout(self) -> None:
        cfg = make_config("luna", **both(embed_dim=32), dropout=0.5)
        p = ShortSequence(cfg, read=True).train().start(Memory(torch.zeros(2, 9, 32), None))
        assert not torch.equal(p.x_BSC[0], p.x_BSC[1])

    def test_a_fixed_length_may_exceed_the_table_of_positions(self) -> None:
        model = small_model("luna", projection_length=300, fix_projection_length=True)
        assert companion_of(model.encoder.encode(batch([5]))).x_BSC.shape == (1, 300, 16)


def norms_of_p(model: SeqAttnModel) -> list[str]:
    return sorted(n for n in model.state_dict() if "proj_layer_norm.weight" in n)


@pytest.mark.parametrize(
    ("variant", "pre", "expected"),
    [
        ("luna", False, "decoder.layers.0 encoder.layers.0 encoder.layers.1"),
        (
            "luna",
            True,
            "decoder.layers.0 decoder.layers.1 encoder.companion encoder.layers.0 encoder.layers.1",
        ),
        ("luna+softmax", False, "encoder.layers.0"),
        ("luna+softmax", True, "encoder.layers.0 encoder.layers.1"),
        ("softmax+luna", False, "decoder.layers.0"),
        ("softmax+luna", True, "decoder.layers.0 decoder.layers.1 encoder.companion"),
    ],
)
def test_there_are_no_norms_of_a_p_that_nothing_reads(variant, pre, expected) -> None:
    model = small_model(variant, **both(normalize_before=pre))
    assert [name.rsplit(".", 2)[0] for name in norms_of_p(model)] == expected.split()


def causal(**options: Any) -> LunaCausalAttention:
    torch.manual_seed(2)
    return LunaCausalAttention(8, 2, **options).eval().double()


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.double)


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
def test_logged_weights_over_the_target_give_the_output(tie: bool) -> None:
    attn, x, log = causal(tie_kv=tie), random(2, 5, 8), AttentionLog()
    pquery = attn.pack_query(random(2, 3, 8, seed=1))
    mask = torch.tensor([[True, True, False, False, False], [False] * 5])
    out = attn(x, pquery, None, mask, log)
    (weights,) = log.weights[Site.DECODER_SELF.value]
    _, value = attn.keys_and_values(("c", "k", "v"), x)
    torch.testing.assert_close(attn.project_out(weights @ value), out)
    assert weights.triu(1).eq(0).all() and weights[0, :, :, :2].eq(0).all()


def test_a_mask_keeps_left_padding_out_of_sums_and_counts() -> None:
    attn, x, p = causal(), random(1, 5, 8), random(1, 3, 8, seed=1)
    mask = torch.tensor([[True, True, False, False, False]])
    alone = attn(x[:, 2:], attn.pack_query(p), None)
    for seen, is_alone in ((mask, True), (None, False)):
        out = attn(x, attn.pack_query(p), None, seen)[:, 2:]
        assert torch.allclose(out, alone, rtol=0, atol=1e-12) is is_alone


def test_official_options_are_the_official_behaviour() -> None:
    ours, theirs = (small_model("luna", official=official) for official in (False, True))
    assert set(OFFICIAL) == set(get_variant("luna").official)
    target = shifted([5])
    left = torch.nn.functional.pad(target, (2, 0), value=PAD)
    source = batch([6])
    with torch.no_grad():
        torch.testing.assert_close(theirs(source, None, target)[0], ours(source, None, target)[0])
        difference = theirs(source, None, left)[0] - ours(source, None, left)[0]
    assert difference[:, 2:].abs().max() > 1e-3


@pytest.mark.parametrize(("dtype", "stuck"), [(torch.bfloat16, 256), (torch.float16, 2048)])
def test_the_official_count_sticks_in_half_precision(dtype, stuck) -> None:
    like = torch.zeros(1, 2500, 1, dtype=dtype)
    official, ours = RunningSums(exact=False), RunningSums()
    assert official.count(like).max() == stuck
    assert official.length == stuck
    assert torch.equal(ours.count(like).flatten(), torch.arange(1.0, 2501))
    assert ours.length == 2500
    assert official.count(like[:, :1]).item() == stuck
    assert ours.count(like[:, :1]).item() == 2501


@pytest.mark.parametrize("exact", [True, False], ids=["ours", "official"])
def test_half_precision_steps(exact: bool) -> None:
    attn = causal(exact_sums=exact).to(torch.bfloat16)
    x = random(2, 12, 8).to(torch.bfloat16)
    pquery = attn.pack_query(random(2, 3, 8, seed=1).to(torch.bfloat16))
    sums = RunningSums(exact)
    steps = [attn.step(column, pquery, None, sums) for column in x.split(5, dim=1)]
    full = attn(x, pquery, None)
    assert full.dtype == torch.bfloat16
    torch.testing.assert_close(torch.cat(steps, dim=1), full, rtol=0.1, atol=0.05)
    assert sums.key_RHdL is not None
    assert sums.key_RHdL.dtype == (torch.float32 if exact else torch.bfloat16)


@pytest.mark.parametrize("pack_heads", [4, 2], ids=["equal heads", "fewer pack heads"])
@pytest.mark.parametrize("untied", [False, True], ids=["tied", "untied"])
def test_attention_is_logged_over_tokens(pack_heads: int, untied: bool) -> None:
    heads = both(projected_attention_heads=pack_heads)
    model = small_model("luna", projection_length=3, untie_luna_kv=untied, **heads)
    source, target = batch([7, 4]), shifted([5, 3])
    weights = model.attention_weights(source, None, target)
    assert [len(weights[site.value]) for site in Site] == [2, 2, 2]
    for site, queries in (("encoder_self", 7), ("cross", 5)):
        for layer in weights[site]:
            assert layer.shape == (2, 4, queries, 7)
            torch.testing.assert_close(layer.sum(-1), torch.ones(2, 4, queries))
            assert layer[1, ..., :3].eq(0).all()  # padding on the left
    assert weights["decoder_self"][0].shape == (2, 4, 5, 5)


@pytest.mark.parametrize(
    "order", [[0, 1, 2, 3, 4, 5], [4, 4, 5, 0, 1, 0], [5, 1, 2]], ids=["same", "moved", "fewer"]
)
def test_steps_log_the_whole_passes_weights_over_the_source(order: list[int]) -> None:
    model, rows = small_model("luna", projection_length=3).double(), torch.tensor(order)
    sentence = torch.tensor([0, 0, 0, 1, 1, 1])
    source, tokens = batch([7, 4]), shifted([4] * 6)
    log = AttentionLog()
    with torch.no_grad():
        state = model.decoder.start(model.encoder.encode(source), sentence)
        model.decoder.step(tokens[:, :2], state)
        state.reorder(rows)
        model.decoder.step(tokens[rows, 2:], state, dict.fromkeys(range(2), log))
    full = model.attention_weights(source[sentence[rows]], None, tokens[rows])
    assert list(log.weights) == ["cross"]
    for stepped, whole in zip(log.weights["cross"], full["cross"], strict=True):
        torch.testing.assert_close(stepped, whole[:, :, 2:])


def test_the_source_is_read_once_a_sentence_and_the_state_does_not_grow() -> None:
    model = small_model("luna", projection_length=3)
    with torch.no_grad():
        memory = model.encoder.encode(batch([7, 4]))
        state = model.decoder.start(memory, torch.tensor([0, 0, 0, 1, 1, 1]))
        sizes = []
        for column in shifted([9] * 6).split(3, dim=1):
            model.decoder.step(column, state)
            (cache, _) = state.layers
            assert isinstance(cache, TwoSidedCache)
            assert cache.target.key_RHdL is not None
            sizes.append(cache.target.key_RHdL.shape)
    assert set(sizes) == {(6, 4, 4, 3)}
    assert cache.cross.pquery_BHLd.size(0) == cache.cross.key_BHLd.size(0) == 2
    assert cache.cross.memory is memory


def test_a_renewed_p_depends_on_the_source_alone() -> None:
    model = small_model("luna")
    memory = model.encoder.encode(batch([7, 4]))
    layer = model.decoder.layers[0]
    after = [layer(torch.randn(2, 5, 16), None, memory)[1] for _ in range(2)]
    assert torch.equal(companion_of(after[0]).x_BSC, companion_of(after[1]).x_BSC)
    assert not torch.equal(companion_of(after[0]).x_BSC, companion_of(memory).x_BSC)
    assert torch.equal(companion_of(after[0]).x_BSC, companion_of(layer.new_cache(memory)[1]).x_BSC)


def test_word_dropout_drops_whole_tokens() -> None:
    model = small_model("luna", word_dropout=0.5, dropout=0.0, no_token_positional_embeddings=True)
    tokens = shifted([8, 8])
    plain = model.decoder.embed(tokens)
    model.train()
    torch.manual_seed(0)
    ratio = model.decoder.embed(tokens) / plain
    assert set(ratio.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(ratio, ratio[..., :1].expand_as(ratio))


def test_retained_dropout_stays_on_while_generating() -> None:
    model = small_model("luna", dropout=0.0, attention_dropout=0.5)
    source, target = batch([7]), shifted([5])
    once = model(source, None, target)[0]
    assert torch.equal(once, model(source, None, target)[0])
    model.make_generation_fast_(retain_dropout=True)
    assert not torch.equal(model(source, None, target)[0], model(source, None, target)[0])


def test_projections_can_do_without_biases() -> None:
    for module in (
        LunaAttention(Site.CROSS, 8, 2, 4, bias=False),
        LunaCausalAttention(8, 2, bias=False),
    ):
        assert not any(name.endswith("bias") for name, _ in module.named_parameters())


class TestOfficialModel:
    def official(self, name: str) -> OfficialModel:
        golden = Golden(GOLDENS / "luna" / f"{name}.npz")
        return OfficialModel(golden.group("param"), golden.config)

    @pytest.mark.parametrize(
        ("name", "index"), [("model_post_tied", 0), ("model_post_tied_HEAD_lnplus1", 1)]
    )
    def test_versions_are_told_by_their_norms(self, name: str, index: int) -> None:
        model = self.official(name)
        assert [origin.recognises(model) for origin in ORIGINS] == [index == 0, index == 1]
        state = ORIGINS[index].convert(model).state
        norm = "decoder.layers.1.final_layer_norm.weight"
        assert torch.equal(state[norm], model.state[norm] + index)

    def test_what_is_left_out_has_a_reason(self) -> None:
        model = self.official("model_pre_untied")
        conversion = ORIGINS[0].convert(model)
        reasons = conversion.dropped
        assert "never gets a gradient" in reasons["decoder.proj_layer_norm.weight"]
        assert "sinusoids" in reasons["encoder.projected_positions"]
        assert conversion.options["untie_luna_kv"] and conversion.options["luna_low_precision_sums"]
        assert conversion.options["projection_length"] == 5
        kept = "decoder.layers.1.encoder_attn_proj_layer_norm.weight"
        assert kept in conversion.state  # a pre-norm layer reads P through it

    def test_shapes_tell_what_arguments_are_missing(self) -> None:
        model = self.official("model_pre_untied")
        options = ORIGINS[0].convert(OfficialModel(model.state)).options
        assert options["encoder_normalize_before"] and options["decoder_normalize_before"]
        assert options["decoder_ffn_embed_dim"] == 32
        assert not options["no_token_positional_embeddings"]

    def test_unknown_parameters_are_refused(self) -> None:
        model = self.official("model_post_tied")
        odd = OfficialModel({**model.state, "decoder.extra.weight": torch.ones(1)}, model.options)
        with pytest.raises(SeqAttnError, match="without a place here: decoder.extra.weight"):
            ORIGINS[0].convert(odd)
