"""The batches of a run: each step of a batch is one transaction, which is on disk before the next step.

A batch is intended, sent, and then collected or void. Its members are attempts without an outcome. As long
as an attempt is in a batch, the planner neither sends its request nor counts it as done.
"""

from __future__ import annotations

import sqlite3
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.checkpoint import encoding
from batchrun.checkpoint.columns import OUT, exact_sum
from batchrun.checkpoint.file import usable
from batchrun.checkpoint.sqlite import write_rows
from batchrun.checkpoint.store import now_us
from batchrun.formats import BatchState
from batchrun.formats.sent_batches import BatchMember, BatchStage, SentBatch, remote_facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batchrun.checkpoint.sqlite import Database
    from batchrun.checkpoint.store import Checkpoint
    from batchrun.formats import RemoteBatch
    from batchrun.records import Attempt, AttemptStart, Result

_COLUMNS = tuple(f.name for f in fields(SentBatch) if f.name not in {"out", "reserved"})
_INSERT = f"""INSERT INTO batches (execution, {", ".join(_COLUMNS)})
    VALUES (?, {", ".join("?" for _ in _COLUMNS)})"""  # noqa: S608 - our own names, as below
# Here and below, `batch IS NOT NULL AND checksum IS NULL` repeats the condition of the partial index
# `attempts_by_batch`: without it, SQLite would read all attempts.
_SELECT = f"""SELECT {", ".join(f"b.{name}" for name in _COLUMNS)},
    count(a.request_id), {exact_sum("a.reserved")}
    FROM batches b LEFT JOIN attempts a ON a.batch = b.id AND a.batch IS NOT NULL
        AND a.checksum IS NULL AND a.latency_s IS NULL AND a.error_type IS NULL
    {{where}} GROUP BY b.id ORDER BY b.id"""  # noqa: S608
_OPEN = "b.stage IN ('intended', 'sent')"
_BATCH = "(SELECT id FROM batches WHERE tag = ?)"
_ADD_MEMBER = f"""INSERT INTO attempts (batch, start_checksum, {", ".join(encoding.START_COLUMNS)})
    VALUES ({_BATCH}, ?, ?, ?, ?, ?, ?)"""  # noqa: S608
# What counts towards `max_attempts`: not refusals by a limit, nor batches that ended too early.
_MEMBERS = f"""SELECT a.request_id, a.number, a.reserved, (
        SELECT count(*) FROM attempts f WHERE f.request_id = a.request_id AND f.number < a.number
        AND f.cause IN ('transient', 'invalid_answer', 'unsupported_parameter')
        AND f.error_type NOT IN ('batch_expired', 'batch_canceled'))
    FROM attempts a WHERE a.batch = {_BATCH} AND a.checksum IS NULL
    AND a.batch IS NOT NULL AND a.latency_s IS NULL AND a.error_type IS NULL"""  # noqa: S608
# A row is submitted when all its samples are.
_SETTLED = f"""SELECT count(*) FROM (SELECT 1 FROM items i WHERE i.ordinal < :total * :samples
    AND (i.request_id IS NULL OR i.request_id IN (SELECT request_id FROM results)
        OR i.request_id IN (SELECT request_id FROM attempts WHERE {OUT}))
    GROUP BY i.ordinal / :samples HAVING count(*) = :samples)"""  # noqa: S608
_ROW_AT = f"""SELECT r.custom_id FROM attempts a JOIN requests r ON r.id = a.request_id
    WHERE a.batch = {_BATCH} AND a.batch IS NOT NULL AND a.checksum IS NULL
    ORDER BY a.started_us LIMIT 1 OFFSET ?"""  # noqa: S608
_LEAVE = f"""UPDATE attempts SET error_type = ?, error_message = ?, cause = ?, maybe_billed = ?,
    latency_s = ?, answered_in = ? WHERE batch = {_BATCH} AND checksum IS NULL AND {OUT}"""  # noqa: S608
_ENDED = f"batch = {_BATCH} AND batch IS NOT NULL AND checksum IS NULL AND error_type IS NOT NULL"
_SEALS = (encoding.COSTS.seal(_ENDED), encoding.SENT.seal(_ENDED))
_SEAL = encoding.BATCHES.seal("tag = ?")
_REMOTE = ("state", "done", "failed", "created_us", "expires_us", "ended_us", "results_expire_us")


def intend_batch(store: Checkpoint, batch: SentBatch, starts: Sequence[AttemptStart]) -> None:
    """Store a batch that is about to be created, with its members."""
    row = [_stored(batch, name) for name in _COLUMNS]
    with store.transaction():
        store.db.execute(_INSERT, (store.execution, *row))
        store.db.execute(_SEAL, (batch.tag,))
        rows = (encoding.start_row(start, store.execution) for start in starts)
        write_rows(store.db, _ADD_MEMBER, ((batch.tag, *row) for row in rows))


def note_upload(store: Checkpoint, tag: str, file_id: str) -> None:
    """Store the vendor's id of the uploaded requests: the batch is about to be created."""
    _update(store, tag, {"input_file": file_id, "intended_us": now_us()})


def note_sent(store: Checkpoint, tag: str, remote: RemoteBatch, *, is_proven: bool = True) -> None:
    """Store the vendor's id of a batch."""
    found = {"stage": BatchStage.SENT, "remote_id": remote.id, "is_proven": is_proven}
    _update(store, tag, {**found, **remote_facts(remote)})


def note_state(store: Checkpoint, tag: str, remote: RemoteBatch) -> None:
    """Store the state of a batch as the vendor reports it."""
    _update(store, tag, remote_facts(remote))


def note_other(store: Checkpoint, tag: str, remote_id: str) -> None:
    """Record that the batch with this id is another one, so that this batch is looked for again."""
    with store.transaction():
        (known,) = store.db.execute(
            "SELECT refused_ids FROM batches WHERE tag = ?", (tag,)
        ).fetchone()
        refused = orjson.dumps([*orjson.loads(known or "[]"), remote_id]).decode()
        nothing = dict.fromkeys(("remote_id", *_REMOTE))
        _set(store.db, tag, {**nothing, "stage": BatchStage.INTENDED, "refused_ids": refused})


def collect_batch(
    store: Checkpoint, tag: str, attempts: Sequence[Attempt], results: Sequence[Result]
) -> None:
    """Store some results of a batch; `attempts` are those that failed or have no result."""
    with store.transaction():
        rows = map(encoding.attempt_row, (*attempts, *(r.last for r in results)))
        write_rows(store.db, encoding.UPDATE_MEMBER, ((store.execution, *row) for row in rows))
        store.write_results(results)
        _set(store.db, tag, {"is_proven": True})


def close_batch(
    store: Checkpoint,
    tag: str,
    error_type: str,
    message: str,
    *,
    maybe_billed: bool,
    latency_s: float,
) -> int:
    """Close a batch whose results are all stored; return the number of members without a result.

    These get this error, and their requests are pending again.
    """
    with store.transaction():
        cursor = store.db.execute(
            _LEAVE,
            (
                error_type,
                message,
                "transient",
                maybe_billed,
                max(0.0, latency_s),
                store.execution,
                tag,
            ),
        )
        left = cursor.rowcount
        for seal in _SEALS:
            store.db.execute(seal, (tag,))
        _set(store.db, tag, {"stage": BatchStage.COLLECTED, "closed_us": now_us()})
    return int(left)


def void_batch(store: Checkpoint, tag: str, reason: str) -> None:
    """Void a batch that the vendor does not have or refused as a whole: its requests are pending again.

    Nothing was sent to the model, so its attempts are deleted.
    """
    with store.transaction():
        store.db.execute(
            f"DELETE FROM attempts WHERE batch = {_BATCH} AND checksum IS NULL AND {OUT}",  # noqa: S608
            (tag,),
        )
        closed = {"stage": BatchStage.VOID, "closed_us": now_us(), "reason": reason}
        _set(store.db, tag, closed)


def batches(store: Checkpoint, *, open_only: bool = False) -> list[SentBatch]:
    """Return the batches of a run, in the order in which they were intended."""
    with usable(store.path):
        return stored_batches(store.db, open_only=open_only)


def stored_batches(db: Database, *, open_only: bool = False) -> list[SentBatch]:
    """Do the same as `batches`, within a transaction of the caller."""
    where = f"WHERE {_OPEN}" if open_only else ""
    return [_batch(row) for row in db.execute(_SELECT.format(where=where))]


def has_open_batches(store: Checkpoint) -> bool:
    """Return whether results of batches may still arrive."""
    with usable(store.path):
        query = f"SELECT EXISTS (SELECT 1 FROM batches b WHERE {_OPEN})"  # noqa: S608 - our own names
        (found,) = store.db.execute(query).fetchone()
    return bool(found)


def rows_not_submitted(store: Checkpoint) -> int:
    """Return the number of rows that neither have a result nor are in an open batch."""
    with usable(store.path):
        total, samples = store.size()
        (settled,) = store.db.execute(_SETTLED, {"samples": samples, "total": total}).fetchone()
    return max(0, total - int(settled))


def reserved_by_batches(store: Checkpoint) -> int:
    """Return the highest possible cost of the members of open batches, in pico-dollars."""
    return sum(batch.reserved or 0 for batch in batches(store, open_only=True))


def batch_members(store: Checkpoint, tag: str) -> dict[int, BatchMember]:
    """Return the requests of a batch without a stored outcome, by their key."""
    with usable(store.path):
        rows = store.db.execute(_MEMBERS, (tag,))
        return {
            key: BatchMember(number, failures, reserved) for key, number, reserved, failures in rows
        }


def row_at(store: Checkpoint, tag: str, line: int) -> str | None:
    """Return the id of the row at a line (from 1) of a batch without results; None if there is none.

    The attempts of a batch have start times in the order of its lines.
    """
    with usable(store.path):
        found = store.db.execute(_ROW_AT, (tag, line - 1)).fetchone() if line > 0 else None
    return None if found is None else str(found[0])


def _update(store: Checkpoint, tag: str, values: Mapping[str, Any]) -> None:
    with store.transaction():
        _set(store.db, tag, values)


def _set(db: Database, tag: str, values: Mapping[str, Any]) -> None:
    names = ", ".join(f"{name} = ?" for name in values)
    db.execute(f"UPDATE batches SET {names} WHERE tag = ?", (*values.values(), tag))  # noqa: S608
    db.execute(_SEAL, (tag,))


def _stored(batch: SentBatch, name: str) -> Any:  # noqa: ANN401 - a value of SQLite
    value = getattr(batch, name)
    return orjson.dumps(value).decode() if isinstance(value, tuple) else value


def _batch(row: Iterable[Any]) -> SentBatch:
    *values, out, reserved = row
    found = dict(zip(_COLUMNS, values, strict=True))
    try:
        found["stage"] = BatchStage(found["stage"])
        found["state"] = found["state"] and BatchState(found["state"])
    except ValueError as error:
        raise sqlite3.DatabaseError(f"batch {found['tag']}: {error}") from None
    found["refused_ids"] = tuple(orjson.loads(found["refused_ids"] or "[]"))
    for name in ("is_primer", "is_proven"):
        found[name] = bool(found[name])
    return SentBatch(**found, out=out, reserved=None if reserved is None else int(reserved))
