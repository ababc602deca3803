"""What LightConv and DynamicConv promise beyond the battery: options, quirks, presets, logs."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.parameters import build_empty
from seqattn_fairseq.official.conversion import Conversion, OfficialModel
from seqattn_fairseq.official.convolution import ORIGINS
from seqattn_fairseq.parity.golden import Golden
from seqattn_fairseq.parity.modules import build_converted
from seqattn_fairseq.transformer.attention import AttentionLog
from seqattn_fairseq.transformer.registry import get_variant, make_config
from seqattn_fairseq.variants.convolution import kernel_sizes
from seqattn_fairseq.variants.convolution_layers import (
    ConvolutionState,
    DynamicConvolution,
    LightweightConvolution,
    TapRules,
)
from tests.support.goldens import GOLDENS
from tests.support.models import EOS, PAD, batch, shifted, small_model

BOTH = ["lightconv", "dynamicconv"]


def stepped(model, memory, tokens, size=1):
    state = model.decoder.start(memory)
    chunks = tokens.split(size, dim=1)
    return torch.cat([model.decoder.step(chunk, state) for chunk in chunks], dim=1), state


class TestModules:
    def test_a_position_predicts_the_taps_of_each_head_in_order(self):
        conv = DynamicConvolution(2, num_heads=2, kernel_size=2, left=1, rules=TapRules())
        with torch.no_grad():
            # rows: head 0 tap 0, head 0 tap 1, head 1 tap 0, head 1 tap 1
            conv.weight_linear.weight.copy_(torch.tensor([[9.0, 0], [0, 0], [0, 0], [0, 9]]))
        out = conv(torch.tensor([[[1.0, 1.0], [2.0, 4.0]]]))
        # head 0 looks back one position, head 1 stays where it is
        expected = torch.tensor([[[0.0, 1.0], [1.0, 4.0]]])
        torch.testing.assert_close(out, expected, atol=1e-3, rtol=0)

    def test_initialisation_is_the_python_releases(self):
        light = LightweightConvolution(512, 16, 31, 15, TapRules()).weight
        assert 0.1 < light.abs().max() <= (6 / (31 + 16 * 31)) ** 0.5
        dynamic = DynamicConvolution(512, 16, 31, 15, TapRules()).weight_linear.weight
        assert 0.04 < dynamic.abs().max() <= 512**-0.5

    def test_connections_are_dropped_per_position_or_for_the_whole_batch(self):
        x = torch.ones(3, 8, 4)
        drawn = {}
        for shared in (False, True):
            rules = TapRules(dropout=0.5, shared_dropout=shared)
            drawn[shared] = LightweightConvolution(4, 2, 1, 0, rules)(x)[..., 0]
            assert set(drawn[shared].unique().tolist()) <= {0.0, 2.0}
        assert drawn[True].unique().numel() == 1
        assert drawn[False].unique().numel() == 2

    @pytest.mark.parametrize("module", [LightweightConvolution, DynamicConvolution])
    def test_renormalised_taps_sum_to_one_over_real_positions(self, module):
        conv = module(4, 2, 5, 2, TapRules(renormalise=True)).eval()
        mask = torch.tensor([[True, True, False, False, False, False]])
        x = torch.randn(1, 6, 4)
        taps, left = conv.taps(x, mask)
        weights = conv.weights(x, taps, left, mask)
        torch.testing.assert_close(weights.sum(-1)[:, :, 2:], torch.ones(1, 2, 4))
        torch.testing.assert_close(
            conv(x.masked_fill(mask[..., None], 0), mask)[:, 2:], conv(x[:, 2:])
        )

    def test_the_window_stays_at_the_taps_before_the_current(self):
        conv = DynamicConvolution(4, 2, 7, 6, TapRules()).eval()
        state = ConvolutionState()
        for n in (1, 2, 20):
            conv.step(torch.randn(3, n, 4), state)
            assert state.window_RmC is not None and state.window_RmC.shape == (3, 6, 4)
        assert state.length == 23


class TestOptions:
    @pytest.mark.parametrize("variant", BOTH)
    @pytest.mark.parametrize(
        "options",
        [
            {"encoder_kernel_size_list": "[2,4]", "decoder_kernel_size_list": [6]},
            {"renorm_padding": True, "decoder_kernel_size_list": "9"},
            {"weight_softmax": 0},
            {"encoder_glu": 1, "encoder_conv_dim": 8, "decoder_conv_dim": 32},
            {"encoder_normalize_before": True, "decoder_normalize_before": True},
        ],
        ids=",".join,
    )
    def test_steps_and_batches_change_nothing(self, variant, options):
        model = small_model(variant, **options).double()
        source, tokens = batch([7, 4]), shifted([12, 12])
        with torch.no_grad():
            memory = model.encoder.encode(source)
            full, _ = model.decoder.decode(tokens, memory)
            for size in (1, 5):
                out, _ = stepped(model, memory, tokens, size)
                torch.testing.assert_close(out, full, rtol=1e-9, atol=1e-9)
            alone, _ = model.decoder.decode(tokens[1:], model.encoder.encode(source[1:, 3:]))
        torch.testing.assert_close(alone, full[1:], rtol=1e-9, atol=1e-9)

    def test_training_as_on_fairseqs_main_branch(self):
        """The softmax over the last T of K taps: what is trained is not what is decoded."""
        options = {"decoder_kernel_size_list": 9, "conv_head_training": True}
        model = small_model("dynamicconv", **options).double()
        plain = small_model("dynamicconv", decoder_kernel_size_list=9).double()
        with torch.no_grad():
            memory = model.encoder.encode(batch([5]))
            for length, same in ((5, False), (9, True), (12, True)):
                tokens = shifted([length])
                full, _ = model.decoder.decode(tokens, memory)
                right, _ = plain.decoder.decode(tokens, memory)
                steps, _ = stepped(model, memory, tokens)
                torch.testing.assert_close(steps, right, rtol=1e-9, atol=1e-9)
                assert torch.allclose(full, right) == same

    def test_short_softmax_is_over_the_last_taps(self):
        conv = DynamicConvolution(4, 2, 9, 8, TapRules(short_softmax=True)).eval()
        x = torch.randn(2, 3, 4)
        taps, left = conv.taps(x)
        assert taps.shape == (2, 3, 2, 3) and left == 2
        torch.testing.assert_close(taps.sum(-1), torch.ones(2, 3, 2))

    @pytest.mark.parametrize("variant", BOTH)
    def test_official_decoders_see_padding_on_the_left(self, variant):
        right, left = shifted([6, 3]), shifted([6, 3])
        left[1] = right[1].roll(3)
        for official in (False, True):
            model = small_model(variant, official=official)
            with torch.no_grad():
                source = batch([5, 4])
                expected, _ = model(source, None, right)
                actual, _ = model(source, None, left)
            torch.testing.assert_close(actual[0], expected[0])
            assert torch.allclose(actual[1, 3:], expected[1, :3], atol=1e-5) != official

    @pytest.mark.parametrize("variant", BOTH)
    @pytest.mark.parametrize("name", ["input_dropout", "weight_dropout", "attention_dropout"])
    def test_dropouts_of_the_convolution(self, variant, name):
        """Taps are dropped like attention weights unless told otherwise."""
        options: dict[str, Any] = {"dropout": 0.0, "weight_dropout": None, name: 0.5}
        model = small_model(variant, **options)
        source = batch([7])

        def encoded():
            return model.encoder.encode(source).x_BSC

        assert torch.equal(encoded(), encoded())
        model.train()
        assert not torch.equal(encoded(), encoded())

    def test_dropout_can_be_retained_in_generation(self):
        model = small_model("lightconv", weight_dropout=0.5)
        model.make_generation_fast_(
            retain_dropout=True, retain_dropout_modules=["LightweightConvolution"]
        )
        source = batch([7])
        first = model.encoder.encode(source).x_BSC
        assert not torch.equal(first, model.encoder.encode(source).x_BSC)

    @pytest.mark.parametrize(
        ("value", "layers", "expected"),
        [
            (None, 6, [3, 7, 15, 31, 31, 31]),
            (None, 2, [3, 7]),
            ("[3,7]", 2, [3, 7]),
            ("3, 8", 2, [3, 8]),
            ([5, 5, 9], 3, [5, 5, 9]),
            (5, 3, [5, 5, 5]),
            ("[31]", 2, [31, 31]),
        ],
    )
    def test_kernel_sizes(self, value, layers, expected):
        assert kernel_sizes(value, layers, "--encoder-kernel-size-list") == expected

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"encoder_kernel_size_list": "[3,7,15]"},
                r"--encoder-kernel-size-list .*: 3 numbers for 2 layers; give 1 or 2",
            ),
            ({"decoder_kernel_size_list": "3;7"}, "--decoder-kernel-size-list 3;7: must be pos"),
            ({"decoder_kernel_size_list": "0"}, "--decoder-kernel-size-list 0: must be positive"),
            ({"decoder_conv_dim": 18}, "--decoder-conv-dim 18 must be a multiple of --decoder-att"),
            ({"encoder_glu": 2}, "--encoder-glu is 2, but must be 0 or 1"),
            ({"weight_softmax": -1}, "--weight-softmax is -1, but must be 0 or 1"),
            ({"weight_dropout": 1.5}, "--weight-dropout is 1.5, but must be from 0 to 1"),
            ({"input_dropout": -0.1}, "--input-dropout is -0.1, but must be from 0 to 1"),
            (
                {"renorm_padding": True, "weight_softmax": 0},
                "--renorm-padding needs --weight-softmax 1",
            ),
        ],
    )
    def test_bad_options_are_one_line(self, options, message):
        with pytest.raises(SeqAttnError, match=message) as error:
            small_model("lightconv", **options)
        assert "\n" not in str(error.value)


class TestPresets:
    @pytest.mark.parametrize(
        ("size", "layers", "glu", "dropouts"),
        [
            ("iwslt_de_en", (7, 6), 0, (0.1, 0.1, 0.0)),
            ("wmt_en_de", (7, 6), 1, (0.1, 0.0, 0.1)),
            ("wmt_en_de_big", (7, 6), 1, (0.3, 0.1, 0.1)),
            ("wmt_en_fr", (7, 6), 1, (0.1, 0.1, 0.1)),
        ],
    )
    def test_presets_are_the_official_architectures(self, size, layers, glu, dropouts):
        cfg = make_config("dynamicconv", size)
        assert (cfg.encoder_layers, cfg.decoder_layers) == layers
        assert cfg.encoder_glu == cfg.decoder_glu == glu
        assert (cfg.dropout, cfg.attention_dropout, cfg.input_dropout) == dropouts
        assert cfg.weight_dropout is None
        model = build_empty(get_variant("dynamicconv"), size)
        sizes = [[layer.self_conv.conv.kernel_size for layer in s.layers] for s in model.children()]
        assert sizes == [[3, 7, 15, 31, 31, 31, 31], [3, 7, 15, 31, 31, 31]]


@pytest.mark.parametrize("variant", BOTH)
class TestLog:
    def test_self_sites_log_their_bands(self, variant):
        model = small_model(variant, encoder_kernel_size_list="3", decoder_kernel_size_list="9")
        source = torch.tensor([[4, 5, 6, 7, EOS], [PAD, PAD, 8, 9, EOS]])
        weights = model.attention_weights(source, None, shifted([6, 4]))
        (encoder, _), (decoder, _) = weights["encoder_self"], weights["decoder_self"]
        assert encoder.shape == (2, 4, 5, 5) and decoder.shape == (2, 4, 6, 6)
        assert weights["cross"][0].shape == (2, 4, 6, 5)
        distance = (torch.arange(5)[:, None] - torch.arange(5)[None]).abs()
        assert encoder[..., distance > 1].eq(0).all()
        torch.testing.assert_close(encoder[0, :, 1:4].sum(-1), torch.ones(4, 3))
        assert encoder[1, ..., :2].eq(0).all()  # padding
        assert decoder[..., torch.ones(6, 6).triu(1).bool()].eq(0).all()
        assert (decoder[0, :, 0].sum(-1) < 1).all()  # taps before the sentence

    def test_steps_log_the_same(self, variant):
        model = small_model(variant, decoder_kernel_size_list=3)
        tokens, source = shifted([8]), batch([5])
        whole = model.attention_weights(source, None, tokens)["decoder_self"][0]
        with torch.no_grad():
            state = model.decoder.start(model.encoder.encode(source))
            end = 0
            for size in (1, 1, 4, 2):
                log = AttentionLog()
                model.decoder.step(tokens[:, end : end + size], state, {0: log})
                rows = whole[:, :, end : end + size, : end + size]
                torch.testing.assert_close(log.weights["decoder_self"][0], rows)
                end += size


def official(name: str) -> OfficialModel:
    golden = Golden(GOLDENS / "lightconv_dynamicconv" / f"model_{name}.npz")
    return OfficialModel(golden.group("param"), golden.config)


def converted(model: OfficialModel) -> tuple[str, Conversion]:
    """Return the name of the only code that recognises a model, and the model in our terms."""
    (origin,) = [origin for origin in ORIGINS if origin.recognises(model)]
    return origin.name, origin.convert(model)


def assert_same(actual: Conversion, expected: Conversion) -> None:
    assert actual.state.keys() == expected.state.keys()
    assert all(torch.equal(actual.state[n], tensor) for n, tensor in expected.state.items())


def renamed(state: dict[str, Tensor], *pairs: tuple[str, str]) -> dict[str, Tensor]:
    for pattern, name in pairs:
        state = {re.sub(pattern, name, key): tensor for key, tensor in state.items()}
    return state


AS_ON_MAIN = (
    (r"layer_norms\.0", "layer_norm1"),
    (r"layer_norms\.1", "layer_norm2"),
    (r"decoder\.embed_out$", "decoder.output_projection.weight"),
)


class TestImport:
    """Every age of official checkpoint; their tensors are compared by the parity files."""

    released = "dynamicconv_noglu_untied_v0122_state_dict"

    def test_a_release(self):
        name, conversion = converted(official(self.released))
        assert "0.12.2" in name and conversion.variant == "dynamicconv"
        options = conversion.options
        assert options["encoder_kernel_size_list"] == [3, 7]
        assert (options["encoder_glu"], options["decoder_glu"]) == (0, 0)
        assert not options["conv_head_training"] and options["target_padding_visible"]
        assert set(conversion.dropped.values()) == {"a version number", "an empty buffer"}
        build_converted(conversion)

    def test_fairseqs_main_branch(self):
        model = official(self.released)
        state = renamed(dict(model.state), *AS_ON_MAIN)
        for side in ("encoder", "decoder"):
            for index in range(2):
                bias = torch.full((1, 1, 16), float("nan"))  # what happened to be in memory
                state[f"{side}.layers.{index}.conv.conv_bias"] = bias
        name, conversion = converted(OfficialModel(state, model.options))
        assert "main branch" in name and conversion.options["conv_head_training"]
        assert_same(conversion, converted(model)[1])
        why = conversion.dropped["decoder.layers.1.conv.conv_bias"]
        assert "never initialised" in why

    def test_attention_of_2019(self):
        model = official(self.released)
        state = dict(model.state)
        for index in range(2):
            attention = f"decoder.layers.{index}.encoder_attn"
            for leaf in ("weight", "bias"):
                parts = [state.pop(f"{attention}.{p}_proj.{leaf}") for p in "qkv"]
                state[f"{attention}.in_proj_{leaf}"] = torch.cat(parts)
        assert_same(converted(OfficialModel(state, model.options))[1], converted(model)[1])

    def test_tied_release_without_an_output_matrix(self):
        model = official(self.released)
        state = {k: v for k, v in model.state.items() if k != "decoder.embed_out"}
        for options in (
            {**model.options, "share_decoder_input_output_embed": True},
            _untold(model),
        ):
            conversion = converted(OfficialModel(state, options))[1]
            tied = conversion.state["decoder.output_projection.weight"]
            assert tied is conversion.state["decoder.embed_tokens.weight"]
            build_converted(conversion)

    def test_weights_of_the_cuda_layer(self):
        model = official("lightconv_glu_shared_postnorm")
        light = {k: v.squeeze(1) for k, v in model.state.items() if k.endswith("conv.weight")}
        flat = OfficialModel({**model.state, **light}, model.options)
        _, conversion = converted(flat)
        assert conversion.variant == "lightconv" and conversion.options["conv_shared_dropconnect"]
        assert_same(conversion, converted(model)[1])
        assert not converted(model)[1].options["conv_shared_dropconnect"]

    def test_two_types_are_a_hybrid(self):
        model, light = official(self.released), torch.rand(4, 1, 5)
        predicted = r"encoder\.layers\.\d\.conv\.weight_linear"
        state = {k: v for k, v in model.state.items() if not re.match(predicted, k)}
        state |= {f"encoder.layers.{index}.conv.weight": light for index in range(2)}
        _, conversion = converted(OfficialModel(state, model.options))
        assert conversion.variant == "hybrid"
        assert conversion.options["encoder_variant"] == "lightconv"
        assert conversion.options["decoder_variant"] == "dynamicconv"
        assert conversion.options["encoder_kernel_size_list"] == [5, 5]
        build_converted(conversion)

    def test_a_dynamic_model_needs_its_number_of_heads(self):
        model = official(self.released)
        options = {k: v for k, v in model.options.items() if "heads" not in k}
        with pytest.raises(SeqAttnError, match="does not tell encoder_attention_heads"):
            converted(OfficialModel(model.state, options))

    def test_nothing_is_overlooked(self):
        model = official(self.released)
        state = {**model.state, "decoder.project_out_dim.weight": torch.zeros(3, 3)}
        with pytest.raises(SeqAttnError, match="without a place here: decoder.project_out_dim"):
            converted(OfficialModel(state, model.options))


def _untold(model: OfficialModel) -> dict[str, Any]:
    return {k: v for k, v in model.options.items() if not k.startswith("share_")}
