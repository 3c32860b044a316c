"""`[input]`: which table, and which of its rows."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from batchrun.job.configs import InputConfig
from batchrun.job.dates import with_dates
from batchrun.job.paths import absolute, check_remote, is_remote

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from batchrun.sections import Section

_SECRET = re.compile(
    r"secret|token|password|credential|access_key|account_key|sas|service_account", re.IGNORECASE
)


def read_input(section: Section, base: Path, day: date | None) -> InputConfig:
    """Read the section; what is wrong goes to its problems. Paths start at `base`."""
    given = section.check("path", partial(with_dates, section.text("path"), day), "")
    if not given.strip() and not str(section.raw("path") or "").strip():
        section.problem("path", 'is missing; name the table, such as path = "../data.csv"')
    return InputConfig(
        path=section.check("path", partial(_place, base, given), str(base)),
        id=section.get("id", str),
        limit=section.number("limit", int, 0) or None,
        where=_read_where(section, day),
        storage_options=_read_storage_options(section, given),
    )


def _place(base: Path, given: str) -> str:
    return check_remote(given) if is_remote(given) else str(absolute(base, given))


def _read_storage_options(section: Section, path: str) -> dict[str, str | int | float]:
    given = section.table("storage_options")
    if given and not is_remote(path):
        section.problem("storage_options", "is for a path in a cloud, such as s3://…; remove it")
    for key, value in given.items():
        if _SECRET.search(key):
            section.problem(
                "storage_options",
                f"{key:.80} would be kept with the run; give it by the environment instead",
            )
        if not isinstance(value, str | int | float):
            section.problem("storage_options", f"{key:.80} must be text, not {value!r:.80}")
    # true and false are words there.
    return {k: str(v).lower() if isinstance(v, bool) else v for k, v in given.items()}


def _read_where(section: Section, day: date | None) -> str | None:
    given = section.get("where", str)
    if given is None:
        return None
    if not given.strip():
        section.problem("where", "is empty; remove it to take every row")
    return section.check("where", partial(with_dates, given, day), None)
