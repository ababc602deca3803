"""The documents' tables, targets and pictures come from the CSV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import check, measure, plots, scaling, table, targets
from seqattn_fairseq.transformer.registry import VARIANTS

Rows = list[dict[str, str]]


def shapes(others: dict[int, float], **columns: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of ours and of a rival that takes so many times as long at each T."""
    for length, ratio in others.items():
        seconds = {"ours": 1e-3 * length, "rival": 1e-3 * length * ratio}
        for row in measure.compared(seconds, {"ours": 2e-7, "rival": 3e-6}):
            yield {"benchmark": "b", "mechanism": "m_n", "T": length, **row, **columns}


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    path = tmp_path / "cpu.csv"
    measure.write_rows(path, list(shapes({32: 9.0, 256: 10.0, 512: 20.0, 1024: 40.0})))
    return measure.read_rows(path)


def test_every_row_has_a_line(rows: Rows) -> None:
    lines = table.all_rows(rows).splitlines()
    assert "| m n | T=32 | rival | 288.00 | 9.00 | 3e-06 |  |  |" in lines
    assert "| m n | T=32 | ours | 32.00 | 1.00 | 2e-07 |  |  |" in lines
    assert sum(line.startswith("| m n |") for line in lines) == len(rows)
    assert any(line.startswith("machine ") and "dtype float32" in line for line in lines)


def test_the_summary_has_a_line_for_each_rival(rows: Rows) -> None:
    line = table.summary(rows).splitlines()[-1]
    assert line == "| m n | rival | 4 | 9.00 .. 40.00 | 2e-07 | 3e-06 | 1.00 | 2.00 |"


def test_growth_counts_long_sequences_of_one_shape() -> None:
    rows = [
        {"T": str(t), "S": s, "H": h, "contender": "c", "seconds": str(seconds), "device": "cpu"}
        for t, s, h, seconds in [
            *((t, "", "8", t) for t in (256, 1024)),
            (32, "", "8", 1e9),  # short
            *((t, "7", "8", t**3) for t in (256, 1024)),  # not self-attention
            *((t, "", "16", t**1.5) for t in (256, 1024)),
            (512, "", "32", 1e9),  # one length
        ]
    ]
    assert scaling.exponent(rows, "c") == pytest.approx(1.5)
    assert scaling.exponent(rows, "d") is None
    on_gpu = [{**row, "device": "cuda"} for row in rows]
    assert scaling.exponent(on_gpu, "c") is None


def test_text_stands_between_its_markers() -> None:
    document = "before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n"
    filled = table.fill(document, "a", "new")
    assert "old" not in filled and "new" in filled
    assert filled.startswith("before\n") and filled.endswith("\nafter\n")
    assert table.fill(filled, "a", "new") == filled
    with pytest.raises(ValueError, match="no <!-- b"):
        table.fill(document, "b", "new")


def test_the_documents_are_those_of_the_csv() -> None:
    rows = measure.read_rows(measure.RESULTS)
    text = table.DOCUMENT.read_text()
    assert table.filled(text, rows) == text
    assert table.ALL_ROWS.read_text() == table.all_rows(rows)


# ---- targets -----------------------------------------------------------------------------------


def convolution(ratios: dict[int, float], path: Path) -> Rows:
    """Return the rows of the convolution, whose rival is the unfold form."""
    columns = {"mechanism": "dynamic_convolution"}
    found = [
        {**row, **columns, "contender": row["contender"].replace("rival", "unfold")}
        for row in shapes(ratios)
    ]
    measure.write_rows(path, found)
    return measure.read_rows(path)


UNFOLD = targets.Target("dynamic_convolution", "unfold", 5, (32, 512))


@pytest.mark.parametrize(
    ("ratios", "found", "met"),
    [
        ({32: 5.0, 512: 7.0, 1024: 1.0}, "5.00", True),
        ({32: 4.9, 512: 7.0}, "4.90", False),
        ({1024: 7.0}, "not measured", False),
    ],
)
def test_a_target_is_met_by_its_worst_row(
    ratios: dict[int, float], found: str, met: bool, tmp_path: Path
) -> None:
    rows = convolution(ratios, tmp_path / "cpu.csv")
    verdict = targets.verdict(UNFOLD, rows)
    assert (verdict.found, verdict.met) == (found, met)
    if found != "not measured":
        assert verdict.error == 2e-7


@pytest.mark.parametrize(("power", "met"), [(1.0, True), (1.2, False)])
def test_memory_must_be_linear(power: float, met: bool, tmp_path: Path) -> None:
    path = tmp_path / "cpu.csv"
    row = {"benchmark": "dynamic_convolution_memory", "mechanism": "dynamic_convolution"}
    row |= {"contender": "ours", "seconds": "", "ratio": "", "error": ""}
    measure.write_rows(path, [{**row, "T": t, "peak_mib": t**power} for t in (1024, 2048, 8192)])
    assert targets.memory_verdict(measure.read_rows(path)).met is met
    assert not targets.memory_verdict([]).met


def test_every_variant_has_a_target() -> None:
    named = {target.mechanism for target in targets.TARGETS if target.rival == "naive"}
    assert named == {f"training step, {variant}" for variant in VARIANTS}
    assert len({target.text for target in targets.TARGETS}) == len(targets.TARGETS)


def test_a_missed_target_is_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(targets, "TARGETS", (UNFOLD,))
    monkeypatch.setattr(targets, "memory_verdict", lambda rows: targets.Verdict("m", "1", True, 0))
    path = tmp_path / "cpu.csv"
    convolution({32: 6.0}, path)
    assert check.main(["--results", str(path)]) == 0
    convolution({32: 4.0}, path)
    assert check.main(["--results", str(path)]) == 1
    out = capsys.readouterr().out
    assert "MISSED" in out and "1 of 2 targets met" in out


# ---- pictures ----------------------------------------------------------------------------------


def test_a_picture_has_a_line_for_each_contender(rows: Rows, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (path,) = plots.draw(rows, tmp_path)
    assert path.name == "m_n.svg"
    text = " ".join(ElementTree.parse(path).getroot().itertext())
    for part in ("ours", "rival", "m n", "length T (tokens)", "forward + backward (ms)"):
        assert part in text
    first = path.read_bytes()
    plots.draw(rows, tmp_path)
    assert path.read_bytes() == first


def test_training_steps_are_bars(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    columns = {"benchmark": "training_step_wmt", "size": "tiny", "tokens": 9}
    steps = [{**row, **columns, "mechanism": "training step, luna"} for row in shapes({8: 1.5})]
    path = tmp_path / "cpu.csv"
    measure.write_rows(path, steps)
    (picture,) = plots.draw(measure.read_rows(path), tmp_path)
    assert picture.name == "training_step_wmt.svg"
    assert "luna (rival)" in picture.read_text()
