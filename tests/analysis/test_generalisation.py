"""Length generalisation of a run, from its own evaluation to ``generalisation.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seqattn_fairseq.analysis import generalisation
from seqattn_fairseq.analysis.generalisation import (
    GeneralisationOptions,
    analyse_generalisation,
    check_counts,
)
from seqattn_fairseq.analysis.long_lines import translate_lines
from seqattn_fairseq.data.description import Reference
from seqattn_fairseq.data.files import read_lines
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.bleu import corpus_bleu
from seqattn_fairseq.evaluation.generate import load_system
from seqattn_fairseq.evaluation.pipeline import Means, evaluate
from seqattn_fairseq.evaluation.settings import EvaluationSettings
from seqattn_fairseq.evaluation.translation import Search
from tests.evaluation import corpus

pytestmark = pytest.mark.xdist_group("commands")

CPU = GeneralisationOptions(cpu=True)


class _SameProcess:
    """A pool that calls at once; what a new process measures is no matter of these tests."""

    def __init__(self, processes: int, mp_context: Any, initializer: Any) -> None:
        self.value: Any = None

    def __enter__(self) -> _SameProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: Any, *arguments: Any) -> _SameProcess:
        self.value = function(*arguments)
        return self

    def result(self) -> Any:
        return self.value


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generalisation, "ProcessPoolExecutor", _SameProcess)


def _evaluated(folder: Path, raw: bool = True, **settings: Any) -> tuple[Path, Path, Path]:
    """Return a run with its evaluation of test4, its checkpoint and its data-bin."""
    run = corpus.run_copy(folder)
    lines = list(read_lines(corpus.data_bin().parent / "test4.tgt"))
    reference = folder / "reference.test4.tgt"
    reference.write_text("".join(f"{corpus.plain(line)}\n" for line in lines), encoding="utf-8")
    data = corpus.described(folder, {"test4": Reference(reference.name)} if raw else None)
    values = {"subsets": ("test4",), "beam": 2, **settings}
    evaluate(
        run,
        EvaluationSettings(**values),
        Means(data, Search(max_len_b=corpus.SEARCH["max_len_b"]), cpu=True),
    )
    return run, run / "checkpoint_best.pt", data


def test_single_sentences_have_the_score_of_the_run(tmp_path: Path) -> None:
    """In processes of their own, as users have it: the same text, memory above the model's."""
    run, checkpoint, data = _evaluated(tmp_path, bleu="detokenized")
    found = analyse_generalisation(run, "test4", checkpoint, data, (2, 1), CPU)
    path = run / "analysis" / "test4" / "generalisation.json"
    assert json.loads(path.read_text(encoding="utf-8")) == found
    one, two = found["rows"]
    scores = json.loads((run / "evaluation" / "test4" / "scores.json").read_text("utf-8"))
    score = scores["scores"]["detokenized"]
    assert (one["bleu"], found["signature"]) == (score["score"], score["signature"])
    assert [(row["k"], row["lines"], row["sentences"]) for row in (one, two)] == [
        (1, 461, 461), (2, 231, 461),
    ]  # fmt: skip
    assert two["source_tokens"] * 231 == pytest.approx(one["source_tokens"] * 461)
    for row in (one, two):
        assert row["sentences_per_second"] * row["seconds"] == pytest.approx(461)
        assert row["tokens_per_second"] > row["sentences_per_second"]
        assert row["peak_memory_mib"] is None or row["model_memory_mib"] > row["peak_memory_mib"]
    assert "CPU" in found["hardware"]


@pytest.mark.usefixtures("same_process")
@pytest.mark.parametrize("bleu", ["tokenized", "compound_split", "detokenized"])
@pytest.mark.parametrize("raw", [True, False])
def test_every_flavour_scores_the_joined_text(tmp_path: Path, bleu: str, raw: bool) -> None:
    run, checkpoint, data = _evaluated(tmp_path, raw, bleu=bleu)
    found = analyse_generalisation(
        run, "test4", checkpoint, data, (1, 4), GeneralisationOptions(cpu=True, sentences=30)
    )
    system = load_system(run / "evaluation" / "test4", "run")
    hypotheses, references = system.pair(bleu)
    options = ("13a",) if bleu == "detokenized" else ("none", False, "none")
    first = corpus_bleu(hypotheses[:30], references[:30], *options)
    assert found["rows"][0]["bleu"] == first.value
    assert found["signature"] == first.signature
    assert [row["sentences"] for row in found["rows"]] == [30, 30]
    assert 0 <= found["rows"][1]["bleu"] <= 100


@pytest.mark.usefixtures("same_process")
def test_what_is_there_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, checkpoint, data = _evaluated(tmp_path)
    calls: list[tuple[int, int]] = []

    def counted(job: Any, count: int, unit: int, first: int | None) -> Any:
        if len(calls) == 2 and count == 4:
            raise KeyboardInterrupt
        calls.append((count, job.search.max_len_b))
        return translate_lines(job, count, unit, first)

    monkeypatch.setattr(generalisation, "translate_lines", counted)
    few = GeneralisationOptions(cpu=True, sentences=12)

    def analyse(*counts: int, options: GeneralisationOptions = few) -> dict[str, Any]:
        return analyse_generalisation(run, "test4", checkpoint, data, counts, options)

    with pytest.raises(KeyboardInterrupt):
        analyse(1, 2, 4)
    assert calls == [(1, 12), (2, 24)]  # outputs may be longer where inputs are
    calls.append((0, 0))
    rows = analyse(4, 2, 1)["rows"]
    assert [row["k"] for row in rows] == [1, 2, 4]
    assert calls[3:] == [(4, 48)]
    assert analyse(4)["rows"] == rows
    assert len(calls) == 4
    analyse(4, options=GeneralisationOptions(cpu=True, sentences=8))
    assert calls[4:] == [(4, 48)]


@pytest.mark.usefixtures("same_process")
def test_lines_that_the_model_does_not_take(tmp_path: Path) -> None:
    """Groups of two long lines are left out for single sentences, too."""
    run, checkpoint, data = _evaluated(tmp_path)
    corpus.change(checkpoint, "model", "max_source_positions", 15)
    found = analyse_generalisation(run, "test4", checkpoint, data, (1, 2), CPU)
    one, two = found["rows"]
    lengths = [len(line.split()) for line in read_lines(corpus.data_bin().parent / "test4.src")]
    pairs = [lengths[start : start + 2] for start in range(0, 461, 2)]
    fitting = [pair for pair in pairs if sum(pair) < 15]
    assert 0 < len(fitting) < len(pairs)
    assert (two["lines"], two["too_long"]) == (len(fitting), len(pairs) - len(fitting))
    assert one["sentences"] == two["sentences"] == sum(map(len, fitting))


@pytest.mark.parametrize("counts", [(), (0, 1), (1, -2), (2, 3)])
def test_counts_that_do_not_fit_together_are_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(SeqAttnError, match="counts of sentences must|2 does not divide 3"):
        check_counts(counts)


def test_no_sentences_are_refused() -> None:
    with pytest.raises(SeqAttnError, match="--first 0: must be at least 1"):
        GeneralisationOptions(sentences=0)


def test_a_run_without_evaluation_is_refused(tmp_path: Path) -> None:
    checkpoint = corpus.trained() / "checkpoint_best.pt"
    with pytest.raises(SeqAttnError, match="run seqattn evaluate"):
        analyse_generalisation(tmp_path, "test4", checkpoint, corpus.data_bin(), (1,), CPU)
