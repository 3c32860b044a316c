"""Draws the pictures of the README from runs of the sample job: `make pictures`.

Both show what really came out: the terminal as the command wrote it, the report as Chromium shows it.
"""

from __future__ import annotations

import fcntl
import html
import os
import pty
import re
import shutil
import struct
import sys
import tempfile
import termios
from pathlib import Path

import batchrun
from tests.conftest import ROOT
from tests.support import browser
from tests.support.browser import Page

IMAGES = ROOT / "docs" / "images"
JOB = "jobs/ticket_triage.toml"
COLUMNS = 104
# Slow enough for curves, with something to try again.
BUSY = batchrun.SimulatorConfig(latency_ms=400, error_rate=0.06, seed=4)
# The report down to what it says of scores.
END = "document.querySelectorAll('.grid')[1].getBoundingClientRect().bottom + 12"

SIZE, LINE, MARGIN = 14, 20, 22
CHARACTER = SIZE * 0.602
COLOURS = {"1": "bold", "2": "dim", "31": "red", "32": "green", "33": "yellow"}
STYLE = """
text { font: 14px ui-monospace, "SF Mono", Menlo, "Cascadia Mono", "DejaVu Sans Mono", Consolas, monospace;
  fill: #d6deeb; white-space: pre; }
.bold { font-weight: 700; fill: #fff; } .dim { fill: #8592a6; }
.red { fill: #ff7b72; } .green { fill: #5fd38d; } .yellow { fill: #f2c14e; } .prompt { fill: #7d95ff; }
"""


def main() -> None:
    """Write both pictures."""
    program = browser.find()
    if program is None:
        sys.exit("Chromium is not installed")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for needed in ("jobs", "sample_data"):
            shutil.copytree(ROOT / needed, folder / needed)
        words = ["batchrun", "run", JOB, "--simulate"]
        lines = [f"$ {' '.join(words)}", *typed(words, folder)]
        shown = [line.replace(f"{folder.resolve()}/", "") for line in lines]
        (IMAGES / "terminal.svg").write_text(drawn(shown), encoding="utf-8")
        picture(program, folder, IMAGES / "report.png")
    for file in sorted(IMAGES.iterdir()):
        print(f"{file.relative_to(ROOT)}  {file.stat().st_size / 1_000:.0f} kB")


def picture(program: str, folder: Path, file: Path) -> None:
    """Run the job busily, and show the upper part of its report."""
    job = batchrun.load_job(folder / JOB, {"limits.concurrency": 24})
    options = batchrun.RunOptions(simulate=BUSY, quiet=True, new=True, yes=True)
    report = batchrun.write_report(batchrun.run_job(job, options).directory)
    with browser.browsing(program) as running, Page(running) as page:
        page.open(report)
        page.picture(file, round(page.run(END)))


def typed(words: list[str], folder: Path) -> list[str]:
    """Run a command on a terminal of its own; return the lines that stand there in the end."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ["TERM"] = "xterm-256color"
        os.execv(sys.executable, [sys.executable, "-m", *words])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 60, COLUMNS, 0, 0))
    parts = []
    while part := _read(terminal):
        parts.append(part)
    os.waitpid(pid, 0)
    os.close(terminal)
    lines = b"".join(parts).decode().replace("\r\n", "\n").strip("\n").split("\n")
    return [line.rstrip("\r").rpartition("\r")[2] for line in lines]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the other side is closed
        return b""


def drawn(lines: list[str]) -> str:
    """Return lines with colours as a picture of a terminal."""
    width, height = round(COLUMNS * CHARACTER + 2 * MARGIN), len(lines) * LINE + 2 * MARGIN + 26
    dots = "".join(
        f'<circle cx="{MARGIN + 20 * n}" cy="20" r="6" fill="{colour}"/>'
        for n, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    texts = "".join(
        f'<text x="{MARGIN}" y="{MARGIN + 26 + LINE * n + SIZE}" xml:space="preserve">{_spans(line)}</text>\n'
        for n, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'role="img" aria-label="A run on the terminal"><style>{STYLE}</style>'
        f'<rect width="{width}" height="{height}" rx="10" fill="#11161d"/>{dots}\n{texts}</svg>\n'
    )


def _spans(line: str) -> str:
    if line.startswith("$ "):
        return f'<tspan class="prompt">$</tspan>{html.escape(line[1:])}'
    spans, classes = [], ""
    for n, part in enumerate(re.split(r"\x1b\[([0-9;]*)m", line)):
        if n % 2:
            classes = " ".join(COLOURS[code] for code in part.split(";") if code in COLOURS)
        elif part and classes:
            spans.append(f'<tspan class="{classes}">{html.escape(part)}</tspan>')
        else:
            spans.append(html.escape(part))
    return "".join(spans)


if __name__ == "__main__":
    main()
