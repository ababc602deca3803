"""The file of the page: what stands in it, how safely, and how much."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from seqattn_fairseq.errors import SeqAttnError
from seqattn_fairseq.report import page as page_module
from seqattn_fairseq.report.data import AttentionMap, Curve, Report
from seqattn_fairseq.report.page import SCRIPTS, STYLES, safe_json, write_page
from tests.report import synthetic

ASSETS = Path(page_module.__file__).parent / "assets"
HOSTILE = "</script><script>alert(1)</script><!-- {{script}} \u2028 & ' \"  <img src=x onerror=y>"


class Elements(HTMLParser):
    """The elements of a page, and the text of those with an id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: dict[str, str] = {}
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]
        self._open = values.get("id") or tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open] = self.texts.get(self._open, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def block(self, name: str) -> bytes:
        """The decoded bytes of a block."""
        return gzip.decompress(base64.b64decode(self.texts[f"block-{name}"]))

    @property
    def overview(self) -> Any:
        return json.loads(self.texts["overview"])


def written(report: Report, folder: Path) -> Elements:
    path = folder / "report.html"
    write_page(report, path)
    return Elements(path.read_text("utf-8"))


def test_everything_comes_out_as_it_went_in(tmp_path: Path) -> None:
    report = synthetic.rich(runs=3, sentences=40, maps=2)
    elements = written(report, tmp_path)
    rows = json.loads(elements.block("text-0"))
    assert [row[0] for row in rows] == report.sources
    assert [row[1] for row in rows] == report.references
    assert [[row[2 + run] for row in rows] for run in range(3)] == report.hypotheses
    details = json.loads(elements.block("run-1"))
    for name in ("curves", "attention", "lengths", "alignment", "generalisation"):
        assert details[name] == [asdict(part) for part in getattr(report.runs[1], name)]
    assert json.loads(elements.block("agreement"))[1] == report.agreement[1].matrix
    for sentence, maps in report.maps.items():
        for one in maps:
            head, _, weights = elements.block(f"map-{sentence}-{one.run}").partition(b"\n")
            assert weights == one.weights
            assert json.loads(head) == {
                "source": one.source,
                "target": one.target,
                "shape": list(one.shape),
                "scale": one.scale,
            }
    scores = elements.overview["runs"][2]["scores"]
    assert [scores[cell.key]["value"] for cell in report.runs[2].scores] == [
        cell.value for cell in report.runs[2].scores
    ]


def test_texts_of_many_sentences_are_cut_into_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "TEXT_BLOCK_CHARACTERS", 2_000)
    report = synthetic.rich(runs=2, sentences=50, maps=0)
    elements = written(report, tmp_path)
    starts = elements.overview["blocks"]
    assert len(starts) > 3
    blocks = [json.loads(elements.block(f"text-{index}")) for index in range(len(starts))]
    assert [row[0] for block in blocks for row in block] == report.sources
    assert starts == [sum(map(len, blocks[:index])) for index in range(len(blocks))]


def test_the_same_report_makes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_page(synthetic.rich(runs=2, sentences=5, maps=1), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_hostile_texts_add_no_element(tmp_path: Path) -> None:
    plain = written(synthetic.bare(runs=2, sentences=2, text="harmless"), tmp_path)
    report = synthetic.bare(runs=2, sentences=2, text=HOSTILE)
    named = dict.fromkeys(("name", "variant", "folder", "hardware"), HOSTILE)
    runs = [replace(run, notes=[HOSTILE], **named) for run in report.runs]  # type: ignore[arg-type]
    fields = dict.fromkeys(("title", "made", "version", "subset", "pair"), HOSTILE)
    hostile = replace(report, runs=runs, notes=[HOSTILE], **fields)  # type: ignore[arg-type]
    elements = written(hostile, tmp_path)
    assert elements.tags == plain.tags
    assert elements.overview["runs"][0]["name"] == HOSTILE
    assert json.loads(elements.block("text-0"))[1] == [HOSTILE] * 4
    assert elements.texts["title"] == HOSTILE


def test_json_is_ascii_and_finite() -> None:
    text = safe_json({"a": [float("nan"), float("inf"), 1.5], "b": "</x>&\u2028\ud800"})
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": [None, None, 1.5], "b": "</x>&\u2028\ud800"}


def test_nothing_points_outside(tmp_path: Path) -> None:
    elements = written(synthetic.rich(runs=2, sentences=5), tmp_path)
    assert all(address.startswith("#") for address in elements.addresses)
    policy = re.search(r'content="(default-src[^"]+)"', (tmp_path / "report.html").read_text())
    assert policy
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy[1]


def test_maps_that_do_not_fit_are_left_out_from_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = synthetic.rich(runs=2, sentences=40, maps=6)
    write_page(report, tmp_path / "whole.html")
    limit = (tmp_path / "whole.html").stat().st_size - 2_000
    monkeypatch.setattr(page_module, "MAX_BYTES", limit)
    elements = written(report, tmp_path)
    assert (tmp_path / "report.html").stat().st_size <= limit
    kept = [int(sentence) for sentence in elements.overview["maps"]]
    assert 0 < len(kept) < 6
    assert kept == sorted(report.maps)[: len(kept)]
    blocks = {name for name in elements.texts if name.startswith("block-map")}
    assert blocks == {f"block-map-{sentence}-{run}" for sentence in kept for run in range(2)}
    (note,) = elements.overview["notes"]
    dropped = ", ".join(str(sentence + 1) for sentence in sorted(report.maps)[len(kept) :])
    assert note.endswith(f": {dropped}.")
    assert elements.overview["sentences"] == 40


def test_sentences_that_do_not_fit_are_left_out_from_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = synthetic.rich(runs=2, sentences=400, maps=2)
    monkeypatch.setattr(page_module, "TEXT_BLOCK_CHARACTERS", 10_000)
    write_page(report, tmp_path / "whole.html")
    limit = (tmp_path / "whole.html").stat().st_size - 12_000
    monkeypatch.setattr(page_module, "MAX_BYTES", limit)
    elements = written(report, tmp_path)
    assert (tmp_path / "report.html").stat().st_size <= limit
    shown = elements.overview["sentences"]
    assert 0 < shown < 400
    assert any(f"last {400 - shown} sentences" in note for note in elements.overview["notes"])


def _longer(report: Report) -> Report:
    return replace(report, hypotheses=[*report.hypotheses[:-1], ["one line"]])


def _without_runs(report: Report) -> Report:
    return replace(report, runs=[], hypotheses=[], agreement=[], maps={})


def _torn_map(report: Report) -> Report:
    return replace(report, maps={0: [AttentionMap(0, ["a"], ["b"], (1, 1, 1, 1), 1.0, b"")]})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_longer, r"runs/toy_en_de/rela_g/seed1: 1 lines, but 5 sources in test; translate"),
        (_without_runs, "at least one run"),
        (_torn_map, "0 weights for the shape .*seqattn analyse"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with pytest.raises(SeqAttnError, match=words):
        write_page(change(synthetic.rich(runs=2, sentences=5)), path)
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_no_number_become_unknown(tmp_path: Path) -> None:
    report = synthetic.bare()
    curves = [Curve("valid loss", [1.0, 2.0], [float("nan"), 3.0])]
    report = replace(report, runs=[replace(report.runs[0], curves=curves)])
    details = json.loads(written(report, tmp_path).block("run-0"))
    assert details["curves"][0]["y"] == [None, 3.0]


def _sources() -> Iterator[tuple[str, str]]:
    for path in sorted(ASSETS.iterdir()):
        yield path.name, path.read_text("utf-8")


def test_every_asset_is_part_of_the_page_and_small() -> None:
    names = {f"{name}.js" for name in SCRIPTS} | {f"{name}.css" for name in STYLES}
    assert {name for name, _ in _sources()} == names | {"template.html"}
    for name, text in _sources():
        assert text.count("\n") <= 400, name
        assert max(map(len, text.splitlines())) <= 100, name


@pytest.mark.parametrize("word", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"])
def test_no_script_makes_markup_of_text(word: str) -> None:
    assert [name for name, text in _sources() if word in text] == []


def _luminance(colour: str) -> float:
    red, green, blue = (_linear(int(colour[place : place + 2], 16) / 255) for place in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    """The contrast of two colours, as WCAG 2 defines it."""
    high, low = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _palette(scheme: str) -> dict[str, str]:
    light, _, dark = (ASSETS / "colours.css").read_text().partition("@media")
    read = {"light": light, "dark": dark}[scheme]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", read))


def test_contrast_is_computed_rightly() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "card", "tag"])
@pytest.mark.parametrize("text", ["ink", "muted", "accent", "focus"])
def test_text_colours_have_contrast(text: str, ground: str, scheme: str) -> None:
    palette = _palette(scheme)
    assert contrast(palette[text], palette[ground]) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_of_runs_and_of_changes_have_contrast(scheme: str) -> None:
    palette = _palette(scheme)
    for slot in range(8):
        assert contrast(palette[f"slot{slot}"], palette["paper"]) >= 3, slot
    for change in ("inserted", "deleted"):
        assert contrast(palette[f"{change}-ink"], palette[change]) >= 4.5
