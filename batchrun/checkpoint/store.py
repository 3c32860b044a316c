"""Reading and writing a checkpoint. Synchronous; one thread at a time uses a store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.checkpoint import schema
from batchrun.errors import CheckpointError
from batchrun.records import PlannedRequest, RenderedItem, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from batchrun.records import Attempt, AttemptStart, Result

FILE_NAME = "checkpoint.db"

_INSERT_START = (
    "INSERT INTO attempts (request_id, number, execution, started_us) VALUES (?, ?, ?, ?)"
)
_UPDATE_ATTEMPT = """UPDATE attempts SET
    latency_s = ?, http_status = ?, error_type = ?, error_message = ?, cause = ?, maybe_billed = ?,
    provider_request_id = ?, model = ?, input_tokens = ?, output_tokens = ?, cache_read_tokens = ?,
    cache_write_tokens = ?, reasoning_tokens = ?, cost_uncached_input = ?, cost_cache_read = ?,
    cost_cache_write = ?, cost_output = ?, cache_saved = ?
    WHERE request_id = ? AND number = ?"""
_REPLACE_RESULT = """INSERT OR REPLACE INTO results (request_id, status, retryable, attempts,
    finished_us, response, responses, reasoning, tool_calls, stop_reason, response_id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_INSERT_ITEM = """INSERT OR REPLACE INTO items (ordinal, custom_id, request_id, error_type,
    error_message) VALUES (?, ?, ?, ?, ?)"""
_SELECT_ROWS = """SELECT
    i.ordinal, i.custom_id,
    CASE WHEN i.error_type IS NOT NULL THEN 'errored' ELSE coalesce(r.status, 'pending') END,
    r.response, r.responses, r.reasoning, r.tool_calls, r.stop_reason, a.model, r.response_id,
    a.provider_request_id, a.input_tokens, a.output_tokens, a.cache_read_tokens,
    a.cache_write_tokens, a.reasoning_tokens,
    a.cost_uncached_input + a.cost_cache_read + a.cost_cache_write + a.cost_output,
    r.attempts, a.latency_s, r.finished_us, a.http_status,
    coalesce(i.error_type, a.error_type), coalesce(i.error_message, a.error_message)
    FROM items i
    LEFT JOIN results r ON r.request_id = i.request_id
    LEFT JOIN attempts a ON a.request_id = r.request_id AND a.number = r.attempts
    WHERE i.ordinal >= ? AND i.ordinal < ? ORDER BY i.ordinal"""
_SELECT_ATTEMPTS = """SELECT q.custom_id, a.number, a.execution, a.started_us, a.latency_s,
    a.http_status, a.error_type, a.error_message, a.provider_request_id, a.model, a.input_tokens,
    a.output_tokens, a.cache_read_tokens, a.cache_write_tokens, a.reasoning_tokens,
    a.cost_uncached_input + a.cost_cache_read + a.cost_cache_write + a.cost_output, a.maybe_billed
    FROM attempts a JOIN requests q ON q.id = a.request_id
    WHERE (a.request_id, a.number) > (?, ?) ORDER BY a.request_id, a.number LIMIT ?"""


def now_us() -> int:
    """Return the time in microseconds since 1970 UTC."""
    return time.time_ns() // 1_000


def _us(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


class Checkpoint:
    """The SQLite file of a run directory.

    Args:
        directory: the run directory, which exists.
        writable: False opens an existing checkpoint for reading beside its writer.

    Raises:
        CheckpointError: when the file cannot be used.
    """

    def __init__(self, directory: Path, *, writable: bool) -> None:
        self.path = directory / FILE_NAME
        self.db = (schema.create if writable else schema.open_existing)(self.path)
        self._connection = self.db.conn
        self._writable = writable
        self.execution = 0

    def close(self) -> None:
        """Close the file; a writer first moves everything into it, so that it can be copied."""
        if self._writable:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()

    def start_execution(
        self,
        *,
        name: str,
        job: Mapping[str, Any],
        base: Path,
        signature: str,
        total: int,
        version: str,
    ) -> int:
        """Begin an execution: record the job, settle what a crash left open.

        Attempts without an outcome were in flight when a process died: they may have been billed.
        When the plan's signature has changed, rows are matched to requests anew.

        Returns:
            How many attempts were in flight.
        """
        with self.db.atomic():
            previous = self.db.execute("SELECT plan_signature FROM run").fetchone()
            if previous is not None and previous[0] != signature:
                self.db.execute("DELETE FROM items")
            self.db.execute(
                """INSERT INTO run (id, name, job, base, plan_signature, total, created_us)
                VALUES (1, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name,
                job = excluded.job, base = excluded.base, total = excluded.total,
                plan_signature = excluded.plan_signature""",
                (
                    name,
                    orjson.dumps(job, default=str).decode(),
                    str(base),
                    signature,
                    total,
                    now_us(),
                ),
            )
            interrupted = self.db.execute(
                """UPDATE attempts SET error_type = 'interrupted', maybe_billed = 1,
                error_message = 'the process ended before the answer arrived'
                WHERE latency_s IS NULL AND error_type IS NULL"""
            ).rowcount
            cursor = self.db.execute(
                "INSERT INTO executions (started_us, version) VALUES (?, ?)", (now_us(), version)
            )
            self.execution = int(cursor.lastrowid or 0)
        return interrupted

    def finish_execution(self, outcome: str, waits: dict[str, float]) -> None:
        """Record how this execution ended and what it waited for, in seconds by cause."""
        with self.db.atomic():
            self.db.execute(
                "UPDATE executions SET finished_us = ?, outcome = ?, waits = ? WHERE id = ?",
                (now_us(), outcome, orjson.dumps(waits).decode(), self.execution),
            )

    def plan(
        self, rendered: Sequence[RenderedItem], *, retry_errored: bool
    ) -> list[PlannedRequest]:
        """Give consecutive items their requests; return those that have to be sent.

        An item keeps its request while its fingerprint is the same. Otherwise it takes one that
        asks the same and that no item holds (one with an answer first), or a new one.
        """
        with self.db.atomic():
            assigned = self._assign(rendered)
            return self._pending(rendered, assigned, retry_errored=retry_errored)

    def finish_plan(self, total: int) -> None:
        """Forget items beyond the end of the input; their results stay for when they return."""
        with self.db.atomic():
            self.db.execute("DELETE FROM items WHERE ordinal >= ?", (total,))

    def record(
        self, starts: list[AttemptStart], attempts: list[Attempt], results: list[Result]
    ) -> None:
        """Write a group of events in one transaction; when this returns they are on disk."""
        connection, execution = self._connection, self.execution
        with self.db.atomic():
            connection.executemany(
                _INSERT_START, [(s.key, s.number, execution, _us(s.started_at)) for s in starts]
            )
            connection.executemany(_UPDATE_ATTEMPT, [_attempt_row(a) for a in attempts])
            connection.executemany(_REPLACE_RESULT, [_result_row(r) for r in results])

    def rows(self, first: int, end: int) -> list[tuple[Any, ...]]:
        """Return the results of the items from ordinal `first` up to `end`, in order.

        Columns: ordinal, then the result columns of the outputs, `cost_usd` in pico-dollars and
        `finished_at` in microseconds. Items that were not planned yet are left out.
        """
        return self.db.execute(_SELECT_ROWS, (first, end)).fetchall()

    def attempt_rows(self, chunk_rows: int) -> Iterator[list[tuple[Any, ...]]]:
        """Yield all attempts, at most `chunk_rows` at a time, in the order of their requests."""
        last = (0, 0)
        keyed = _SELECT_ATTEMPTS.replace("SELECT ", "SELECT a.request_id, ", 1)
        while rows := self.db.execute(keyed, (*last, chunk_rows)).fetchall():
            last = (rows[-1][0], rows[-1][2])
            yield [row[1:] for row in rows]

    def job(self) -> tuple[dict[str, Any], str, str]:
        """Return the job's document, the folder of its relative paths, and the plan's signature."""
        row = self.db.execute("SELECT job, base, plan_signature FROM run").fetchone()
        if row is None:
            raise CheckpointError(f"{self.path}: holds no run yet; run the job first")
        return orjson.loads(row[0]), row[1], row[2]

    def _assign(self, rendered: Sequence[RenderedItem]) -> dict[int, int]:
        """Return the request of each item by ordinal, writing what changed."""
        held = self._held(rendered[0].ordinal, rendered[-1].ordinal)
        assigned: dict[int, int] = {}
        homeless: list[RenderedItem] = []
        changed: list[tuple[Any, ...]] = []
        for item in rendered:
            custom_id, key, fingerprint, error = held.get(item.ordinal, (None, None, None, None))
            if item.fingerprint is None:
                if error != item.error_message or custom_id != item.custom_id:
                    changed.append(_item_row(item, None))
            elif fingerprint == item.fingerprint and custom_id == item.custom_id:
                assigned[item.ordinal] = key
            else:
                homeless.append(item)
        self._free(homeless)
        for item, key in self._find_homes(homeless):
            assigned[item.ordinal] = key
            changed.append(_item_row(item, key))
        self._connection.executemany(_INSERT_ITEM, changed)
        return assigned

    def _held(self, first: int, last: int) -> dict[int, tuple[Any, ...]]:
        rows = self.db.execute(
            """SELECT i.ordinal, i.custom_id, i.request_id, q.fingerprint, i.error_message
            FROM items i LEFT JOIN requests q ON q.id = i.request_id
            WHERE i.ordinal BETWEEN ? AND ?""",
            (first, last),
        )
        return {row[0]: row[1:] for row in rows}

    def _free(self, items: Sequence[RenderedItem]) -> None:
        self._connection.executemany(
            "DELETE FROM items WHERE ordinal = ?", [(item.ordinal,) for item in items]
        )

    def _find_homes(self, items: Sequence[RenderedItem]) -> Iterator[tuple[RenderedItem, int]]:
        """Find or make a request for each item."""
        free, occurrences = self._candidates({item.fingerprint for item in items})
        next_key = self.db.execute("SELECT coalesce(max(id), 0) + 1 FROM requests").fetchone()[0]
        new: list[tuple[Any, ...]] = []
        moved: list[tuple[str, int]] = []
        for item in items:
            candidates = free.get(item.fingerprint)
            if candidates:
                key = candidates.pop()
                moved.append((item.custom_id, key))
            else:
                key = next_key
                next_key += 1
                occurrence = occurrences.get(item.fingerprint, 0) + 1
                occurrences[item.fingerprint] = occurrence
                new.append((key, item.fingerprint, occurrence, item.custom_id))
            yield item, key
        self._connection.executemany(
            "INSERT INTO requests (id, fingerprint, occurrence, custom_id) VALUES (?, ?, ?, ?)", new
        )
        self._connection.executemany("UPDATE requests SET custom_id = ? WHERE id = ?", moved)

    def _candidates(
        self, fingerprints: set[bytes | None]
    ) -> tuple[dict[bytes | None, list[int]], dict[bytes | None, int]]:
        """Return, by fingerprint, the requests that no item holds and the highest occurrence.

        The lists end with the best: those that succeeded, then in order of occurrence.
        """
        rows = self.db.execute(
            f"""SELECT q.fingerprint, q.id, q.occurrence, i.ordinal IS NULL
            FROM requests q LEFT JOIN items i ON i.request_id = q.id
            LEFT JOIN results r ON r.request_id = q.id
            WHERE q.fingerprint IN ({_marks(fingerprints)})
            ORDER BY r.status IS 'succeeded', q.occurrence DESC""",  # noqa: S608 - marks only
            list(fingerprints),
        )
        free: dict[bytes | None, list[int]] = {}
        occurrences: dict[bytes | None, int] = {}
        for fingerprint, key, occurrence, is_free in rows:
            occurrences[fingerprint] = max(occurrence, occurrences.get(fingerprint, 0))
            if is_free:
                free.setdefault(fingerprint, []).append(key)
        return free, occurrences

    def _pending(
        self, rendered: Sequence[RenderedItem], assigned: dict[int, int], *, retry_errored: bool
    ) -> list[PlannedRequest]:
        done = self._done(assigned.values(), retry_errored=retry_errored)
        waiting = {ordinal: key for ordinal, key in assigned.items() if key not in done}
        made = self._attempts_made(waiting.values())
        return [
            PlannedRequest(
                waiting[item.ordinal],
                item.custom_id,
                item.request,
                item.wire,
                made.get(waiting[item.ordinal], 0),
            )
            for item in rendered
            if item.ordinal in waiting and item.request is not None and item.wire is not None
        ]

    def _done(self, keys: Iterable[int], *, retry_errored: bool) -> set[int]:
        wanted = list(keys)
        again = "status = 'errored'" if retry_errored else "retryable"
        rows = self.db.execute(
            f"""SELECT request_id FROM results
            WHERE request_id IN ({_marks(wanted)}) AND NOT ({again})""",  # noqa: S608 - marks only
            wanted,
        )
        return {row[0] for row in rows}

    def _attempts_made(self, keys: Iterable[int]) -> dict[int, int]:
        wanted = list(keys)
        return dict(
            self.db.execute(
                f"""SELECT request_id, max(number) FROM attempts
                WHERE request_id IN ({_marks(wanted)}) GROUP BY request_id""",  # noqa: S608 - marks
                wanted,
            ).fetchall()
        )


def _marks(values: Iterable[object]) -> str:
    return ",".join("?" for _ in values)


def _item_row(item: RenderedItem, key: int | None) -> tuple[Any, ...]:
    return item.ordinal, item.custom_id, key, item.error_type, item.error_message


def _attempt_row(attempt: Attempt) -> tuple[Any, ...]:
    usage, cost = attempt.usage, attempt.cost
    money: tuple[int | None, ...] = (None,) * 5
    if cost is not None:
        money = (
            cost.uncached_input,
            cost.cache_read,
            cost.cache_write,
            cost.output,
            cost.cache_saved,
        )
    return (
        attempt.latency_s,
        attempt.http_status,
        attempt.error_type,
        attempt.error_message,
        attempt.cause,
        attempt.maybe_billed,
        attempt.request_id,
        attempt.model,
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        *money,
        attempt.key,
        attempt.number,
    )


def _result_row(result: Result) -> tuple[Any, ...]:
    answer: tuple[Any, ...] = (None,) * 6
    completion = result.completion
    if completion is not None:
        several = len(completion.texts) > 1
        answer = (
            completion.texts[0],
            orjson.dumps(completion.texts).decode() if several else None,
            completion.reasoning,
            completion.tool_calls,
            completion.stop_reason,
            completion.response_id,
        )
    return (
        result.key,
        result.status.value,
        result.retryable and result.status is Status.ERRORED,
        result.last.number,
        _us(result.finished_at),
        *answer,
    )
