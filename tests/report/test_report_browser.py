"""`report.html` in a real browser: quiet, alone, to be searched and read, in light, dark and small."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import command
from tests.support import browser
from tests.support.browser import Browser, Page
from tests.support.compared import matrix
from tests.support.provider import Call, Reply, answer, refusal
from tests.support.reports import LABELS, run

if TYPE_CHECKING:
    from collections.abc import Iterator

# Returns the texts that do not stand out from what is behind them as WCAG 2.2 AA asks.
CONTRAST = """(() => {
  const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    paint.clearRect(0, 0, 1, 1); paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const found = rgba(getComputedStyle(e).backgroundColor);
      if (found[3] > 250) return found;
    }
    return [255, 255, 255, 255];
  };
  const faint = new Set();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest("script, style, .unseen")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [rgba(element.closest("svg") ? style.fill : style.color), behind(element)].map(light);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.add(`${element.className.baseVal ?? element.className}: ${text.slice(0, 40)} ${contrast.toFixed(2)}`);
  }
  return [...faint];
})()"""
SHOWN = "[...document.querySelectorAll('#rows tr')].filter((row) => row.checkVisibility()).length"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("report")) / "report.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = browser.find()
    if program is None:
        notice = "there is no Chromium here: install the package chromium to run the tests of report.html"
        if os.environ.get("CI") == "true":
            pytest.fail(notice)
        pytest.skip(notice)
    with browser.browsing(program) as running:
        yield running


def is_quiet_and_alone(page: Page, report: Path) -> bool:
    """Whether it had nothing to complain of and loaded nothing but itself."""
    assert page.complaints() == []
    assert page.requests() == [report.as_uri()]
    return True


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_quiet_and_legible(chromium: Browser, report: Path, *, dark: bool) -> None:
    with Page(chromium, dark=dark) as page:
        page.open(report)
        assert is_quiet_and_alone(page, report)
        assert page.run("document.title") == "report of <i>colours · batchrun"
        assert page.run("[...document.querySelectorAll('svg.chart')].length") == 7
        assert page.run(
            "[...document.querySelectorAll('svg.chart')].every((e) => e.clientHeight > 90)"
        )
        assert page.run("[...document.querySelectorAll('section')].every((e) => e.ariaLabel)")
        assert page.run("[...document.querySelectorAll('table')].every((e) => e.tHead.rows.length)")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        assert page.run(CONTRAST) == []
        background = page.run("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(13, 17, 23)") is dark


def test_rows_are_found_and_opened(chromium: Browser, report: Path) -> None:
    with Page(chromium) as page:
        page.open(report)
        assert page.run(SHOWN) == 60
        page.run("document.getElementById('search').focus()")
        page.type("ANSWER7 prompt7")
        assert page.run(SHOWN) == 1
        assert page.run("document.getElementById('found').textContent") == "1 of 60"
        page.run("document.getElementById('search').select()")
        page.type("onerror")
        assert page.run(SHOWN) == 12
        page.run("document.getElementById('search').select()")
        page.type(" ")
        page.run("document.querySelector('[data-kind=errored]').click()")
        assert page.run(SHOWN) == 6
        page.run("document.querySelector('#rows tr:not([hidden]) button').focus()")
        page.press("Enter")
        assert page.run("document.querySelectorAll('#rows tr.open').length") == 1
        assert page.run("document.activeElement.ariaExpanded") == "true"
        assert is_quiet_and_alone(page, report)


def test_it_is_read_on_a_phone_and_printed(chromium: Browser, report: Path, tmp_path: Path) -> None:
    with Page(chromium, width=390) as page:
        page.open(report)
        assert page.run("document.documentElement.scrollWidth") == 390
        page.print(tmp_path / "report.pdf")
        assert is_quiet_and_alone(page, report)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    # On a sheet of A4 it is light, whatever the screen is, and nothing is cut off.
    with Page(chromium, width=794, dark=True, paper=True) as page:
        page.open(report)
        assert page.run("document.documentElement.scrollWidth") == 794
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.run("document.querySelector('.controls').checkVisibility()")


def test_runs_side_by_side(chromium: Browser, tmp_path: Path) -> None:
    out = matrix(tmp_path)
    command("report", out)
    for dark in (False, True):
        with Page(chromium, dark=dark) as page:
            page.open(out / "report.html")
            assert is_quiet_and_alone(page, out / "report.html")
            assert page.run("document.documentElement.scrollWidth <= innerWidth")
            assert page.run(CONTRAST) == []
    with Page(chromium, width=390) as page:
        page.open(out / "report.html")
        assert page.run("document.documentElement.scrollWidth") == 390
        for kind, shown in (("better", 0), ("worse", 1)):
            page.run(f"document.querySelector('[data-kind={kind}]').click()")
            assert page.run(SHOWN) == shown
        page.run("document.getElementById('search').focus()")
        page.type("nowhere")
        assert page.run(SHOWN) == 0
        link = page.run("document.querySelector('a').href")
        assert link == (out / "model=one" / "report.html").as_uri().replace("=", "%3D")
        assert is_quiet_and_alone(page, out / "report.html")


def ending_variously(call: Call) -> Reply:
    """Right in most rows; some answers are cut, some refused, one is paused."""
    n = int(call.prompt.split()[0])
    if n == 40:
        return refusal(400, "invalid_request_error", "not this")
    body = json.loads(answer(call, f"{LABELS[n % 3]}, row{n}").body)
    if n % 10 == 3:
        body |= {"stop_reason": "max_tokens", "content": [{"type": "text", "text": f"The ans{n}"}]}
    elif n % 20 == 5:
        body |= {"stop_reason": "refusal", "content": []}
    elif n == 7:
        body |= {"stop_reason": "something_new"}
    return Reply(body=json.dumps(body).encode())


@pytest.fixture(scope="module")
def report_of_endings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("endings"), decide=ending_variously) / "report.html"


@pytest.mark.parametrize("dark", [False, True])
def test_rows_are_filtered_by_ending(
    chromium: Browser, report_of_endings: Path, *, dark: bool
) -> None:
    with Page(chromium, dark=dark) as page:
        page.open(report_of_endings)
        assert page.run("document.querySelector('[aria-label=Endings]').checkVisibility()")
        panel = page.run("document.querySelector('[aria-label=Endings]').innerText")
        assert "49 of 59 answers ended with stop or tool_calls" in panel
        assert "raise [request] max_tokens" in panel
        tile = page.run("document.querySelector('.tiles').innerText")
        assert re.search(r"Accuracy\n[\d.]+%\n+95 % CI .*, 6 length, 3 refusal, 1 unknown", tile)
        kinds = "[...document.querySelectorAll('.choices button')].map((b) => b.dataset.kind)"
        assert page.run(kinds) == [
            *("all", "succeeded", "errored", "wrong", "length", "refusal", "unknown")
        ]
        for kind, shown in (("length", 6), ("refusal", 3), ("unknown", 1), ("errored", 1)):
            page.run(f"document.querySelector('[data-kind={kind}]').click()")
            assert page.run(SHOWN) == shown
        page.run("document.querySelector('[data-kind=length]').click()")
        visible = "[...document.querySelectorAll('#rows tr:not([hidden])')].map((r) => r.innerText)"
        assert all("The ans" in row and "length" in row for row in page.run(visible))
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        assert page.run(CONTRAST) == []
        assert is_quiet_and_alone(page, report_of_endings)
        if folder := os.environ.get("BATCHRUN_PICTURES"):
            page.picture(Path(folder) / f"endings-{'dark' if dark else 'light'}.png")
    with Page(chromium, width=390, dark=dark) as page:
        page.open(report_of_endings)
        assert page.run("document.documentElement.scrollWidth") == 390
