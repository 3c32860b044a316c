"""Counts the requests of a plan, and the stored answers to them. Changes nothing in a checkpoint."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.checkpoint.columns import OUT
from batchrun.checkpoint.directory import holds_run
from batchrun.checkpoint.file import usable
from batchrun.checkpoint.schema import MIGRATIONS
from batchrun.checkpoint.sqlite import Database, temporary_space
from batchrun.checkpoint.store import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


_SIZES = """model TEXT NOT NULL, low REAL NOT NULL, expected REAL NOT NULL, high REAL NOT NULL,
    system REAL NOT NULL, most_output INTEGER"""
# Rows are appended and then sorted once: to insert each at its place among millions takes four times as long.
_ROWS = f"CREATE TEMP TABLE asked_rows (fingerprint BLOB NOT NULL, {_SIZES})"
_ADD = "INSERT INTO asked_rows VALUES (?, ?, ?, ?, ?, ?, ?)"
_ASKED = f"""CREATE TEMP TABLE asked (fingerprint BLOB PRIMARY KEY, number INTEGER NOT NULL, {_SIZES})
    WITHOUT ROWID"""
# Rows with the same fingerprint have the same request, and so the same size.
_SORT = """INSERT INTO asked
    SELECT fingerprint, count(*), model, low, expected, high, system, most_output
    FROM asked_rows GROUP BY fingerprint ORDER BY fingerprint"""
# What an answer took is what all attempts at it took.
_COUNTED = """SELECT a.number, a.model, a.low, a.expected, a.high, a.system, a.most_output,
    coalesce(h.held, 0), coalesce(h.answers, 0), h.input, h.output, h.cache_read, h.cache_write,
    h.latency_s, h.longest
    FROM asked a LEFT JOIN (
        SELECT q.fingerprint, count(DISTINCT q.id) FILTER (WHERE NOT ({again}) OR EXISTS (
                SELECT 1 FROM attempts WHERE request_id = q.id AND {out})) AS held,
            count(DISTINCT r.request_id) FILTER (WHERE r.status = 'succeeded') AS answers,
            sum(t.input_tokens) AS input, sum(t.output_tokens) AS output,
            sum(t.cache_read_tokens) AS cache_read, sum(t.cache_write_tokens) AS cache_write,
            sum(t.latency_s) AS latency_s, max(t.output_tokens) AS longest
        FROM requests q LEFT JOIN results r ON r.request_id = q.id
        LEFT JOIN attempts t ON t.request_id = q.id AND r.status = 'succeeded'
            AND t.output_tokens IS NOT NULL AND t.input_tokens IS NOT NULL
        WHERE q.fingerprint IN (SELECT fingerprint FROM asked)
        GROUP BY q.fingerprint) h USING (fingerprint)"""


@dataclass(frozen=True, slots=True)
class RequestSize:
    """One row's request: its fingerprint and its size in tokens.

    `system` is the part of `expected` that is the system prompt. `most_output` is the longest answer
    that the request allows; None if it sets no bound.
    """

    fingerprint: bytes
    model: str
    low: float
    expected: float
    high: float
    system: float
    most_output: int | None


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """Rows with the same request, and the tokens and seconds of the stored answers to it.

    Attributes:
        number: number of rows.
        held: requests that need not be sent again, including those in batches.
        answers: those of them that succeeded. Tokens and seconds are sums over them; `longest` is
            the longest answer.
    """

    number: int
    model: str
    low: float
    expected: float
    high: float
    system: float
    most_output: int | None
    held: int
    answers: int
    input: int | None
    output: int | None
    cache_read: int | None
    cache_write: int | None
    latency_s: float | None
    longest: int | None


class RequestCounter:
    """Counts requests; created by `request_counter`."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._db.execute(_ROWS)

    def add(self, rows: Iterable[RequestSize]) -> None:
        """Count rows."""
        with temporary_space(), self._db.atomic():
            self._db.conn.executemany(
                _ADD,
                [
                    (a.fingerprint, a.model, a.low, a.expected, a.high, a.system, a.most_output)
                    for a in rows
                ],
            )

    def counts(self, *, retry_errored: bool) -> Iterator[RequestCounts]:
        """Yield the counts, one record for all rows with the same request; call it once, after all rows."""
        with temporary_space(), self._db.atomic():
            self._db.execute(_ASKED)
            self._db.execute(_SORT)
            self._db.execute("DROP TABLE asked_rows")
        again = "r.status = 'errored'" if retry_errored else "r.retryable"
        with temporary_space():
            for row in self._db.execute(_COUNTED.format(again=again, out=OUT)):
                yield RequestCounts(*row)


@contextmanager
def request_counter(directory: Path) -> Iterator[RequestCounter]:
    """Open a request counter for the checkpoint of a run directory, which need not exist.

    Raises:
        CheckpointError: if there is a checkpoint that cannot be used.
    """
    if not holds_run(directory):
        nothing = Database()
        for migration in MIGRATIONS:
            migration(nothing)
        yield RequestCounter(nothing)
        nothing.close()
        return
    store = Checkpoint(directory, writable=False)
    try:
        with usable(store.path):
            yield RequestCounter(store.db)
    finally:
        store.close()
