"""Reading and writing a checkpoint. Synchronous; one thread at a time uses a store."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.checkpoint import columns, encoding, file
from batchrun.checkpoint.columns import LONG, NEEDED, combine_samples
from batchrun.checkpoint.file import usable
from batchrun.checkpoint.long_texts import MOST_IN_ROW, LongTexts, delete_pieces
from batchrun.checkpoint.planning import PlannedChunk, Planner, count_unsettled
from batchrun.checkpoint.sqlite import write_rows
from batchrun.errors import (
    DAMAGE_REMEDY,
    CheckpointError,
    Damage,
    DamagedRecord,
    OutputError,
    Record,
    RecordsDamaged,
)
from batchrun.job.paths import PRIVATE_FILE, flush_directory
from batchrun.records import UnfinishedAttempt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from batchrun.checkpoint.planning import UnsettledRows
    from batchrun.errors import RunEnd
    from batchrun.records import Attempt, AttemptStart, PlannedRequest, RenderedItem, Result, Turn

FILE_NAME = "checkpoint.db"
# What counts against `max_cost_usd`: known costs; and at least the reserved cost of attempts in flight, of
# answers without a known price, and of attempts that may have been billed.
_SPENT = f"""SELECT coalesce({
    columns.exact_sum(
        '''CASE
    WHEN maybe_billed THEN max(coalesce(reserved, 0), coalesce(cost, 0))
    WHEN cost IS NOT NULL THEN cost
    WHEN error_type IS NULL OR output_tokens NOT NULL THEN coalesce(reserved, 0) ELSE 0 END'''
    )
}, 0) FROM attempts"""  # noqa: S608 - no values

_EXECUTIONS = "SELECT id FROM executions ORDER BY id"
_KNOWN_COST = f"SELECT coalesce({columns.exact_sum('cost')}, 0) FROM attempts"  # noqa: S608

_UNFINISHED = """SELECT a.request_id, a.number, a.execution, e.dispatcher
    FROM attempts a JOIN executions e ON e.id = a.execution
    WHERE a.latency_s IS NULL AND a.error_type IS NULL AND a.batch IS NULL"""
_LOST = """UPDATE attempts SET error_type = 'interrupted', maybe_billed = 1,
    error_message = 'the process ended before the answer arrived'
    WHERE request_id = ? AND number = ? AND latency_s IS NULL AND error_type IS NULL"""
_SEAL_LOST = [
    each.seal("request_id = ? AND number = ?") for each in (encoding.SENT, encoding.COSTS)
]
_RUN_IS_DAMAGED = f"SELECT count(*) FROM run d WHERE {encoding.RUN.differs('d')}"  # noqa: S608
_DAMAGED_RUN = DamagedRecord(Record.RUN, None, 0, None)
_OF_RUN = Damage(1, (_DAMAGED_RUN,))
_SEAL_EXECUTION = encoding.EXECUTIONS.seal("id = ?")


def now_us() -> int:
    """Return the time in microseconds since 1970 UTC."""
    return time.time_ns() // 1_000


@dataclass(frozen=True, slots=True)
class NewExecution:
    """What is recorded of an execution when it begins.

    Attributes:
        name: name of the job.
        job: document of the job.
        base: folder of the job's relative paths.
        signature: signature of the plan; see `Prepared`.
        total: number of rows; with several `samples`, each row has that many consecutive items.
        version: version of batchrun.
        provider: the provider whose prices apply.
        base_url: determines the provider if `provider` is not set.
        dispatcher: name of the dispatcher factory.
        number: number of the execution; None for the next one. The executions of a partitioned run
            are numbered over all parts.
    """

    name: str
    job: Mapping[str, Any]
    base: Path
    signature: str
    total: int
    version: str
    samples: int = 1
    provider: str | None = None
    base_url: str | None = None
    dispatcher: str = "live"
    number: int | None = None


class Checkpoint:
    """The SQLite file of a run directory.

    Args:
        directory: the run directory, which must exist.
        writable: False opens an existing checkpoint for reading beside its writer.
        still: there is no writer, and reading must not create files beside the checkpoint.

    Raises:
        CheckpointError: if the file cannot be used.
    """

    def __init__(self, directory: Path, *, writable: bool, still: bool = False) -> None:
        self.path = directory / FILE_NAME
        with ExitStack() as opening:
            if writable:
                opening.callback(file.lock(self.path).close)
                self.db = file.create(self.path)
            else:
                self.db = (file.open_still if still else file.open_existing)(self.path)
            self._locks = opening.pop_all()
        self._connection = self.db.conn
        self._identity = self.path.stat()
        self.is_writable = writable
        self._planner = Planner(self.db)
        self.execution = 0

    def close(self) -> None:
        """Close the file; a writer first moves the write-ahead log into it, so that it can be copied."""
        if self.is_writable:
            # If that fails, as on a full disk, the results are just as safe in the log.
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.db.close()
        self._locks.close()

    def is_in_place(self) -> bool:
        """Return whether the file is still where it was opened: its directory may have been removed."""
        try:
            return os.path.samestat(self.path.stat(), self._identity)
        except OSError:
            return False

    def restore_file(self) -> None:
        """Write the checkpoint to its path again, after it was removed or moved.

        The open file still has all data, although it has no name any more.

        Raises:
            CheckpointError: if another file is there now, which stays unchanged, or if the file
                cannot be written.
        """
        copy = self.path.with_name(f".{FILE_NAME}.partial")
        with usable(self.path):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            copy.unlink(missing_ok=True)
            try:
                with closing(sqlite3.connect(copy)) as target:
                    self._connection.backup(target)
                copy.chmod(PRIVATE_FILE)
                # Not a rename: that would replace a checkpoint that another run made here meanwhile.
                self.path.hardlink_to(copy)
            finally:
                copy.unlink(missing_ok=True)
            flush_directory(self.path.parent)
            self._identity = self.path.stat()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block in one transaction: its writes are committed together, its reads are consistent.

        Raises:
            CheckpointError: if the file cannot be used.
        """
        try:
            with usable(self.path), self.db.atomic():
                yield
        except (LookupError, TypeError, ValueError) as error:
            # An impossible value was read: either the file is damaged, or this is a bug.
            file.check_integrity(self.db, self.path, error)
            raise

    def start_execution(self, new: NewExecution, lost: Sequence[UnfinishedAttempt] = ()) -> None:
        """Begin an execution: record the job, and close the attempts whose outcome is lost.

        The `lost` attempts may have been billed; other unfinished attempts stay open. If the
        plan's signature has changed, rows are matched to requests again.
        """
        self._planner = Planner(self.db)
        with self.transaction():
            previous = self.db.execute("SELECT plan_signature FROM run").fetchone()
            if previous is not None and previous[0] != new.signature:
                # Requests and results stay: the rows of the new plan find them by fingerprint.
                self.db.execute("DELETE FROM items")
                self.db.execute("DELETE FROM scores")  # they belong to rows
                self.db.execute("UPDATE run SET planned = NULL")
            self.db.execute(
                """INSERT INTO run (id, name, job, base, plan_signature, total, samples, created_us)
                VALUES (1, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name,
                job = excluded.job, base = excluded.base, total = excluded.total,
                samples = excluded.samples, plan_signature = excluded.plan_signature,
                scored = NULL""",
                (
                    new.name,
                    _as_json(new.job),
                    str(new.base),
                    new.signature,
                    new.total,
                    new.samples,
                    now_us(),
                ),
            )
            self.db.execute(encoding.RUN.seal("1"))
            self._close_lost(lost)
            cursor = self.db.execute(
                """INSERT INTO executions (id, started_us, version, provider, base_url, dispatcher)
                VALUES (?, ?, ?, ?, ?, ?)""",
                (new.number, now_us(), new.version, new.provider, new.base_url, new.dispatcher),
            )
            self.execution = int(cursor.lastrowid or 0)
            self.db.execute(_SEAL_EXECUTION, (self.execution,))

    def _close_lost(self, lost: Sequence[UnfinishedAttempt]) -> None:
        keys = [(each.key, each.number) for each in lost]
        for statement in (_LOST, *_SEAL_LOST):
            self._connection.executemany(statement, keys)

    def update_run(self, assignments: str, *values: object) -> None:
        """Change columns of the record of the run, within a transaction of the caller."""
        self.db.execute(f"UPDATE run SET {assignments}", values)  # noqa: S608 - our own names
        self.db.execute(encoding.RUN.seal("1"))

    def unfinished_attempts(self) -> list[UnfinishedAttempt]:
        """Return the attempts without an outcome: their process died, or they are still in flight.

        Members of batches are left out: their outcome is decided with the batch.
        """
        with usable(self.path):
            rows = self.db.execute(_UNFINISHED).fetchall()
        return [UnfinishedAttempt(*row) for row in rows]

    def finish_execution(
        self, outcome: RunEnd, reason: str | None, waits: dict[str, float]
    ) -> None:
        """Record what ended this execution, the reason, and its waits in seconds by cause."""
        # Those who look a verdict up need the index also after a plan that was cut short; they can do without.
        with suppress(CheckpointError, OutputError), self._planning():
            self._planner.index()
        with self.transaction():
            self.db.execute(
                """UPDATE executions SET finished_us = ?, outcome = ?, reason = ?, waits = ?
                WHERE id = ?""",
                (now_us(), outcome, reason, orjson.dumps(waits).decode(), self.execution),
            )
            self.db.execute(_SEAL_EXECUTION, (self.execution,))

    def note_waiting(self, reason: str | None) -> None:
        """Record what this execution is waiting for, for `batchrun status`."""
        with self.transaction():
            self.db.execute(
                "UPDATE executions SET waiting = ? WHERE id = ?", (reason, self.execution)
            )

    def spent(self) -> int:
        """Return the cost of the run in pico-dollars; an upper bound if some costs are unknown.

        An attempt that may have been billed without a known cost counts with its reserved cost.
        """
        with usable(self.path):
            (spent,) = self.db.execute(_SPENT).fetchone()
        return int(spent)

    def executions(self) -> list[int]:
        """Return the numbers of the executions that have worked on the run, in order."""
        with usable(self.path):
            return [number for (number,) in self.db.execute(_EXECUTIONS)]

    def known_cost(self) -> int:
        """Return the part of `spent` that is known from answers, in pico-dollars."""
        with usable(self.path):
            (known,) = self.db.execute(_KNOWN_COST).fetchone()
        return int(known)

    def plan(
        self, rendered: Sequence[RenderedItem], *, retry_errored: bool, dedupe: bool = False
    ) -> list[PlannedRequest]:
        """Call `plan_chunk`, and return the requests that have to be sent."""
        return self.plan_chunk(rendered, retry_errored=retry_errored, dedupe=dedupe).requests

    def plan_chunk(
        self, rendered: Sequence[RenderedItem], *, retry_errored: bool, dedupe: bool = False
    ) -> PlannedChunk:
        """Assign requests to consecutive items.

        An item keeps its request as long as its fingerprint is the same. Otherwise it gets a request
        with its fingerprint that no item holds (preferably one with an answer), or a new one. With
        `dedupe`, items with the same fingerprint share one request, and the first of them sends it.
        """
        if not rendered:
            return PlannedChunk([])
        with self._planning():
            return self._planner.plan(rendered, retry_errored=retry_errored, dedupe=dedupe)

    @contextmanager
    def _planning(self) -> Iterator[None]:
        try:
            with self.transaction():
                yield
        except CheckpointError:
            # The planner remembers what has been rolled back.
            self._planner = Planner(self.db)
            raise

    def finish_plan(self, total: int, mark: str | None = None) -> None:
        """Delete the items of rows beyond `total`; their results stay in case the rows return.

        `mark` identifies the plan for `is_planned` until the job or the input changes. None: the plan
        cannot be recognized later.
        """
        with self._planning():
            end = total * self.samples
            self.db.execute("DELETE FROM items WHERE ordinal >= ?", (end,))
            self._planner.index()
            self.update_run("planned = ?", mark or "")

    def is_planned(self, mark: str | None) -> bool:
        """Return whether the plan with this mark has already assigned a request to every row."""
        with usable(self.path):
            (planned,) = self.db.execute("SELECT planned FROM run").fetchone()
        return mark is not None and planned == mark

    def count_unsettled(self, first: int, end: int, *, retry_errored: bool) -> UnsettledRows:
        """Count the planned rows from `first` up to `end` that have no result."""
        with usable(self.path):
            return count_unsettled(self.db, first, end, retry_errored=retry_errored)

    def record(
        self,
        starts: list[AttemptStart],
        attempts: list[Attempt],
        results: list[Result],
        turns: Sequence[Turn] = (),
    ) -> None:
        """Write a group of events in one transaction; when this returns they are on disk."""
        begun = [encoding.start_row(start, self.execution) for start in starts]
        with self.transaction():
            write_rows(self.db, encoding.INSERT_START, begun)
            write_rows(self.db, encoding.UPDATE_ATTEMPT, map(encoding.attempt_row, attempts))
            self.write_results(results)
            if turns:
                self._write_turns(turns)

    def write_results(self, results: Sequence[Result]) -> None:
        """Write results within a transaction, with their long texts in pieces."""
        texts = LongTexts(self.db)
        rows = [
            texts.take_out(result.key, row, encoding.LONG_PLACES) if size > MOST_IN_ROW else row
            for result, (row, size) in zip(results, map(encoding.result_row, results), strict=True)
        ]
        # Only a request with earlier attempts can have a result that is replaced.
        delete_pieces(self.db, (r.key for r in results if r.last.number > 1), LONG)
        write_rows(self.db, encoding.REPLACE_RESULT, rows)
        texts.write()

    def _write_turns(self, turns: Sequence[Turn]) -> None:
        texts = LongTexts(self.db)
        new: list[tuple[Any, ...]] = []
        with_results: list[tuple[Any, ...]] = []
        for turn in turns:
            row, size = encoding.turn_row(turn)
            is_there = encoding.is_written_again(turn)
            places = encoding.TOOL_RESULTS_PLACES if is_there else encoding.LONG_TURN_PLACES
            kept = texts.take_out(turn.key, row, places) if size > MOST_IN_ROW else row
            (with_results if is_there else new).append(kept)
        write_rows(self.db, encoding.REPLACE_TURN, new)
        write_rows(self.db, encoding.ADD_TOOL_RESULTS, with_results)
        texts.write()

    def columns(self, first: int, end: int, names: Sequence[str]) -> dict[str, list[Any]]:
        """Return columns of the results of the rows from ordinal `first` up to `end`, in order.

        Args:
            first: ordinal of the first row.
            end: ordinal after the last row.
            names: names of columns of the outputs; values are in the units of their kinds.

        Returns:
            `ordinal` and these columns. Rows that are not planned yet are left out.
        """
        with usable(self.path):
            samples = self.samples
            asked = names if samples == 1 else dict.fromkeys((*NEEDED, *names))
            found = columns.result_columns(
                self.db, first * samples, end * samples, tuple(asked), shared=self._is_shared()
            )
        return found if samples == 1 else combine_samples(found, samples)

    def rows_within(self, first: int, end: int, most_bytes: int) -> int:
        """Return the number of rows to read at once, from ordinal `first` to at most `end`.

        Together their answers have at most this size, unless a single one is larger.
        """
        with usable(self.path):
            samples = self.samples
            found = columns.items_within(self.db, first * samples, end * samples, most_bytes)
        return max(1, found // samples)

    @property
    def samples(self) -> int:
        """Number of samples for each row."""
        return self.size()[1]

    def size(self) -> tuple[int, int]:
        """Return the number of rows, and the number of samples for each row.

        Raises:
            RecordsDamaged: if the values are impossible, because they have changed on the disk.
        """
        row = self.db.execute("SELECT total, samples FROM run").fetchone() or (0, 1)
        if row[0] is None or row[0] < 0 or row[1] < 1:
            raise self._damaged_run()
        return row[0], row[1]

    def _damaged_run(self) -> RecordsDamaged:
        return RecordsDamaged(f"{self.path}: {_DAMAGED_RUN}; {DAMAGE_REMEDY}", _OF_RUN)

    def _is_shared(self) -> bool:
        row = self.db.execute("SELECT job ->> '$.request.dedupe' FROM run").fetchone()
        return bool(row and row[0])

    def attempt_columns(self, chunk_rows: int) -> Iterator[dict[str, list[Any]]]:
        """Yield all attempts, at most `chunk_rows` at a time, in the order of their requests."""
        with usable(self.path):
            yield from columns.attempt_columns(self.db, chunk_rows)

    def has_unused_results(self) -> bool:
        """Return whether there are results that no row of the input holds (yet, or any more)."""
        with usable(self.path):
            (found,) = self.db.execute(
                """SELECT EXISTS (SELECT 1 FROM results r WHERE NOT EXISTS
                (SELECT 1 FROM items i WHERE i.request_id = r.request_id))"""
            ).fetchone()
        return bool(found)

    def replace_job(self, document: Mapping[str, Any]) -> None:
        """Replace the stored document of the job."""
        with self.transaction():
            self.update_run("job = ?", _as_json(document))

    def job(self) -> tuple[dict[str, Any], str, str]:
        """Return the job's document, the folder of its relative paths, and the plan's signature.

        Raises:
            RecordsDamaged: if the record of the run has changed on the disk.
            CheckpointError: if there is no run, or the file cannot be used.
        """
        with usable(self.path):
            (is_damaged,) = self.db.execute(_RUN_IS_DAMAGED).fetchone()
            if is_damaged:
                raise self._damaged_run()
            row = self.db.execute("SELECT job, base, plan_signature FROM run").fetchone()
            if row is None:
                raise CheckpointError(f"{self.path}: contains no run yet; run the job first")
            return orjson.loads(row[0]), row[1], row[2]


def _as_json(document: Mapping[str, Any]) -> str:
    return orjson.dumps(document, default=str).decode()
