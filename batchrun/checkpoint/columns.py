"""Results and attempts as columns, for the outputs.

SQLite makes one JSON list of each column. A table comes over in half of the time that its rows would
take, and nearly all of that outside of Python's lock, so that somebody else can work meanwhile.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrun.checkpoint.sqlite import Database

COST = "cost_uncached_input + cost_cache_read + cost_cache_write + cost_output"


def _over_attempts(amount: str) -> str:
    """What a row used or cost: that of all its attempts, which is mostly one."""
    return f"""CASE WHEN r.attempts = 1 THEN a.{amount.replace(" + ", " + a.")} ELSE
        (SELECT sum({amount}) FROM exchanges s WHERE s.request_id = r.request_id) END"""  # noqa: S608


_AMOUNTS = (
    _over_attempts("input_tokens"),
    _over_attempts("output_tokens"),
    _over_attempts("cache_read_tokens"),
    _over_attempts("cache_write_tokens"),
    _over_attempts("reasoning_tokens"),
    _over_attempts(COST),
    "r.attempts",
)
_RESULTS = (
    "i.ordinal",
    "i.custom_id",
    "CASE WHEN i.error_type IS NOT NULL THEN 'errored' ELSE coalesce(r.status, 'pending') END",
    "r.response",
    "r.responses",
    "r.reasoning",
    "r.tool_calls",
    "r.stop_reason",
    "a.model",
    "r.response_id",
    "a.provider_request_id",
    *_AMOUNTS,
    "a.latency_s",
    "r.finished_us",
    "a.http_status",
    "coalesce(i.error_type, a.error_type)",
    "coalesce(i.error_message, a.error_message)",
)
# Of rows that share a request the first has what it took, the others took nothing: sums stay true.
_SHARED_RESULTS = tuple(f"({one}) * i.is_first" if one in _AMOUNTS else one for one in _RESULTS)
_FROM_ITEMS = """FROM {items} i
    LEFT JOIN outcomes r ON r.request_id = i.request_id
    LEFT JOIN exchanges a ON a.request_id = r.request_id AND a.number = r.attempts
    WHERE i.ordinal >= ? AND i.ordinal < ? ORDER BY i.ordinal"""
_SHARED_ITEMS = """(SELECT o.*, o.ordinal IS (
        SELECT min(f.ordinal) FROM items f WHERE f.request_id = o.request_id
    ) AS is_first FROM items o)"""
_ATTEMPTS = (
    "a.request_id",
    "q.custom_id",
    "a.number",
    "a.execution",
    "a.started_us",
    "a.latency_s",
    "a.http_status",
    "a.error_type",
    "a.error_message",
    "a.provider_request_id",
    "a.model",
    "a.input_tokens",
    "a.output_tokens",
    "a.cache_read_tokens",
    "a.cache_write_tokens",
    "a.reasoning_tokens",
    "a." + COST.replace(" + ", " + a."),
    "a.maybe_billed",
)
_FROM_ATTEMPTS = """FROM exchanges a JOIN requests q ON q.id = a.request_id
    WHERE (a.request_id, a.number) > (?, ?) ORDER BY a.request_id, a.number LIMIT ?"""


def _as_lists(expressions: Sequence[str], source: str) -> str:
    named = ", ".join(f"{expression} AS c{n}" for n, expression in enumerate(expressions))
    lists = ", ".join(f"json_group_array(c{n})" for n in range(len(expressions)))
    return f"SELECT {lists} FROM (SELECT {named} {source})"  # noqa: S608 - no values


_RESULT_LISTS = _as_lists(_RESULTS, _FROM_ITEMS.format(items="items"))
_SHARED_LISTS = _as_lists(_SHARED_RESULTS, _FROM_ITEMS.format(items=_SHARED_ITEMS))
_ATTEMPT_LISTS = _as_lists(_ATTEMPTS, _FROM_ATTEMPTS)


def result_columns(db: Database, first: int, end: int, *, shared: bool) -> list[list[Any]]:
    """Return the ordinals from `first` up to `end` and the result columns beside them.

    `shared` says that rows may share a request.
    """
    query = _SHARED_LISTS if shared else _RESULT_LISTS
    try:
        return [orjson.loads(text) for text in db.execute(query, (first, end)).fetchone()]
    except sqlite3.DataError:
        # Longer than SQLite's texts may be, which is a billion bytes.
        if end - first == 1:
            raise
        middle = (first + end) // 2
        parts = [
            result_columns(db, *half, shared=shared) for half in ((first, middle), (middle, end))
        ]
        return [one + other for one, other in zip(*parts, strict=True)]


def attempt_columns(db: Database, chunk_rows: int) -> Iterator[list[list[Any]]]:
    """Yield the columns of all attempts, at most `chunk_rows` at a time, by request and number."""
    last = (0, 0)
    while True:
        lists = [
            orjson.loads(t) for t in db.execute(_ATTEMPT_LISTS, (*last, chunk_rows)).fetchone()
        ]
        requests, numbers = lists[0], lists[2]
        if not requests:
            return
        last = (requests[-1], numbers[-1])
        yield lists[1:]
