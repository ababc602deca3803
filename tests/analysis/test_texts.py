"""``text.json`` of a run: the figures of its own translations, made again when they change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seqattn_fairseq.analysis import texts
from seqattn_fairseq.analysis.texts import ScoredSet, analyse_texts, describe, exact_matches
from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation.generate import RECORD, SCORES
from seqattn_fairseq.evaluation.scores import ScoreOptions, ScoreTable, score_system
from seqattn_fairseq.evaluation.system import System

SOURCES = ["zwei Hunde", "ein Haus steht am See und brennt", "sie isst den Apfel"]
HYPOTHESES = ["two dogs", "a a a a a a a a house stands", "She eats the apple"]
REFERENCES = ["two dogs", "a house stands by the lake and burns", "she eats the apple"]


def write_evaluation(
    run: Path, hypotheses: list[str], headline: str = "tokenized", lowercased: bool = False
) -> Path:
    """Write what seqattn evaluate would leave, for texts whose tokens are plain text."""
    folder = run / "evaluation" / "test"
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("hyp", hypotheses), ("ref", REFERENCES)):
        for suffix in ("txt", "tok.txt"):
            (folder / f"{name}.{suffix}").write_text("".join(f"{line}\n" for line in lines))
    rows = [json.dumps({"id": i, "source": source}) for i, source in enumerate(SOURCES)]
    (folder / "translations.jsonl").write_text("\n".join(rows) + "\n")
    record = {"reference": "raw", "lowercased": lowercased, "texts": hypotheses}
    (folder / RECORD).write_text(json.dumps(record))
    table = _table(hypotheses, headline, lowercased)
    options = {"headline": headline, "compound_split": False, "tokenize": "13a", "lowercase": False}
    scores = {**table.to_dict(), "scoring": {**options, "references": "their digest"}}
    (folder / SCORES).write_text(json.dumps(scores))
    return folder


def _table(hypotheses: list[str], headline: str, lowercased: bool) -> ScoreTable:
    both = (hypotheses, REFERENCES)
    system = System("run", *both, *both, lowercased=lowercased)
    return score_system(system, ScoreOptions(headline=headline))


def test_the_figures_of_a_run(tmp_path: Path) -> None:
    write_evaluation(tmp_path, HYPOTHESES)
    found = analyse_texts(tmp_path, "test")
    assert (found["subset"], found["sentences"], found["flavour"]) == ("test", 3, "tokenized")
    assert found["length_ratio"] == (2 + 10 + 4) / (2 + 8 + 4)
    assert found["exact"] == 1 / 3
    rows = [(row["from"], row["to"], row["sentences"]) for row in found["lengths"]]
    assert rows == [(0, 5, 2), (6, 10, 1)]
    assert [row["length_ratio"] for row in found["lengths"]] == [1.0, 10 / 8]
    sides = found["repetition"]
    assert sides["hypothesis"]["rep1"] == 7 / 16
    assert (sides["hypothesis"]["loops"], sides["reference"]["loops"]) == (1 / 3, 0)
    assert json.loads((tmp_path / "analysis" / "test" / "text.json").read_text()) == found


@pytest.mark.parametrize("headline", ["tokenized", "detokenized", "compound_split"])
@pytest.mark.parametrize("lowercased", [False, True])
def test_the_whole_has_the_score_of_the_headline(
    tmp_path: Path, headline: str, lowercased: bool
) -> None:
    write_evaluation(tmp_path, HYPOTHESES, headline, lowercased)
    found = analyse_texts(tmp_path, "test")
    score = _table(HYPOTHESES, headline, lowercased).scores[headline]
    assert (found["bleu"], found["signature"]) == (score.value, score.signature)
    blind = headline == "detokenized" and lowercased
    assert found["exact"] == (2 / 3 if blind else 1 / 3)  # "She eats" and "she eats"


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(scored: ScoredSet, subset: str) -> dict[str, Any]:
        calls.append(subset)
        return describe(scored, subset)

    monkeypatch.setattr(texts, "describe", counted)
    write_evaluation(tmp_path, HYPOTHESES)
    first = analyse_texts(tmp_path, "test")
    assert analyse_texts(tmp_path, "test") == first
    assert calls == ["test"]
    write_evaluation(tmp_path, REFERENCES)  # other translations
    assert analyse_texts(tmp_path, "test")["exact"] == 1
    write_evaluation(tmp_path, REFERENCES, "detokenized")  # another flavour
    assert analyse_texts(tmp_path, "test")["flavour"] == "detokenized"
    assert len(calls) == 3


@pytest.mark.parametrize("missing", [RECORD, SCORES])
def test_what_is_missing_is_named_with_its_command(tmp_path: Path, missing: str) -> None:
    (write_evaluation(tmp_path, HYPOTHESES) / missing).unlink()
    with pytest.raises(SeqAttnError, match=r"no scored translation of 'test'; run seqattn evaluat"):
        analyse_texts(tmp_path, "test")


def test_a_checkpoint_by_itself_has_no_texts(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    with pytest.raises(SeqAttnError, match=r"model.pt: a checkpoint by itself"):
        analyse_texts(tmp_path / "model.pt", "test")


def test_exact_matches() -> None:
    assert exact_matches(["a", "B", ""], ["a", "b", ""]) == 2
    assert exact_matches(["a", "B", ""], ["a", "b", ""], lowercase=True) == 3
