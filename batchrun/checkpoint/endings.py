"""How the answers of a run ended, counted over all samples and choices of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchrun.checkpoint.sqlite import Database

_ANSWERS = """JOIN outcomes r ON r.request_id = i.request_id LEFT JOIN json_each(r.choices) c
    WHERE r.ending IS NOT NULL"""
_ENDING = "coalesce(c.value ->> '$.ending', r.ending)"
_BY_ENDING = f"""SELECT {_ENDING}, count(*) FROM items i {_ANSWERS}
    GROUP BY 1 ORDER BY 2 DESC, 1"""  # noqa: S608 - no values
_SCORED = f"""SELECT {_ENDING}, count(*) FROM scores s CROSS JOIN run
    JOIN items i ON i.ordinal >= s.ordinal * run.samples
        AND i.ordinal < (s.ordinal + 1) * run.samples
    {_ANSWERS} AND s.score IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"""  # noqa: S608 - no values


def endings(db: Database) -> dict[str, int]:
    """Return how often answers of the rows as they are now ended how, the most frequent first."""
    return dict(db.execute(_BY_ENDING).fetchall())


def scored_endings(db: Database) -> dict[str, int]:
    """Return the same of the answers that have a score."""
    return dict(db.execute(_SCORED).fetchall())
