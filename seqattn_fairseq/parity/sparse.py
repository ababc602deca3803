"""Golden files of the Explicit Sparse fork of fairseq, and of the entmax package.

Shapes: B batch, T target length, S source length, C width, V vocabulary, N rows of D scores.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor
from torch.nn import functional as F

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.official.conversion import Conversion, Keys, OfficialModel
from seqattn_fairseq.official.fairseq_parts import place_attention
from seqattn_fairseq.official.transformer import convert, sparse_variant
from seqattn_fairseq.ops.entmax import entmax
from seqattn_fairseq.ops.sparse import entmax15, sparsemax
from seqattn_fairseq.parity.attention import AttentionCase, Layout
from seqattn_fairseq.parity.comparison import Comparison, Kind
from seqattn_fairseq.parity.golden import Golden
from seqattn_fairseq.parity.modules import build_converted, dictionary_of, with_parameters
from seqattn_fairseq.transformer.attention import MultiheadAttention, Site
from seqattn_fairseq.transformer.config import SIDES
from seqattn_fairseq.transformer.layers import LayerPlace
from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.transformer.registry import get_variant, make_config

# ---- one attention -----------------------------------------------------------------------------

_KINDS = {
    "encoder self-attention": Site.ENCODER_SELF,
    "decoder self-attention": Site.DECODER_SELF,
    "cross-attention": Site.CROSS,
}
_SEQUENCES_FIRST = Layout(
    sequence=lambda x: x.transpose(0, 1),
    weights=lambda w: w.transpose(0, 1),
    cache=lambda rows: rows,
    caches=("cache_prev_key", "cache_prev_value"),
)


def _attention(golden: Golden) -> MultiheadAttention:
    """Return the attention that the file's arguments describe."""
    config, site = golden.config, _KINDS[golden.meta["kind"]]
    variant, options = sparse_variant(config)
    sizes = {"embed_dim": config["embed_dim"], "attention_heads": config["num_heads"]}
    both = {f"{side}_{name}": value for side in SIDES for name, value in sizes.items()}
    if site is Site.CROSS:  # where the memory may have another width
        both["encoder_embed_dim"] = config.get("kdim") or config["embed_dim"]
    cfg = make_config(variant, **both, **options)
    found = get_variant(variant)
    make = found.encoder_layer if site is Site.ENCODER_SELF else found.decoder_layer
    layer: Any = make(cfg, LayerPlace(0, 1, companion_read=False))
    attention: MultiheadAttention = layer.encoder_attn if site is Site.CROSS else layer.self_attn
    return attention.eval()


def _run_attention(golden: Golden, comparison: Comparison) -> None:
    leaves = golden.parameters()
    keys = Keys({f"attn.{name}": leaf for name, leaf in leaves.items()})
    place_attention(keys, "attn", "attn")
    state = {name.removeprefix("attn."): tensor for name, tensor in keys.finish().items()}
    mask = "input/key_padding_mask"
    padding = golden[mask].bool() if mask in golden else None
    module = _attention(golden)
    AttentionCase(golden, module, leaves, state, _SEQUENCES_FIRST, padding).compare(comparison)


# ---- whole models ------------------------------------------------------------------------------


def _convert(golden: Golden, leaves: Mapping[str, Tensor]) -> tuple[Conversion, SeqAttnModel]:
    """Return the file's model in our terms, and built, over its dictionary's special ids."""
    conversion = convert(OfficialModel(leaves, golden.config))
    special = golden.meta.get("dictionary", {})
    ids = {"padding": special.get("pad", 1), "eos": special.get("eos", 2)}
    dictionaries = [
        dictionary_of(conversion.state[f"{side}.embed_tokens.weight"].size(0), **ids)
        for side in SIDES
    ]
    if conversion.options["share_all_embeddings"]:
        dictionaries[1] = dictionaries[0]
    return conversion, build_converted(conversion, *dictionaries)


def _run_model(golden: Golden, comparison: Comparison) -> None:
    leaves = golden.parameters()
    conversion, model = _convert(golden, leaves)
    source, target = golden["input/src_tokens"], golden["input/prev_output_tokens"]
    last = len(model.decoder.layers) - 1

    def whole(m: SeqAttnModel) -> tuple[Tensor, Tensor, Tensor]:
        logits, extra = m(source, None, target, alignment_layer=last)
        return logits, extra["attn"][0], m.encoder.encode(source).x_BSC.transpose(0, 1)

    def stepped(m: SeqAttnModel) -> Tensor:
        state = m.decoder.start(m.encoder.encode(source))
        steps = [m.decoder.step(tokens, state) for tokens in target.split(1, dim=1)]
        out: Tensor = m.decoder.output_layer(torch.cat(steps, dim=1))
        return out

    logits, cross, memory = with_parameters(model, conversion.state, whole)
    (logits * golden["input/loss_weight"]).sum().backward()
    # what the official code leaves at padding depends on its masks, and nothing reads it
    real, real_source = target.ne(model.decoder.padding_idx), source.ne(model.encoder.padding_idx)
    comparison.output("logits", logits, real)
    comparison.output("cross_attn_avg", cross, real)
    comparison.output("encoder_out", memory, real_source.t())
    comparison.gradients(leaves)
    if "output/incremental_logits" in golden:
        with torch.no_grad():
            steps = with_parameters(model, conversion.state, stepped)
        comparison.output("incremental_logits", steps, real)
    if "output/beam_best_tokens" in golden:
        _beam(golden, comparison, model, source)


def _number(text: str, name: str, default: float) -> float:
    found = re.search(rf"{name} ([\d.]*\d)", text)
    return float(found[1]) if found else default


def _beam(golden: Golden, comparison: Comparison, model: SeqAttnModel, source: Tensor) -> None:
    """Compare the best hypotheses of fairseq's search, which ``meta.beam`` describes."""
    words, padding = str(golden.meta.get("beam", "")), model.decoder.padding_idx
    search = SequenceGenerator(
        [model],
        model.decoder.dictionary,
        beam_size=int(_number(words, "beam", 5)),
        max_len_a=_number(words, "max_len_a", 0),
        max_len_b=int(_number(words, "max_len_b", 200)),
        len_penalty=_number(words, "lenpen", 1),
    )
    lengths = source.ne(padding).sum(1)
    sample = {"net_input": {"src_tokens": source, "src_lengths": lengths}}
    best = [hypotheses[0] for hypotheses in search.generate([model], sample)]
    width = golden["output/beam_best_tokens"].size(1)
    rows = [F.pad(h["tokens"], (0, width - len(h["tokens"])), value=padding) for h in best]
    comparison.equal("output/beam_best_tokens", torch.stack(rows))
    comparison.output("beam_best_score", torch.stack([h["score"] for h in best]))


# ---- the entmax package ------------------------------------------------------------------------

RowMap = Callable[[Tensor], Tensor]
_EXACT: dict[str, RowMap] = {
    "softmax": lambda x: x.softmax(dim=-1),
    "sparsemax": sparsemax,
    "entmax15": entmax15,
}


def _row_map(tag: str) -> RowMap:
    """Return the function of an array's name.

    ``_k<n>`` is a shortcut of the package's sort, the same function.
    """
    if tag.startswith("bisect_"):
        alpha = float(tag.removeprefix("bisect_"))
        return lambda x: entmax(x, alpha)
    name = re.sub(r"_k\d+$", "", tag)
    if name not in _EXACT:
        raise SeqAttnError(f"no function {tag} here")
    return _EXACT[name]


def _resolved(x_ND: Tensor) -> Tensor:
    """Return (N,): True for rows in which the package's bisection means anything to 2e-5.

    It does not subtract the maximum first, so that its threshold is a multiple of float32's
    spacing at the row's largest score: 1e-3 at 10,000.
    """
    largest = x_ND.masked_fill(x_ND.isinf(), 0.0).abs().amax(dim=-1)
    return largest * torch.finfo(torch.float32).eps < 1e-5


def _support_size(tag: str, x_ND: Tensor) -> Tensor:
    """Return (N, 1), the number of scores in the support as the package counts it.

    For 1.5-entmax that includes scores at the threshold itself, of weight zero.
    """
    weights = _EXACT[tag](x_ND)
    if tag == "sparsemax":
        return weights.gt(0).sum(dim=-1, keepdim=True)
    threshold = -weights.amax(dim=-1, keepdim=True).sqrt()
    return ((x_ND - x_ND.amax(dim=-1, keepdim=True)) / 2 >= threshold).sum(dim=-1, keepdim=True)


def _run_functions(golden: Golden, comparison: Comparison) -> None:
    loss_weight = golden["input/loss_weight"]
    for tag in golden.group("output"):
        if tag.startswith("support_"):
            size = _support_size(tag.removeprefix("support_"), golden["input/x"])
            comparison.equal(f"output/{tag}", size)
            continue
        x, where = golden.leaf("input/x"), None
        if tag.startswith("bisect_"):
            where = _resolved(x.detach())
        if tag == "bisect_alpha_rows":
            alpha = golden.leaf("input/alpha_rows")
            out = entmax(x, alpha)
        else:
            out = _row_map(tag)(x)
        (out * loss_weight).sum().backward()
        comparison.output(tag, out, where)
        comparison.gradient(f"grad/{tag}", x.grad, where)
        if tag == "bisect_alpha_rows":
            comparison.gradient("grad/alpha_rows", alpha.grad, where)


def _is_attention(golden: Golden) -> bool:
    parts = ("param/q_proj.weight", "param/out_proj.weight", "input/query")
    return "div" in golden.config and all(name in golden for name in parts)


def _is_model(golden: Golden) -> bool:
    return "div" in golden.config and "param/encoder.embed_tokens.weight" in golden


def _is_functions(golden: Golden) -> bool:
    exact = any(f"output/{name}" in golden for name in ("sparsemax", "entmax15"))
    return exact and "input/x" in golden and not golden.group("param")


KINDS = (
    Kind("Explicit Sparse attention", _is_attention, _run_attention),
    Kind("Explicit Sparse model", _is_model, _run_model),
    Kind("entmax functions", _is_functions, _run_functions),
)
