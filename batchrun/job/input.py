"""`[input]`: which table, and which of its rows."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from batchrun.job.configs import InputConfig
from batchrun.job.dates import with_dates
from batchrun.job.paths import absolute

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from batchrun.sections import Section


def read_input(section: Section, base: Path, day: date | None) -> InputConfig:
    """Read the section; what is wrong goes to its problems. Paths start at `base`."""
    given = section.check("path", partial(with_dates, section.text("path"), day), "")
    if not given.strip() and not str(section.raw("path") or "").strip():
        section.problem("path", 'is missing; name the table, such as path = "../data.csv"')
    return InputConfig(
        path=str(section.check("path", partial(absolute, base, given), base)),
        id=section.get("id", str),
        limit=section.number("limit", int, 0) or None,
        where=_read_where(section, day),
    )


def _read_where(section: Section, day: date | None) -> str | None:
    given = section.get("where", str)
    if given is None:
        return None
    if not given.strip():
        section.problem("where", "is empty; remove it to take every row")
    return section.check("where", partial(with_dates, given, day), None)
