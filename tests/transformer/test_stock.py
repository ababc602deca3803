"""The twin ``softmax`` is stock fairseq's ``transformer``: same weights, logits, hypotheses."""

from __future__ import annotations

import gzip

import pytest
import torch
from fairseq.data.encoders.subword_nmt_bpe import SubwordNMTBPE, SubwordNMTBPEConfig
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from omegaconf import OmegaConf

from seqattn_fairseq.data.text_chain import TextChain
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.transformer.registry import make_config
from tests.support.baseline import STOCK_OPTIONS, options_of, stock_model, trained_pair
from tests.support.models import PAD, batch, build, shifted, toy_dictionary

SIDES = ("encoder", "decoder")
OPTIONS = {
    **STOCK_OPTIONS,
    "other decoder width": {"decoder_embed_dim": 24, "decoder_attention_heads": 2},
    "layerdrop": {"encoder_layerdrop": 0.3, "decoder_layerdrop": 0.3},
}


def pair(**options):
    sizes = {"embed_dim": 16, "ffn_embed_dim": 24, "layers": 2, "attention_heads": 4}
    small = {f"{side}_{k}": v for side in SIDES for k, v in sizes.items()}
    cfg = make_config("softmax", **{**small, "decoder_layers": 3, "dropout": 0.0, **options})
    dictionary = toy_dictionary()
    stock = stock_model(cfg, dictionary).eval()
    ours = build("softmax", cfg, dictionary).eval()
    ours.load_state_dict(stock.state_dict())
    return stock, ours


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_same_logits_and_gradients(options):
    stock, ours = pair(**options)
    source, target = batch([7, 5, 1]), shifted([6, 3, 5])
    weights = torch.randn(3, 6, 23)
    logits = [model(source, source.ne(PAD).sum(1), target)[0] for model in (stock, ours)]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=1e-5)
    for out in logits:
        (out * weights).sum().backward()
    grads = dict(ours.named_parameters())
    for name, parameter in stock.named_parameters():
        torch.testing.assert_close(grads[name].grad, parameter.grad, rtol=1e-4, atol=1e-4, msg=name)


def sample_of(source):
    return {"net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)}}


def assert_same_hypotheses(stock, ours, source, **search):
    dictionary = ours.decoder.dictionary
    found = [
        SequenceGenerator([m], dictionary, **search).generate([m], sample_of(source))
        for m in (stock, ours)
    ]
    for expected, actual in zip(*found, strict=True):
        assert len(expected) == len(actual)
        for e, a in zip(expected, actual, strict=True):
            assert e["tokens"].tolist() == a["tokens"].tolist()
            torch.testing.assert_close(a["score"], e["score"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_same_hypotheses_from_random_weights(left):
    stock, ours = pair()
    source = batch([9, 4, 6, 1, 3], left)
    assert_same_hypotheses(stock, ours, source, beam_size=5, max_len_b=12, len_penalty=0.6)
    assert_same_hypotheses(stock, ours, source, beam_size=1, max_len_b=12)


def test_print_alignment_gives_the_stock_alignments():
    stock, ours = pair()
    source = batch([9, 4, 6])
    found = []
    for model in (stock, ours):
        model.decoder.make_generation_fast_(name="decoder", need_attn=True) if model is ours else 0
        search = SequenceGeneratorWithAlignment(
            [model], model.decoder.dictionary, beam_size=3, max_len_b=8, print_alignment="soft"
        )
        found.append(search.generate([model], {**sample_of(source), "target": source}))
    for expected, actual in zip(*found, strict=True):
        for e, a in zip(expected, actual, strict=True):
            torch.testing.assert_close(a["attention"], e["attention"], rtol=1e-4, atol=1e-5)


def test_pruned_layers_load():
    _, ours = pair()
    keep = {"encoder_layers_to_keep": "0,1", "decoder_layers_to_keep": "0,2"}
    cfg = make_config("softmax", **{**options_of(ours.cfg), **keep})
    cfg._name = "seqattn_softmax"
    pruned = build("softmax", cfg, ours.decoder.dictionary).eval()
    pruned.load_state_dict(ours.state_dict(), model_cfg=OmegaConf.structured(cfg))
    kept, third = pruned.decoder.layers[1], ours.decoder.layers[2]
    assert len(pruned.decoder.layers) == 2
    assert torch.equal(kept.fc1.weight, third.fc1.weight)


def test_pruning_one_side_only_is_refused():
    with pytest.raises(SeqAttnError, match="--encoder-layers-to-keep 0,1"):
        pair(decoder_layers_to_keep="0,2")


@pytest.fixture(scope="module")
def trained(shared):
    return trained_pair(shared / "baselines" / "multi30k_en_de_transformer_tiny")


@pytest.fixture(scope="module")
def real_sources(shared, trained):
    """64 real English sentences as the model was trained to see them, left-padded."""
    folder = shared / "baselines" / "multi30k_en_de_transformer_tiny"
    chain = TextChain(
        "en", lowercase=True, normalize_punctuation=True, tokenize=True, final_dot="keep"
    )
    bpe = SubwordNMTBPE(SubwordNMTBPEConfig(bpe_codes=str(folder / "bpe.codes")))
    with gzip.open(shared / "data/multi30k/test_2017_mscoco.en.gz", "rt", encoding="utf-8") as f:
        lines = [next(f) for _ in range(64)]
    dictionary = trained[1].encoder.dictionary
    rows = [dictionary.encode_line(bpe.encode(chain.encode(line))).long() for line in lines]
    sources = torch.full((64, max(map(len, rows))), PAD)
    for source, row in zip(sources, rows, strict=True):
        source[-len(row) :] = row
    return sources


def test_trained_logits_within_twice_stocks_own_error(trained, real_sources):
    stock, ours = trained
    target = shifted([12, 7] * 32, vocabulary=9000)
    with torch.no_grad():
        single = stock(real_sources, real_sources.ne(PAD).sum(1), target)[0]
        actual = ours(real_sources, None, target)[0]
        double = stock.double()(real_sources, real_sources.ne(PAD).sum(1), target)[0]
    stock.float()
    own_error = (single - double).abs().max()
    assert 0 < own_error < 1e-4
    assert (actual - single).abs().max() <= 2 * own_error


def test_trained_hypotheses_are_identical(trained, real_sources):
    stock, ours = trained
    assert_same_hypotheses(stock, ours, real_sources, beam_size=5)
