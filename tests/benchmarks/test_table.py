"""The documents' table comes from the CSV."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import measure, table


def rows(path: Path) -> list[dict[str, str]]:
    found = measure.compared({"ours": 0.001, "official": 0.0123}, {"ours": 2e-7})
    measure.write_rows(path, [{"benchmark": "b", "mechanism": "m_n", "T": 32, **r} for r in found])
    return measure.read_rows(path)


def test_rows_stand_between_the_markers(tmp_path: Path) -> None:
    document = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    filled = table.fill(document, rows(tmp_path / "cpu.csv"))
    assert "old" not in filled
    assert filled.startswith("before\n") and filled.endswith("\nafter\n")
    assert "| m n | T=32 | official | 12.30 | 12.30 |  |  |" in filled
    assert "| m n | T=32 | ours | 1.00 | 1.00 | 2e-07 |  |" in filled
    assert table.fill(filled, rows(tmp_path / "cpu.csv")) == filled


def test_a_document_without_markers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no <!--"):
        table.fill("nothing", rows(tmp_path / "cpu.csv"))


def test_the_document_has_the_table_of_the_csv() -> None:
    text = table.DOCUMENT.read_text()
    assert table.fill(text, measure.read_rows(measure.RESULTS)) == text
