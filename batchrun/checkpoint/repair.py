"""Damaged records: restores those that follow from other records, and gives up the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchrun.checkpoint import encoding
from batchrun.checkpoint.columns import LONG, OUT
from batchrun.checkpoint.integrity import COUNTED, KINDS, find_damage
from batchrun.checkpoint.long_texts import delete_pieces
from batchrun.errors import Record
from batchrun.formats.sent_batches import DAMAGED, UNKNOWN_ACCOUNT, BatchStage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batchrun.checkpoint.encoding import Checked
    from batchrun.checkpoint.store import Checkpoint

ERROR_TYPE = "damaged"
_PAID = (Record.ANSWER, Record.ATTEMPT, Record.TURN)
_HAS_ANSWER = """EXISTS (SELECT 1 FROM attempts a WHERE a.request_id = d.request_id
    AND a.number = d.attempts AND a.error_type IS NULL AND a.latency_s IS NOT NULL)"""
_LOOK_AGAIN = f"""UPDATE batches AS d SET stage = iif(is_out, '{BatchStage.INTENDED}',
        '{BatchStage.COLLECTED}'), reason = '{DAMAGED}', account = '{UNKNOWN_ACCOUNT}',
    remote_id = NULL, refused_ids = NULL, state = NULL, is_proven = 1, is_primer = 0,
    rows = members, intended_us = coalesce(first_us, intended_us)
    FROM (SELECT count(*) AS members, min(started_us) AS first_us,
        coalesce(max({OUT}), 0) AS is_out FROM attempts WHERE batch = ?1) WHERE id = ?1"""  # noqa: S608 - our own names


@dataclass(frozen=True, slots=True)
class Repair:
    """Result of a repair.

    Attributes:
        restored: number of records that were restored from others, or will be when the next run
            matches the rows to their requests.
        given_up: number of records that were given up; their rows are sent again.
        uncounted: number of costs and prices that are unknown until `recost`.
    """

    restored: int
    given_up: int
    uncounted: int = 0


def repair(store: Checkpoint) -> Repair:
    """Restore the damaged records that follow from others, and give up those that do not.

    Known costs stay counted. An attempt whose tokens are damaged counts as possibly billed.
    """
    if not (count := find_damage(store).count):
        return Repair(0, 0)
    with store.transaction():
        # The order matters: later steps read what earlier ones restored. Answers are found by the
        # numbers of attempts, starts are bounded by executions, and a status follows from the
        # attempts that are left.
        _restore_attempt_keys(store)
        _restore_attempt_numbers(store)
        given_up = find_damage(store, _PAID).count
        _give_up(store)
        uncounted = find_damage(store, COUNTED).count
        forget_damaged_costs(store)
        _look_for_batches_again(store)
        _restore_executions(store)
        _restore_starts(store)
        _restore_run(store)
        _restore_statuses(store)
        _restore_ids(store)
        if find_damage(store, (Record.ROW, Record.REQUEST)).count:
            # The next plan assigns these rows again, by fingerprint.
            store.db.execute(f"DELETE FROM items AS d WHERE {KINDS[Record.ROW].condition}")  # noqa: S608
            store.update_run("planned = NULL")
    return Repair(count - given_up - uncounted, given_up, uncounted)


def forget_damaged_requests(store: Checkpoint) -> None:
    """Give up damaged requests that no row was matched to, so that no row ever takes their answers."""
    condition = KINDS[Record.REQUEST].condition
    with store.transaction():
        keys = store.db.execute(f"SELECT id FROM requests d WHERE {condition}").fetchall()  # noqa: S608
        for key in keys:
            # Not deleted: their attempts, and what these cost, stay counted.
            store.db.execute("UPDATE requests SET fingerprint = randomblob(16) WHERE id = ?", key)
            store.db.execute(encoding.REQUESTS.seal("id = ?"), key)


def _restore_attempt_keys(store: Checkpoint) -> None:
    """Restore the number of attempts whose checksum was written with another one."""
    kind = KINDS[Record.ATTEMPT]
    names = ", ".join(f"d.{name}" for name in ("request_id", "number", "checksum"))
    rows = store.db.execute(
        f"SELECT {names}, {encoding.SENT.stored('d')} FROM attempts d WHERE {kind.condition}"  # noqa: S608
    ).fetchall()
    for key, number, expected, *values in rows:
        row = dict(zip(encoding.SENT.columns, values, strict=True))
        taken = {
            taken
            for (taken,) in store.db.execute(
                "SELECT number FROM attempts WHERE request_id = ?", (key,)
            )
        }
        free = (each for each in range(1, len(taken) + 1) if each not in taken)
        for right in free:
            if encoding.SENT.of({**row, "number": right}) == expected:
                store.db.execute(
                    "UPDATE attempts SET number = ? WHERE request_id = ? AND number = ?",
                    (right, key, number),
                )
                break


def _restore_attempt_numbers(store: Checkpoint) -> None:
    for (key,) in _damaged_keys(store, Record.ANSWER):
        (highest,) = store.db.execute(
            "SELECT coalesce(max(number), 0) FROM attempts WHERE request_id = ?", (key,)
        ).fetchone()
        candidates = ({"attempts": number} for number in range(1, highest + 1))
        _restore(store, encoding.ANSWERS, "request_id", key, candidates)


def _restore_statuses(store: Checkpoint) -> None:
    """Set damaged statuses: succeeded if the last attempt has an answer without error, else errored."""
    for (key,) in _damaged_keys(store, Record.STATUS):
        store.db.execute(
            f"""UPDATE results AS d SET retryable = NOT {_HAS_ANSWER},
            status = iif({_HAS_ANSWER}, 'succeeded', 'errored') WHERE request_id = ?""",  # noqa: S608
            (key,),
        )
        store.db.execute(encoding.STATUSES.seal("request_id = ?"), (key,))


def _restore_ids(store: Checkpoint) -> None:
    for (key,) in _damaged_keys(store, Record.REQUEST):
        ids = store.db.execute(
            f"""SELECT custom_id FROM items d WHERE request_id = ?
            AND NOT ({KINDS[Record.ROW].condition}) ORDER BY ordinal LIMIT 100""",  # noqa: S608
            (key,),
        ).fetchall()
        candidates = [{"custom_id": custom_id} for (custom_id,) in ids]
        _restore(store, encoding.REQUESTS, "id", key, candidates)


def forget_damaged_costs(store: Checkpoint) -> None:
    """Set damaged costs to unknown, and delete damaged prices: `recost` replaces both."""
    costs, prices = KINDS[Record.COST], KINDS[Record.PRICE]
    keys = store.db.execute(
        f"SELECT d.request_id, d.number FROM attempts d WHERE {costs.condition}"  # noqa: S608
    ).fetchall()
    unknown = ", ".join(f"{name} = NULL" for name in encoding.MONEY)
    one = "request_id = ? AND number = ?"
    for statement in (f"UPDATE attempts SET {unknown} WHERE {one}", encoding.COSTS.seal(one)):  # noqa: S608
        store.db.conn.executemany(statement, keys)
    store.db.execute(f"DELETE FROM prices AS d WHERE {prices.condition}")  # noqa: S608


def _look_for_batches_again(store: Checkpoint) -> None:
    """Set damaged batches to be looked for at the vendor. They were paid for, so none is given up."""
    damaged = KINDS[Record.BATCH].condition
    for (key,) in store.db.execute(f"SELECT d.id FROM batches d WHERE {damaged}").fetchall():  # noqa: S608
        store.db.execute(_LOOK_AGAIN, (key,))
        store.db.execute(encoding.BATCHES.seal("id = ?"), (key,))


def _restore_executions(store: Checkpoint) -> None:
    """Reset damaged executions to what their attempts show."""
    damaged = KINDS[Record.EXECUTION]
    rows = store.db.execute(
        f"SELECT d.id FROM executions d WHERE {damaged.condition}"  # noqa: S608
    ).fetchall()
    for (key,) in rows:
        store.db.execute(
            """UPDATE executions AS d SET started_us = coalesce((SELECT min(started_us)
            FROM attempts a WHERE a.execution = d.id), (SELECT created_us FROM run)),
            finished_us = NULL, outcome = NULL, reason = NULL, provider = NULL, base_url = NULL,
            waits = NULL, version = 'unknown', dispatcher = iif(dispatcher IN
            (SELECT dispatcher FROM executions e WHERE e.id <> d.id), dispatcher, 'live')
            WHERE id = ?""",
            (key,),
        )
        store.db.execute(encoding.EXECUTIONS.seal("id = ?"), (key,))


def _restore_starts(store: Checkpoint) -> None:
    """Limit damaged starts of attempts to possible values: no output has a copy of them."""
    damaged = KINDS[Record.START].condition
    keys = store.db.execute(
        f"SELECT d.request_id, d.number FROM attempts d WHERE {damaged}"  # noqa: S608
    ).fetchall()
    one = "request_id = ? AND number = ?"
    for statement in (
        f"""UPDATE attempts AS d SET execution = (SELECT coalesce(max(e.id),
        (SELECT min(id) FROM executions)) FROM executions e WHERE e.id <= d.execution)
        WHERE {one}""",  # noqa: S608
        f"""UPDATE attempts AS d SET started_us = (SELECT iif(d.started_us BETWEEN e.started_us
        AND coalesce(e.finished_us, d.started_us), d.started_us, e.started_us)
        FROM executions e WHERE e.id = d.execution), reserved = min(reserved, (SELECT
        coalesce(max(a.reserved), 0) FROM attempts a WHERE (a.request_id, a.number)
        <> (d.request_id, d.number))) WHERE {one}""",  # noqa: S608
        encoding.STARTS.seal(one),
    ):
        store.db.conn.executemany(statement, keys)


def _restore_run(store: Checkpoint) -> None:
    """Clear a damaged record of the run. The next execution writes job and plan again."""
    if find_damage(store, (Record.RUN,)).count:
        store.update_run(
            "job = '{}', plan_signature = '', planned = NULL, scored = NULL, given_price = NULL, "
            "created_us = coalesce((SELECT min(started_us) FROM executions), created_us)"
        )


def _damaged_keys(store: Checkpoint, record: Record) -> list[tuple[int]]:
    kind = KINDS[record]
    query = f"SELECT {kind.key} FROM {kind.table.table} d WHERE {kind.condition}"  # noqa: S608
    return store.db.execute(query).fetchall()


def _restore(
    store: Checkpoint,
    checked: Checked,
    key_column: str,
    key: int,
    candidates: Iterable[Mapping[str, Any]],
) -> None:
    """Update a damaged row to the first candidate that gives its stored checksum."""
    expected, *stored = store.db.execute(
        f"SELECT {checked.checksum}, {checked.stored('d')} FROM {checked.table} d WHERE {key_column} = ?",  # noqa: S608
        (key,),
    ).fetchone()
    row = dict(zip(checked.columns, stored, strict=True))
    for candidate in candidates:
        if checked.of({**row, **candidate}) == expected:
            names = ", ".join(f"{name} = ?" for name in candidate)
            store.db.execute(
                f"UPDATE {checked.table} SET {names} WHERE {key_column} = ?",  # noqa: S608
                (*candidate.values(), key),
            )
            return


def _give_up(store: Checkpoint) -> None:
    db = store.db
    db.execute("CREATE TEMP TABLE given_up (request_id INTEGER)")
    for kind in (KINDS[record] for record in _PAID):
        db.execute(
            f"INSERT INTO given_up SELECT request_id FROM {kind.table.table} d WHERE {kind.condition}"  # noqa: S608
        )
    unknown = ", ".join(
        f"{name} = NULL" for name in (*encoding.USAGE, *encoding.BILLING, *encoding.MONEY)
    )
    db.execute(
        f"""UPDATE attempts AS d SET {unknown}, maybe_billed = 1,
        error_type = '{ERROR_TYPE}', error_message = 'its record was damaged on the disk'
        WHERE {KINDS[Record.ATTEMPT].condition}"""  # noqa: S608 - our own names
    )
    db.execute(
        f"""UPDATE attempts SET error_type = '{ERROR_TYPE}',
        error_message = 'what it was answered was damaged on the disk'
        WHERE error_type IS NULL AND latency_s IS NOT NULL
        AND request_id IN (SELECT request_id FROM given_up)"""  # noqa: S608 - our own names
    )
    for checked in (encoding.SENT, encoding.COSTS):
        db.execute(checked.seal("request_id IN (SELECT request_id FROM given_up)"))
    keys = [key for (key,) in db.execute("SELECT DISTINCT request_id FROM given_up")]
    delete_pieces(db, keys, LONG)
    delete_pieces(db, keys, encoding.LONG_OF_TURNS, "turns")
    for table in ("results", "turns"):
        db.execute(f"DELETE FROM {table} WHERE request_id IN (SELECT request_id FROM given_up)")  # noqa: S608
    db.execute("DROP TABLE given_up")
