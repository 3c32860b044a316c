"""`report.html` in a real browser: quiet, alone, to be searched and read, in light, dark and small."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import command
from tests.support import browser
from tests.support.browser import Browser, Page
from tests.support.compared import matrix
from tests.support.provider import Call, Reply, answer, refusal, serving
from tests.support.reports import HOSTILE, LABELS, run

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
FOUND = "document.getElementById('found').textContent"


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


def becomes(page: Page, expression: str, wanted: object, *, within_s: float = 120.0) -> bool:
    """Wait until an expression has a value; fail with the one that it had last."""
    deadline = time.monotonic() + within_s
    while (found := page.run(expression)) != wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    assert found == wanted, expression
    return True


def show(page: Page, file: Path) -> None:
    """Open a page, and wait until its rows are there."""
    page.open(file)
    becomes(page, "document.getElementById('rows').dataset.ready", "true")


def choose(page: Page, selector: str, value: str) -> None:
    """Choose an option as a person does."""
    page.run(
        f"""(() => {{ const one = document.querySelector({json.dumps(selector)});
        one.value = {json.dumps(value)}; one.dispatchEvent(new Event("change")); }})()"""
    )


def is_quiet_and_alone(page: Page, report: Path) -> bool:
    """Whether it had nothing to complain of and loaded nothing but itself."""
    assert page.complaints() == []
    assert page.requests() == [report.as_uri()]
    return True


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_quiet_and_legible(chromium: Browser, report: Path, *, dark: bool) -> None:
    with Page(chromium, dark=dark) as page:
        show(page, report)
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
        show(page, report)
        assert page.run(SHOWN) == 50
        assert page.run(FOUND) == ""
        page.run("document.getElementById('search').focus()")
        page.type("ANSWER7 prompt7")
        becomes(page, FOUND, "1 of 60")
        assert page.run(SHOWN) == 1
        page.run("document.getElementById('search').select()")
        page.type("onerror")
        becomes(page, SHOWN, 12)
        page.run("document.getElementById('search').select()")
        page.type(" ")
        page.run("document.querySelector('[data-kind=errored]').click()")
        becomes(page, SHOWN, 6)
        page.run("document.querySelector('#rows tr button').focus()")
        page.press("Enter")
        assert page.run("document.querySelectorAll('#rows tr.open').length") == 1
        assert page.run("document.activeElement.ariaExpanded") == "true"
        assert is_quiet_and_alone(page, report)


def test_what_others_wrote_is_shown_as_text(chromium: Browser, report: Path) -> None:
    with Page(chromium) as page:
        show(page, report)
        shown = page.run("document.getElementById('rows').textContent")
        for text in HOSTILE:
            assert text in shown
        strange = "script, style, img, iframe, svg, textarea, b, i, a"
        assert page.run(f"document.querySelectorAll('#rows :is({strange})').length") == 0
        assert page.run("document.title") == "report of <i>colours · batchrun"
        assert is_quiet_and_alone(page, report)


def test_rows_are_paged_and_sorted(chromium: Browser, report: Path) -> None:
    ids = "[...document.querySelectorAll('#rows .id')].map((e) => parseInt(e.innerText.slice(1)))"
    with Page(chromium) as page:
        show(page, report)
        assert page.run(ids) == list(range(50))
        assert page.run("document.getElementById('place').textContent") == "1 to 50 of 60"
        page.run("document.getElementById('next').click()")
        becomes(page, ids, list(range(50, 60)))
        assert page.run("document.getElementById('next').disabled")
        choose(page, "#order", "row|down")
        becomes(page, ids, list(range(59, 9, -1)))
        page.run("document.querySelector('[data-sort=score]').click()")
        # Wrong answers first; rows without a score are the last.
        wrong = [n for n in range(60) if n % 6 == 0]
        right = [n for n in range(60) if n % 6 and n % 10 != 9]
        becomes(page, ids, (wrong + right)[:50])
        assert page.run("document.querySelector('th.score').ariaSort") == "ascending"
        page.run("document.querySelector('[data-sort=score]').click()")
        becomes(page, ids, (right + wrong)[:50])
        choose(page, "#outcome", "failed")
        becomes(page, ids, wrong)
        choose(page, "#outcome", "unscored")
        becomes(page, ids, [9, 19, 29, 39, 49, 59])
        assert is_quiet_and_alone(page, report)


TWO_SCORERS = """[[score]]
name = "colour"
expected = "{{ label }}"
match = "choice"
choices = ["red", "green", "blue"]
by = ["shade"]
[[score]]
name = "words"
expected = "{{ label }} it is"
match = "exact"
"""


@pytest.fixture(scope="module")
def report_of_scorers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scorers")
    labels = ("red", "green", "blue")
    lines = [
        json.dumps({"n": n, "label": labels[n % 3], "shade": ("dark", "light")[n % 2]})
        for n in range(12)
    ]
    (folder / "rows.jsonl").write_text("\n".join(lines))

    def answered(call: Call) -> Reply:
        n = int(call.prompt)
        return answer(call, f"{labels[(n + (n == 4)) % 3]} {'is it' if n == 7 else 'it is'}")

    with serving(answered) as provider:
        (folder / "job.toml").write_text(
            f"""[input]
path = "rows.jsonl"
[request]
format = "messages"
base_url = "{provider.url}"
api_key_env = ""
model = "m"
prompt = "{{{{ n }}}}"
max_tokens = 50
{TWO_SCORERS}[output]
dir = "out"
"""
        )
        code, _, stderr = command("run", folder / "job.toml", "--quiet")
    assert code == 0, stderr
    assert command("report", folder / "out")[0] == 0
    return folder / "out" / "report.html"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_rows_are_filtered_by_slice_scorer_and_disagreement(
    chromium: Browser, report_of_scorers: Path, width: int, *, dark: bool
) -> None:
    ids = "[...document.querySelectorAll('#rows .id')].map((e) => parseInt(e.innerText) - 1)"
    with Page(chromium, width=width, dark=dark) as page:
        show(page, report_of_scorers)
        choose(page, "[data-slice=shade]", "1")
        becomes(page, ids, [1, 3, 5, 7, 9, 11])
        choose(page, "#outcome", "failed")
        becomes(page, ids, [7])
        choose(page, "[data-slice=shade]", "")
        becomes(page, ids, [4, 7])
        choose(page, "#scorer", "colour")
        becomes(page, ids, [4])
        # The words that are otherwise than expected are marked on both sides.
        marks = "[...document.querySelectorAll('#rows mark')].map((e) => e.innerText)"
        assert page.run(marks)[:2] == ["green", "blue it is"]
        choose(page, "#outcome", "any")
        page.run("document.querySelector('[data-kind=\"scorers disagree\"]').click()")
        becomes(page, ids, [7])
        page.run("document.getElementById('marking').click()")
        becomes(page, marks, [])
        assert page.run("document.documentElement.scrollWidth") <= width
        page.run("document.getElementById('marking').click()")
        page.run("document.querySelector('[data-kind=all]').click()")
        becomes(page, SHOWN, 12)
        assert page.run(CONTRAST) == []
        assert is_quiet_and_alone(page, report_of_scorers)


def test_it_is_read_on_a_phone_and_printed(chromium: Browser, report: Path, tmp_path: Path) -> None:
    with Page(chromium, width=390) as page:
        show(page, report)
        assert page.run("document.documentElement.scrollWidth") == 390
        page.print(tmp_path / "report.pdf")
        assert is_quiet_and_alone(page, report)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    # On a sheet of A4 it is light, whatever the screen is, and nothing is cut off.
    with Page(chromium, width=794, dark=True, paper=True) as page:
        show(page, report)
        assert page.run("document.documentElement.scrollWidth") == 794
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.run("document.querySelector('.controls').checkVisibility()")


def test_runs_side_by_side(chromium: Browser, tmp_path: Path) -> None:
    out = matrix(tmp_path)
    command("report", out)
    for dark in (False, True):
        with Page(chromium, dark=dark) as page:
            show(page, out / "report.html")
            assert is_quiet_and_alone(page, out / "report.html")
            assert page.run("document.documentElement.scrollWidth <= innerWidth")
            assert page.run(CONTRAST) == []
    with Page(chromium, width=390) as page:
        show(page, out / "report.html")
        assert page.run("document.documentElement.scrollWidth") == 390
        for kind, shown in (("all", 12), ("worse", 1)):
            page.run(f"document.querySelector('[data-kind={kind}]').click()")
            becomes(page, SHOWN, shown)
        marks = "[...document.querySelectorAll('#rows mark')].map((e) => e.innerText)"
        assert page.run(marks) == ["blue"]
        page.run("document.getElementById('search').focus()")
        page.type("nowhere")
        becomes(page, SHOWN, 0)
        link = page.run("document.querySelector('a').href")
        assert link == (out / "model=one" / "report.html").as_uri().replace("=", "%3D")
        assert is_quiet_and_alone(page, out / "report.html")


def test_a_leaderboard_is_legible(chromium: Browser, tmp_path: Path) -> None:
    matrix(tmp_path)
    page_file = tmp_path / "leaderboard.html"
    assert command("compare", tmp_path, "--html", page_file)[0] == 0
    for width, dark in ((1280, False), (1280, True), (390, False)):
        with Page(chromium, width=width, dark=dark) as page:
            page.open(page_file)
            assert page.run("document.documentElement.scrollWidth") <= width
            assert page.run("document.querySelectorAll('.runs tbody tr').length") == 3
            assert page.run(CONTRAST) == []
            assert is_quiet_and_alone(page, page_file)


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
        show(page, report_of_endings)
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
            becomes(page, SHOWN, shown)
        page.run("document.querySelector('[data-kind=length]').click()")
        becomes(page, SHOWN, 6)
        visible = "[...document.querySelectorAll('#rows tr')].map((r) => r.innerText)"
        assert all("The ans" in row and "length" in row for row in page.run(visible))
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        assert page.run(CONTRAST) == []
        assert is_quiet_and_alone(page, report_of_endings)
        if folder := os.environ.get("BATCHRUN_PICTURES"):
            page.picture(Path(folder) / f"endings-{'dark' if dark else 'light'}.png")
    with Page(chromium, width=390, dark=dark) as page:
        show(page, report_of_endings)
        assert page.run("document.documentElement.scrollWidth") == 390
