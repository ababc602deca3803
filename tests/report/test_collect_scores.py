"""Scores of several runs: as they were computed, and compared only where that means something."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.evaluation import significance
from seqattn_fairseq.report import scores
from seqattn_fairseq.report.data import ScoreCell
from seqattn_fairseq.report.scores import Evaluated, check_comparable, load_evaluated, score_cells
from tests.report.folders import REFERENCES, SOURCES, translated

SAMPLES = 50
WORSE = [line.replace("roten", "blauen").replace("tiefen", "hohen") for line in REFERENCES]


def _load(run: Path) -> Evaluated:
    found, missing = load_evaluated(run, "test")
    assert found, missing
    return found


def _cells(base: Path, run: Path, metrics: Any = scores.METRICS) -> dict[str, ScoreCell]:
    cells, notes = score_cells(_load(base), _load(run), metrics, SAMPLES)
    assert notes == []
    return {cell.key: cell for cell in cells}


def _notes(base: Path, run: Path) -> list[str]:
    return score_cells(_load(base), _load(run), ["bleu"], SAMPLES)[1]


def test_figures_are_those_of_compare(tmp_path: Path) -> None:
    base, run = translated(tmp_path / "a", REFERENCES), translated(tmp_path / "b", WORSE)
    systems = [_load(one).system for one in (base, run)]
    expected = {
        "tokenized": significance.compare(systems, "tokenized", ["bleu"], ["bs"], None, SAMPLES),
        "detokenized": significance.compare(
            systems, "detokenized", ["bleu"], ["bs"], None, SAMPLES
        ),
        "chrf": significance.compare(systems, "detokenized", ["chrf"], ["bs"], None, SAMPLES),
        "ter": significance.compare(systems, "detokenized", ["ter"], ["bs"], None, SAMPLES),
    }
    for number, one in enumerate((base, run)):
        cells = _cells(base, one)
        assert set(cells) == set(expected)
        for key, rows in expected.items():
            cell, row = cells[key], rows[number]
            assert cell.value == row.score
            assert (cell.mean, cell.interval) == (row.mean, row.interval)
            assert cell.p_value == row.p_value
            assert "bs:" not in cell.signature and cell.signature in row.signature.replace(
                f"bs:{SAMPLES}|seed:12345|", ""
            )
    assert _cells(base, run)["chrf"].p_value is not None


def test_scores_that_are_there_are_taken(tmp_path: Path) -> None:
    run = translated(tmp_path / "a", WORSE)
    first = _cells(run, run)
    path = run / "evaluation" / "test" / "scores.json"
    stored = json.loads(path.read_text())
    assert first["tokenized"].value == stored["scores"]["tokenized"]["score"]
    stored["scores"]["tokenized"]["score"] = 12.5
    path.write_text(json.dumps(stored))
    assert _cells(run, run)["tokenized"].value == 12.5


def test_the_headline_comes_first(tmp_path: Path) -> None:
    run = translated(tmp_path / "a", WORSE)
    _load(run)
    path = run / "evaluation" / "test" / "scores.json"
    stored = json.loads(path.read_text())
    stored["headline"]["flavour"] = "detokenized"
    path.write_text(json.dumps(stored))
    assert list(_cells(run, run)) == ["detokenized", "tokenized", "chrf", "ter"]


def test_only_what_is_asked_for_is_tested(tmp_path: Path) -> None:
    base, run = translated(tmp_path / "a", REFERENCES), translated(tmp_path / "b", WORSE)
    tested = {key for key, cell in _cells(base, run, ["bleu"]).items() if cell.p_value is not None}
    assert tested == {"tokenized", "detokenized"}
    assert all(cell.interval is None for cell in _cells(base, run, []).values())


def test_a_test_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, run = translated(tmp_path / "a", REFERENCES), translated(tmp_path / "b", WORSE)
    first = _cells(base, run)

    def forbidden(*_: Any) -> Any:
        raise AssertionError("done again")

    monkeypatch.setattr(scores, "compare", forbidden)
    assert _cells(base, run) == first
    with pytest.raises(AssertionError, match="done again"):
        _cells(run, run)  # another baseline
    translated(run, REFERENCES)
    with pytest.raises(AssertionError, match="done again"):
        _cells(base, run)  # another output


def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, run = translated(tmp_path / "a", REFERENCES), translated(tmp_path / "b", WORSE)
    first = _cells(base, run)

    def refused(path: Path, made_from: Any, make: Any) -> Any:
        make()
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(scores, "made", refused)
    assert _cells(base, run) == first


def test_another_signature_is_not_compared(tmp_path: Path) -> None:
    base, run = translated(tmp_path / "a", REFERENCES), translated(tmp_path / "b", WORSE)
    _load(run)
    path = run / "evaluation" / "test" / "scores.json"
    text = path.read_text()
    path.write_text(text.replace("tok:13a|", "tok:intl|"))
    note = "sacreBLEU was not compared: the signature of "
    assert [line.startswith(note) for line in _notes(base, run)] == [True]
    path.write_text(text)
    assert _notes(base, run) == []
    for one in (base, run):  # computed by another sacreBLEU than this one
        path = one / "evaluation" / "test" / "scores.json"
        path.write_text(path.read_text().replace("smooth:exp|version:", "smooth:exp|version:1"))
    assert [line.partition(": ")[2] for line in _notes(base, run)] == [
        f"its signature is that of another version; run seqattn score {run} --subset test"
    ]


def test_other_plain_references_leave_the_tokenised_score(tmp_path: Path) -> None:
    base = translated(tmp_path / "a", REFERENCES)
    run = translated(tmp_path / "b", WORSE)
    path = run / "evaluation" / "test" / "ref.txt"
    path.write_text(path.read_text().replace("Hunde", "hunde"))
    check_comparable(_load(base), _load(run))
    assert _notes(base, run) == [f"sacreBLEU was not compared: the references of {base} are others"]


@pytest.mark.parametrize(
    ("references", "message"),
    [
        (REFERENCES[:3], "3 references, not 4 from "),
        ([*REFERENCES[:3], "Etwas anderes."], "reference 4 differs from "),
    ],
)
def test_another_test_set_is_refused(references: list[str], message: str, tmp_path: Path) -> None:
    base = _load(translated(tmp_path / "a", REFERENCES))
    count = len(references)
    run = translated(tmp_path / "b", WORSE[:count], references, sources=SOURCES[:count])
    other = _load(run)
    with pytest.raises(SeqAttnError, match=f"b: {message}.*compare translations of the same"):
        check_comparable(base, other)


def test_without_references_the_sources_decide(tmp_path: Path) -> None:
    base = _load(translated(tmp_path / "a", REFERENCES))
    run = translated(tmp_path / "b", WORSE, reference="none")
    same = _load(run)
    check_comparable(base, same)
    assert score_cells(base, same, ["bleu"], SAMPLES) == (
        [], ["'test' has no reference, so there are no scores"],
    )  # fmt: skip
    other = _load(translated(run, WORSE, sources=[*SOURCES[:3], "?"], reference="none"))
    with pytest.raises(SeqAttnError, match="neither references nor sources are those of"):
        check_comparable(base, other)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("hyp.txt", None, "hyp.txt: no such file; run seqattn evaluate "),
        ("hyp.txt", "eins\n", "not 4 lines, as generation.json says; run seqattn evaluate "),
        ("hyp.tok.txt", "eins\n", "1 hypotheses but 4 references"),
        ("translations.jsonl", "{\n", "cannot be read; delete it and run seqattn evaluate "),
        ("scores.json", '{"scores": {}}', "cannot be read; delete it and run seqattn evaluate "),
        ("generation.json", None, "no translations of 'test': run seqattn evaluate "),
    ],
)
def test_damaged_translations(file: str, text: str | None, message: str, tmp_path: Path) -> None:
    run = translated(tmp_path / "a", WORSE)
    path = run / "evaluation" / "test" / file
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    found, missing = load_evaluated(run, "test")
    assert found is None and message in missing
