"""Which search runs: ours, or fairseq's for what ours does not do."""

from __future__ import annotations

import logging
from argparse import Namespace
from typing import Any

import pytest
import torch
from fairseq import search
from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerModel, base_architecture
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from fairseq.sequence_scorer import SequenceScorer
from fairseq.tasks.translation import TranslationTask

from seqattn_fairseq.generation import generator as own
from seqattn_fairseq.generation.generator import AligningGenerator, BeamSearchGenerator
from seqattn_fairseq.tasks.translation import SeqAttnTranslationConfig, SeqAttnTranslationTask
from tests.generation.test_search import compare, decided_model, sample
from tests.support.models import toy_dictionary

WORDS = 40


def task_of(kind: type[TranslationTask], **options: Any) -> TranslationTask:
    dictionary = toy_dictionary(WORDS)
    return kind(SeqAttnTranslationConfig(**options), dictionary, dictionary)


def built(task: TranslationTask, **options: Any) -> Any:
    return task.build_generator([decided_model("softmax", WORDS)], Namespace(beam=3, **options))


def test_the_task_builds_ours() -> None:
    task = task_of(SeqAttnTranslationTask)
    assert type(built(task)) is BeamSearchGenerator
    aligning = built(task, print_alignment="hard")
    assert type(aligning) is AligningGenerator and aligning.beam_size == 3
    assert isinstance(built(task, score_reference=True), SequenceScorer)


def test_fairseqs_can_be_asked_for() -> None:
    task = task_of(SeqAttnTranslationTask, stock_generator=True)
    assert type(built(task)) is SequenceGenerator
    assert type(built(task, print_alignment="hard")) is SequenceGeneratorWithAlignment


def test_a_stock_task_that_serves_our_model_builds_ours() -> None:
    task = task_of(TranslationTask)
    task.__class__ = SeqAttnTranslationTask  # as compat does when the model is built
    task.cfg = Namespace()
    assert type(built(task)) is BeamSearchGenerator


def searches(dictionary: Dictionary) -> dict[str, search.Search]:
    return {
        "Sampling": search.Sampling(dictionary, sampling_topk=5),
        "DiverseBeamSearch": search.DiverseBeamSearch(dictionary, 2, 0.5),
        "DiverseSiblingsSearch": search.DiverseSiblingsSearch(dictionary, 0.5),
    }


@pytest.mark.parametrize("name", searches(toy_dictionary()))
def test_other_searches_are_fairseqs(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = decided_model("softmax", WORDS)
    dictionary = model.decoder.dictionary
    found = []
    for kind in (SequenceGenerator, BeamSearchGenerator):
        strategy = searches(dictionary)[name]
        generator = kind([model], dictionary, beam_size=4, max_len_b=9, search_strategy=strategy)
        torch.manual_seed(5)
        with caplog.at_level(logging.INFO, logger=own.__name__):
            found.append(generator.generate([model], sample(WORDS)))
            generator.generate([model], sample(WORDS))
    words = [[[h["tokens"].tolist() for h in one] for one in batch] for batch in found]
    assert words[0] == words[1]
    assert [r.message for r in caplog.records] == [f"{name}: fairseq's own search is used"]


def test_constraints_are_fairseqs() -> None:
    model = decided_model("softmax", WORDS)
    dictionary = model.decoder.dictionary
    strategy = search.LexicallyConstrainedBeamSearch(dictionary, "unordered")
    generator = BeamSearchGenerator(
        [model], dictionary, beam_size=4, max_len_b=9, search_strategy=strategy
    )
    given = sample(WORDS)
    rows = len(given["id"])
    # one constraint of one word each, as fairseq packs them
    constraints = torch.tensor([[1, 9, 0]]).repeat(rows, 1)
    found = generator.generate([model], given, constraints=constraints)
    assert all(9 in hypotheses[0]["tokens"].tolist() for hypotheses in found)


def test_models_of_others_are_fairseqs(caplog: pytest.LogCaptureFixture) -> None:
    dictionary = toy_dictionary(WORDS)
    args = Namespace(
        **{f"{s}_embed_dim": 16 for s in ("encoder", "decoder")},
        **{f"{s}_layers": 1 for s in ("encoder", "decoder")},
    )
    base_architecture(args)
    task = Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    stock = TransformerModel.build_model(args, task).eval()
    with caplog.at_level(logging.INFO, logger=own.__name__):
        found = BeamSearchGenerator([stock], dictionary, max_len_b=4).generate(
            [stock], sample(WORDS)
        )
    assert len(found) == len(sample(WORDS)["id"])
    assert "a model of fairseq.models.transformer" in caplog.messages[0]


def test_a_beam_as_large_as_the_vocabulary_is_fairseqs() -> None:
    compare([decided_model("softmax", 9)], sample(9), {"beam_size": 5, "max_len_b": 4})
