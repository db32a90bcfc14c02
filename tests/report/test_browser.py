"""The page in headless Chromium, without a network: nothing is asked for, hovering shows a cell, types are filtered."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from annotated_cells import NUM_CELLS, write_annotated

from cellfm_torch import cli

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
# Software WebGL: test machines have no GPU.
OPTIONS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
READY = "() => document.querySelectorAll('#cells .legend .traces').length > 0"
DRAWN = "() => document.getElementById('cells').data.reduce((n, t) => n + t.x.length, 0)"
PLACE = """(cell) => {
    const plot = document.getElementById('cells'), full = plot._fullLayout, box = plot.getBoundingClientRect();
    const data = JSON.parse(document.getElementById('cells-data').textContent);
    const bytes = (key) => Uint8Array.from(atob(data[key]), (c) => c.charCodeAt(0)).buffer;
    const of = (key) => new Float32Array(bytes(key))[cell];
    return [box.left + full.xaxis._offset + full.xaxis.l2p(of('x')),
            box.top + full.yaxis._offset + full.yaxis.l2p(of('y'))];
}"""
NO_WEBGL = """const plain = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
    return kind.includes('webgl') ? null : plain.call(this, kind, ...rest);
};"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    typed = ["report", str(write_annotated(folder / "cells.h5ad")), "--label", "cell_type", "--batch", "batch"]
    assert cli.main([*typed, "--output", str(folder / "page.html")]) == 0
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    with api.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield found
        found.close()


class Opened:
    """The page in a window of some width, with what it complained of and asked for."""

    def __init__(self, browser: Any, file: Path, width: int, script: str | None = None) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
        self.page = context.new_page()
        self.page.on("console", lambda m: self.problems.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.problems.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))
        if script:
            self.page.add_init_script(script)
        self.page.goto(file.as_uri())
        self.page.wait_for_function(READY)

    def drawn(self) -> int:
        return int(self.page.evaluate(DRAWN))


def test_loads_offline_and_hovers(browser: Any, file: Path) -> None:
    opened = Opened(browser, file, 1280)
    assert opened.drawn() == NUM_CELLS - 1
    opened.page.locator("#cells").scroll_into_view_if_needed()
    x, y = opened.page.evaluate(PLACE, 0)
    opened.page.mouse.move(x - 3, y - 3)
    opened.page.mouse.move(x, y)
    text = opened.page.wait_for_selector("#cells .hoverlayer .hovertext").text_content()
    for words in ("cell ", "prediction: ", "probability: 0.", "runner-up: ", "batch: ", "given type: "):
        assert words in text
    assert opened.problems == []
    assert opened.requests == [file.as_uri()]


def test_names_are_text_in_the_hover(browser: Any, file: Path) -> None:
    opened = Opened(browser, file, 1280)
    texts = opened.page.evaluate("() => document.getElementById('cells').data.flatMap((t) => Array.from(t.text))")
    assert sum("cell 0 &lt;b&gt;" in text for text in texts) == 1 and not any("cell 0 <b>" in text for text in texts)


def test_filter_and_colours(browser: Any, file: Path) -> None:
    opened = Opened(browser, file, 1280)
    page = opened.page
    page.click("#no-types")
    assert opened.drawn() == 0 and "0 of 239 cells shown" in page.text_content("#shown")
    label = page.locator("#types label", has_text="unknown")
    number = int(label.text_content().split("(")[1].rstrip(")"))
    label.locator("input").check()
    assert opened.drawn() == number > 0
    names = page.evaluate("() => document.getElementById('cells').data.map((t) => t.name)")
    assert names == [f"unknown ({number})"]
    page.click("#all-types")
    assert opened.drawn() == NUM_CELLS - 1
    page.select_option("#colour", label="probability")
    assert page.evaluate("() => document.getElementById('cells').data[0].marker.colorbar.title.text") == "probability"
    page.select_option("#colour", label="batch")
    assert page.evaluate("() => document.getElementById('cells').data.length") == 2
    assert opened.drawn() == NUM_CELLS - 1 and opened.problems == []


def test_a_narrow_window_does_not_scroll_sideways(browser: Any, file: Path) -> None:
    opened = Opened(browser, file, 400)
    assert opened.page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    assert opened.drawn() == NUM_CELLS - 1 and opened.problems == []


def test_without_webgl(browser: Any, file: Path) -> None:
    opened = Opened(browser, file, 1280, NO_WEBGL)
    assert opened.page.evaluate("() => document.getElementById('cells').data[0].type") == "scatter"
    assert opened.page.locator("#cells .scatterlayer .point").count() == NUM_CELLS - 1 and opened.problems == []
