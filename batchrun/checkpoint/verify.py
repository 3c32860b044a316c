"""Whether a checkpoint agrees with itself: the file, its counts and its states. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.checkpoint.schema import usable
from batchrun.findings import Flaw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrun.checkpoint.store import Checkpoint

MOST_PROBLEMS = 20

# Each gives the first row that is wrong and how many are: (its custom_id, their number).
_STATES: tuple[tuple[str, str], ...] = (
    (
        "is to have a request, or the reason why it has none",
        """SELECT custom_id, count(*) OVER () FROM items
        WHERE (request_id IS NULL) = (error_type IS NULL) ORDER BY ordinal LIMIT 1""",
    ),
    (
        "succeeded, and its last attempt is not the one that was answered",
        """SELECT custom_id, count(*) OVER () FROM outcomes r JOIN requests q ON q.id = r.request_id
        WHERE r.status = 'succeeded' AND (
            r.attempts IS NOT (SELECT max(number) FROM exchanges a WHERE a.request_id = q.id)
            OR NOT EXISTS (SELECT 1 FROM exchanges a WHERE a.request_id = q.id
                AND a.number = r.attempts AND a.error_type IS NULL AND a.latency_s IS NOT NULL))
        ORDER BY q.id LIMIT 1""",
    ),
    (
        "errored, and the attempt that failed is not there",
        """SELECT custom_id, count(*) OVER () FROM outcomes r JOIN requests q ON q.id = r.request_id
        WHERE r.status = 'errored' AND NOT EXISTS (SELECT 1 FROM exchanges a
            WHERE a.request_id = q.id AND a.number = r.attempts AND a.error_type IS NOT NULL)
        ORDER BY q.id LIMIT 1""",
    ),
    (
        "was answered, and the answer is not there",
        """SELECT custom_id, count(*) OVER () FROM exchanges a JOIN requests q ON q.id = a.request_id
        WHERE a.error_type IS NULL AND a.latency_s IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM outcomes r
            WHERE r.request_id = q.id AND r.attempts = a.number)
        AND NOT EXISTS (SELECT 1 FROM turns t WHERE t.request_id = q.id AND t.number = a.number)
        ORDER BY q.id LIMIT 1""",
    ),
    (
        "has attempts that are not numbered from 1 without a gap",
        """SELECT custom_id, count(*) OVER () FROM exchanges a JOIN requests q ON q.id = a.request_id
        GROUP BY q.id HAVING min(number) <> 1 OR max(number) <> count(*) ORDER BY q.id LIMIT 1""",
    ),
    (
        "has an attempt whose tokens or cost cannot be",
        """SELECT custom_id, count(*) OVER () FROM exchanges a JOIN requests q ON q.id = a.request_id
        WHERE min(coalesce(input_tokens, 0), coalesce(output_tokens, 0),
            coalesce(cache_read_tokens, 0), coalesce(cache_write_tokens, 0),
            coalesce(reasoning_tokens, 0), coalesce(cost_uncached_input, 0),
            coalesce(cost_cache_read, 0), coalesce(cost_cache_write, 0),
            coalesce(cost_output, 0), coalesce(cost_other, 0)) < 0
        OR (cost_uncached_input IS NULL) + (cost_cache_read IS NULL) + (cost_cache_write IS NULL)
            + (cost_output IS NULL) + (cache_saved IS NULL) + (cost_other IS NULL)
            + (cost_source IS NULL) NOT IN (0, 7)
        ORDER BY q.id LIMIT 1""",
    ),
    (
        "has answers that are not a list of texts",
        """SELECT custom_id, count(*) OVER () FROM outcomes r JOIN requests q ON q.id = r.request_id
        WHERE r.responses IS NOT NULL AND (NOT json_valid(r.responses)
            OR json_type(r.responses) <> 'array') ORDER BY q.id LIMIT 1""",
    ),
)
# Without `dedupe` each row has a request of its own.
_SHARED = (
    "has the same request as another row",
    """SELECT min(custom_id), count(*) OVER () FROM items WHERE request_id IS NOT NULL
    GROUP BY request_id HAVING count(*) > 1 ORDER BY min(ordinal) LIMIT 1""",
)
_PLACES = """SELECT count(*), coalesce(min(ordinal), 0), coalesce(max(ordinal), -1),
    (SELECT total * samples FROM run) FROM items"""
# The mark of an earlier plan stays until the present one is through.
_IS_PLANNED = """SELECT coalesce(instr(planned, ':' || plan_signature || ':' || total), 0) > 0
    FROM run"""
_PLAN = """SELECT i.ordinal, i.custom_id, q.fingerprint, i.error_type, i.error_message
    FROM items i LEFT JOIN requests q ON q.id = i.request_id
    WHERE i.ordinal >= ? AND i.ordinal < ? ORDER BY i.ordinal"""
_SCORES = """SELECT i.custom_id, d.number
    FROM (SELECT min(ordinal) AS first, count(DISTINCT ordinal) AS number FROM (
        SELECT * FROM (SELECT * FROM main.scores EXCEPT SELECT * FROM temp.scores)
        UNION ALL SELECT * FROM (SELECT * FROM temp.scores EXCEPT SELECT * FROM main.scores))) d
    LEFT JOIN main.items i ON i.ordinal = d.first * (SELECT samples FROM main.run)"""


def file_flaws(store: Checkpoint) -> Iterator[Flaw]:
    """Yield what is wrong with the file itself: its pages and its indexes.

    Takes seconds for each gigabyte.

    Raises:
        CheckpointError: when it is damaged so badly that it cannot be looked through.
    """
    with usable(store.path):
        found = store.db.execute(f"PRAGMA integrity_check({MOST_PROBLEMS})").fetchall()
        yield from (Flaw(f"is damaged: {text}") for (text,) in found if text != "ok")


def _reference_flaws(store: Checkpoint) -> Iterator[Flaw]:
    missing = store.db.execute("PRAGMA foreign_key_check").fetchmany(MOST_PROBLEMS)
    for table, _, parent, _ in missing:
        yield Flaw(f"{table} refers to a row of {parent} that is not there")


def state_flaws(store: Checkpoint, *, shared: bool) -> Iterator[Flaw]:
    """Yield what cannot be, by the rules that an execution keeps.

    Args:
        store: the checkpoint.
        shared: whether rows that ask the same may share a request.

    Raises:
        CheckpointError: when the checkpoint cannot be used.
    """
    with usable(store.path):
        yield from _reference_flaws(store)
        yield from _place_flaws(store)
        for problem, query in _STATES if shared else (*_STATES, _SHARED):
            found = store.db.execute(query).fetchone()
            if found is not None:
                yield Flaw(problem, found[0], found[1] - 1)


def _place_flaws(store: Checkpoint) -> Iterator[Flaw]:
    count, first, last, total = store.db.execute(_PLACES).fetchone()
    if first < 0 or last >= total or (is_planned(store) and count != total):
        yield Flaw(f"holds {count:,} rows or samples of rows, and the input has {total:,}")


def planned_rows(store: Checkpoint, first: int, end: int) -> dict[int, tuple[Any, ...]]:
    """Return what rows or samples from ordinal `first` up to `end` ask.

    By ordinal: custom_id, fingerprint, and the type and message of the error in its place.
    """
    with usable(store.path):
        rows = store.db.execute(_PLAN, (first, end)).fetchall()
    return {row[0]: row[1:] for row in rows}


def is_planned(store: Checkpoint) -> bool:
    """Say whether it is known that every row of the input has been looked at."""
    with usable(store.path):
        row = store.db.execute(_IS_PLANNED).fetchone()
    return bool(row and row[0])


def last_version(store: Checkpoint) -> str | None:
    """Return which version of batchrun the latest execution was."""
    with usable(store.path):
        row = store.db.execute("SELECT version FROM executions ORDER BY id DESC LIMIT 1").fetchone()
    return row[0] if row else None


def score_flaws(store: Checkpoint) -> Iterator[Flaw]:
    """Yield where the scores that are kept differ from those that have just been worked out."""
    with usable(store.path):
        row, count = store.db.execute(_SCORES).fetchone()
    if count:
        yield Flaw("is kept with another score than its answer has", row, count - 1)
