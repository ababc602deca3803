"""The beam search against fairseq's own, hypothesis by hypothesis."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from seqattn_fairseq.generation.generator import BeamSearchGenerator
from seqattn_fairseq.transformer.model import SeqAttnModel
from tests.support.models import (
    EOS,
    PAD,
    PAIRS,
    SINGLE_VARIANTS,
    batch,
    build,
    shifted,
    small_config,
    toy_dictionary,
)

LENGTHS = [9, 3, 12, 5, 7, 2, 12, 1]
# more words than a block of the ranking, and so many that blocks are looked for
SIZES = {"few words": 40, "many words": 700}


def decided_model(variant: str, words: int, seed: int = 1) -> SeqAttnModel:
    """Return a model whose probabilities are far from equal, and that ends sentences."""
    torch.manual_seed(seed)
    dictionary = toy_dictionary(words)
    model = build(variant, small_config(variant), dictionary)
    model.eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p), alpha=0.15)
        weight = 6 * model.decoder.output_projection.weight
        logits = (
            model(*sample(words)["net_input"].values(), shifted(LENGTHS, vocabulary=words))[0] * 6
        )
        # a word in five or so ends its sentence
        wanting = (logits.logsumexp(-1) - logits[..., EOS]).mean() - 1.5
        model.decoder.output_projection = torch.nn.Linear(*reversed(weight.shape))
        model.decoder.output_projection.weight.copy_(weight)
        model.decoder.output_projection.bias.zero_()[EOS] = wanting
    return model


def sample(words: int, left: bool = True) -> dict[str, Any]:
    tokens = batch(LENGTHS, left=left, vocabulary=words)
    return {
        "id": torch.arange(len(LENGTHS)),
        "net_input": {"src_tokens": tokens, "src_lengths": tokens.ne(PAD).sum(1)},
    }


def compare(
    models: list[SeqAttnModel], given: dict[str, Any], search: dict[str, Any], **options: Any
) -> int:
    """Compare all hypotheses; return how many lengths they have."""
    dictionary = models[0].decoder.dictionary
    found = [
        kind(models, dictionary, **search).generate(models, given, **options)
        for kind in (SequenceGenerator, BeamSearchGenerator)
    ]
    lengths = set()
    for stock, ours in zip(*found, strict=True):
        assert [h["tokens"].tolist() for h in stock] == [h["tokens"].tolist() for h in ours]
        for a, b in zip(stock, ours, strict=True):
            torch.testing.assert_close(a["score"], b["score"], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(
                a["positional_scores"], b["positional_scores"], rtol=1e-5, atol=1e-5
            )
            assert a["attention"].shape == b["attention"].shape
            torch.testing.assert_close(a["attention"], b["attention"], rtol=1e-5, atol=1e-6)
            lengths.add(len(b["tokens"]))
    return len(lengths)


@pytest.mark.parametrize("words", SIZES.values(), ids=list(SIZES))
@pytest.mark.parametrize("variant", [*SINGLE_VARIANTS, *PAIRS])
def test_every_variant(variant: str, words: int) -> None:
    search = {"beam_size": 5, "max_len_a": 1, "max_len_b": 8}
    assert compare([decided_model(variant, words)], sample(words), search) >= 2


SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"beam_size": 1},
    "two": {"beam_size": 2, "max_len_b": 4},
    "lenpen 0": {"len_penalty": 0.0},
    "lenpen 2": {"len_penalty": 2.0},
    "not normalised": {"normalize_scores": False},
    "unk is cheap": {"unk_penalty": -3.0},
    "unk is dear": {"unk_penalty": 3.0},
    "at least 6": {"min_len": 6},
    "exactly 4": {"min_len": 4, "max_len_a": 0, "max_len_b": 4},
    "one word": {"min_len": 0, "max_len_a": 0, "max_len_b": 1},
    "sharp": {"temperature": 0.5},
    "flat": {"temperature": 2.5},
    "no bigram twice": {"no_repeat_ngram_size": 2},
    "no word twice": {"no_repeat_ngram_size": 1},
    "as long as the source": {"match_source_len": True},
    "suppressed": {"tokens_to_suppress": ("w3", "w7")},
    "max_len": {"max_len": 7},
}


@pytest.mark.parametrize("words", SIZES.values(), ids=list(SIZES))
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("name", SEARCHES)
def test_options(name: str, left: bool, words: int) -> None:
    search = {"beam_size": 4, "max_len_a": 1, "max_len_b": 6, **SEARCHES[name]}
    compare([decided_model("softmax", words)], sample(words, left), search)


def prefix(words: int, ends: bool) -> Tensor:
    """Return prefixes of no, one and more words; one is a whole sentence."""
    rows = torch.full((len(LENGTHS), 4), PAD)
    rows[1, 0] = 9
    rows[2, :2] = torch.tensor([9, 5])
    rows[3], rows[4, :3] = torch.arange(11, 15), torch.arange(7, 10)
    if ends:
        rows[4, 2] = 2
    return rows


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("words", SIZES.values(), ids=list(SIZES))
@pytest.mark.parametrize("more", [{}, {"min_len": 3}, {"no_repeat_ngram_size": 2}], ids=str)
def test_prefixes(words: int, ends: bool, more: dict[str, Any]) -> None:
    search = {"beam_size": 4, "max_len_a": 1, "max_len_b": 6, **more}
    models = [decided_model("softmax", words)]
    compare(models, sample(words), search, prefix_tokens=prefix(words, ends))


def test_ensembles() -> None:
    models = [decided_model("softmax", 700), decided_model("rela_g", 700, seed=2)]
    compare(models, sample(700), {"beam_size": 5, "max_len_b": 12})


def test_another_first_word() -> None:
    compare([decided_model("softmax", 40)], sample(40), {"beam_size": 3}, bos_token=7)


def test_attention_is_that_of_the_words() -> None:
    model = decided_model("softmax", 700)
    model.decoder.need_attn = True
    compare([model], sample(700), {"beam_size": 3, "max_len_b": 9})


def test_longer_than_the_first_room() -> None:
    model = decided_model("dynamicconv", 40)
    compare([model], sample(40), {"beam_size": 2, "min_len": 90, "max_len_b": 100})
