"""Top-k, sparsemax and 1.5-entmax against tensors of their official codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.ops.sparse import entmax15, sparsemax, topk_softmax
from seqattn_fairseq.transformer.attention import AttentionLog, Site
from seqattn_fairseq.transformer.cache import KeyValueCache, Memory
from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.transformer.registry import get_variant, make_config
from seqattn_fairseq.variants.softmax import SoftmaxAttention
from seqattn_fairseq.variants.sparse import SparseAttention, TopKAttention
from tests.support.goldens import GOLDENS, Golden, assert_gradients, assert_output
from tests.support.models import batch, build, place, shifted, small_model, toy_dictionary

FOLDER = GOLDENS / "rela_sparse"
FILES = sorted(p for p in FOLDER.glob("*.npz") if p.stem.startswith(("est", "sparse", "entmax")))
MODULES = [f for f in FILES if "model" not in f.stem and "functions" not in f.stem]
STEPPED = [f for f in MODULES if "output/incremental" in Golden(f)]
REORDERED = [f for f in STEPPED if "output/incremental_after_reorder" in Golden(f)]
MODELS = [f for f in FILES if "model" in f.stem]
SITES = {
    "encoder self-attention": Site.ENCODER_SELF,
    "decoder self-attention": Site.DECODER_SELF,
    "cross-attention": Site.CROSS,
}
# --entmax of the official code; 3 is the bisection form of the same map
ENTMAX = {0: "topk", 1: "sparsemax", 2: "entmax15", 3: "entmax15"}


def variant_of(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return our variant and its options for the official ``--div``, ``--lb``, ``--entmax``."""
    name, div = ENTMAX[config["entmax"]], config["div"]
    if name != "topk":
        return name, {}
    share = {"topk_divisor": max(div, 0), "topk_least": max(config["lb"], 1)}
    return name, {"topk": max(-div, 0), **share, "topk_padded_share": True}


def load_attention(golden: Golden) -> SparseAttention:
    config = golden.meta["config"]
    name, options = variant_of(config)
    sizes = {"embed_dim": config["embed_dim"], "attention_heads": config["num_heads"]}
    both = {f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in sizes.items()}
    cfg = make_config(name, **both, **options)
    site = SITES[golden.meta["kind"]]
    found = get_variant(name)
    make = found.encoder_layer if site is Site.ENCODER_SELF else found.decoder_layer
    layer = make(cfg, place())
    module = layer.encoder_attn if site is Site.CROSS else layer.self_attn
    assert isinstance(module, SparseAttention)
    module.load_state_dict(golden.group("param"))
    return module


def batch_first(golden: Golden, name: str) -> Tensor:
    return golden[name].transpose(0, 1)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_outputs_weights_and_gradients(path: Path) -> None:
    golden = Golden(path)
    module = load_attention(golden)
    query = batch_first(golden, "input/query").detach().requires_grad_()
    context, mask = query, None
    if "input/memory" in golden:
        context = batch_first(golden, "input/memory").detach().requires_grad_()
    if "input/key_padding_mask" in golden:
        mask = golden["input/key_padding_mask"].bool()
    log: AttentionLog = {}
    out = module(query, context, mask, log)
    (out * batch_first(golden, "input/loss_weight")).sum().backward()

    assert_output(out, batch_first(golden, "output/out"))
    assert_output(log[module.site.value][0], golden["output/weights"].transpose(0, 1))
    grads = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    inputs = {"query": query} if context is query else {"query": query, "memory": context}
    for name, tensor in inputs.items():
        assert tensor.grad is not None
        grads[name] = tensor.grad.transpose(0, 1)
    assert_gradients(grads, golden.group("grad"))


@pytest.mark.parametrize("path", STEPPED, ids=lambda p: p.stem)
def test_step_by_step(path: Path) -> None:
    golden = Golden(path)
    module, query = load_attention(golden), batch_first(golden, "input/query")
    if module.site is Site.CROSS:
        mask = golden["input/key_padding_mask"].bool()
        static = module.memory_cache(Memory(batch_first(golden, "input/memory"), mask))
        steps = [module.step_cross(x, static) for x in query.split(1, dim=1)]
        key, value = static.key_BHSd, static.value_BHSd
    else:
        cache = KeyValueCache()
        steps = [module.step_self(x, cache) for x in query.split(1, dim=1)]
        nothing = torch.empty(
            query.size(0), module.num_heads, 0, query.size(-1) // module.num_heads
        )
        key, value = cache.append(nothing, nothing)
    assert_output(torch.cat(steps, dim=1), batch_first(golden, "output/incremental"))
    assert_output(key, golden["output/cache_prev_key"])
    assert_output(value, golden["output/cache_prev_value"])


@pytest.mark.parametrize("path", REORDERED, ids=lambda p: p.stem)
def test_steps_after_reordering(path: Path) -> None:
    golden = Golden(path)
    module, query = load_attention(golden), batch_first(golden, "input/query")
    before = int(golden["input/reorder_after_step"])
    cache = KeyValueCache()
    for x in query[:, :before].split(1, dim=1):
        module.step_self(x, cache)
    cache.reorder(golden["input/new_order"].long())
    after = [module.step_self(x, cache) for x in query[:, before:].split(1, dim=1)]
    expected = batch_first(golden, "output/incremental_after_reorder")
    assert_output(torch.cat(after, dim=1), expected)


def load_model(golden: Golden) -> SeqAttnModel:
    config = golden.meta["config"]
    name, options = variant_of(config)
    cfg = make_config(name)
    for key in vars(cfg):
        if key in config and not key.startswith("_"):
            setattr(cfg, key, config[key])
    for key, value in options.items():
        setattr(cfg, key, value)
    model = build(name, cfg, toy_dictionary(golden.meta["dictionary"]["size"]))
    model.load_state_dict(golden.group("param"))
    model.eval()
    return model


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
class TestOfficialModels:
    def test_logits_attention_and_gradients(self, path: Path) -> None:
        golden = Golden(path)
        model = load_model(golden)
        source, target = golden["input/src_tokens"], golden["input/prev_output_tokens"]
        logits, extra = model(source, None, target, alignment_layer=len(model.decoder.layers) - 1)
        (logits * golden["input/loss_weight"]).sum().backward()
        real = target.ne(1)
        assert_output(logits[real], golden["output/logits"][real])
        assert_output(extra["attn"][0][real], golden["output/cross_attn_avg"][real])
        memory = model.encoder.encode(source)
        kept = source.ne(1)
        assert_output(memory.x_BSC[kept], batch_first(golden, "output/encoder_out")[kept])
        expected = golden.group("grad")
        grads = {n: p.grad for n, p in model.named_parameters(remove_duplicate=False)}
        assert_gradients({n: grads[n] for n in expected}, expected)

    def test_step_by_step_logits(self, path: Path) -> None:
        golden = Golden(path)
        model = load_model(golden)
        target = golden["input/prev_output_tokens"]
        with torch.no_grad():
            state = model.decoder.start(model.encoder.encode(golden["input/src_tokens"]))
            steps = [model.decoder.step(t, state) for t in target.split(1, dim=1)]
            logits = model.decoder.output_layer(torch.cat(steps, dim=1))
        real = target.ne(1)
        assert_output(logits[real], golden["output/incremental_logits"][real])

    def test_beam_search(self, path: Path) -> None:
        golden = Golden(path)
        model = load_model(golden)
        search = SequenceGenerator(
            [model], model.decoder.dictionary, beam_size=3, max_len_a=1, max_len_b=5
        )
        source = golden["input/src_tokens"]
        sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(1).sum(1)}}
        for row, found in enumerate(search.generate([model], sample)):
            expected = golden["output/beam_best_tokens"][row]
            assert found[0]["tokens"].tolist() == expected[expected.ne(1)].tolist()
            assert_output(found[0]["score"], golden["output/beam_best_score"][row])


@pytest.mark.parametrize("name", ["sparsemax", "entmax15"])
def test_row_maps_of_the_entmax_package(name: str) -> None:
    golden = Golden(FOLDER / "entmax_functions.npz")
    function = {"sparsemax": sparsemax, "entmax15": entmax15}[name]
    x = golden["input/x"].clone().requires_grad_()
    out = function(x)
    (out * golden["input/loss_weight"]).sum().backward()
    assert_output(out, golden[f"output/{name}"])
    assert x.grad is not None
    assert_gradients({name: x.grad}, {name: golden[f"grad/{name}"].nan_to_num()})
    support = golden[f"output/support_{name}"].view(-1).long()
    assert out.ne(0).sum(dim=-1).tolist() == support.tolist()


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
