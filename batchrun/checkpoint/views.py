"""Views of a checkpoint for people who open it in datasette, sqlite-utils or sqlite3.

Amounts are dollars, times ISO 8601 in UTC. batchrun itself reads the tables, never these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.checkpoint.columns import ATTEMPTS as ATTEMPT_COLUMNS
from batchrun.checkpoint.columns import RESULTS as RESULT_COLUMNS
from batchrun.checkpoint.columns import total_of

if TYPE_CHECKING:
    from batchrun.checkpoint.columns import Column


def _moment(microseconds: str) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', {microseconds} / 1e6, 'unixepoch')"


def _over_attempts(amount: str) -> str:
    """Over all attempts of a row; of rows that share a request the first has what it took."""
    return f"""CASE WHEN r.request_id IS NULL THEN NULL
        WHEN i.ordinal > (SELECT min(f.ordinal) FROM items f WHERE f.request_id = i.request_id)
        THEN 0 ELSE (SELECT {amount} FROM exchanges x WHERE x.request_id = i.request_id) END"""  # noqa: S608 - no values


def _shown(column: Column) -> str:
    """Return a column as people read it."""
    value = column.value
    if column.amount is not None:
        value = _over_attempts(total_of(column.kind, column.amount))
    if column.kind == "money":
        value = f"({value}) / 1e12"
    elif column.kind == "time":
        value = _moment(value)
    return f"{value} AS {column.name}"


# One row for each sample of each row of the input, as far as they have been planned.
RESULTS = f"""CREATE VIEW results AS SELECT
    i.ordinal / run.samples + 1 AS "row",
    i.ordinal % run.samples + 1 AS sample,
    {", ".join(_shown(column) for column in RESULT_COLUMNS if not column.is_optional)},
    s.score AS score,
    s.predicted AS predicted
FROM items i CROSS JOIN run
LEFT JOIN outcomes r ON r.request_id = i.request_id
LEFT JOIN exchanges a ON a.request_id = r.request_id AND a.number = r.attempts
LEFT JOIN scores s ON s.ordinal = i.ordinal / run.samples"""  # noqa: S608 - no values

# One row for each HTTP exchange, failed ones included.
ATTEMPTS = f"""CREATE VIEW attempts AS SELECT
    {", ".join(map(_shown, ATTEMPT_COLUMNS))},
    a.cause AS cause
FROM exchanges a JOIN requests q ON q.id = a.request_id"""  # noqa: S608

# The rows without an answer, with the reason, and whether the next run tries them again.
ERRORS = f"""CREATE VIEW errors AS SELECT
    i.ordinal / run.samples + 1 AS "row",
    i.custom_id,
    coalesce(i.error_type, a.error_type) AS error_type,
    coalesce(i.error_message, a.error_message) AS error_message,
    a.http_status,
    a.model,
    coalesce(r.attempts, 0) AS attempts,
    coalesce(r.retryable, 0) AS tried_again,
    {_moment("r.finished_us")} AS finished_at
FROM items i CROSS JOIN run
LEFT JOIN outcomes r ON r.request_id = i.request_id
LEFT JOIN exchanges a ON a.request_id = r.request_id AND a.number = r.attempts
WHERE i.error_type IS NOT NULL OR r.status = 'errored'"""  # noqa: S608

VIEWS = {"results": RESULTS, "attempts": ATTEMPTS, "errors": ERRORS}
