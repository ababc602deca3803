"""MUSE / PRIME: its definition by hand, its options, and what the release does otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.parameters import build_empty, count_all
from seqattn_fairseq.official.conversion import OfficialModel
from seqattn_fairseq.official.muse import ORIGINS
from seqattn_fairseq.ops.muse import merge_taps, multiscale_convolution, taps_before
from seqattn_fairseq.parity.golden import Golden
from seqattn_fairseq.parity.modules import build_converted
from seqattn_fairseq.transformer.attention import AttentionLog
from seqattn_fairseq.transformer.cache import Memory
from seqattn_fairseq.transformer.layers import LayerPlace
from seqattn_fairseq.transformer.registry import get_variant, make_config
from seqattn_fairseq.variants.muse_layers import BranchSum, MultiScaleConvolution
from tests.support.goldens import GOLDENS
from tests.support.models import batch, place, shifted, small_model

SOURCE, TARGET = [7, 5, 1, 3], [6, 3, 5, 1]
VARIANTS = ("muse_simple", "muse")


def layer_of(variant: str, side: str, **options: Any) -> Any:
    sizes = {"embed_dim": 8, "ffn_embed_dim": 6, "attention_heads": 2}
    small = {f"{s}_{k}": v for s in ("encoder", "decoder") for k, v in sizes.items()}
    cfg = make_config(variant, **{**small, "dropout": 0.0, **options})
    layer = getattr(get_variant(variant), f"{side}_layer")(cfg, place())
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer.double().eval()


class TestConvolutions:
    @pytest.mark.parametrize(
        ("sizes", "causal", "expected"),
        [
            # uniform taps: each output is the mean of a window, zeros outside included
            ((3,), False, [1.0, 2.0, 3.0, 7 / 3]),
            ((4,), False, [1.5, 2.5, 2.25, 1.75]),  # one back, two ahead
            ((3,), True, [1 / 3, 1.0, 2.0, 3.0]),
            ((2,), True, [0.5, 1.5, 2.5, 3.5]),
            ((1, 3), False, [1.0, 2.0, 3.0, 19 / 6]),  # half 1 2 3 4, half 1 2 3 7/3
            ((1, 3), True, [2 / 3, 1.5, 2.5, 3.5]),
        ],
    )
    def test_by_hand(self, sizes: tuple[int, ...], causal: bool, expected: list[float]) -> None:
        module = MultiScaleConvolution(1, 1, sizes, causal)
        torch.nn.init.zeros_(module.tap_proj.weight)
        out = module(torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1), None)
        torch.testing.assert_close(out.flatten(), torch.tensor(expected))

    @pytest.mark.parametrize("causal", [False, True], ids=["same", "causal"])
    @pytest.mark.parametrize("sizes", [(3, 15), (1, 4, 2), (6, 5)], ids=str)
    def test_merged_kernels_are_the_gated_sum(self, sizes: tuple[int, ...], causal: bool) -> None:
        x = torch.randn(2, 9, 6, dtype=torch.double)
        taps = [torch.rand(2, 9, 3, size, dtype=torch.double) for size in sizes]
        lefts = [taps_before(size, causal) for size in sizes]
        gate = torch.randn(len(sizes), dtype=torch.double)
        merged = multiscale_convolution(x, taps, lefts, gate)
        apart = multiscale_convolution(x, taps, lefts, None).unflatten(2, (len(sizes), 6))
        torch.testing.assert_close(merged, torch.einsum("n,btnc->btc", gate.softmax(0), apart))

    def test_taps_are_aligned(self) -> None:
        taps = [torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 4)]
        merged, left = merge_taps(taps, [0, 1], torch.tensor([0.25, 0.75]))
        assert (merged.flatten().tolist(), left) == ([0.75, 1.0, 0.75, 0.75], 1)

    def test_heads_share_taps_and_values_predict_them(self) -> None:
        module = MultiScaleConvolution(4, 2, (3,), causal=True)
        x = torch.randn(1, 5, 4)
        taps = module.tap_proj(x).view(1, 5, 2, 3).softmax(-1)
        expected = torch.zeros(1, 5, 4)
        for t in range(5):
            for j in range(max(0, 2 - t), 3):
                expected[:, t] += taps[:, t, :, j].repeat_interleave(2, -1) * x[:, t + j - 2]
        torch.testing.assert_close(module(x, None), expected)

    @pytest.mark.parametrize("rate", [None, 0.0, 0.4], ids=str)
    def test_drop_connect(self, rate: float | None) -> None:
        convolution = layer_of("muse", "encoder", weight_dropout=rate).convolution.train()
        assert convolution.dropout_module.p == (0.1 if rate is None else rate)
        x = torch.randn(2, 30, 8, dtype=torch.double)
        same = torch.equal(convolution(x, None), convolution(x, None))
        assert same == (rate == 0.0)
        convolution.eval()
        assert torch.equal(convolution(x, None), convolution(x, None))


OPTIONS: dict[str, dict[str, Any]] = {
    "concatenated": {"muse_gate": False},
    "one kernel": {"muse_encoder_kernels": "[7]", "muse_decoder_kernels": "[2]"},
    "even": {"muse_encoder_kernels": "[4,2]", "muse_decoder_kernels": "[4,6,1]"},
    "encoder only": {"muse_decoder_kernels": "[]"},
    "by layer": {"muse_encoder_kernels": "[[3],[]]", "muse_decoder_kernels": "[[3,31],[1]]"},
    "pre-norm": {"encoder_normalize_before": True, "decoder_normalize_before": True},
    "other widths": {"encoder_embed_dim": 24},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_options_step_as_they_run_and_ignore_padding(options: dict[str, Any]) -> None:
    model = small_model("muse", **options).double()
    source, target = batch(SOURCE), shifted(TARGET)
    with torch.no_grad():
        memory = model.encoder.encode(source)
        full, _ = model.decoder.decode(target, memory)
        state = model.decoder.start(memory)
        stepped = torch.cat([model.decoder.step(t, state) for t in target.split(2, dim=1)], dim=1)
        alone, _ = model(source[3:, -3:], None, target[3:, :1])
    real = target.ne(1)
    torch.testing.assert_close(stepped[real], full[real], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(alone[0], model.decoder.output_layer(full[3, :1]))
    every = {name for name, _ in model.named_parameters()}
    model(source, None, target)[0].square().sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == every


def test_no_kernels_is_muse_simple() -> None:
    simple = small_model("muse_simple")
    muse = small_model("muse", muse_encoder_kernels="[]", muse_decoder_kernels="[]")
    muse.load_state_dict(simple.state_dict())
    source, target = batch(SOURCE), shifted(TARGET)
    assert torch.equal(muse(source, None, target)[0], simple(source, None, target)[0])


def attention_by_hand(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    """Two heads of four channels, the weights written out."""
    outputs = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = (q[..., head] / 2) @ k[..., head].transpose(1, 2)
        outputs.append(scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v[..., head])
    return torch.cat(outputs, -1)


@pytest.mark.parametrize("pre_norm", [True, False], ids=["pre", "post"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_decoder_layer_by_hand(variant: str, pre_norm: bool) -> None:
    """x + self-attention [and convolution] + cross-attention + feed-forward, all of one input."""
    layer = layer_of(variant, "decoder", decoder_normalize_before=pre_norm)
    x, memory = torch.randn(2, 2, 5, 8, dtype=torch.double).unbind(0)
    out, _ = layer(x, None, Memory(memory, None))
    u = layer.layer_norm(x) if pre_norm else x
    q, k, v, q2, hidden = F.linear(u, layer.in_proj.weight, layer.in_proj.bias).split(
        [8, 8, 8, 8, 6], dim=-1
    )
    k2, v2 = layer.memory_proj(memory).chunk(2, dim=-1)
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    parts = [attention_by_hand(q, k, v, future)]
    parts += [layer.convolution(v, None)] if variant == "muse" else []
    parts += [attention_by_hand(q2, k2, v2, torch.zeros_like(future)), hidden.relu()]
    y = x + torch.cat(parts, -1) @ layer.out_proj.weight.T + layer.out_proj.bias.sum(0)
    torch.testing.assert_close(out, y if pre_norm else layer.layer_norm(y))


class TestDropout:
    def test_every_branch_has_a_mask_of_its_own(self) -> None:
        layer = layer_of("muse_simple", "decoder", dropout=0.5).train()
        sum_of_three: BranchSum = layer.out_proj
        torch.nn.init.zeros_(sum_of_three.weight)
        sum_of_three.bias.data.copy_(torch.tensor([1.0, 10.0, 100.0]).view(3, 1).expand(3, 8))
        x = torch.randn(20, 9, 8, dtype=torch.double)
        cross = layer.memory_cache(Memory(x, None))
        found = {round(v) for v in layer.branches(x, None, cross).flatten().tolist()}
        assert found == {0, 2, 20, 22, 200, 202, 220, 222}
        assert set(layer.eval().branches(x, None, cross).flatten().tolist()) == {111.0}

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_input_dropout_is_for_self_attention_and_convolutions(self, variant: str) -> None:
        layer = layer_of(variant, "decoder", input_dropout=1.0)
        x = torch.randn(2, 4, 8, dtype=torch.double)
        *_, memory_q, hidden = layer.inputs(x)
        dropped = layer.train().inputs(x)
        bias = layer.in_proj.bias[:24].expand(2, 4, 24)
        torch.testing.assert_close(torch.cat(list(dropped[:3]), -1), bias)
        torch.testing.assert_close(dropped[3], memory_q)
        torch.testing.assert_close(dropped[4], hidden)


@pytest.mark.parametrize(
    "rate", ["dropout", "attention_dropout", "input_dropout", "weight_dropout"]
)
def test_dropout_can_be_kept_while_generating(rate: str) -> None:
    options: dict[str, Any] = {"dropout": 0.0, rate: 0.4}
    model = small_model("muse", **options)
    source, target = batch([9, 7]), shifted([8, 6])
    with torch.no_grad():
        first, again = (model(source, None, target)[0] for _ in range(2))
        assert torch.equal(first, again)
        model.make_generation_fast_(retain_dropout=True)
        assert not torch.equal(model(source, None, target)[0], first)


def test_convolutions_keep_no_state() -> None:
    layer = layer_of("muse", "decoder")
    memory = Memory(torch.randn(3, 4, 8, dtype=torch.double), None)
    cache, _ = layer.new_cache(memory)
    assert set(vars(cache)) == {"target", "cross"}


def test_cross_weights_of_beams() -> None:
    model = small_model("muse").double()
    sentence = torch.tensor([0, 0, 1, 1])
    with torch.no_grad():
        memory = model.encoder.encode(batch([7, 4]))
        tokens = shifted([3] * 4)
        state = model.decoder.start(memory, sentence)
        logs = [AttentionLog(), AttentionLog()]
        model.decoder.step(tokens, state, dict.fromkeys(range(2), logs[0]))
        model.decoder.decode(tokens, memory.select(sentence), dict.fromkeys(range(2), logs[1]))
    for site in ("decoder_self", "cross"):
        for ours, expected in zip(logs[0].weights[site], logs[1].weights[site], strict=True):
            torch.testing.assert_close(ours, expected)


class TestRelease:
    def test_start(self) -> None:
        """The bounds of its ``--init_method km``."""
        cfg = make_config("muse", "iwslt_de_en")
        layer: Any = get_variant("muse").decoder_layer(cfg, place())
        self_out, cross_out, ffn_out = layer.out_proj.weight.split([768, 384, 768], dim=1)
        for weight, bound in [
            (layer.in_proj.weight, 384**-0.5),
            (layer.memory_proj.weight, 384**-0.5),
            (self_out, (3 / 768) ** 0.5),
            (cross_out, (3 / 384) ** 0.5),
            (ffn_out, 768**-0.5),
            (layer.convolution.tap_proj.weight, 384**-0.5),
        ]:
            assert 0.98 * bound < weight.abs().max() <= bound
        for bias in (layer.in_proj.bias, layer.memory_proj.bias, layer.out_proj.bias):
            assert bias.eq(0).all()
        assert layer.convolution.gate.tolist() == [0.5, 0.5]

    def test_padding_leaks_only_if_asked(self) -> None:
        source, target = batch(SOURCE), shifted(TARGET)
        sound, official = small_model("muse"), small_model("muse", official=True)
        official.load_state_dict(sound.state_dict())
        leaky = small_model("muse", muse_padding_leaks=True, source_padding_visible=True)
        leaky.load_state_dict(sound.state_dict())
        with torch.no_grad():
            outputs = [m(source, None, target)[0][:, 0] for m in (sound, leaky, official)]
            alone = [m(source[:1], None, target[:1])[0][:, 0] for m in (sound, leaky)]
        torch.testing.assert_close(outputs[1], outputs[2])
        torch.testing.assert_close(alone[0], alone[1])  # the longest: nothing to leak
        assert (outputs[0][1:] - outputs[1][1:]).abs().max() > 1e-3

    @pytest.mark.parametrize(
        ("file", "variant", "kernels"),
        [
            ("model_muse_untied", "muse", "[3,15]"),
            ("model_simple", "muse_simple", None),
            ("model_bm_simple", "muse_simple", None),
        ],
    )
    def test_whole_models_import(self, file: str, variant: str, kernels: str | None) -> None:
        golden = Golden(GOLDENS / "muse" / f"{file}.npz")
        model = OfficialModel(golden.group("param"), golden.config)
        conversion = next(o for o in ORIGINS if o.recognises(model)).convert(model)
        assert conversion.variant == variant
        assert conversion.options.get("muse_encoder_kernels") == kernels
        assert conversion.options.get("muse_padding_leaks", True)
        norms = [name for name in conversion.dropped if "encoder_attn_layer_norm" in name]
        assert len(norms) == (0 if "bm" in file else 4)
        assert all("never uses it" in conversion.dropped[name] for name in norms)
        build_converted(conversion)

    def test_a_bare_state_needs_the_heads_alone(self) -> None:
        golden = Golden(GOLDENS / "muse" / "model_muse_untied.npz")
        state = golden.group("param")
        with pytest.raises(SeqAttnError, match="does not tell encoder_attention_heads"):
            ORIGINS[0].convert(OfficialModel(state))
        heads = {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
        options = ORIGINS[0].convert(OfficialModel(state, heads)).options
        assert options["muse_decoder_kernels"] == "[3,15]"
        assert options["decoder_ffn_embed_dim"] == 32
        assert not options["share_decoder_input_output_embed"]


@pytest.mark.parametrize(
    "text", ["3,x", "3", "[3,0]", "[[3],[15]]", '["3"]', "[[3],15]", "[3.0]", "[true]"]
)
def test_wrong_kernels_are_refused(text: str) -> None:
    cfg = make_config("muse", muse_decoder_kernels=text)
    with pytest.raises(SeqAttnError, match="--muse-decoder-kernels .* give one list, as .3,15."):
        get_variant("muse").decoder_layer(cfg, LayerPlace(0, 3, companion_read=False))


@pytest.mark.parametrize("name", ["input_dropout", "weight_dropout"])
def test_wrong_rates_are_refused(name: str) -> None:
    options: dict[str, Any] = {name: 1.5}
    with pytest.raises(SeqAttnError, match=f"--{name.replace('_', '-')} is 1.5, but must be from"):
        layer_of("muse", "encoder", **options)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_base_size_is_that_of_the_twin(variant: str) -> None:
    ours, twin = (
        count_all(build_empty(get_variant(v), "wmt_en_de", 32768, 32768, share_all_embeddings=True))
        for v in (variant, "softmax")
    )
    assert abs(ours / twin - 1) < 0.05, (ours, twin)


@pytest.mark.parametrize(
    ("variant", "size", "dropout", "attention", "inputs"),
    [
        *((v, "iwslt_de_en", 0.4, 0.0, 0.0) for v in VARIANTS),
        *((v, "iwslt_en_vi", 0.3, 0.0, 0.0) for v in VARIANTS),
        ("muse_simple", "wmt_en_de_big", 0.3, 0.0, 0.0),
        ("muse", "wmt_en_de_big", 0.3, 0.1, 0.1),
        *((v, "wmt_en_fr", 0.1, 0.1, 0.1) for v in VARIANTS),
    ],
)
def test_presets_drop_as_the_recipes_do(
    variant: str, size: str, dropout: float, attention: float, inputs: float
) -> None:
    cfg = make_config(variant, size)
    assert cfg.dropout == dropout
    assert cfg.attention_dropout == attention
    assert cfg.input_dropout == inputs
    assert cfg.activation_dropout == 0.0


def test_the_release_drops_taps_whatever_the_option_says() -> None:
    model = small_model("muse", official=True, weight_dropout=0.3)
    assert model.encoder.layers[0].convolution.dropout_module.p == 0.1
