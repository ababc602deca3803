"""The explorer of sentences and the attention maps, in a browser; hostile and missing data."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from seqattn_fairseq.report.data import (
    Agreement,
    AlignmentRow,
    AttentionMap,
    Curve,
    HeatMaps,
    LengthBin,
    LengthRow,
    Report,
    ScoreCell,
)
from seqattn_fairseq.report.page import write_page
from tests.report import synthetic
from tests.report.browsing import DESK, PHONE, choose, opened, unfold

pytestmark = pytest.mark.xdist_group("browser")

HOSTILE = "</script><b>x</b><!-- <img src=q onerror=alert(1)> {{script}} \u2028\u202e & \"'"


def page_of(report: Report, folder: Path) -> Path:
    path = folder / "report.html"
    write_page(report, path)
    return path


def texts_of(sources: list[str], references: list[str], *hypotheses: list[str]) -> Report:
    bare = synthetic.bare(runs=len(hypotheses))
    return replace(bare, sources=sources, references=references, hypotheses=list(hypotheses))


def outputs(page: Page) -> list[str]:
    """The outputs of the sentence on show: [+inserted+], [-deleted-]."""
    marked = """nodes => nodes.map((node) => [...node.childNodes].map((part) =>
        ({ INS: `[+${part.textContent}+]`, DEL: `[-${part.textContent}-]` })[part.nodeName]
        ?? part.textContent).join(""))"""
    found = page.locator("#explorer .outputs .text").evaluate_all(marked)
    return [str(text) for text in found]


def shown(page: Page) -> int:
    return int(page.get_by_label("Sentence", exact=True).input_value())


@pytest.mark.parametrize(
    ("before", "after", "marked"),
    [
        ("a b c", "a b c", "a b c"),
        ("a b c", "a x c", "a [-b-] [+x+] c"),
        ("a b c d", "b d e", "[-a-] b [-c-] d [+e+]"),
        ("a a b", "a b b", "a [-a-] [+b+] b"),
        ("", "a b", "[+a b+]"),
        ("a b", "", "[-a b-]"),
        ("the cat sat on the mat", "on the mat sat the cat", None),
    ],
)
def test_differences_are_a_longest_common_subsequence(
    before: str, after: str, marked: str | None, browser: Browser, tmp_path: Path
) -> None:
    report = texts_of(["x"], [before], [after])
    with opened(browser, page_of(report, tmp_path)) as page:
        (found,) = outputs(page)
    if marked is not None:
        assert found == marked
    deleted = re.sub(r" *\[\+.*?\+\]", "", found).replace("[-", "").replace("-]", "")
    inserted = re.sub(r" *\[-.*?-\]", "", found).replace("[+", "").replace("+]", "")
    assert deleted.split() == before.split()
    assert inserted.split() == after.split()
    common = re.sub(r"\[[+-].*?[+-]\]", "", found).split()
    assert len(common) == _common(before.split(), after.split())


def _common(first: list[str], second: list[str]) -> int:
    """The length of a longest common subsequence, by its definition."""
    if not first or not second:
        return 0
    if first[0] == second[0]:
        return 1 + _common(first[1:], second[1:])
    return max(_common(first[1:], second), _common(first, second[1:]))


def test_equal_outputs_stand_together(browser: Browser, tmp_path: Path) -> None:
    report = texts_of(["x"], ["a b"], ["a c"], ["a b"], ["a c"])
    with opened(browser, page_of(report, tmp_path)) as page:
        writers = [text.split("\n") for text in page.locator(".who").all_inner_texts()]
        assert [[word.strip() for word in words] for words in writers] == [
            ["run0", "baseline", "run2"],
            ["run1", "equals the reference"],
        ]
        choose(page, "Mark differences from", "the baseline")
        expect(page.locator(".outputs ins")).to_have_text("b")
        assert outputs(page) == ["a c", "a [-c-] [+b+]"]
        choose(page, "Mark differences from", "nothing")
        expect(page.locator(".outputs ins")).to_have_count(0)


def test_outputs_of_many_other_runs_are_folded(browser: Browser, tmp_path: Path) -> None:
    lines = [[f"first {run}", f"second {run}"] for run in range(14)]
    report = texts_of(["x", "y"], ["a", "b"], *lines)
    with opened(browser, page_of(report, tmp_path)) as page:
        texts = page.locator("#explorer .outputs li:visible")
        expect(texts).to_have_count(6)
        page.get_by_text("8 outputs of the runs that are not chosen").click()
        expect(texts).to_have_count(14)
        page.get_by_role("button", name="Next →").click()
        expect(page.locator(".outputs li:visible", has_text="second 13")).to_have_count(1)
        expect(texts).to_have_count(14)


def test_next_previous_and_jump(browser: Browser, rich_page: Path) -> None:
    sources = synthetic.rich().sources
    with opened(browser, rich_page) as page:
        source = page.locator("#explorer .given .text").first
        assert page.get_by_role("button", name="← Previous").is_disabled()
        page.get_by_role("button", name="Next →").click()
        expect(source).to_have_text(sources[1])
        page.keyboard.press("n")
        expect(source).to_have_text(sources[2])
        page.keyboard.press("p")
        expect(source).to_have_text(sources[1])
        number = page.get_by_label("Sentence", exact=True)
        number.fill("200")
        number.press("Enter")
        expect(source).to_have_text(sources[199])
        assert page.get_by_role("button", name="Next →").is_disabled()
        for far, place in (("9999", 200), ("-3", 1)):
            number.fill(far)
            number.press("Enter")
            expect(source).to_have_text(sources[place - 1])
            assert shown(page) == place


def test_search_and_filters(browser: Browser, tmp_path: Path) -> None:
    lines = [f"line {index}" for index in range(30)]
    other = [line if index % 7 else f"Special {line}" for index, line in enumerate(lines)]
    report = texts_of([f"source {index}" for index in range(30)], lines, lines, other)
    with opened(browser, page_of(report, tmp_path)) as page:
        place, forward = page.locator("#explorer .place"), page.get_by_role("button", name="Next →")
        choose(page, "Show", "the chosen runs differ")
        expect(place).to_have_text("match 1 of 5")
        seen = [shown(page)]
        while forward.is_enabled():
            forward.click()
            expect(place).to_have_text(f"match {len(seen) + 1} of 5")
            seen.append(shown(page))
        assert seen == [1, 8, 15, 22, 29]
        search = page.get_by_label("Search the texts")
        search.fill("SPECIAL line 2")
        search.press("Enter")
        expect(place).to_have_text("match 2 of 2")
        assert shown(page) == 29
        search.fill("nowhere")
        search.press("Enter")
        expect(page.locator("#explorer .card")).to_have_text("No sentence is like that.")
        search.fill("")
        choose(page, "Show", "all sentences")
        expect(place).to_have_text("of 30")


def test_attention_map_is_the_weights(browser: Browser, rich_page: Path) -> None:
    one = synthetic.rich().maps[0][2]
    layers, heads, targets, sources = one.shape
    weights = [byte / 255 * one.scale for byte in one.weights]

    def weight(layer: int, head: int, target: int, source: int) -> float:
        return weights[((layer * heads + head) * targets + target) * sources + source]

    with opened(browser, rich_page) as page:
        panel = page.locator("#explorer .map-panel")
        expect(panel.locator("canvas")).to_have_count(layers * heads)
        for label, option in (("Run", "topk"), ("Layer", "layer 2"), ("Head", "head 3")):
            choose(page, label, option)
        panel.locator("svg.heat").focus()
        page.keyboard.press("ArrowDown")
        words = f"{one.target[1]} ← {one.source[0]}: {weight(1, 2, 1, 0):.3f}"
        expect(panel.locator(".readout")).to_have_text(words)
        unfold(page, "explorer")
        rows = panel.locator("tbody tr").all()
        cells = [row.locator("td").all_inner_texts() for row in rows]
        assert cells == [
            [f"{weight(1, 2, target, source):.3f}" for source in range(sources)]
            for target in range(targets)
        ]
        choose(page, "Head", "mean of the heads")
        mean = sum(weight(1, head, 1, 0) for head in range(heads)) / heads
        panel.locator("svg.heat").focus()
        page.keyboard.press("ArrowDown")
        expect(panel.locator(".readout")).to_have_text(re.compile(f": {mean:.3f}$"))
        choose(page, "Show", "with attention maps")
        expect(page.locator("#explorer .place")).to_have_text("match 1 of 4")
        page.get_by_role("button", name="Next →").click()
        expect(page.locator("#explorer .map-panel svg.heat")).to_be_visible()
        assert shown(page) == 4
        chosen = page.get_by_label("Run", exact=True).evaluate("node => node.value")
        assert chosen == "2", "the choice stays from sentence to sentence"


def _hostile() -> Report:
    """A report with the hostile text in every field that holds a text."""
    report = synthetic.rich(runs=2, sentences=2, maps=1)
    word = HOSTILE
    runs = [
        replace(
            run,
            name=f"{word}{index}",
            variant=word,
            folder=word,
            hardware=word,
            scores=[ScoreCell(word, word, 1.0, word, 1.0, 0.1, 0.01)],
            curves=[Curve(word, [1.0, 2.0], [1.0, 2.0])],
            attention=[HeatMaps(word, 1, 1, {word: [[0.5]]})],
            lengths=[LengthBin(word, 1, 1.0, 1.0)],
            repetition={word: 0.5},
            notes=[word],
        )
        for index, run in enumerate(report.runs)
    ]
    pieces = word.split()
    shape = (1, 1, len(pieces), len(pieces))
    return replace(
        report,
        title=word,
        made=word,
        version=word,
        subset=word,
        pair=word,
        runs=runs,
        agreement=[Agreement(word, [[1.0, 0.5], [0.5, 1.0]])],
        sources=[word] * 2,
        references=[word] * 2,
        hypotheses=[[word] * 2, [f"{word} {word}"] * 2],
        maps={0: [AttentionMap(0, pieces, pieces, shape, 1.0, bytes(len(pieces) ** 2))]},
        notes=[word],
    )


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_hostile_texts_are_shown_as_texts(browser: Browser, tmp_path: Path, size: object) -> None:
    with opened(browser, page_of(_hostile(), tmp_path), PHONE if size is PHONE else DESK) as page:
        assert page.title() == HOSTILE
        assert page.locator("h1").text_content() == HOSTILE
        assert page.locator("body b:text-is('x'), body img").count() == 0
        assert page.locator("#explorer .given .text").first.text_content() == HOSTILE
        assert page.locator(".deck").text_content() is not None
        for section in ("summary", "curves", "attention", "lengths", "texts", "agreement", "notes"):
            assert "<b>x</b>" in (page.locator(f"#{section}").text_content() or ""), section


def _two_without_scores() -> Report:
    return synthetic.bare(runs=2, sentences=1, text="")


def _unknown_everywhere() -> Report:
    nan = float("nan")
    bare = synthetic.bare(runs=2, sentences=1, text="one")
    poor = replace(
        bare.runs[0],
        scores=[ScoreCell("bleu", "BLEU", nan, "s", nan, nan, nan)],
        curves=[Curve("valid loss", [1.0, 2.0], [nan, nan])],
        attention=[HeatMaps("cross", 1, 2, {"entropy": [[None, nan]]})],
        lengths=[LengthBin("1-10", 0, nan, nan)],
        alignment=[AlignmentRow(1, "normal", 0, nan, nan)],
        generalisation=[LengthRow(1, 10.0, nan, nan, None)],
        length_ratio=nan,
        repetition={"rep1": nan},
    )
    agreement = [Agreement("BLEU", [[None, None], [None, None]])]
    return replace(bare, runs=[poor, bare.runs[1]], agreement=agreement)


def _one_of_everything() -> Report:
    """A single run, layer, head, point, bin, length and sentence."""
    report = synthetic.rich(runs=1, sentences=1, maps=1)
    run = replace(
        report.runs[0],
        curves=[Curve("valid loss", [100.0], [3.0])],
        attention=[HeatMaps("cross", 1, 1, {"sparsity": [[0.0]], "diversity": [[None]]})],
        lengths=[LengthBin("1-10", 1, 30.0, 1.0)],
        alignment=[AlignmentRow(1, "normal", 1, 0.5, 0.5)],
        generalisation=[LengthRow(1, 10.0, 30.0, 100.0, None)],
    )
    return replace(report, runs=[run], agreement=[])


@pytest.mark.parametrize(
    ("report", "least"),
    [
        (synthetic.bare(), 9),
        (_two_without_scores(), 8),
        (_unknown_everywhere(), 5),
        (_one_of_everything(), 1),
    ],
    ids=["nothing", "one empty sentence", "no value is known", "one of everything"],
)
def test_what_is_missing_is_said(
    report: Report, least: int, browser: Browser, tmp_path: Path
) -> None:
    with opened(browser, page_of(report, tmp_path), PHONE) as page:
        assert page.locator(".absent").count() >= least
        sections = page.locator("main > section").evaluate_all(
            "nodes => nodes.map((node) => node.querySelector('.body').textContent.trim().length)"
        )
        assert min(sections) > 20, "a section is empty and does not say why"
        for note in report.notes:
            assert note in page.locator("#notes").inner_text()
        shown = page.locator("main").inner_text().replace("rows that are not null", "")
        for word in ("NaN", "undefined", "null", "Infinity", "[object"):
            assert word not in shown


def test_an_old_browser_is_told(browser: Browser, rich_page: Path) -> None:
    context = browser.new_context()
    context.add_init_script("delete window.DecompressionStream")
    page = context.new_page()
    page.goto(rich_page.as_uri())
    expect(page.get_by_role("alert")).to_contain_text("cannot unpack")
    context.close()
