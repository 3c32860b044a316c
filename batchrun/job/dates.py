"""Dates in a job file: `{{ today }}` and the like in `[output] dir`, `[input] path` and `where`.

They are those of the day on which the run began, which the run keeps.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from batchrun.sections import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.sections import Section

KEYS = (("output", "dir"), ("input", "path"), ("input", "where"))
NAMES = ("today", "yesterday", "week", "month", "year")

_TEMPLATE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


def settled(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job's document with the day that it is about, when it depends on one."""
    today = {"date": local_today().isoformat()} if has_dates(document) else {}
    return {**today, **document}


def read_date(section: Section) -> date | None:
    """Return the day that the job is about; None when that makes no difference."""
    given = section.raw("date")
    if given is None or type(given) is date:
        return given
    try:
        return date.fromisoformat(given)
    except (TypeError, ValueError):
        section.problem("date", f"must be a date, such as 2026-11-20, not {given!r:.80}")
        return None


def has_dates(document: Mapping[str, Any]) -> bool:
    """Say whether a job depends on the day."""
    return any(
        isinstance(section := document.get(name), dict)
        and isinstance(text := section.get(key), str)
        and _TEMPLATE.search(text)
        for name, key in KEYS
    )


def local_today() -> date:
    """Return the day where this machine is, which `TZ` can set."""
    return datetime.now().astimezone().date()


def with_dates(text: str, day: date | None) -> str:
    """Return the text with its dates filled in; today's, when no day is given.

    Raises:
        ValueError: when it asks for something else.
    """
    day = day or local_today()
    year, week, _ = day.isocalendar()
    values = {
        "today": day.isoformat(),
        "yesterday": (day - timedelta(days=1)).isoformat(),
        "week": f"{year}-W{week:02d}",
        "month": f"{day:%Y-%m}",
        "year": f"{day:%Y}",
    }

    def fill(match: re.Match[str]) -> str:
        name = match.group(1).strip()
        if name not in values:
            known = ", ".join(f"{{{{ {each} }}}}" for each in NAMES)
            raise ValueError(
                f"knows no {{{{ {name:.40} }}}}{did_you_mean(name, NAMES)}, but {known}"
            )
        return values[name]

    return _TEMPLATE.sub(fill, text)
