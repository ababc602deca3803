"""Opening a page in the browser: whatever it says, asks for or lets overflow is an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, ViewportSize

Scheme = Literal["light", "dark"]
PHONE = ViewportSize(width=360, height=740)
DESK = ViewportSize(width=1280, height=900)

OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@contextmanager
def opened(
    browser: Browser, path: Path, size: ViewportSize = DESK, scheme: Scheme = "light"
) -> Iterator[Page]:
    """Open a page and wait until it is drawn; at the end it must have kept quiet."""
    context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(15_000)
    heard: list[str] = []
    page.on("console", lambda message: heard.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("request", lambda request: heard.append(f"request: {request.url[:100]}"))
    try:
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        yield page
        assert heard == [f"request: {path.as_uri()[:100]}"]
        assert page.evaluate(OVERFLOW) == 0, "the page scrolls sideways"
    finally:
        context.close()


def choose(page: Page, label: str, option: str) -> None:
    """Choose from the drop-down list of that name."""
    page.get_by_label(label, exact=True).select_option(label=option)


def unfold(page: Page, section: str) -> None:
    """Open the values behind the chart of a section as a table."""
    page.locator(f"#{section} details.values summary").last.click()
    page.locator(f"#{section} details.values table").wait_for()


def column(page: Page, section: str, number: int) -> list[str]:
    """The first lines of a column (from 0) of the first table of a section."""
    cells = page.locator(f"#{section} table").first.locator("tbody tr")
    return [row.locator("th, td").nth(number).inner_text().splitlines()[0] for row in cells.all()]
