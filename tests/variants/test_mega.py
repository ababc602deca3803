"""Mega: worked examples, chunks and padding, the released code's options, sizes, bad input."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.official.conversion import OfficialModel
from seqattn_fairseq.official.mega import ORIGINS
from seqattn_fairseq.ops.backend import backend
from seqattn_fairseq.ops.mega import gated_weights, laplace, relu2, rotary_distances, toeplitz
from seqattn_fairseq.transformer.attention import AttentionLog
from seqattn_fairseq.transformer.cache import Memory
from seqattn_fairseq.transformer.registry import get_variant, make_config
from seqattn_fairseq.variants.mega import MegaDecoderLayer, MegaEncoderLayer, mega_side
from seqattn_fairseq.variants.mega_modules import FeatureDropout, MovingAverage, SimpleBias
from seqattn_fairseq.variants.mega_units import GatedSelfAttention
from tests.support.models import PAD, batch, build, place, shifted, small_model

BOTH = ("encoder", "decoder")
ATTENTIONS = ["softmax", "laplace", "relu2"]
BIASES = ["simple", "rotary"]


def both(**options: Any) -> dict[str, Any]:
    return {f"{side}_{name}": value for side in BOTH for name, value in options.items()}


def spread(model: torch.nn.Module) -> Any:
    """Return the model in float64 with parameters large enough for everything to matter."""
    torch.manual_seed(8)
    model.double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "rel_pos_bias" in name or name.endswith(("_layer.gamma", "_layer.beta")):
                p.normal_()
    return model.eval()


def chunked(chunk: int, **options: Any) -> Any:
    return spread(small_model("mega_chunk", **both(chunk_size=chunk), **options))


class TestAttentionFunctions:
    def test_laplace_meets_relu2_at_its_value_and_slope(self) -> None:
        x = torch.tensor(math.sqrt(0.5), dtype=torch.double, requires_grad=True)
        torch.testing.assert_close(
            laplace(x), torch.tensor(0.5, dtype=torch.double), atol=1e-5, rtol=0
        )
        slopes = [torch.autograd.grad(f(x), x)[0] for f in (laplace, relu2)]
        torch.testing.assert_close(*slopes, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("attention", ATTENTIONS)
    def test_weights_by_hand(self, attention: str, causal: bool) -> None:
        q, k = torch.tensor([[[2.0], [1.0]]]), torch.tensor([[[1.0], [3.0], [5.0]]])
        bias = torch.tensor([[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]])
        mask = torch.tensor([[True, False, False]])
        weights = gated_weights(q, k, bias, mask, causal, attention)
        # two queries at the last two of three keys
        seen = [[1], [1, 2]] if causal else [[1, 2], [1, 2]]
        counts = [2, 3] if causal else [2, 2]
        products = [[2.0, 6.0, 10.0], [1.0, 3.0, 5.0]]
        for t, keys in enumerate(seen):
            divisor = 1 if attention == "softmax" else counts[t]
            scores = [products[t][s] / divisor + float(bias[t, s]) for s in keys]
            if attention == "softmax":
                row = torch.tensor(scores).softmax(-1)
            else:
                row = {"laplace": laplace, "relu2": relu2}[attention](torch.tensor(scores))
            expected = torch.zeros(3).index_put((torch.tensor(keys),), row)
            torch.testing.assert_close(weights[0, t], expected)

    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("attention", ATTENTIONS)
    def test_fast_form_equals_reference(self, attention: str, causal: bool) -> None:
        torch.manual_seed(1)
        q = torch.randn(3, 5, 4, dtype=torch.double, requires_grad=True)
        k = torch.randn(3, 8, 4, dtype=torch.double, requires_grad=True)
        bias = torch.randn(5, 8, dtype=torch.double, requires_grad=True)
        mask = torch.zeros(3, 8, dtype=torch.bool)
        mask[0], mask[1, :3], mask[2, 6:] = True, True, True
        upstream = torch.randn(3, 5, 8, dtype=torch.double)

        def run() -> tuple[Tensor, ...]:
            weights = gated_weights(q, k, bias, mask, causal, attention)
            return weights, *torch.autograd.grad((weights * upstream).sum(), (q, k, bias))

        fast = run()
        with backend("reference"):
            slow = run()
        for actual, expected in zip(fast, slow, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
        assert fast[0][0].eq(0).all()

    def test_rows_of_a_toeplitz_matrix_are_slices(self) -> None:
        vector = torch.arange(7.0)  # distances -3 .. 3
        for queries, keys, first in ((4, 4, 0), (1, 3, 3), (3, 6, 1), (2, 2, 9), (1, 12, 0)):
            matrix = toeplitz(vector, queries, keys, first, centre=3)
            for t in range(queries):
                for s in range(keys):
                    distance = s - first - t
                    expected = float(vector[distance + 3]) if abs(distance) <= 3 else 0.0
                    assert float(matrix[t, s]) == expected

    def test_rotary_bias_rotates_halves(self) -> None:
        torch.manual_seed(1)
        alpha, beta = torch.randn(2, 8, dtype=torch.double)

        def rotated(v: Tensor, t: int) -> Tensor:
            a, b = v.chunk(2)
            angle = t * 10000 ** (-torch.arange(4, dtype=torch.double) / 4)
            return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])

        line = rotary_distances(alpha, beta, -5, 5)
        for i in range(6):
            for j in range(6):
                expected = rotated(alpha, i) @ rotated(beta, j)
                torch.testing.assert_close(line[j - i + 5], expected)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("chunk", [1, 3, 4])
class TestChunks:
    def model(self, chunk: int, attention: str, bias: str) -> Any:
        return chunked(chunk, attention_activation_fn=attention, rel_pos_bias=bias)

    def test_padding_moves_no_border(self, chunk: int, attention: str, bias: str) -> None:
        model = self.model(chunk, attention, bias)
        lengths, target = [7, 5, 1, 4], shifted([6, 6, 3, 5])
        left_target = target.clone()
        left_target[2:] = torch.stack([target[2].roll(3), target[3].roll(1)])
        with torch.no_grad():
            expected, _ = model(batch(lengths, left=False), None, target)
            left, _ = model(batch(lengths, left=True), None, left_target)
            alone, _ = model(batch(lengths)[1:2, 2:], None, target[1:2])
        torch.testing.assert_close(left[left_target.ne(PAD)], expected[target.ne(PAD)])
        torch.testing.assert_close(alone[0], expected[1])

    @pytest.mark.parametrize("size", [1, 2, 5, 11])
    def test_steps_cross_borders(self, chunk: int, attention: str, bias: str, size: int) -> None:
        model = self.model(chunk, attention, bias)
        target = shifted([11, 11])
        with torch.no_grad():
            memory = model.encoder.encode(batch([7, 4]))
            full, _ = model.decoder.decode(target, memory)
            state = model.decoder.start(memory)
            steps = [model.decoder.step(part, state) for part in target.split(size, dim=1)]
        torch.testing.assert_close(torch.cat(steps, dim=1), full, rtol=1e-9, atol=1e-9)
        held = state.layers[0].target.present.length
        assert held == (11 - 1) % chunk + 1


def test_reference_and_fast_form_agree_in_chunks() -> None:
    model = chunked(3, attention_activation_fn="laplace", rel_pos_bias="rotary")
    source, target = batch([40, 33]), shifted([38, 35])
    fast, _ = model(source, None, target)
    with backend("reference"):
        slow, _ = model(source, None, target)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


def test_only_the_average_crosses_a_border() -> None:
    model = chunked(3)
    weights = model.attention_weights(batch([7, 5]), None, shifted([8, 8]))
    near = torch.arange(8) // 3
    inside = near[:, None] == near
    for layer in weights["decoder_self"]:
        assert layer.shape == (2, 1, 8, 8)
        assert layer[:, 0][:, ~inside].eq(0).all()
        torch.testing.assert_close(layer.sum(-1), torch.ones(2, 1, 8, dtype=torch.double))
    start = 2  # the second sentence has two pads in front
    left = weights["encoder_self"][0][1, 0]
    assert left[start + 3, start : start + 3].eq(0).all() and left[start, start + 2] > 0


@pytest.mark.parametrize("variant", ["mega", "mega_chunk"])
def test_logged_weights_of_steps_are_rows_of_the_whole(variant: str) -> None:
    model = spread(small_model(variant, **both(chunk_size=3 if variant == "mega_chunk" else -1)))
    source, target = batch([7, 4]), shifted([8, 8])
    whole = model.attention_weights(source, None, target)
    assert whole["cross"][1][1, 0][:, :3].eq(0).all()  # three pads in front
    with torch.no_grad():
        memory = model.encoder.encode(source)
        state = model.decoder.start(memory)
        seen = 0
        for part in target.split([1, 4, 3], dim=1):
            log = AttentionLog()
            model.decoder.step(part, state, {1: log})
            rows = slice(seen, seen + part.size(1))
            seen = rows.stop
            torch.testing.assert_close(log.weights["cross"][0], whole["cross"][1][:, :, rows])
            mine = whole["decoder_self"][1][:, :, rows, :seen]
            torch.testing.assert_close(log.weights["decoder_self"][0], mine)


class TestReleasedBehaviour:
    def outputs(self, model: Any) -> tuple[Tensor, Tensor]:
        """Return the logits of a sentence alone and beside a longer one."""
        source, target = batch([9, 5]), shifted([6, 6])
        with torch.no_grad():
            together, _ = model(source, None, target)
            alone, _ = model(source[1:, 4:], None, target[1:])
        return alone[0], together[1]

    @pytest.mark.parametrize("option", ["mega_bias_by_column", "mega_chunk_by_column"])
    def test_columns_make_a_sentence_depend_on_its_batch(self, option: str) -> None:
        right = chunked(3)
        torch.testing.assert_close(*self.outputs(right), rtol=1e-9, atol=1e-9)
        wrong = chunked(3, **{option: True})
        wrong.load_state_dict(right.state_dict())
        alone, together = self.outputs(wrong)
        torch.testing.assert_close(alone, self.outputs(right)[0])
        assert (alone - together).abs().max() > 1e-4

    def test_official_sets_them_all(self) -> None:
        model = small_model("mega_chunk", official=True, feature_dropout=True)
        unit = model.encoder.layers[0].mega_layer
        assert model.cfg.mega_bias_by_column and not unit.aligns
        assert unit.hidden_dropout.whole and not unit.dropout.whole
        assert not model.decoder.layers[0].cross_attn.aligns

    def test_feature_dropout_keeps_or_drops_channels(self) -> None:
        x = torch.ones(50, 4, 7, 8)
        dropout = FeatureDropout(0.5, "X")
        y = dropout(x)
        assert (y == y[:, :1, :1]).all() and not (y == y[..., :1]).all()
        whole = FeatureDropout(0.5, "X", whole=True)(x)
        assert (whole == whole[..., :1, :1]).all() and not (whole == whole[:, :1]).all()
        assert set(whole.unique().tolist()) == {0.0, 2.0}
        assert dropout.eval()(x) is x
        dropout.make_generation_fast_("", retain_dropout=True)
        assert not torch.equal(dropout(x), x)

    def test_weights_changed_in_place_count_at_once(self) -> None:
        model = small_model("mega")
        source, target = batch([7]), shifted([6])
        before, _ = model(source, None, target)
        copy.deepcopy(model)
        with torch.no_grad():
            model.decoder.layers[0].mega_layer.move.delta += 3
        assert not torch.equal(model(source, None, target)[0], before)


class TestLengths:
    def test_truncation_zero_and_none_are_no_truncation(self) -> None:
        source, target = batch([9, 5]), shifted([8, 8])
        outputs = [
            small_model("mega", truncation_length=n)(source, None, target)[0]
            for n in (None, 0, 1024, 2)
        ]
        assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
        assert not torch.equal(outputs[0], outputs[3])

    def model(self, variant: str = "mega", **options: Any) -> Any:
        return small_model(variant, max_source_positions=6, max_target_positions=5, **options)

    @pytest.mark.parametrize(
        ("source", "target", "name"),
        [([7], [3], "a sequence of 7 tokens exceeds the 6"), ([3], [6], "6 tokens exceeds the 5")],
    )
    def test_too_long_for_the_simple_bias(self, source: Any, target: Any, name: str) -> None:
        with pytest.raises(SeqAttnError, match=f"{name} positions.*--max-source-positions"):
            self.model()(batch(source), None, shifted(target))
        longer = self.model(rel_pos_bias="rotary")
        assert longer(batch(source), None, shifted(target))[0].isfinite().all()

    def test_steps_too_many_for_the_simple_bias(self) -> None:
        decoder = self.model().decoder
        state = decoder.start(self.model().encoder.encode(batch([4])))
        decoder.step(shifted([5]), state)
        with pytest.raises(SeqAttnError, match="6 tokens exceeds the 5 positions"):
            decoder.step(shifted([1]), state)

    @pytest.mark.parametrize("sides", [(4, 0), (0, 4), (2, 2)])
    @pytest.mark.parametrize("variant", ["mega", "mega_chunk"])
    def test_padding_takes_no_positions(self, variant: str, sides: tuple[int, int]) -> None:
        model = spread(self.model(variant, **both(chunk_size=4 if variant != "mega" else -1)))
        source, target = batch([6]), shifted([5])
        padded = torch.nn.functional.pad(source, sides, value=PAD)
        with torch.no_grad():
            expected, _ = model(source, None, target)
            torch.testing.assert_close(model(padded, None, target)[0], expected)


class TestSizes:
    def layers(self, size: str) -> tuple[MegaEncoderLayer, MegaDecoderLayer]:
        cfg = make_config("mega", size)
        with torch.device("meta"):
            encoder = MegaEncoderLayer(cfg, mega_side(cfg, "encoder"))
            return encoder, MegaDecoderLayer(cfg, mega_side(cfg, "decoder"))

    def test_base_layers_have_the_measured_sizes(self) -> None:
        def size(module: torch.nn.Module) -> int:
            return sum(p.numel() for p in module.parameters())

        encoder, decoder = self.layers("wmt_en_de")
        assert (size(encoder), size(decoder)) == (3_287_167, 4_439_422)
        assert (size(encoder.mega_layer.move), size(decoder.mega_layer.move)) == (66_048, 33_280)
        assert size(decoder.mega_layer) == 2_203_263
        assert size(decoder.cross_attn) == 1_185_023
        assert decoder.nffn is not None and size(decoder.nffn) == 1_051_136

    def test_no_feed_forward(self) -> None:
        model = small_model("mega", **both(ffn_embed_dim=0))
        assert model.encoder.layers[0].nffn is None and model.decoder.layers[0].nffn is None
        assert model(batch([5, 3]), None, shifted([4, 4]))[0].isfinite().all()
        with pytest.raises(
            SeqAttnError, match="--encoder-ffn-embed-dim is 0, but must be at least"
        ):
            small_model("softmax", **both(ffn_embed_dim=0))

    def test_the_decoder_follows_the_encoder(self) -> None:
        cfg = make_config("mega", encoder_z_dim=6, decoder_z_dim=None, decoder_hidden_dim=8)
        side = mega_side(cfg, "decoder")
        assert (side.z_dim, side.hidden_dim, side.chunk_size) == (6, 8, -1)


def test_initialisation_is_the_releases() -> None:
    torch.manual_seed(1)
    average = MovingAverage(64, 16, bidirectional=True, truncation=0)
    for name, deviation in (("delta", 0.2), ("alpha", 0.2), ("gamma", 1.0)):
        assert getattr(average, name).std().item() == pytest.approx(deviation, rel=0.1)
    assert average.beta[:, ::2].mean().item() == pytest.approx(1, abs=0.01)
    assert average.beta[:, 1::2].mean().item() == pytest.approx(-1, abs=0.01)
    assert SimpleBias(500).rel_pos_bias.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(("width", "deviation"), [(1024, 0.02), (512, 0.02), (128, 0.04)])
def test_narrow_models_begin_with_larger_projections(width: int, deviation: float) -> None:
    cfg = make_config("mega", **both(embed_dim=width, ffn_embed_dim=32), encoder_hidden_dim=32)
    projection = GatedSelfAttention(cfg, mega_side(cfg, "encoder")).mx_proj
    assert projection.weight.std().item() == pytest.approx(deviation, rel=0.05)
    assert projection.bias.eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_extreme_averages_in_low_precision_give_no_nan(dtype: torch.dtype) -> None:
    model = small_model("mega")
    for layer in model.decoder.layers:
        torch.nn.init.constant_(layer.mega_layer.move.delta, 12.0)
        torch.nn.init.constant_(layer.mega_layer.move.alpha, 12.0)
    assert model.to(dtype)(batch([7, 3]), None, shifted([6, 6]))[0].isfinite().all()


def test_widths_of_encoder_and_decoder_may_differ() -> None:
    model = small_model("mega", decoder_embed_dim=20, decoder_z_dim=6, decoder_n_dim=3)
    assert model(batch([5, 3]), None, shifted([4, 4]))[0].isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_z_dim": 0}, "--encoder-z-dim is 0, but must be at least 1"),
        ({"decoder_hidden_dim": -1}, "--decoder-hidden-dim is -1"),
        ({"encoder_chunk_size": 0}, "--encoder-chunk-size is 0.*-1 for no chunks"),
        ({"rel_pos_bias": "rotary", "encoder_z_dim": 7}, "needs an even --encoder-z-dim, not 7"),
        (
            {"layernorm_embedding": True, "encoder_normalize_before": True},
            "--layernorm-embedding excludes --encoder-normalize-before",
        ),
        ({"truncation_length": -2}, "--truncation-length is -2"),
        ({"hidden_dropout": 1.5}, "--hidden-dropout is 1.5, but must be from 0 to 1"),
        ({"mega_init_std": -1.0}, "--mega-init-std is -1.0"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SeqAttnError, match=message):
        small_model("mega", **options)


def test_mega_chunk_needs_chunks() -> None:
    with pytest.raises(SeqAttnError, match=r"--decoder-chunk-size is -1.*the variant mega"):
        small_model("mega_chunk", decoder_chunk_size=-1)
    assert mega_side(make_config("mega"), "encoder", 32).chunk_size == 32


class TestConversion:
    def official(self, **options: Any) -> OfficialModel:
        """Return what the release would have saved of one of our models."""
        names = {
            ".layer_norm.": ".final_norm.norm.",
            ".layernorm_embedding.": ".embed_norm.norm.",
            ".norm.": ".norm.norm.",
        }
        state = {}
        for name, tensor in small_model("mega", **options).state_dict().items():
            ours = next((part for part in names if part in name), "")
            state[name.replace(ours, names[ours]) if ours else name] = tensor
        return OfficialModel({**state, "encoder.version": torch.tensor([3.0])}, {})

    @pytest.mark.parametrize(
        "options",
        [
            {"norm_type": "rmsnorm", **both(normalize_before=True)},
            {"norm_type": "scalenorm", "layernorm_embedding": True},
            {"rel_pos_bias": "rotary", **both(ffn_embed_dim=0)},
            {"max_source_positions": 50, "max_target_positions": 40, "decoder_z_dim": 6},
        ],
        ids=str,
    )
    def test_options_are_read_off_the_shapes(self, options: dict[str, Any]) -> None:
        model = self.official(**options)
        assert ORIGINS[0].recognises(model)
        conversion = ORIGINS[0].convert(model)
        assert conversion.variant == "mega"
        assert conversion.dropped == {"encoder.version": "a version number"}
        assert conversion.options["truncation_length"] == 1024
        for name, value in options.items():
            assert conversion.options[name] == value
        build("mega", make_config("mega", **conversion.options)).load_state_dict(conversion.state)

    def test_arguments_and_strangers(self) -> None:
        model = self.official(**both(chunk_size=4))
        told = OfficialModel(model.state, {"encoder_chunk_size": 4, "activation_fn": "gelu"})
        conversion = ORIGINS[0].convert(told)
        assert conversion.variant == "mega_chunk"
        assert conversion.options["decoder_chunk_size"] == 4
        assert conversion.options["mega_activation_fn"] == "gelu"
        stranger = {
            **model.state,
            "encoder.layers.0.mega_layer.norm.norm.running_mean": torch.ones(1),
        }
        with pytest.raises(SeqAttnError, match="batch normalisation"):
            ORIGINS[0].convert(OfficialModel(stranger, {}))
        assert not ORIGINS[0].recognises(OfficialModel(small_model("softmax").state_dict(), {}))


def test_all_padded_sources_meet_no_key() -> None:
    cfg = make_config("mega", **both(embed_dim=8, ffn_embed_dim=8, attention_heads=1))
    layer = get_variant("mega").decoder_layer(cfg, place())
    memory = Memory(torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool))
    log = AttentionLog()
    out, _ = layer(torch.randn(1, 2, 8), None, memory, log)
    assert out.isfinite().all() and log.weights["cross"][0].eq(0).all()
