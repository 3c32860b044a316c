"""Records that are no longer what was written: finding them.

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
from batchrun.findings import DAMAGE_REMEDY, Damage, DamagedRecord, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from batchrun.checkpoint.checksums import Checked
    from batchrun.checkpoint.store import Checkpoint

# Damaged records that are looked at one by one; more are only counted.
MOST = 20


@dataclass(frozen=True, slots=True)
class Kind:
    """Records of one kind: where they are, and which columns of the outputs repeat them.

    `number`, `key` (of the request) and `custom_id` are SQL over a record `d`.
    """

    table: Checked
    number: str
    columns: tuple[Column, ...] = ()
    also: str = ""
    key: str = "d.request_id"
    custom_id: str = "(SELECT q.custom_id FROM requests q WHERE q.id = d.request_id)"

    @property
    def condition(self) -> str:
        """SQL that is true of a damaged record `d`."""
        return f"({self.table.differs('d')}){self.also}"


KINDS = {
    Record.ANSWER: Kind(recording.ANSWERS, "d.attempts", RESULTS),
    Record.STATUS: Kind(
        recording.STATUSES,
        "d.attempts",
        also=" OR d.status NOT IN ('succeeded', 'errored') OR d.retryable NOT IN (0, 1)"
        " OR (d.retryable AND d.status = 'succeeded')",
    ),
    Record.ATTEMPT: Kind(recording.RECEIVED, "d.number", ATTEMPTS),
    Record.TURN: Kind(recording.TURNS, "d.number"),
    Record.ROW: Kind(
        recording.ITEMS, "d.ordinal / (SELECT samples FROM run) + 1", custom_id="d.custom_id"
    ),
    Record.REQUEST: Kind(
        recording.REQUESTS,
        "0",
        key="d.id",
        custom_id="coalesce((SELECT min(i.custom_id) FROM items i WHERE i.request_id = d.id), "
        "d.custom_id)",
    ),
}
# What decides which rows are sent: looked at before anything is.
PLACES = (Record.ROW, Record.REQUEST, Record.STATUS)


def find_damage(store: Checkpoint, records: Iterable[Record] = tuple(KINDS)) -> Damage:
    """Look through what is kept, or only records of these kinds.

    Takes seconds for each million of rows.

    Raises:
        CheckpointError: when the file cannot be read.
    """
    found: list[DamagedRecord] = []
    count = 0
    with usable(store.path):
        for record in records:
            kind = KINDS[record]
            rows = store.db.execute(
                f"""SELECT count(*) OVER (), {kind.key}, {kind.number},
                CAST({kind.custom_id} AS BLOB)
                FROM {kind.table.table} d WHERE {kind.condition} LIMIT ?""",  # noqa: S608 - our own names
                (MOST,),
            ).fetchall()
            count += rows[0][0] if rows else 0
            found += [DamagedRecord(record, row[1], row[2], _readable(row[3])) for row in rows]
    return Damage(count, tuple(found[:MOST]))


def _readable(custom_id: bytes | None) -> str | None:
    return None if custom_id is None else custom_id.decode("utf-8", "replace")


def check_places(store: Checkpoint) -> None:
    """See that what decides which rows are sent is as it was written.

    Raises:
        RecordsDamaged: when something is not.
        CheckpointError: when the file cannot be read.
    """
    if (damage := find_damage(store, PLACES)).count:
        first, more = damage.first[0], damage.count - 1
        others = f" (and {more:,} more)" if more else ""
        raise RecordsDamaged(
            f"{store.path}: row {first.custom_id}: {first}{others}. Nothing was sent; "
            f"{DAMAGE_REMEDY}",
            damage,
        )


def check_intact(store: Checkpoint) -> None:
    """See that everything that is kept is as it was written.

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
    kind = KINDS[damaged.record]
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


def _candidates(kind: Kind, copy: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
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
