"""Wrong options are refused when the model is built, in one line that names the option."""

from __future__ import annotations

import pytest

from seqattn_fairseq.errors import SeqAttnError
from tests.support.models import build, small_config


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        (
            "softmax",
            {"decoder_attention_heads": 0},
            "--decoder-attention-heads is 0, but must be at least 1",
        ),
        (
            "mega",
            {"encoder_embed_dim": 0, "decoder_embed_dim": 0},
            "--encoder-embed-dim is 0, but must be at least 1",
        ),
        ("lightconv", {"decoder_attention_heads": 0}, "--decoder-attention-heads is 0"),
        ("mega", {"max_source_positions": 0}, "exceeds --max-source-positions 0"),
        ("rela_g", {"max_target_positions": -5}, "exceeds --max-target-positions -5"),
        ("luna", {"layer_norm_eps": -1}, "--layer-norm-eps is -1.0, but must be above 0"),
        (
            "topk",
            {"topk_least": 0, "topk": 0, "topk_divisor": 2},
            "--topk-least is 0, but must be at least 1",
        ),
        (
            "sparsemax",
            {"attention_sites": ""},
            "--attention-sites names none; choose from encoder_self",
        ),
        (
            "dynamicconv",
            {"encoder_kernel_size_list": "[3,9999]"},
            "9999 taps .--encoder-kernel-size-list. exceeds --max-source-positions 1024",
        ),
        (
            "muse",
            {"muse_encoder_kernels": "[3,9999]"},
            "9999 taps .--muse-encoder-kernels. exceeds --max-source-positions 1024",
        ),
        (
            "mega_chunk",
            {"encoder_chunk_size": 4, "max_source_positions": 2},
            "--encoder-chunk-size 4 exceeds --max-source-positions 2",
        ),
        ("mega", {"mega_init_std": float("nan")}, "--mega-init-std is nan"),
        (
            "lightconv",
            {"encoder_kernel_size_list": "²"},
            "--encoder-kernel-size-list ²: must be positive numbers",
        ),
        (
            "softmax",
            {"encoder_layers_to_keep": "²", "decoder_layers_to_keep": "0"},
            "--encoder-layers-to-keep ²: needs different layers",
        ),
        ("luna", {"projection_length": 0}, "--projection-length is 0, but must be at least 1"),
        (
            "mega",
            {"rel_pos_bias": "rotary", "encoder_z_dim": 7},
            "rotary needs an even --encoder-z-dim, not 7",
        ),
    ],
)
def test_a_wrong_option_is_one_line(variant, options, message):
    with pytest.raises(SeqAttnError, match=message) as error:
        build(variant, small_config(variant, **options))
    assert "\n" not in str(error.value)
