"""A run to its scores: averaging, the choice on the validation set, and what is skipped."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seqattn_fairseq.data.description import Reference
from seqattn_fairseq.data.files import read_lines
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation import generate as generate_module
from seqattn_fairseq.evaluation import pipeline
from seqattn_fairseq.evaluation.bleu import tokenized_bleu
from seqattn_fairseq.evaluation.pipeline import Candidate, Means, averaged, choose, evaluate
from seqattn_fairseq.evaluation.scores import ScoreOptions, score_system
from seqattn_fairseq.evaluation.settings import EvaluationSettings, load_settings
from seqattn_fairseq.evaluation.system import System
from seqattn_fairseq.evaluation.translation import Search
from tests.evaluation import corpus
from tests.evaluation.test_comet import make_stub

pytestmark = pytest.mark.xdist_group("commands")

SETTINGS = EvaluationSettings(
    average=("none", "last"), checkpoints=3, beam=2, length_penalty=(0.0, 1.0)
)


def _means(data_bin: Path | None = None) -> Means:
    return Means(data_bin, Search(max_len_b=12), cpu=True)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_mean_is_made_once(tmp_path: Path) -> None:
    run = corpus.run_copy(tmp_path)
    mean = averaged(run, "last", 2)
    assert mean == run / "checkpoint_average_last2.pt"
    weights = [
        torch.load(run / f"checkpoint{name}.pt", weights_only=True)["model"]
        for name in ("23", "24", "_average_last2")
    ]
    key = "encoder.layers.0.fc1.weight"
    expected = ((weights[0][key].double() + weights[1][key].double()) / 2).float()
    assert torch.equal(weights[2][key], expected)
    before = mean.stat().st_mtime_ns
    assert averaged(run, "last", 2).stat().st_mtime_ns == before
    os.utime(run / "checkpoint24.pt", ns=(1, 1))  # as if it had been trained anew
    assert averaged(run, "last", 2).stat().st_mtime_ns > before
    assert averaged(run, "none", 2).name == "checkpoint_best.pt"


def test_the_choice_is_made_on_valid_alone(tmp_path: Path) -> None:
    run, data = corpus.run_copy(tmp_path), corpus.described(tmp_path)
    for path in data.glob("test*"):
        path.unlink()
    chosen = choose(run, SETTINGS, _means(data))
    table = _json(run / "evaluation" / "selection.json")
    assert (table["subset"], table["flavour"]) == ("valid", "tokenized")
    assert [(row["average"], row["length_penalty"]) for row in table["tried"]] == [
        ("none", 0.0), ("none", 1.0), ("last", 0.0), ("last", 1.0),
    ]  # fmt: skip
    scores = [row["bleu"] for row in table["tried"]]
    assert len(set(scores)) > 1
    assert table["chosen"] == table["tried"][scores.index(max(scores))]
    row = table["chosen"]
    assert chosen == Candidate(row["average"], row["length_penalty"])
    folder = run / "evaluation" / "selection" / f"{row['average']}_lenpen{row['length_penalty']:g}"
    hyp, ref = (list(read_lines(folder / f"{side}.tok.txt")) for side in ("hyp", "ref"))
    assert tokenized_bleu(hyp, ref).value == row["bleu"]
    with pytest.raises(SeqAttnError, match="no split 'test'"):
        evaluate(run, SETTINGS, _means(data))


def test_a_single_candidate_needs_no_valid(tmp_path: Path) -> None:
    run, data = corpus.run_copy(tmp_path), corpus.described(tmp_path)
    for path in data.glob("valid*"):
        path.unlink()
    settings = EvaluationSettings(beam=2)
    report = evaluate(run, settings, _means(data))
    assert report.candidate == Candidate("none", 1.0)
    assert not (run / "evaluation" / "selection.json").exists()


def test_from_the_recipe_to_the_headline(tmp_path: Path) -> None:
    section = (
        "{average: last, checkpoints: 2, beam: 2, length_penalty: [0.5, 1], bleu: detokenized, "
        "subsets: [test, test2], paper: {score: 12.5, source: 'Somebody 2019', ours: false}}"
    )
    run = corpus.run_copy(tmp_path, evaluation=section)
    (tmp_path / "raw").write_text("".join(f"Das Haus {i}.\n" for i in range(13)))
    data = corpus.described(tmp_path, {"test": Reference("raw", None)}, lowercase=True)
    settings = load_settings(run)
    report = evaluate(run, settings, _means(data))
    line = report.headline()
    assert line.startswith("headline: test, sacreBLEU (lower-cased) ")
    assert "(paper 12.5, Somebody 2019; nrefs:1|case:lc|" in line
    scores = _json(run / "evaluation" / "test" / "scores.json")
    assert scores["headline"]["flavour"] == "detokenized"
    assert scores["paper"] == {"score": 12.5, "source": "Somebody 2019", "ours": False}
    assert scores["checkpoint"]["file"] == "checkpoint_average_last2.pt"
    assert scores["search"]["length_penalty"] == report.candidate.length_penalty
    own = _json(run / "evaluation" / "test2" / "scores.json")
    assert own["scores"]["detokenized"]["name"] == "sacreBLEU (lower-cased, own reference)"
    assert own["paper"]["score"] is None  # the paper's is that of the first set
    whole = json.loads(json.dumps(report.to_dict()))
    assert whole["subsets"]["test"]["scores"] == scores["scores"]
    assert whole["average"] == "last" and whole["settings"]["beam"] == 2


def test_repeated_nothing_is_translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = corpus.run_copy(tmp_path)
    first = evaluate(run, SETTINGS, _means())

    def forbidden(*_: Any) -> Any:
        raise AssertionError("done again")

    monkeypatch.setattr(generate_module, "translate", forbidden)
    monkeypatch.setattr(pipeline, "average", forbidden)
    monkeypatch.setattr(pipeline, "score_system", forbidden)
    assert evaluate(run, SETTINGS, _means()) == first
    monkeypatch.undo()
    other = replace(SETTINGS, bleu="compound_split", average=("last",), length_penalty=(1.0,))
    assert evaluate(run, other, _means()).tables["test"].headline == "compound_split"


def test_comet_is_computed_once_and_kept(tmp_path: Path) -> None:
    run, data = corpus.run_copy(tmp_path), corpus.described(tmp_path)
    means = replace(_means(data), comet=str(make_stub(tmp_path)))
    table = evaluate(run, EvaluationSettings(), means).tables["test"]
    assert table.scores["comet"].value == 81.25
    asked = tmp_path / "asked"
    sources = list(read_lines(corpus.data_bin().parent / "test.src"))
    assert [row["src"] for row in _json(asked)] == [corpus.plain(line) for line in sources]
    asked.unlink()
    for again in (means, _means(data)):
        assert evaluate(run, EvaluationSettings(), again).tables["test"] == table
    assert not asked.exists()


def test_the_paper_in_words() -> None:
    texts: dict[str, dict[str, Any]] = {
        "(no score of a paper; ": {},
        "(a recipe of ours, no paper; ": {"paper": {"ours": True}},
        "(paper 30; ": {"paper": {"score": 30}},
    }
    table = score_system(System("x", ["a"], ["a"]), ScoreOptions())
    for text, values in texts.items():
        settings = EvaluationSettings.from_dict(values)
        assert text in pipeline.headline("test", table, settings)
