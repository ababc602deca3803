"""The page in a browser: it opens in every guise, can be read, and works by keyboard."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from seqattn_fairseq.report.page import write_page
from tests.report import synthetic
from tests.report.browsing import DESK, PHONE, Scheme, choose, column, opened, unfold

pytestmark = pytest.mark.xdist_group("browser")

# The contrast of every visible text with what lies behind it, where it is below 4.5.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) {
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
    }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255);
  };
  const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) =>
    0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const grounds = (node) => {
    const found = [];
    if (node.previousElementSibling?.matches("rect.cell")) {
      found.push(getComputedStyle(node.previousElementSibling).fill);
    }
    for (let at = node; at; at = at.parentElement) {
      const ground = getComputedStyle(at).backgroundColor;
      if (ground !== "rgba(0, 0, 0, 0)") found.push(ground);
    }
    return found.reverse();
  };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || node.closest("script, noscript, .hidden"))
      continue;
    if (!node.checkVisibility() || node.closest(":disabled")) continue;
    const style = getComputedStyle(node);
    const behind = grounds(node);
    const colour = node instanceof SVGElement ? style.fill : style.color;
    const [front, back] = [paint([...behind, colour]), paint(behind)].map(luminance);
    const contrast = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    seen += 1;
    if (contrast < 4.5) bad.push(`${contrast.toFixed(2)} ${node.tagName} ${node.textContent}`);
  }
  return [seen, bad];
}"""

NAMELESS = """() => [
    ...document.querySelectorAll("a, button, input, select, summary, [tabindex='0']")
  ].filter((node) => !(
    node.ariaLabel || node.labels?.[0]?.textContent.trim() ||
    (!node.matches("[tabindex]") && node.textContent.trim())))
  .map((node) => node.outerHTML.slice(0, 200))"""

GUISES = [(DESK, "light"), (DESK, "dark"), (PHONE, "light"), (PHONE, "dark")]


@pytest.mark.parametrize(
    ("size", "scheme"), GUISES, ids=["desk", "desk-dark", "phone", "phone-dark"]
)
def test_opens_and_can_be_read(
    browser: Browser, rich_page: Path, size: ViewportSize, scheme: Scheme
) -> None:
    with opened(browser, rich_page, size, scheme) as page:
        seen, bad = page.evaluate(CONTRAST)
        assert seen > 500
        assert bad == []
        assert page.locator("svg.chart").count() >= 7
        assert page.locator(".absent").all_inner_texts() == []


def test_structure_is_told_to_screen_readers(browser: Browser, rich_page: Path) -> None:
    with opened(browser, rich_page) as page:
        levels = [
            int(tag[1])
            for tag in page.evaluate(
                "() => [...document.querySelectorAll('h1,h2,h3')].map((node) => node.tagName)"
            )
        ]
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        for landmark in ("header", "nav", "main"):
            assert page.locator(landmark).count() == 1
        assert page.evaluate(NAMELESS) == []
        ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((node) => node.id)")
        assert len(ids) == len(set(ids))
        links = page.locator("nav a").evaluate_all("nodes => nodes.map(n => n.hash.slice(1))")
        sections = page.locator("main > section").evaluate_all("nodes => nodes.map(n => n.id)")
        assert links == sections


def test_every_stop_of_the_tab_key_can_be_seen(browser: Browser, rich_page: Path) -> None:
    look = """() => {
      const node = document.activeElement;
      const box = node.getBoundingClientRect();
      const style = getComputedStyle(node);
      return [node.tagName, box.width > 0 && box.bottom > 0 && box.top < innerHeight,
        style.outlineStyle, node.closest("section[id]")?.id ?? "top"];
    }"""
    with opened(browser, rich_page) as page:
        stops = []
        for _ in range(120):
            page.keyboard.press("Tab")
            stops.append(page.evaluate(look))
            if stops[-1][0] == "BODY":
                break
        *inside, last = stops
        assert last[0] == "BODY", "the tab key never came out"
        assert [stop for stop in inside if not stop[1] or stop[2] == "none"] == []
        places = list(dict.fromkeys(stop[3] for stop in inside))
        assert places[0] == "top"
        assert {"summary", "curves", "attention", "explorer", "notes"} - set(places) <= {"notes"}


def test_headline_and_signatures(browser: Browser, rich_page: Path) -> None:
    report = synthetic.rich()
    best = max(report.runs, key=lambda run: run.scores[0].value)
    with opened(browser, rich_page) as page:
        deck = page.locator(".deck").inner_text()
        assert f"{best.name} with {best.scores[0].value:.2f}" in deck
        assert "the baseline softmax" in deck
        for signature in synthetic.SIGNATURES.values():
            assert signature in page.locator("#summary .key").inner_text()


def test_table_sorts_by_mouse_and_keyboard(browser: Browser, rich_page: Path) -> None:
    runs = synthetic.rich().runs
    by_bleu = sorted(runs, key=lambda run: -run.scores[0].value)
    with opened(browser, rich_page) as page:
        assert column(page, "summary", 0) == [run.name for run in runs]
        heading = page.get_by_role("columnheader", name="BLEU, tokenised")
        heading.get_by_role("button").focus()
        page.keyboard.press("Enter")
        assert column(page, "summary", 0) == [run.name for run in by_bleu]
        assert heading.get_attribute("aria-sort") == "descending"
        page.keyboard.press("Enter")
        assert column(page, "summary", 0) == [run.name for run in reversed(by_bleu)]
        assert heading.get_attribute("aria-sort") == "ascending"
        page.locator("#summary thead button").first.click()
        assert column(page, "summary", 0) == sorted(run.name for run in runs)


def test_tests_against_the_baseline_are_marked_in_words(browser: Browser, rich_page: Path) -> None:
    with opened(browser, rich_page) as page:
        rows = page.locator("#summary tbody tr").all()
        for run, row in zip(synthetic.rich().runs, rows, strict=True):
            for place, cell in enumerate(run.scores, start=1):
                told = row.locator("th, td").nth(place).text_content() or ""
                assert f"{cell.value:.2f}" in told
                if cell.p_value is None:
                    assert "p " not in told
                    continue
                base = synthetic.rich().runs[0].scores[place - 1].value
                side = "higher" if cell.value > base else "lower"
                assert ("unsure" if cell.p_value >= 0.05 else side) in told


def test_runs_are_chosen_for_all_charts(browser: Browser, rich_page: Path) -> None:
    with opened(browser, rich_page) as page:
        expect(page.locator("#curves g.run:has(.line)")).to_have_count(5)
        page.get_by_text("Choose runs").click()
        page.get_by_label("luna", exact=True).uncheck()
        expect(page.locator("#curves g.run:has(.line)")).to_have_count(4)
        expect(page.locator("#attention figure")).to_have_count(4)
        expect(page.locator("#agreement svg.heat text.written")).to_have_count(4 * 3)
        page.get_by_label("Find", exact=True).fill("RELA")
        assert page.locator(".choices label:visible").all_inner_texts() == [" rela_g"]
        page.get_by_role("button", name="Baseline only").click()
        expect(page.locator("#curves g.run:has(.line)")).to_have_count(1)
        assert page.locator(".chip").all_inner_texts() == ["softmax\nbaseline"]
        page.keyboard.press("Escape")
        assert not page.locator(".popup").is_visible()


def test_a_run_stands_out(browser: Browser, rich_page: Path) -> None:
    with opened(browser, rich_page) as page:
        chip = page.locator(".chip", has_text="topk")
        chip.click()
        page.mouse.move(5, 5)
        assert chip.get_attribute("aria-pressed") == "true"
        faint = page.locator("#curves g.run:has(.line)").evaluate_all(
            "nodes => nodes.map((node) => [node.dataset.run, getComputedStyle(node).opacity])"
        )
        assert {run for run, opacity in faint if opacity == "1"} == {"2"}
        chip.click()
        assert page.locator("main.emphasis").count() == 0


def _told(page: Page, selector: str) -> str:
    return page.locator(selector).first.get_attribute("aria-valuetext") or ""


def test_curves_are_read_by_keyboard_and_as_a_table(browser: Browser, rich_page: Path) -> None:
    runs = synthetic.rich().runs
    curve = next(curve for curve in runs[1].curves if curve.name == "train loss")
    with opened(browser, rich_page) as page:
        choose(page, "Curve", "train loss")
        choose(page, "Updates", "all")
        page.locator("#curves svg.chart").focus()
        page.keyboard.press("Home")
        assert f"update 100: softmax {runs[0].curves[0].y[0]:.4g}, " in _told(
            page, "#curves svg.chart"
        )
        page.keyboard.press("ArrowRight")
        assert f"rela_g {float(f'{curve.y[1]:.4g}'):g}" in _told(page, "#curves svg.chart")
        assert page.locator("#curves .readout").inner_text().startswith("update 200")
        unfold(page, "curves")
        printed = column(page, "curves", 2)
        assert [float(text) for text in printed] == pytest.approx(curve.y, rel=1e-4)
        before = page.locator("#curves .line").first.get_attribute("d")
        page.get_by_label("logarithmic values").check()
        page.get_by_label("logarithmic updates").check()
        assert page.locator("#curves .line").first.get_attribute("d") != before


def test_heat_maps_are_read_by_keyboard_and_as_a_table(browser: Browser, rich_page: Path) -> None:
    maps = synthetic.rich().runs[1].attention
    cross = next(one for one in maps if one.site == "cross")
    own = next(one for one in maps if one.site == "encoder_self")
    with opened(browser, rich_page) as page:
        heat = page.locator("#attention svg.heat").nth(1)
        heat.focus()
        for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
            page.keyboard.press(key)
        value = cross.values["sparsity"][1][2]
        assert value is not None
        words = f"rela_g, layer 2, head 3: {100 * value:.1f} %"
        assert page.locator("#attention .readout").inner_text() == words
        assert page.locator("#announcer").text_content() == words
        choose(page, "Attention", "Encoder self-attention")
        choose(page, "Statistic", "Entropy")
        unfold(page, "attention")
        rows = page.locator("#attention tbody tr", has_text="rela_g")
        assert rows.count() == own.layers
        cells = rows.nth(3).locator("td").all_inner_texts()
        assert cells == ["4", *(f"{value:.2f}" for value in own.values["entropy"][3])]
        choose(page, "Statistic", "Head diversity")
        assert page.locator("#attention figure", has_text="rela_g").locator(".cell").count() == 6


def test_values_behind_the_other_charts(browser: Browser, rich_page: Path) -> None:
    run = synthetic.rich().runs[1]
    wanted = {
        "lengths": [f"{part.bleu:.2f}" for part in run.lengths],
        "generalisation": [f"{part.bleu:.2f}" for part in run.generalisation],
        "alignment": [f"{part.best:.3f}" for part in run.alignment],
    }
    place = {"lengths": 3, "generalisation": 3, "alignment": 4}
    with opened(browser, rich_page) as page:
        for section, values in wanted.items():
            unfold(page, section)
            rows = page.locator(f"#{section} tbody tr", has_text="rela_g")
            cells = [row.locator("th, td").nth(place[section]).inner_text() for row in rows.all()]
            assert cells == values
        choose(page, "A step's attention goes", "with the piece it reads (shifted)")
        choose(page, "Heads", "mean of the heads")
        shifted = [part.mean for part in run.alignment if part.kind == "shifted"]
        assert f"rela_g {shifted[-1]:.3f}" in _told(page, "#alignment svg.chart")
        assert f"{run.length_ratio:.3f}" in column(page, "texts", 1)


def test_bleu_of_a_few_sentences_is_in_the_table_alone(browser: Browser, tmp_path: Path) -> None:
    """Where a run lacks a bin that others have, its neighbours' BLEU does not stand in for it."""
    report = synthetic.rich()
    run = replace(
        report.runs[1], lengths=[*report.runs[1].lengths[:2], *report.runs[1].lengths[3:]]
    )
    path = tmp_path / "page.html"
    write_page(replace(report, runs=[report.runs[0], run, *report.runs[2:]]), path)
    with opened(browser, path) as page:
        assert page.locator("#lengths g.run[data-run='0'] .mark").count() == 6
        assert page.locator("#lengths g.run[data-run='1'] .mark").count() == 5
        small = "41-50 words (11), 51-60 words (6), 61+ words (2)"
        assert small in page.locator("#lengths .about").inner_text()
        chart = page.locator("#lengths svg.chart")
        chart.press("Home")
        chart.press("ArrowRight")
        assert "rela_g" in _told(page, "#lengths svg.chart")
        chart.press("ArrowRight")
        assert "11-15 words, 438 sentences" in _told(page, "#lengths svg.chart")
        assert "rela_g" not in _told(page, "#lengths svg.chart")
        unfold(page, "lengths")
        assert page.locator("#lengths tbody tr", has_text="61+").count() == 5


def test_runs_are_ordered_by_any_figure(browser: Browser, rich_page: Path) -> None:
    runs = synthetic.rich().runs
    order = "nodes => nodes.map((node) => Number(node.dataset.run))"
    with opened(browser, rich_page) as page:
        for label, key, sign in (("BLEU, tokenised", 0, -1), ("TER", 3, 1)):
            choose(page, "Figure", label)
            found = page.locator("svg.dots g.run").evaluate_all(order)
            assert found == sorted(range(5), key=lambda run: sign * runs[run].scores[key].value)
        choose(page, "Figure", "Training hours")
        hours = [run.train_hours or 0 for run in runs]
        found = page.locator("svg.dots g.run").evaluate_all(order)
        assert found == sorted(range(5), key=lambda run: hours[run])
        told = page.locator("svg.dots .strong-number").all_text_contents()
        assert told == [f"{hour:.2f}" for hour in sorted(hours)]


def test_quality_against_cost(browser: Browser, rich_page: Path) -> None:
    runs = synthetic.rich().runs
    places = """nodes => nodes.map((node) => [Number(node.dataset.run),
      ...node.querySelector(".mark").getAttribute("transform").match(/[\\d.]+/g).map(Number)])"""
    with opened(browser, rich_page) as page:
        assert page.get_by_role("img", name="against Decoding sentences/s").is_visible()
        choose(page, "Cost", "Training hours")
        chart = page.get_by_role("img", name="against Training hours")
        found = chart.locator("g.run").evaluate_all(places)
        assert len(found) == 5
        by_x = [run for run, _, _ in sorted(found, key=lambda place: place[1])]
        by_y = [run for run, _, _ in sorted(found, key=lambda place: place[2])]
        assert by_x == sorted(range(5), key=lambda run: runs[run].train_hours or 0)
        assert by_y == sorted(range(5), key=lambda run: -runs[run].scores[0].value)


MEETING = """nodes => {
  const boxes = nodes.map((node) => node.getBoundingClientRect());
  const meet = (a, b) =>
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  return boxes.filter((box, at) => boxes.slice(0, at).some((other) => meet(box, other))).length;
}"""


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_names_of_equal_runs_do_not_overlap(
    browser: Browser, tmp_path: Path, size: ViewportSize
) -> None:
    report = synthetic.rich()
    runs = [
        replace(run, decode_sentences_per_second=100 + index / 100, scores=report.runs[0].scores)
        for index, run in enumerate(report.runs)
    ]
    far = replace(runs[4], decode_sentences_per_second=200)
    path = tmp_path / "page.html"
    write_page(replace(report, runs=[*runs[:4], far]), path)
    with opened(browser, path, size) as page:
        labels = page.get_by_role("img", name="against Decoding").locator("text.end-label")
        assert labels.count() == 5
        assert labels.evaluate_all(MEETING) == 0


def test_repetition_stands_beside_that_of_the_reference(browser: Browser, rich_page: Path) -> None:
    run = synthetic.rich().runs[2]
    assert run.repetition
    with opened(browser, rich_page) as page:
        row = page.locator("#texts tbody tr", has_text="topk")
        cells = row.locator("td").all_inner_texts()
        assert cells[0] == f"{run.length_ratio:.3f}"
        assert [cell.split() for cell in cells[1:]] == [
            [f"{100 * run.repetition[name]:.2f}", "%", "reference", "2.00", "%"]
            for name in ("rep1", "rep2", "rep3", "rep4", "loops")
        ]


def test_prints_without_controls(browser: Browser, rich_page: Path) -> None:
    with opened(browser, rich_page) as page:
        page.emulate_media(media="print")
        for selector in ("nav", ".picker", ".controls", ".steps"):
            assert not page.locator(selector).first.is_visible()
        assert page.locator("#curves svg.chart").is_visible()
        page.emulate_media(media="screen")


@pytest.mark.slow
def test_a_hundred_runs_of_three_thousand_sentences(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "large.html"
    write_page(synthetic.rich(runs=100, sentences=3_000, maps=50), path)
    assert path.stat().st_size <= 60_000_000
    with opened(browser, path) as page:
        assert page.evaluate("() => performance.now()") < 3_000
        assert page.locator("#summary tbody tr").count() == 100
        page.get_by_label("Find a run").fill("luna/seed7")
        assert column(page, "summary", 0) == ["luna/seed7"]
        page.get_by_text("Choose runs").click()
        page.get_by_role("button", name="All", exact=True).click()
        expect(page.locator("#curves g.run:has(.line)")).to_have_count(100)
        expect(page.locator(".more")).to_have_text("and 92 runs in grey")
