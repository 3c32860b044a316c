"""Matching the rows of the input to the requests that were made so far.

A request is what is asked, a row only where it is asked now. So rows that moved, or whose neighbours
changed, find their request and its answer again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchrun.checkpoint import recording
from batchrun.errors import RecordsDamaged
from batchrun.findings import DAMAGE_REMEDY, Damage, DamagedRecord, Record
from batchrun.records import PlannedRequest, Turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batchrun.checkpoint.sqlite import Database
    from batchrun.records import RenderedItem

# From so many identical rows on, their requests are kept in memory instead of being read again for
# every chunk, which would take time in the square of their number.
MANY = 1_000

_HELD = f"""SELECT i.ordinal, i.custom_id, i.request_id, q.fingerprint, i.error_message,
    {recording.REQUESTS.differs("q")}
    FROM items i LEFT JOIN requests q ON q.id = i.request_id WHERE i.ordinal BETWEEN ? AND ?"""  # noqa: S608
_HIGHEST = "SELECT coalesce(max(occurrence), 0) FROM requests WHERE fingerprint = ?"

# Which results do not settle their request, with `retry_errored` and without.
_TRY_AGAIN = {True: "status = 'errored'", False: "retryable"}


@dataclass(slots=True)
class _Stock:
    """The requests that ask the same: those that no row holds, the best last."""

    free: list[int] = field(default_factory=list)
    best: int | None = None  # of those that a row holds already
    highest: int = 0  # occurrence


class Planner:
    """Gives rows their requests. Runs inside the caller's transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._large: dict[bytes | None, _Stock] = {}

    def plan(
        self, rendered: Sequence[RenderedItem], *, retry_errored: bool, dedupe: bool
    ) -> list[PlannedRequest]:
        """Give consecutive rows their requests; return those that have to be sent."""
        assigned = self._assign(rendered, dedupe=dedupe)
        done = self._done(assigned.values(), retry_errored=retry_errored)
        waiting = {ordinal: key for ordinal, key in assigned.items() if key not in done}
        if dedupe:
            first = self._first_rows(waiting.values())
            waiting = {ordinal: key for ordinal, key in waiting.items() if first[key] == ordinal}
        made = self._attempts_made(waiting.values())
        turns = self._turns(made)
        return [
            PlannedRequest(
                key, item.custom_id, item.request, item.wire, made.get(key, 0), turns.get(key, ())
            )
            for item in rendered
            if (key := waiting.get(item.ordinal)) is not None
            and item.request is not None
            and item.wire is not None
        ]

    def _assign(self, rendered: Sequence[RenderedItem], *, dedupe: bool) -> dict[int, int]:
        """Return the request of each row by ordinal, writing what changed."""
        held = self._held(rendered)
        assigned: dict[int, int] = {}
        homeless: list[RenderedItem] = []
        changed: list[tuple[Any, ...]] = []
        for item in rendered:
            custom_id, key, fingerprint, error, is_damaged = held.get(item.ordinal, (None,) * 5)
            same_id = custom_id == item.custom_id
            if is_damaged and item.fingerprint is not None and self._repair(key, item.fingerprint):
                fingerprint = item.fingerprint
            if item.fingerprint is not None and item.fingerprint == fingerprint and same_id:
                assigned[item.ordinal] = key
            elif item.fingerprint is not None:
                self._large.pop(fingerprint, None)
                homeless.append(item)
            elif error != item.error_message or not same_id:
                self._large.pop(fingerprint, None)
                changed.append(recording.item_row(item, None))
        self._free(homeless)
        for item, key in self._find_homes(homeless, dedupe=dedupe):
            assigned[item.ordinal] = key
            changed.append(recording.item_row(item, key))
        self._db.conn.executemany(recording.REPLACE_ITEM, changed)
        return assigned

    def _held(self, rendered: Sequence[RenderedItem]) -> dict[int, tuple[Any, ...]]:
        rows = self._db.execute(_HELD, (rendered[0].ordinal, rendered[-1].ordinal))
        return {row[0]: row[1:] for row in rows}

    def _repair(self, key: int, fingerprint: bytes) -> bool:
        """Give a damaged request the fingerprint that its checksum was written with, if it is this."""
        names = ", ".join(("checksum", *recording.REQUEST_COLUMNS))
        expected, *row = self._db.execute(
            f"SELECT {names} FROM requests WHERE id = ?",  # noqa: S608 - our own names
            (key,),
        ).fetchone()
        stored = dict(zip(recording.REQUEST_COLUMNS, row, strict=True))
        tries = (
            {**stored, "fingerprint": fingerprint, "occurrence": occurrence}
            for occurrence in (stored["occurrence"], *range(1, MANY + 1))
        )
        if all(recording.REQUESTS.of(one) != expected for one in tries):
            return False
        (highest,) = self._db.execute(_HIGHEST, (fingerprint,)).fetchone()
        self._db.execute(
            "UPDATE requests SET fingerprint = ?, occurrence = ? WHERE id = ?",
            (fingerprint, highest + 1, key),
        )
        self._db.execute(recording.REQUESTS.seal("id = ?"), (key,))
        self._large.pop(fingerprint, None)
        return True

    def _free(self, items: Sequence[RenderedItem]) -> None:
        self._db.conn.executemany(
            "DELETE FROM items WHERE ordinal = ?", [(item.ordinal,) for item in items]
        )

    def _find_homes(
        self, items: Sequence[RenderedItem], *, dedupe: bool
    ) -> Iterator[tuple[RenderedItem, int]]:
        """Find or make a request for each row."""
        stocks = self._stocks({item.fingerprint for item in items})
        (next_key,) = self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM requests").fetchone()
        new: list[tuple[Any, ...]] = []
        moved: list[tuple[str, int]] = []
        for item in items:
            stock = stocks[item.fingerprint]
            if dedupe and stock.best is not None:
                key = stock.best
            elif stock.free:
                key = stock.best = stock.free.pop()
                moved.append((item.custom_id, key))
            else:
                key = stock.best = next_key + len(new)
                stock.highest += 1
                fingerprint = item.fingerprint or b""
                new.append(recording.request_row(key, fingerprint, stock.highest, item.custom_id))
            yield item, key
        self._db.conn.executemany(recording.INSERT_REQUEST, new)
        self._db.conn.executemany("UPDATE requests SET custom_id = ? WHERE id = ?", moved)
        seal = recording.REQUESTS.seal("id = ?")
        self._db.conn.executemany(seal, [(key,) for _, key in moved])

    def _stocks(self, fingerprints: set[bytes | None]) -> dict[bytes | None, _Stock]:
        """Return the requests of each fingerprint, the best last.

        The best is one that succeeded; then comes the order of occurrence.
        """
        unknown = fingerprints - self._large.keys()
        stocks = {fingerprint: _Stock() for fingerprint in unknown}
        rows = self._db.execute(
            f"""SELECT q.fingerprint, q.id, q.occurrence, i.ordinal IS NULL
            FROM requests q LEFT JOIN items i ON i.request_id = q.id
            LEFT JOIN outcomes r ON r.request_id = q.id
            WHERE q.fingerprint IN ({_marks(unknown)})
            ORDER BY r.status IS 'succeeded', q.occurrence DESC""",  # noqa: S608 - marks only
            list(unknown),
        )
        for fingerprint, key, occurrence, is_free in rows:
            stock = stocks[fingerprint]
            stock.highest = max(stock.highest, occurrence)
            if is_free:
                stock.free.append(key)
            else:
                stock.best = key
        self._large.update((f, stock) for f, stock in stocks.items() if stock.highest >= MANY)
        return {**self._large, **stocks}

    def _first_rows(self, keys: Iterable[int]) -> dict[int, int]:
        """Return the first row of each request: it sends for the others too."""
        wanted = list(keys)
        rows = self._db.execute(
            f"""SELECT request_id, min(ordinal) FROM items
            WHERE request_id IN ({_marks(wanted)}) GROUP BY request_id""",  # noqa: S608 - marks only
            wanted,
        )
        return dict(rows.fetchall())

    def _done(self, keys: Iterable[int], *, retry_errored: bool) -> set[int]:
        wanted = list(keys)
        again = _TRY_AGAIN[retry_errored]
        rows = self._db.execute(
            f"""SELECT request_id FROM outcomes
            WHERE request_id IN ({_marks(wanted)}) AND NOT ({again})""",  # noqa: S608 - marks only
            wanted,
        )
        return {row[0] for row in rows}

    def _attempts_made(self, keys: Iterable[int]) -> dict[int, int]:
        wanted = list(keys)
        rows = self._db.execute(
            f"""SELECT request_id, max(number) FROM exchanges
            WHERE request_id IN ({_marks(wanted)}) GROUP BY request_id""",  # noqa: S608 - marks
            wanted,
        )
        return dict(rows.fetchall())

    def _turns(self, keys: Iterable[int]) -> dict[int, tuple[Turn, ...]]:
        """Return how far conversations came, by request."""
        wanted = list(keys)
        rows = self._db.execute(
            f"""SELECT checksum, request_id, number, said, calls, results FROM turns
            WHERE request_id IN ({_marks(wanted)}) ORDER BY number""",  # noqa: S608 - marks only
            wanted,
        )
        turns: dict[int, tuple[Turn, ...]] = {}
        for checksum, *row in rows:
            turn = Turn(*row)
            if checksum not in (None, recording.turn_row(turn)[0]):
                raise self._damaged(turn)
            turns[turn.key] = (*turns.get(turn.key, ()), turn)
        return turns

    def _damaged(self, turn: Turn) -> RecordsDamaged:
        row = self._db.execute("SELECT custom_id FROM requests WHERE id = ?", (turn.key,))
        (custom_id,) = row.fetchone() or (None,)
        record = DamagedRecord(Record.TURN, turn.key, turn.number, custom_id)
        message = f"checkpoint.db: row {custom_id}: {record}; {DAMAGE_REMEDY}"
        return RecordsDamaged(message, Damage(1, (record,)))


def count_standing(db: Database, first: int, end: int, *, retry_errored: bool) -> tuple[int, int]:
    """Return how many rows from `first` up to `end` have to be sent, and cannot be rendered."""
    again = _TRY_AGAIN[retry_errored]
    to_send, unrenderable = db.execute(
        f"""SELECT coalesce(sum(i.request_id IS NOT NULL AND (r.request_id IS NULL OR {again})), 0),
        coalesce(sum(i.request_id IS NULL), 0)
        FROM items i LEFT JOIN outcomes r ON r.request_id = i.request_id
        WHERE i.ordinal >= ? AND i.ordinal < ?""",  # noqa: S608 - no values
        (first, end),
    ).fetchone()
    return to_send, unrenderable


def _marks(values: Iterable[object]) -> str:
    return ",".join("?" for _ in values)
