"""A report of run folders: all that they hold, notes on what they lack, nothing that stops it."""

from __future__ import annotations

import dataclasses
import math
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from seqattn_fairseq.report import analyses
from seqattn_fairseq.report.collect import collect
from seqattn_fairseq.report.data import (
    AlignmentRow,
    AttentionMap,
    HeatMaps,
    LengthBin,
    LengthRow,
    Report,
    Run,
)
from seqattn_fairseq.report.facts import checkpoint_of, read_facts, variant_of
from seqattn_fairseq.report.names import short_names
from seqattn_fairseq.report.runs import Options
from tests.report.folders import (
    REFERENCES,
    SOURCES,
    analysed,
    inner,
    mapped,
    translated,
    write,
)
from tests.support import toy_corpus

WORSE = [line.replace("roten", "blauen") for line in REFERENCES]
FEW = Options(samples=20)


def _full(folder: Path) -> list[Path]:
    runs = [folder / name for name in ("softmax", "rela_g")]
    for run, lines in zip(runs, (REFERENCES, WORSE), strict=True):
        mapped(analysed(translated(run, lines, search_seconds=2.0, hardware="a CPU")), [0, 2])
        write(run / "logs" / "20260101-000000" / "rank0.out", inner(10) + inner(20))
    return runs


def test_everything(tmp_path: Path) -> None:
    report = collect(_full(tmp_path), FEW)
    run = report.runs[1]
    assert (run.name, run.variant, run.folder) == ("rela_g", "rela_g", str(tmp_path / "rela_g"))
    assert (run.updates, run.decode_sentences_per_second, run.hardware) == (
        20, 2.0, "decoding: a CPU",
    )  # fmt: skip
    heads: list[list[float | None]] = [[0.75, 0.25]]
    values: dict[str, list[list[float | None]]] = {"sparsity": heads, "diversity": [[0.5]]}
    values |= {"null": [[0.25, 0.25]], "entropy": [[0.25, None]]}
    assert run.attention == [HeatMaps(s, 1, 2, values) for s in ("encoder_self", "cross")]
    assert run.lengths[0] == LengthBin("0-5", 3, 20.0, 1.5)
    assert run.lengths[1].label == "6+" and math.isnan(run.lengths[1].length_ratio)
    assert run.alignment == [AlignmentRow(1, kind, 2, 0.25, 0.4) for kind in ("normal", "shifted")]
    assert run.generalisation == [LengthRow(2, 20.5, 9.0, 100.0, None)]
    assert (run.length_ratio, run.repetition) == (0.9, {"rep4": 0.1, "reference rep4": 0.05})
    assert run.notes == ["no checkpoint"]
    assert (report.pair, report.sources, report.references) == ("en-de", SOURCES, REFERENCES)
    assert [*report.hypotheses] == [REFERENCES, WORSE] and [*report.hypotheses[1:]] == [WORSE]
    assert len(report.notes) == 1 and report.notes[0].startswith("Intervals (95 %) and p-values")


def test_attention_maps(tmp_path: Path) -> None:
    report = collect(_full(tmp_path), FEW)
    assert list(report.maps) == [0, 2]
    assert [one.run for one in report.maps[2]] == [0, 1]
    assert report.maps[0][1] == AttentionMap(
        1, ["a", "b", "</s>"], ["x", "</s>"], (1, 2, 2, 3), 0.5, bytes(range(12))
    )


def test_maps_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = _full(tmp_path)
    mapped(runs[1], [1, 2, 3])
    assert analyses.choose_sentences(runs, "test") == {0, 1, 2, 3}
    monkeypatch.setattr(analyses, "MAX_MAPS", 2)
    assert analyses.choose_sentences(runs, "test") == {0, 2}  # 2 is kept by both runs
    monkeypatch.setattr(analyses, "MAX_MAP_BYTES", 35)
    assert analyses.choose_sentences(runs, "test") == {2}


def test_agreement(tmp_path: Path) -> None:
    runs = [*_full(tmp_path), tmp_path / "empty"]
    runs[2].mkdir()
    found = {one.metric: one.matrix for one in collect(runs, FEW).agreement}
    assert found["sentences with the same output (%)"] == [
        [100, 75, None], [75, 100, None], [None, None, None],
    ]  # fmt: skip
    bleu = found["tokenised BLEU of one against the other"]
    assert bleu[0][1] == bleu[1][0] and 0 < (bleu[0][1] or 0) < 100


def test_an_empty_folder_is_shown_with_remedies(tmp_path: Path) -> None:
    empty = tmp_path / "ein Lauf"
    empty.mkdir()
    report = collect([empty], FEW)
    assert report.runs == [_nothing(empty)]
    assert (report.sources, [*report.hypotheses], report.maps) == ([], [[]], {})
    with_one = collect([empty, *_full(tmp_path)], FEW)
    assert with_one.sources == SOURCES and with_one.hypotheses[0] == []
    assert all(cell.p_value is None for run in with_one.runs for cell in run.scores)


def _nothing(folder: Path) -> Run:
    run = shlex.quote(str(folder))
    kinds = {field.name: field.type for field in dataclasses.fields(Run)}
    values: dict[str, Any] = {
        name: [] if "list[" in str(kind) else None for name, kind in kinds.items()
    }
    values |= {"name": folder.name, "variant": "unknown", "folder": str(folder)}
    notes = [
        f"no translations of 'test': run seqattn evaluate {run} --subset test",
        "no checkpoint",
        f"no training log: name it with --log {shlex.quote(f'{folder}=FILE')}",
        f"no attention.json: run seqattn analyse {run} --subset test",
    ]
    return Run(**{**values, "notes": notes})


def test_analyses_of_another_state_are_left_out(tmp_path: Path) -> None:
    run = _full(tmp_path)[0]
    analysed(run, made_from={"checkpoint": {"file": "checkpoint_best.pt", "sha256": "other"}})
    write(run / "analysis" / "test" / "maps.json", '{"made_from": {"checkpoint": "other"}}')
    report = collect([run], FEW)
    notes = [note for note in report.runs[0].notes if "of an earlier state and left out" in note]
    assert len(notes) == 4 and report.runs[0].attention == [] and report.maps == {}
    analysed(run, made_from={"translations": {"file": "generation.json", "sha256": "other"}})
    assert collect([run], FEW).runs[0].repetition is None


@pytest.mark.parametrize("text", ["{", "[]", '{"sites": 3}', '{"sites": {"cross": {}}}'])
def test_a_damaged_analysis(text: str, tmp_path: Path) -> None:
    run = _full(tmp_path)[0]
    path = write(run / "analysis" / "test" / "attention.json", text)
    found = collect([run], FEW).runs[0]
    assert found.attention == []
    assert any("attention.json" in note and "run seqattn analyse" in note for note in found.notes)
    assert path.read_text() == text


def test_a_log_can_be_named(tmp_path: Path) -> None:
    runs = _full(tmp_path)
    logs = [write(tmp_path / "a.txt", inner(5)), write(tmp_path / "b.txt", inner(7))]
    report = collect(runs, Options(samples=20, logs={runs[0]: logs}))
    assert [run.curves[0].x for run in report.runs] == [[5, 7], [10, 20]]


def test_a_run_of_plain_fairseq(tmp_path: Path) -> None:
    run = toy_corpus.trained("transformer", "translation")
    facts = read_facts(run.checkpoint)
    weights = torch.load(run.checkpoint, weights_only=True)["model"]
    assert facts.variant == "transformer" and facts.updates and facts.seconds
    assert facts.parameters == sum(
        weight.numel() for name, weight in weights.items() if "version" not in name
    )
    found = collect([run.save_dir], FEW).runs[0]
    assert found.parameters == facts.parameters and found.updates == facts.updates
    assert found.train_hours == facts.seconds / 3600


def test_which_checkpoint(tmp_path: Path) -> None:
    assert checkpoint_of(tmp_path) is None
    for name in ("checkpoint3.pt", "checkpoint_best.pt", "checkpoint_last.pt"):
        path = write(tmp_path / name, "")
        assert checkpoint_of(tmp_path) == path
    found = collect([tmp_path], FEW).runs[0]
    assert found.notes[1] == f"{path}: empty file, no checkpoint; use another one"


@pytest.mark.parametrize(
    ("model", "variant"),
    [
        ({"_name": "seqattn_rela_g_tiny"}, "rela_g"),
        ({"_name": "seqattn_muse_simple"}, "muse_simple"),
        ({"arch": "transformer_iwslt_de_en"}, "transformer_iwslt_de_en"),
        (
            {"_name": "seqattn_hybrid", "encoder_variant": "mega", "decoder_variant": "luna"},
            "mega + luna",
        ),
        ({}, ""),
    ],
)
def test_variants(model: dict[str, str], variant: str) -> None:
    assert variant_of(model) == variant


def test_the_variant_of_a_recipe_that_has_no_checkpoint_yet(tmp_path: Path) -> None:
    write(tmp_path / "hydra" / ".hydra" / "config.yaml", "model: {_name: seqattn_luna}\n")
    assert collect([tmp_path], FEW).runs[0].variant == "luna"


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["runs/iwslt/luna/seed1", "runs/iwslt/mega/seed1"], ["luna", "mega"]),
        (["runs/luna/seed1", "runs/luna/seed2"], ["seed1", "seed2"]),
        (
            ["a/luna/seed1", "a/luna/seed2", "a/mega/seed1"],
            ["luna seed1", "luna seed2", "mega seed1"],
        ),
        (["runs/iwslt/luna/seed3"], ["luna seed3"]),
        (["runs/luna"], ["luna"]),
        (["a", "a/b"], ["a", "a b"]),
        (["x/a/c", "x/a/b/c"], ["c", "b c"]),
    ],
)
def test_names(folders: list[str], names: list[str]) -> None:
    assert short_names([Path("/", folder) for folder in folders]) == names


def test_a_report_is_plain(tmp_path: Path) -> None:
    report = collect(_full(tmp_path), Options(title="Ein Titel", samples=20, metrics=()))
    assert isinstance(report, Report)
    assert (report.title, report.subset, report.baseline, report.notes) == (
        "Ein Titel", "test", 0, [],
    )  # fmt: skip
