"""ReLA against tensors of the released TensorFlow code, and its definition's corner cases."""

from __future__ import annotations

import pytest
import torch
from fairseq.data import Dictionary
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops.rela import rela_weights, rms_norm
from seqattn_fairseq.transformer.attention import AttentionLog, Site
from seqattn_fairseq.transformer.cache import KeyValueCache, Memory
from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.transformer.registry import get_variant, make_config
from seqattn_fairseq.variants.rela import RelaAttention
from seqattn_fairseq.variants.softmax import SoftmaxAttention
from tests.support.goldens import GOLDENS, Golden, assert_gradients, assert_output
from tests.support.models import build, place

FILES = sorted((GOLDENS / "rela_sparse").glob("rela_*.npz"))
MODULES = [f for f in FILES if "model" not in f.stem]
STEPPED = [f for f in MODULES if "output/incremental" in Golden(f)]
SITES = {"enc_self": Site.ENCODER_SELF, "dec_self": Site.DECODER_SELF, "cross": Site.CROSS}


def split_maps(params: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Rename one attention's official parameters (or gradients) and transpose its matrices."""
    out = {}
    if f"{prefix}qkv_map/W_0_0" in params:
        weights = params[f"{prefix}qkv_map/W_0_0"].chunk(3, dim=1)
        biases = params[f"{prefix}qkv_map/b_0"].chunk(3)
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            out[f"{name}_proj.weight"], out[f"{name}_proj.bias"] = weight.T, bias
    else:
        for name in "qkv":
            out[f"{name}_proj.weight"] = params[f"{prefix}{name}_map/W_0_0"].T
            out[f"{name}_proj.bias"] = params[f"{prefix}{name}_map/b_0"]
    out["out_proj.weight"] = params[f"{prefix}o_map/W_0_0"].T
    out["out_proj.bias"] = params[f"{prefix}o_map/b_0"]
    out["attn_norm.weight"] = params[f"{prefix}post/scale"]
    if f"{prefix}post/gate" in params:
        out["attn_norm.gate"] = params[f"{prefix}post/gate"]
    return {name: tensor.contiguous() for name, tensor in out.items()}


def layer_maps(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters (or gradients) of the official model's layers."""
    out: dict[str, Tensor] = {}
    attentions = {"self_attention": "self_attn", "cross_attention": "encoder_attn"}
    for key, tensor in params.items():
        if not key.startswith(("encoder/", "decoder/")):
            continue
        side, layer, block, *rest = key.split("/")
        ours = f"{side}.layers.{layer.removeprefix('layer_')}"
        if rest[0] == "layer_norm":
            norm = f"{attentions[block]}_layer_norm" if block in attentions else "final_layer_norm"
            leaf = {"scale": "weight", "offset": "bias"}[rest[1]]
            out[f"{ours}.{norm}.{leaf}"] = tensor
        elif rest[0] == "ffn_layer":
            fc = {"enlarge": "fc1", "output": "fc2"}[rest[1]]
            weight = rest[2] == "W_0_0"
            leaf = "weight" if weight else "bias"
            out[f"{ours}.{fc}.{leaf}"] = tensor.T.contiguous() if weight else tensor
        elif rest[1] == "o_map" and rest[2] == "W_0_0":
            prefix = f"{side}/{layer}/{block}/dot_attention/"
            for name, part in split_maps(params, prefix).items():
                out[f"{ours}.{attentions[block]}.{name}"] = part
    return out


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def load_attention(golden: Golden) -> RelaAttention:
    meta = golden.meta
    module = RelaAttention(
        SITES[meta["kind"]],
        meta["embed_dim"],
        meta["heads"],
        gated=meta["variant"] == "ReLA-g",
    )
    module.load_state_dict(split_maps(golden.group("param")))
    return module


class TestOfficialModules:
    @pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
    def test_outputs_weights_and_gradients(self, path):
        golden = Golden(path)
        module = load_attention(golden)
        query = golden["input/query"].requires_grad_()
        memory = golden["input/memory"].requires_grad_() if "input/memory" in golden else query
        mask = golden["input/mask"].eq(0) if "input/mask" in golden else None
        log: AttentionLog = {}
        out = module(query, memory, mask, log)
        (out * golden["input/loss_weight"]).sum().backward()

        assert_output(out, golden["output/out"])
        assert_output(log[module.site.value][0], golden["output/weights"])
        assert query.grad is not None
        grads = gradients(module) | {"query": query.grad}
        expected = split_maps(golden.group("grad")) | {"query": golden["grad/query"]}
        if "grad/memory" in golden:
            assert memory.grad is not None
            grads["memory"], expected["memory"] = memory.grad, golden["grad/memory"]
        assert_gradients(grads, expected)

    @pytest.mark.parametrize("path", STEPPED, ids=lambda p: p.stem)
    def test_step_by_step(self, path):
        golden = Golden(path)
        module, query = load_attention(golden), golden["input/query"]
        if module.site is Site.CROSS:
            memory = Memory(golden["input/memory"], golden["input/mask"].eq(0))
            static = module.memory_cache(memory)
            steps = [module.step_cross(query[:, t : t + 1], static) for t in range(query.size(1))]
            key, value = static.key_BHSd, static.value_BHSd
            names = ("output/cache_mk", "output/cache_mv")
        else:
            cache = KeyValueCache()
            steps = [module.step_self(query[:, t : t + 1], cache) for t in range(query.size(1))]
            key, value = cache.append(*[torch.empty(query.size(0), module.num_heads, 0, 4)] * 2)
            names = ("output/cache_k", "output/cache_v")
        assert_output(torch.cat(steps, dim=1), golden["output/incremental"])
        for cached, name in zip((key, value), names, strict=True):
            assert_output(cached.transpose(1, 2).flatten(2), golden[name])


class OfficialDictionary(Dictionary):
    """The release's ids: padding 0, end of sentence 1."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.pad_index, self.eos_index = 0, 1
        for i in range(size - len(self)):
            self.add_symbol(f"w{i}")


@pytest.fixture(scope="module")
def official() -> tuple[Golden, SeqAttnModel]:
    golden = Golden(GOLDENS / "rela_sparse" / "rela_g_model_right.npz")
    config = golden.meta["config"]
    sizes = {"embed_dim": "C", "ffn_embed_dim": "FFN", "layers": "layers", "attention_heads": "H"}
    cfg = make_config(
        "rela_g",
        **{f"{s}_{k}": config[v] for s in ("encoder", "decoder") for k, v in sizes.items()},
        dropout=0.0,
        share_all_embeddings=True,
        layer_norm_eps=config["eps"],
        embedding_bias=True,
        position_start=0,
        position_by_column=True,
        zero_start=True,
        target_padding_visible=True,
    )
    model = build("rela_g", cfg, OfficialDictionary(config["vocab"]))
    params = golden.group("param")
    state = layer_maps(params)
    for side in ("encoder", "decoder"):
        state[f"{side}.embed_tokens.weight"] = params["embedding"]
        state[f"{side}.embed_bias"] = params["bias"]
    model.load_state_dict(state)
    return golden, model


def shifted(target: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(target[:, :1]), target[:, :-1]], dim=1)


class TestOfficialModel:
    def test_stack_inputs_and_encoder(self, official):
        golden, model = official
        source, real = golden["input/source"].long(), golden["input/src_mask"].bool()
        embedded = model.encoder.embed(source)
        assert_output(embedded[real], golden["output/enc_x0"][real])
        start = shifted(golden["input/target"].long())
        assert_output(model.decoder.embed(start), golden["output/dec_x0"])
        memory = model.encoder.encode(source)
        assert_output(memory.x_BSC[real], golden["output/encoder_out"][real])

    def test_logits_and_gradients(self, official):
        golden, model = official
        source, target = golden["input/source"].long(), golden["input/target"].long()
        model.zero_grad()
        logits, _ = model(source, None, shifted(target))
        assert_output(logits, golden["output/logits"])
        (logits * golden["input/loss_weight"]).sum().backward()

        expected = layer_maps(golden.group("grad"))
        actual = {n: g for n, g in gradients(model).items() if ".layers." in n}
        expected["embed_bias"] = golden["grad/bias"]
        actual["embed_bias"] = model.encoder.embed_bias.grad
        # fairseq never trains the padding row; the release does
        expected["embedding"] = golden["grad/embedding"][1:]
        actual["embedding"] = model.encoder.embed_tokens.weight.grad[1:]
        assert_gradients(actual, expected)

    def test_attention_weights(self, official):
        golden, model = official
        source, target = golden["input/source"].long(), golden["input/target"].long()
        weights = model.attention_weights(source, None, shifted(target))
        real = golden["input/src_mask"].bool()
        for layer in range(2):
            ours = weights["encoder_self"][layer].transpose(1, 2)[real]
            official_weights = golden[f"output/weights/encoder/layer_{layer}/self_attention"]
            assert_output(ours, official_weights.transpose(1, 2)[real])
            for site, name in (("decoder_self", "self_attention"), ("cross", "cross_attention")):
                expected = golden[f"output/weights/decoder/layer_{layer}/{name}"]
                assert_output(weights[site][layer], expected)

    def test_step_by_step_logits(self, official):
        golden, model = official
        source, target = golden["input/source"].long(), golden["input/target"].long()
        with torch.no_grad():
            state = model.decoder.start(model.encoder.encode(source))
            start = shifted(target)
            steps = [
                model.decoder.output_layer(model.decoder.step(start[:, t : t + 1], state))
                for t in range(start.size(1))
            ]
        real = golden["input/tgt_mask"].bool()
        assert_output(torch.cat(steps, 1)[real], golden["output/incremental_logits"][real])


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
