"""`report.html`: one file that shows a run, needs no network and is not allowed any."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from batchrun import __version__
from batchrun.report import panels
from batchrun.report.markup import Markup, joined, tag
from batchrun.report.rows import rows_panel
from batchrun.report.scores import score_panels
from batchrun.report.text import counted, when

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.history import History
    from batchrun.records import RunTotals
    from batchrun.scoring import ScoreTotals

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Subject:
    """What a report is about, beside its numbers.

    Attributes:
        state: `running`, `finished`, or what ended the run early.
        facts: (label, value) about the job, in the order in which they are shown.
        is_simulated: whether the answers are the simulator's.
        notes: what the reader should know about gaps in the report.
        written_us: when it was made.
    """

    state: str
    facts: Sequence[tuple[str, str]]
    is_simulated: bool
    notes: Sequence[str]
    written_us: int


def page(totals: RunTotals, history: History, score: ScoreTotals | None, subject: Subject) -> str:
    """Return the whole document."""
    style, script = _asset("page.css"), _asset("page.js")
    body = tag(
        "main",
        _header(totals, subject),
        panels.tiles(totals, score),
        panels.over_time(totals, history.series),
        tag("div", *score_panels(score), cls="grid") if score is not None else None,
        tag("div", *panels.money(totals), cls="grid"),
        tag("div", *panels.distributions(history), cls="grid three"),
        panels.errors(totals),
        rows_panel(history.samples, totals.total),
        tag("div", *panels.details(totals, subject.facts), cls="grid"),
        _footer(subject),
    )
    head = joined(
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        Markup('<meta name="referrer" content="no-referrer">'),
        Markup('<link rel="icon" href="data:,">'),
        tag("title", f"{totals.name} · batchrun"),
        tag("style", Markup(style)),
    )
    whole = joined(
        Markup('<!doctype html>\n<html lang="en">'),
        tag("head", head),
        tag("body", body, tag("div", id="tip", hidden=""), tag("script", Markup(script))),
        Markup("</html>\n"),
    )
    return str(whole)


def _policy(style: str, script: str) -> str:
    """Nothing from anywhere; of scripts and styles only our own, known by their hashes."""
    sources = (("style-src", style), ("script-src", script))
    allowed = "; ".join(f"{kind} 'sha256-{_digest(text)}'" for kind, text in sources)
    return f"default-src 'none'; img-src data:; {allowed}; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _header(totals: RunTotals, subject: Subject) -> Markup:
    tones = {"finished": "good", "running": "busy"}
    first = totals.executions[0]["started_us"] if totals.executions else None
    models = ", ".join(one.model for one in totals.models[:3])
    line = [counted(totals.total, "row"), models, f"started {when(first)}" if first else ""]
    return tag(
        "header",
        tag(
            "div",
            tag("h1", totals.name),
            tag("p", " · ".join(part for part in line if part), cls="quiet"),
        ),
        tag(
            "div",
            tag("span", "simulated answers", cls="pill warn") if subject.is_simulated else None,
            tag("span", subject.state, cls=f"pill {tones.get(subject.state, 'warn')}"),
            cls="pills",
        ),
    )


def _footer(subject: Subject) -> Markup:
    notes = [tag("p", note) for note in subject.notes]
    made = f"batchrun {__version__} · written {when(subject.written_us)}"
    return tag("footer", *notes, tag("p", made))
