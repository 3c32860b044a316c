"""Records that are no longer what was written: finding them, and giving them up.

A disk that fails, or a program that writes where it should not, changes bytes of a file that is as
sound as before to SQLite. The checksums show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.checkpoint import recording
from batchrun.checkpoint.columns import ATTEMPTS, RESULTS, Column
from batchrun.checkpoint.schema import usable
from batchrun.errors import RecordsDamaged
from batchrun.findings import Damage, DamagedRecord, Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchrun.checkpoint.checksums import Checked
    from batchrun.checkpoint.store import Checkpoint

# Damaged records that are looked at one by one; more are only counted.
MOST = 20
ERROR_TYPE = "damaged"


@dataclass(frozen=True, slots=True)
class _Kind:
    """Records of one kind: where they are, and which columns of the outputs repeat them."""

    table: Checked
    number: str
    columns: tuple[Column, ...] = ()
    also: str = ""

    @property
    def condition(self) -> str:
        """SQL that is true of a damaged record `d`."""
        return f"({self.table.differs('d')}){self.also}"


_KINDS = {
    Record.ANSWER: _Kind(
        recording.ANSWERS,
        "d.attempts",
        RESULTS,
        " OR d.status NOT IN ('succeeded', 'errored') OR d.retryable NOT IN (0, 1)",
    ),
    Record.ATTEMPT: _Kind(recording.RECEIVED, "d.number", ATTEMPTS),
    Record.TURN: _Kind(recording.TURNS, "d.number"),
}


def find_damage(store: Checkpoint) -> Damage:
    """Look through everything that was paid for.

    Takes seconds for each million of rows.

    Raises:
        CheckpointError: when the file cannot be read.
    """
    found: list[DamagedRecord] = []
    count = 0
    with usable(store.path):
        for record, kind in _KINDS.items():
            rows = store.db.execute(
                f"""SELECT count(*) OVER (), d.request_id, {kind.number},
                (SELECT q.custom_id FROM requests q WHERE q.id = d.request_id)
                FROM {kind.table.table} d WHERE {kind.condition} LIMIT ?""",  # noqa: S608 - our own names
                (MOST,),
            ).fetchall()
            count += rows[0][0] if rows else 0
            found += [DamagedRecord(record, *row[1:]) for row in rows]
    return Damage(count, tuple(found[:MOST]))


def check_intact(store: Checkpoint) -> None:
    """See that everything that was paid for is as it was written.

    Raises:
        RecordsDamaged: when something is not.
        CheckpointError: when the file cannot be read.
    """
    if (damage := find_damage(store)).count:
        first, directory = damage.first[0], store.path.parent
        raise RecordsDamaged(
            f"{store.path}: row {first.custom_id}: {first}. For all that is damaged, and the right "
            f"copies: batchrun verify {directory}",
            damage,
        )


def is_right_copy(store: Checkpoint, damaged: DamagedRecord, copy: Mapping[str, Any]) -> bool:
    """Say whether a row of an output has what a damaged record has lost.

    It does when its values, in the place of those that are stored, give the checksum that was
    written with the record.

    Args:
        store: the checkpoint.
        damaged: the record.
        copy: the row, by the names of the outputs.
    """
    kind = _KINDS[damaged.record]
    names = kind.table.columns
    values = ", ".join(f"CAST(d.{name} AS BLOB)" for name in names)
    with usable(store.path):
        row = store.db.execute(
            f"""SELECT d.checksum, {values} FROM {kind.table.table} d
            WHERE d.request_id = ? AND {kind.number} IS ?""",  # noqa: S608 - our own names
            (damaged.request_id, damaged.number),
        ).fetchone()
    if row is None:
        return False
    expected, *stored = row
    by_name = dict(zip(names, stored, strict=True))
    known = list(_candidates(kind, copy))
    tries = [{**by_name, name: value} for name, value in known] + [{**by_name, **dict(known)}]
    return any(kind.table.of(one) == expected for one in tries)


def _candidates(kind: _Kind, copy: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield which columns of a record a row of an output may know, and with which value."""
    covered = {f".{name}": name for name in kind.table.columns}
    for column in kind.columns:
        name = covered.get(column.value[1:])  # behind the alias of its table
        if name is not None and column.name in copy:
            yield name, _stored(copy[column.name])
        elif column.is_optional and isinstance(text := copy.get(column.name), str):
            yield column.name, recording.packed(text.encode())
    if "response" in kind.table.columns:
        # Of several samples an output has all texts in one list.
        yield from (("response", text) for text in _texts(copy.get("responses")))


def _stored(value: object) -> object:
    if isinstance(value, datetime):
        return recording.microseconds(value)
    return orjson.dumps(value).decode() if isinstance(value, list) else value


def _texts(value: object) -> list[str]:
    found = orjson.loads(value) if isinstance(value, str) and value.startswith("[") else value
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []


def discard_damaged(store: Checkpoint) -> int:
    """Give up what is damaged, so that its rows are asked again; return how many records it was.

    What was paid for stays counted as far as it is known; an attempt whose tokens are damaged counts
    as possibly billed.
    """
    if not (damage := find_damage(store)).count:
        return 0
    kinds = {record: (kind.table.table, kind.condition) for record, kind in _KINDS.items()}
    with store.transaction():
        store.db.execute("CREATE TEMP TABLE given_up (request_id INTEGER)")
        for table, condition in kinds.values():
            store.db.execute(
                f"INSERT INTO given_up SELECT request_id FROM {table} d WHERE {condition}"  # noqa: S608
            )
        unknown = ", ".join(
            f"{name} = NULL" for name in (*recording.USAGE, *recording.BILLING, *recording.MONEY)
        )
        store.db.execute(
            f"""UPDATE exchanges AS d SET {unknown}, checksum = NULL, maybe_billed = 1,
            error_type = '{ERROR_TYPE}', error_message = 'its record was damaged on the disk'
            WHERE {kinds[Record.ATTEMPT][1]}"""  # noqa: S608 - our own names
        )
        store.db.execute(
            f"""UPDATE exchanges SET error_type = '{ERROR_TYPE}',
            error_message = 'what it was answered was damaged on the disk'
            WHERE error_type IS NULL AND latency_s IS NOT NULL
            AND request_id IN (SELECT request_id FROM given_up)"""  # noqa: S608 - our own names
        )
        for table in ("outcomes", "turns"):
            store.db.execute(
                f"DELETE FROM {table} WHERE request_id IN (SELECT request_id FROM given_up)"  # noqa: S608
            )
        store.db.execute("DROP TABLE given_up")
    return damage.count
