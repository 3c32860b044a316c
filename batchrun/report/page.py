"""`report.html`: one file that shows a run, needs no network and is not allowed any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.report import panels
from batchrun.report.frame import document, footer, header
from batchrun.report.markup import tag
from batchrun.report.rows import rows_panel
from batchrun.report.scores import score_panels
from batchrun.report.text import counted, when

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.history import History, RunTotals
    from batchrun.report.markup import Markup
    from batchrun.scoring import ScoreTotals


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
    return document(
        totals.name,
        _header(totals, subject),
        panels.tiles(totals, score),
        panels.over_time(totals, history.series),
        tag("div", *score_panels(score), cls="grid") if score is not None else None,
        tag("div", *panels.money(totals), cls="grid"),
        tag("div", *panels.distributions(history), cls="grid three"),
        panels.errors(totals),
        panels.endings(totals),
        rows_panel(history.samples, totals.total),
        tag("div", *panels.details(totals, subject.facts), cls="grid"),
        footer(subject.notes, subject.written_us),
    )


def _header(totals: RunTotals, subject: Subject) -> Markup:
    tones = {"finished": "good", "running": "busy"}
    first = totals.executions[0]["started_us"] if totals.executions else None
    models = ", ".join(one.model for one in totals.models[:3])
    line = [counted(totals.total, "row"), models, f"started {when(first)}" if first else ""]
    state = tag("span", subject.state, cls=f"pill {tones.get(subject.state, 'warn')}")
    return header(totals.name, line, state, is_simulated=subject.is_simulated)
