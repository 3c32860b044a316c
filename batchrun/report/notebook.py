"""A run as a small table in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from batchrun.errors import printable
from batchrun.job.paths import is_simulated
from batchrun.report.formatting import dollars, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from batchrun.pricing.totals import RunTotals


def summary_html(totals: RunTotals, directory: Path, problem: str | None = None) -> str:
    """Return a table of two columns without styles.

    Args:
        totals: totals of the run.
        directory: the run directory.
        problem: the error that ended its last execution early, if there is one.
    """
    facts = dict(_facts(totals, directory))
    if problem is not None:
        facts["ended early"] = problem
    rows = (
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(printable(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table>{''.join(rows)}</table>"


def table_html(rows: Sequence[Sequence[str]], problems: Iterable[str] = ()) -> str:
    """Return a table with the headings in its first row, and the problems below it."""
    heads, *others = [[escape(printable(cell)) for cell in row] for row in rows]
    lines = ["".join(f"<th>{cell}</th>" for cell in heads)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in others]
    below = "".join(f"<p>{escape(printable(problem))}</p>" for problem in problems)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>{below}"


def _facts(totals: RunTotals, directory: Path) -> Iterator[tuple[str, str]]:
    yield "run", totals.name
    yield "succeeded", f"{totals.succeeded:,} of {totals.total:,} rows"
    for name, count in (("errored", totals.errored), ("pending", totals.pending)):
        if count:
            yield name, f"{count:,}"
    usage = totals.usage
    yield "tokens", f"{usage.input_tokens or 0:,} input, {usage.output_tokens or 0:,} output"
    yield "cost", _cost(totals) + (" (simulated)" if is_simulated(directory) else "")
    yield "time", seconds(totals.wall_time_s)
    yield "results", str(directory)


def _cost(totals: RunTotals) -> str:
    if totals.is_unpriced:
        return "unknown"
    return f"{'at least ' if totals.unpriced else ''}{dollars(totals.cost.total)}"
