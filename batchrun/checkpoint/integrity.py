"""Find records that have changed since they were written.

A failing disk, or a program that writes where it should not, can change bytes in a file that SQLite still
considers valid. The checksums reveal it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.checkpoint import encoding
from batchrun.checkpoint.columns import ATTEMPTS, LONG, RESULT, RESULTS, ColumnOf, packed
from batchrun.checkpoint.file import usable
from batchrun.checkpoint.long_texts import delete_pieces
from batchrun.errors import DAMAGE_REMEDY, Damage, DamagedRecord, Flaw, Record, RecordsDamaged
from batchrun.records import RenderedItem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from batchrun.checkpoint.encoding import Checked
    from batchrun.checkpoint.store import Checkpoint


# Damaged records that are described; more are only counted.
MOST = 20


@dataclass(frozen=True, slots=True)
class RecordKind:
    """Records of one kind: their table, and the columns of the outputs that repeat their values.

    `number`, `key` (of the request) and `custom_id` are SQL over a record `d`.
    """

    table: Checked
    number: str
    columns: tuple[ColumnOf, ...] = ()
    also: str = ""
    key: str = "d.request_id"
    custom_id: str = "(SELECT q.custom_id FROM requests q WHERE q.id = d.request_id)"

    @property
    def condition(self) -> str:
        """SQL condition: the record `d` is damaged."""
        return f"({self.table.differs('d')}){self.also}"


KINDS = {
    Record.ANSWER: RecordKind(encoding.ANSWERS, "d.attempts", RESULTS),
    Record.STATUS: RecordKind(
        encoding.STATUSES,
        "d.attempts",
        also=" OR d.status NOT IN ('succeeded', 'errored') OR d.retryable NOT IN (0, 1)"
        " OR (d.retryable AND d.status = 'succeeded')",
    ),
    Record.ATTEMPT: RecordKind(encoding.SENT, "d.number", ATTEMPTS),
    Record.START: RecordKind(encoding.STARTS, "d.number", ATTEMPTS),
    Record.TURN: RecordKind(encoding.TURNS, "d.number"),
    Record.ROW: RecordKind(
        encoding.ITEMS, "d.ordinal / (SELECT samples FROM run) + 1", custom_id="d.custom_id"
    ),
    Record.REQUEST: RecordKind(
        encoding.REQUESTS,
        "0",
        key="d.id",
        custom_id="coalesce((SELECT min(i.custom_id) FROM items i WHERE i.request_id = d.id), "
        "d.custom_id)",
    ),
    Record.COST: RecordKind(encoding.COSTS, "d.number"),
    Record.PRICE: RecordKind(encoding.PRICES, "d.id", key="NULL", custom_id="NULL"),
    Record.BATCH: RecordKind(encoding.BATCHES, "d.id", key="NULL", custom_id="NULL"),
    Record.EXECUTION: RecordKind(encoding.EXECUTIONS, "d.id", key="NULL", custom_id="NULL"),
    Record.RUN: RecordKind(encoding.RUN, "0", key="NULL", custom_id="NULL"),
}
# What decides which rows are sent: checked before anything is sent.
PLAN_RECORDS = (
    Record.ROW,
    Record.REQUEST,
    Record.STATUS,
    Record.BATCH,
    Record.EXECUTION,
    Record.RUN,
)
# What `recost` replaces.
COUNTED = (Record.COST, Record.PRICE)


def find_damage(
    store: Checkpoint, records: Iterable[Record] = tuple(KINDS), most: int = MOST
) -> Damage:
    """Check all records, or only those of these kinds; describe at most `most` damaged ones.

    Takes seconds for each million rows.

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
                (most,),
            ).fetchall()
            count += rows[0][0] if rows else 0
            found += [DamagedRecord(record, row[1], row[2], _readable(row[3])) for row in rows]
    return Damage(count, tuple(found[:most]))


def _readable(custom_id: bytes | None) -> str | None:
    return None if custom_id is None else custom_id.decode("utf-8", "replace")


def check_plan(store: Checkpoint) -> None:
    """Check that the records that decide which rows are sent are unchanged.

    Raises:
        RecordsDamaged: if one has changed.
        CheckpointError: if the file cannot be read.
    """
    if (damage := find_damage(store, PLAN_RECORDS)).count:
        first, more = damage.first[0], damage.count - 1
        others = f" (and {more:,} more)" if more else ""
        raise RecordsDamaged(
            f"{store.path}: {first.where}{first}{others}. Nothing was sent; {DAMAGE_REMEDY}",
            damage,
        )


def check_intact(store: Checkpoint, records: Iterable[Record] = tuple(KINDS)) -> None:
    """Check that all records, or those of these kinds, are unchanged since they were written.

    Raises:
        RecordsDamaged: if one has changed.
        CheckpointError: if the file cannot be read.
    """
    if (damage := find_damage(store, records)).count:
        first, directory = damage.first[0], store.path.parent
        raise RecordsDamaged(
            f"{store.path}: {first.where}{first}. To list all damage and the intact "
            f"copies: batchrun verify {directory}",
            damage,
        )


def right_values(
    store: Checkpoint, damaged: DamagedRecord, copy: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Return the original values of a damaged record, by column, from a row of an output.

    The values of the row are right if, in place of the stored ones, they give the checksum that was
    written with the record. Returns None if they do not.

    Args:
        store: the checkpoint.
        damaged: the record of an answer or an attempt.
        copy: the row, by column names of the outputs.
    """
    kind = KINDS[damaged.record]
    with usable(store.path):
        row = store.db.execute(
            f"""SELECT d.{kind.table.checksum}, {kind.table.stored("d")} FROM {kind.table.table} d
            WHERE {_THE_RECORD.format(kind.number)}""",  # noqa: S608 - our own names
            (damaged.request_id, damaged.number),
        ).fetchone()
    if row is None:
        return None
    expected, *stored = row
    by_name = dict(zip(kind.table.columns, stored, strict=True))
    known = list(_candidates(kind, copy))
    # One value at a time first, then all that the output has: one or several may have changed.
    tries = [*({name: value} for name, value in known), dict(known)]
    right = (one for one in tries if kind.table.of({**by_name, **one}) == expected)
    return next(right, None)


_THE_RECORD = "d.request_id = ? AND {} IS ?"


def restore_values(store: Checkpoint, damaged: DamagedRecord, values: Mapping[str, Any]) -> None:
    """Write the values that `right_values` found to a damaged answer or attempt."""
    kind = KINDS[damaged.record]
    names = ", ".join(f"{name} = ?" for name in values)
    with store.transaction():
        if damaged.request_id is not None:
            long = [name for name in LONG if name in values]
            delete_pieces(store.db, [damaged.request_id], long)
        store.db.execute(
            f"""UPDATE {kind.table.table} AS d SET {names}
            WHERE {_THE_RECORD.format(kind.number)}""",  # noqa: S608 - our own names
            (*values.values(), damaged.request_id, damaged.number),
        )


def _candidates(kind: RecordKind, copy: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the columns of a record whose values a row of an output may have, with these values."""
    for column in kind.columns:
        name, value = column.table_column, copy.get(column.name)
        if name not in kind.table.columns or column.name not in copy:
            continue
        if column.is_optional and isinstance(value, str):
            yield name, packed(value.encode())
        else:
            yield name, _stored(value)
    if "response" in kind.table.columns:
        # Of several samples an output has all texts in one list.
        yield from (("response", text) for text in _texts(copy.get("responses")))


def _stored(value: object) -> object:
    if isinstance(value, datetime):
        return encoding.microseconds(value)
    return orjson.dumps(value).decode() if isinstance(value, list) else value


def _texts(value: object) -> list[str]:
    found = orjson.loads(value) if isinstance(value, str) and value.startswith("[") else value
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []


MOST_PROBLEMS = 20
_RESPONSES = RESULT["responses"].value("r")

# Each gives the first row that is wrong and how many are: (its custom_id, their number).
_STATES: tuple[tuple[str, str], ...] = (
    (
        "must have either a request or an error",
        """SELECT custom_id, count(*) OVER () FROM items
        WHERE (request_id IS NULL) = (error_type IS NULL) ORDER BY ordinal LIMIT 1""",
    ),
    (
        "succeeded, and its last attempt is not the one that was answered",
        """SELECT custom_id, count(*) OVER () FROM results r JOIN requests q ON q.id = r.request_id
        WHERE r.status = 'succeeded' AND (
            r.attempts IS NOT (SELECT max(number) FROM attempts a WHERE a.request_id = q.id)
            OR NOT EXISTS (SELECT 1 FROM attempts a WHERE a.request_id = q.id
                AND a.number = r.attempts AND a.error_type IS NULL AND a.latency_s IS NOT NULL))
        ORDER BY q.id LIMIT 1""",
    ),
    (
        "errored, and the attempt that failed is not there",
        """SELECT custom_id, count(*) OVER () FROM results r JOIN requests q ON q.id = r.request_id
        WHERE r.status = 'errored' AND NOT EXISTS (SELECT 1 FROM attempts a
            WHERE a.request_id = q.id AND a.number = r.attempts AND a.error_type IS NOT NULL)
        ORDER BY q.id LIMIT 1""",
    ),
    (
        "was answered, and the answer is not there",
        """SELECT custom_id, count(*) OVER () FROM attempts a JOIN requests q ON q.id = a.request_id
        WHERE a.error_type IS NULL AND a.latency_s IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM results r
            WHERE r.request_id = q.id AND r.attempts = a.number)
        AND NOT EXISTS (SELECT 1 FROM turns t WHERE t.request_id = q.id AND t.number = a.number)
        ORDER BY q.id LIMIT 1""",
    ),
    (
        "is in a batch that has ended, without an outcome",
        """SELECT custom_id, count(*) OVER () FROM attempts a JOIN batches b ON b.id = a.batch
        JOIN requests q ON q.id = a.request_id
        WHERE a.latency_s IS NULL AND a.error_type IS NULL AND b.stage IN ('collected', 'void')
        ORDER BY q.id LIMIT 1""",
    ),
    (
        "has attempts that are not numbered from 1 without a gap",
        """SELECT custom_id, count(*) OVER () FROM attempts a JOIN requests q ON q.id = a.request_id
        GROUP BY q.id HAVING min(number) <> 1 OR max(number) <> count(*) ORDER BY q.id LIMIT 1""",
    ),
    (
        "has an attempt with impossible tokens or costs",
        """SELECT custom_id, count(*) OVER () FROM attempts a JOIN requests q ON q.id = a.request_id
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
        f"""SELECT custom_id, count(*) OVER () FROM results r JOIN requests q ON q.id = r.request_id
        WHERE r.responses IS NOT NULL AND (NOT json_valid({_RESPONSES})
            OR json_type({_RESPONSES}) <> 'array') ORDER BY q.id LIMIT 1""",  # noqa: S608 - our own names
    ),
)
# Without `dedupe` each row has a separate request.
_SHARED = (
    "has the same request as another row",
    """SELECT min(custom_id), count(*) OVER () FROM items WHERE request_id IS NOT NULL
    GROUP BY request_id HAVING count(*) > 1 ORDER BY min(ordinal) LIMIT 1""",
)
_PLACES = """SELECT count(*), coalesce(min(ordinal), 0), coalesce(max(ordinal), -1),
    (SELECT total * samples FROM run) FROM items"""
# The attempts of a batch that the provider does not have are removed.
_BATCHES = """SELECT b.tag, b.rows, coalesce(m.number, 0) FROM batches b
    LEFT JOIN (SELECT batch, count(*) AS number FROM attempts WHERE batch IS NOT NULL
        GROUP BY batch) m ON m.batch = b.id
    WHERE coalesce(m.number, 0) <> iif(b.stage = 'void', 0, b.rows) ORDER BY b.id"""
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
    """Yield the problems of the file itself: its pages and its indexes.

    Takes seconds for each gigabyte.

    Raises:
        CheckpointError: if the damage is too severe to check the file.
    """
    with usable(store.path):
        found = store.db.execute(f"PRAGMA integrity_check({MOST_PROBLEMS})").fetchall()
        yield from (Flaw(f"is damaged: {text}") for (text,) in found if text != "ok")


def _reference_flaws(store: Checkpoint) -> Iterator[Flaw]:
    missing = store.db.execute("PRAGMA foreign_key_check").fetchmany(MOST_PROBLEMS)
    for table, _, parent, _ in missing:
        yield Flaw(f"{table} refers to a row of {parent} that is not there")


def state_flaws(store: Checkpoint, *, shared: bool) -> Iterator[Flaw]:
    """Yield contradictions between records: states that no execution can produce.

    Args:
        store: the checkpoint.
        shared: whether rows that ask the same may share a request.

    Raises:
        CheckpointError: if the checkpoint cannot be used.
    """
    with usable(store.path):
        yield from _reference_flaws(store)
        yield from _place_flaws(store)
        yield from _batch_flaws(store)
        for problem, query in _STATES if shared else (*_STATES, _SHARED):
            found = store.db.execute(query).fetchone()
            if found is not None:
                yield Flaw(problem, found[0], found[1] - 1)


def _place_flaws(store: Checkpoint) -> Iterator[Flaw]:
    count, first, last, total = store.db.execute(_PLACES).fetchone()
    if first < 0 or last >= total or (is_planned(store) and count != total):
        yield Flaw(f"holds {count:,} rows or samples of rows, and the input has {total:,}")


def _batch_flaws(store: Checkpoint) -> Iterator[Flaw]:
    for tag, rows, members in store.db.execute(_BATCHES).fetchmany(MOST_PROBLEMS):
        yield Flaw(f"holds batch {tag} of {rows:,} requests, but has {members:,} of their attempts")


def planned_rows(store: Checkpoint, first: int, end: int) -> dict[int, RenderedItem]:
    """Return the planned rows or samples from ordinal `first` up to `end`, by ordinal.

    Their requests have only the fingerprint.
    """
    with usable(store.path):
        rows = store.db.execute(_PLAN, (first, end)).fetchall()
    return {key: RenderedItem(key, name, None, None, *rest) for key, name, *rest in rows}


def is_planned(store: Checkpoint) -> bool:
    """Return whether the plan covers every row of the input."""
    with usable(store.path):
        row = store.db.execute(_IS_PLANNED).fetchone()
    return bool(row and row[0])


def last_version(store: Checkpoint) -> str | None:
    """Return the version of batchrun of the latest execution."""
    with usable(store.path):
        row = store.db.execute("SELECT version FROM executions ORDER BY id DESC LIMIT 1").fetchone()
    return row[0] if row else None


def score_flaws(store: Checkpoint) -> Iterator[Flaw]:
    """Yield the differences between the stored scores and those that were just computed."""
    with usable(store.path):
        row, count = store.db.execute(_SCORES).fetchone()
    if count:
        yield Flaw("has another score than its answer gives", row, count - 1)
