"""Measure how fast the page of a large run is written, and opens in a browser.

Runs over a table on the simulator, writes `report.html`, and opens it in Chromium. The size is that of
the file, the memory the peak of `batchrun report`. Usage: python -m benchmarks.report_page [ROWS]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support import browser
from tests.support.browser import Page

WORDS = [
    "the",
    "meter",
    "in",
    "the",
    "second",
    "cellar",
    "shows",
    "a",
    "value",
    "that",
    "nobody",
    "in",
    "the",
    "office",
    "can",
    "explain",
    "today",
]
JOB = """[input]
path = "rows.jsonl"
id = "id"
[request]
format = "messages"
model = "claude-haiku-4-5-20251001"
prompt = "{{ text }}"
max_tokens = 100
[score]
expected = "{{ label }}"
match = "contains"
by = ["language"]
[output]
dir = "run"
"""
_REPORT = """
import resource, sys
from batchrun.__main__ import main
sys.argv = ["batchrun", "report", "run.simulated"]
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
"""
READY = "document.getElementById('rows').dataset.ready === 'true'"
FOUND = "document.getElementById('found').textContent"


def main(rows: int) -> None:
    """Measure once and print the figures."""
    program = browser.find()
    if program is None:
        sys.exit("Chromium is not installed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = written(folder, rows)
        with browser.browsing(program) as running, Page(running) as page:
            opened(page, report)


def written(folder: Path, rows: int) -> Path:
    """Run a job and write its report; return the file."""
    languages = ("en", "de", "fr", "ja")
    with (folder / "rows.jsonl").open("w") as file:
        for n in range(rows):
            text = " ".join(WORDS[(n * 7 + k * (n % 11 + 1)) % len(WORDS)] for k in range(60))
            row = {"id": f"r{n}", "text": f"{n}: {text}", "label": WORDS[n % len(WORDS)]}
            file.write(json.dumps(row | {"language": languages[n % 4]}) + "\n")
    (folder / "job.toml").write_text(JOB)
    run = [sys.executable, "-m", "batchrun", "run", "job.toml", "--simulate", "--quiet", "--yes"]
    subprocess.run(run, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _REPORT], cwd=folder, check=True, capture_output=True, text=True
    )
    report = folder / "run.simulated" / "report.html"
    print(f"{rows:,} rows: written in {time.monotonic() - start:.1f} s", end=", ")
    print(f"{report.stat().st_size / 1e6:.1f} MB, peak memory {done.stderr.split()[-1]} MiB")
    return report


def opened(page: Page, report: Path) -> None:
    """Open the page, and use it."""
    start = time.monotonic()
    page.open(report)
    wait(page, READY)
    print(f"first rows shown after {time.monotonic() - start:.2f} s")
    timed(page, "next page", "document.getElementById('next').click()")
    sort = "document.querySelector('[data-sort=score]').click()"
    timed(page, "sorted by score", sort)
    choose = """(() => { const one = document.querySelector('[data-slice=language]');
        one.value = '1'; one.dispatchEvent(new Event('change')); })()"""
    timed(page, "filtered by a column", choose, FOUND)
    search = """(() => { const one = document.getElementById('search');
        one.value = 'nothing-has-this'; one.dispatchEvent(new Event('input')); })()"""
    start = time.monotonic()
    page.run(search)
    wait(page, f"{FOUND}.startsWith('0 of')")
    print(f"a quarter of the rows searched in {time.monotonic() - start:.2f} s")


def timed(page: Page, what: str, action: str, changed: str = "") -> None:
    """Do something, and wait until the rows have changed."""
    changed = changed or "document.getElementById('rows').textContent.slice(0, 4000)"
    before = page.run(changed)
    start = time.monotonic()
    page.run(action)
    wait(page, f"{changed} !== {json.dumps(before)}")
    print(f"{what} after {time.monotonic() - start:.2f} s")


def wait(page: Page, expression: str, within_s: float = 60.0) -> None:
    """Wait until an expression is true."""
    deadline = time.monotonic() + within_s
    while not page.run(expression):
        if time.monotonic() > deadline:
            raise TimeoutError(expression)
        time.sleep(0.01)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
