"""Golden files of the ReLA release (TensorFlow), and of it with its ungated norm (ReLA-i).

Shapes: B batch, T target length, S source length, C width, H heads, V vocabulary.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from seqattn_fairseq.official.conversion import Conversion, Keys, OfficialModel
from seqattn_fairseq.official.rela import convert, is_rela, place_attention
from seqattn_fairseq.parity.attention import AttentionCase, Layout
from seqattn_fairseq.parity.comparison import Comparison, Kind
from seqattn_fairseq.parity.golden import Golden
from seqattn_fairseq.parity.modules import build_converted, dictionary_of, with_parameters
from seqattn_fairseq.parity.rela_search import ReleaseSearch
from seqattn_fairseq.transformer.attention import Site
from seqattn_fairseq.transformer.config import SIDES
from seqattn_fairseq.transformer.model import SeqAttnModel
from seqattn_fairseq.variants.rela import RelaAttention

# ---- one attention -----------------------------------------------------------------------------

_SITES = {"enc_self": Site.ENCODER_SELF, "dec_self": Site.DECODER_SELF, "cross": Site.CROSS}


def _layout(site: Site) -> Layout:
    return Layout(
        sequence=lambda x: x,
        weights=lambda w: w,
        cache=lambda rows: rows.transpose(1, 2).flatten(2),
        caches=("cache_mk", "cache_mv") if site is Site.CROSS else ("cache_k", "cache_v"),
    )


def _run_attention(golden: Golden, comparison: Comparison) -> None:
    meta, leaves = golden.meta, golden.parameters()
    site = _SITES[meta["kind"]]
    memory = golden["input/memory"].size(-1) if site is Site.CROSS else None
    gated = "post/gate" in leaves
    module = RelaAttention(site, meta["embed_dim"], meta["heads"], memory, gated=gated)
    module.attn_norm.eps = float(meta.get("eps", module.attn_norm.eps))
    keys = Keys(leaves)
    place_attention(keys)
    mask = golden["input/mask"].eq(0) if "input/mask" in golden else None
    case = AttentionCase(golden, module.eval(), leaves, keys.finish(), _layout(site), mask)
    case.compare(comparison)


# ---- whole models ------------------------------------------------------------------------------


def _built(golden: Golden, conversion: Conversion) -> SeqAttnModel:
    """Return our model over dictionaries with the file's ids of padding and end of sentence."""
    ids = {"padding": golden.config["pad"], "eos": golden.config["eos"]}
    sizes = [conversion.state[f"{side}.embed_tokens.weight"].size(0) for side in SIDES]
    dictionaries = [dictionary_of(size, **ids) for size in sizes]
    if conversion.options["share_all_embeddings"]:
        dictionaries[1] = dictionaries[0]
    model = build_converted(conversion, *dictionaries)
    for stack in (model.encoder, model.decoder):
        # the release trains the row of padding, which torch's embeddings leave alone
        stack.embed_tokens.padding_idx = None
    return model


def _run_model(golden: Golden, comparison: Comparison) -> None:
    leaves = golden.parameters()
    conversion = convert(OfficialModel(leaves, golden.config))
    model = _built(golden, conversion)
    source, target = golden["input/source"].long(), golden["input/target"].long()
    start = torch.full_like(target[:, :1], golden.config["eos"])  # its embedding is not used
    shifted = torch.cat([start, target[:, :-1]], dim=1)
    real_source, real = golden["input/src_mask"].bool(), golden["input/tgt_mask"].bool()

    def whole(m: SeqAttnModel) -> tuple[Tensor, Tensor]:
        memory = m.encoder.encode(source)
        features, _ = m.decoder.decode(shifted, memory)
        return m.decoder.output_layer(features), memory.x_BSC

    logits, memory = with_parameters(model, conversion.state, whole)
    (logits * golden["input/loss_weight"]).sum().backward()
    comparison.output("logits", logits)
    comparison.output("encoder_out", memory, real_source)
    comparison.gradients(leaves)
    with torch.no_grad():
        _losses(golden, comparison, logits, target, real)
        if "output/enc_x0" in golden:
            comparison.output("enc_x0", model.encoder.embed(source), real_source)
            comparison.output("dec_x0", model.decoder.embed(shifted))
        _weights(golden, comparison, model, (source, shifted, real_source))
        if "output/incremental_logits" in golden:
            state = model.decoder.start(model.encoder.encode(source))
            steps = [model.decoder.step(tokens, state) for tokens in shifted.split(1, dim=1)]
            stepped = model.decoder.output_layer(torch.cat(steps, dim=1))
            # the release feeds a zero vector where all sentences of a batch have ended
            comparison.output("incremental_logits", stepped, real)
        if "output/beam_seq" in golden:
            _beam(golden, comparison, model, source)


def _losses(
    golden: Golden, comparison: Comparison, logits: Tensor, target: Tensor, real: Tensor
) -> None:
    """Compare the label-smoothed loss: mean over tokens, then over sentences.

    The smoothing is shared by the V - 1 other words, and what it costs at best is subtracted.
    """
    smoothing, others = golden.config.get("label_smooth", 0.0), logits.size(-1) - 1
    log_p = logits.log_softmax(dim=-1)
    share = torch.full_like(log_p, smoothing / others)
    share.scatter_(2, target.unsqueeze(2), 1 - smoothing)
    loss = -(share * log_p).sum(dim=-1)
    if 0 < smoothing < 1:
        kept = 1 - smoothing
        loss = loss + kept * math.log(kept) + smoothing * math.log(smoothing / others)
    per_sentence = (loss * real).sum(dim=1) / real.sum(dim=1)
    for name, value in (
        ("loss_per_sentence", per_sentence),
        ("loss_label_smoothed", per_sentence.mean()),
    ):
        if f"output/{name}" in golden:
            comparison.output(name, value)


def _weights(
    golden: Golden,
    comparison: Comparison,
    model: SeqAttnModel,
    batch: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Compare the attention weights of every layer; those of padded source queries are unused."""
    source, shifted, real_source = batch
    found = model.attention_weights(source, None, shifted)
    for name in golden.group("output/weights"):
        side, layer, attention = name.split("/")
        site = "cross" if attention == "cross_attention" else f"{side}_self"
        weights = found[site][int(layer.removeprefix("layer_"))]
        where = None
        if side == "encoder":
            where = real_source.unsqueeze(1).expand(weights.shape[:3])
        comparison.output(f"weights/{name}", weights, where)


def _number(text: str, before: str, default: float) -> float:
    found = re.search(rf"{before}\s*([\d.]*\d)", text)
    return float(found[1]) if found else default


def _beam(golden: Golden, comparison: Comparison, model: SeqAttnModel, source: Tensor) -> None:
    """Compare the n-best list of the release's search, whose settings the notes tell."""
    notes, expected = str(golden.meta.get("notes", "")), golden["output/beam_seq"]
    extra = int(_number(notes, r"max len = src len \+", 50))
    alpha = _number(notes, r"\balpha", 0.6)
    search = ReleaseSearch(beam=expected.size(1), alpha=alpha, extra=extra)
    tokens, scores = search.run(model, source)
    if tokens.shape != expected.shape:
        comparison.check("output/beam_seq", passed=False)
    else:
        comparison.equal("output/beam_seq", tokens)
    comparison.output("beam_score", scores)


def _is_attention(golden: Golden) -> bool:
    return "param/post/scale" in golden and "input/query" in golden


def _is_model(golden: Golden) -> bool:
    return is_rela(golden.group("param"))


KINDS = (
    Kind("ReLA attention", _is_attention, _run_attention),
    Kind("ReLA model", _is_model, _run_model),
)
