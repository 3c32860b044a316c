"""Matches the rows of the input to the requests of the checkpoint.

A request is identified by its content, not by its row. So rows that moved, or whose neighbours changed,
find their request and its answer again.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchrun.checkpoint import encoding
from batchrun.checkpoint.columns import OUT
from batchrun.checkpoint.file import usable
from batchrun.checkpoint.long_texts import whole
from batchrun.checkpoint.schema import REQUESTS_INDEX
from batchrun.checkpoint.sqlite import quick_bytes, temporary_space
from batchrun.errors import DAMAGE_REMEDY, Damage, DamagedRecord, Record, RecordsDamaged
from batchrun.records import PlannedRequest, Turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batchrun.checkpoint.sqlite import Database
    from batchrun.checkpoint.store import Checkpoint
    from batchrun.records import RenderedItem


# From this number of identical rows on, their requests are kept in memory instead of being read again for
# every chunk, which would take time in the square of their number.
MANY = 1_000

_HELD = f"""SELECT i.ordinal, i.custom_id, i.request_id, q.fingerprint, i.error_message,
    {encoding.REQUESTS.differs("q")}
    FROM items i LEFT JOIN requests q ON q.id = i.request_id WHERE i.ordinal BETWEEN ? AND ?"""  # noqa: S608
_TEXTS_OF_TURNS = ", ".join(whole(f"t.{name}") for name in encoding.LONG_OF_TURNS)
_HIGHEST = "SELECT coalesce(max(occurrence), 0) FROM requests WHERE fingerprint = ?"

# What SQLite writes to a temporary file for each fingerprint when it creates their index.
_SORTED_BYTES = 40

# Which results do not settle their request, with `retry_errored` and without.
_TRY_AGAIN = {True: "status = 'errored'", False: "retryable"}


@dataclass(frozen=True, slots=True)
class PlannedChunk:
    """Consecutive rows that have their requests.

    Attributes:
        requests: those to send.
        out: number of rows whose requests are in batches.
    """

    requests: list[PlannedRequest]
    out: int = 0


@dataclass(slots=True)
class _RequestPool:
    """The requests with one fingerprint: those that no row holds, the best last."""

    free: list[int] = field(default_factory=list)
    best: int | None = None  # of those that a row holds already
    highest: int = 0  # occurrence

    def know(self, key: int, occurrence: int, *, is_free: bool) -> None:
        """Add a request that exists; the best is added last."""
        self.highest = max(self.highest, occurrence)
        if is_free:
            self.free.append(key)
        else:
            self.best = key

    def take_free(self) -> int:
        """Return the best request that no row holds; a row holds it now."""
        self.best = self.free.pop()
        return self.best

    def add(self, key: int) -> int:
        """Add a new request, which a row holds; return its occurrence."""
        self.best = key
        self.highest += 1
        return self.highest


class _NewFingerprints:
    """The fingerprints of the first plan, as long as all of them differ: a hash table.

    It takes 16 to 32 bytes for each, at most 32 MiB. A set would take 100.
    """

    FIRST_SLOTS = 1 << 14
    MOST_SLOTS = 1 << 22

    def __init__(self) -> None:
        self._slots = array("q", bytes(8 * self.FIRST_SLOTS))
        self._count = 0

    def add(self, fingerprints: Sequence[bytes]) -> bool:
        """Add fingerprints; return False if one of them may be there already, or if there are too many."""
        self._count += len(fingerprints)
        while 2 * self._count > len(self._slots):
            if len(self._slots) >= self.MOST_SLOTS:
                return False
            known, self._slots = self._slots, array("q", bytes(16 * len(self._slots)))
            self._fill(value for value in known if value)
        # 0 is an empty slot.
        return self._fill(hash(each) or 1 for each in fingerprints)

    def _fill(self, values: Iterable[int]) -> bool:
        slots, mask = self._slots, len(self._slots) - 1
        for value in values:
            place = value & mask
            while found := slots[place]:
                if found == value:
                    return False
                place = (place + 1) & mask
            slots[place] = value
        return True


class Planner:
    """Gives rows their requests. Runs inside the caller's transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._is_indexed = False
        # None until the first row is planned.
        self._new: _NewFingerprints | None = None
        # By fingerprint; see `MANY`. A pool must be removed here when a row releases one of its requests.
        self._large: dict[bytes, _RequestPool] = {}

    def plan(
        self, rendered: Sequence[RenderedItem], *, retry_errored: bool, dedupe: bool
    ) -> PlannedChunk:
        """Assign requests to consecutive rows."""
        first_new = self._next_key()
        assigned = self._assign(rendered, first_new, dedupe=dedupe)
        # A request that was just created has no results and attempts to look for.
        known = {key for key in assigned.values() if key < first_new}
        done = self._done(known, retry_errored=retry_errored)
        out = self._out(known)
        settled = done | out
        waiting = {ordinal: key for ordinal, key in assigned.items() if key not in settled}
        if dedupe:
            first = self._first_rows(waiting.values())
            waiting = {ordinal: key for ordinal, key in waiting.items() if first[key] == ordinal}
        made = self._attempts_made(known.intersection(waiting.values()))
        turns = self._turns(made)
        requests = [
            PlannedRequest(
                key, item.custom_id, item.request, item.wire, number, turns.get(key, ()), error
            )
            for item in rendered
            if (key := waiting.get(item.ordinal)) is not None
            and item.request is not None
            and item.wire is not None
            for number, error in (made.get(key, (0, None)),)
        ]
        return PlannedChunk(requests, sum(key in out for key in assigned.values()))

    def _assign(
        self, rendered: Sequence[RenderedItem], first_new: int, *, dedupe: bool
    ) -> dict[int, int]:
        """Return the request of each row by ordinal, writing what changed."""
        held = self._held(rendered)
        assigned: dict[int, int] = {}
        unassigned: list[RenderedItem] = []
        replaced: list[tuple[int]] = []
        unrenderable: list[tuple[Any, ...]] = []
        for item in rendered:
            if item.fingerprint is not None and item.ordinal not in held:
                unassigned.append(item)
                continue
            custom_id, key, fingerprint, error, is_damaged = held.get(item.ordinal, (None,) * 5)
            same_id = custom_id == item.custom_id
            if is_damaged and key is not None and self._is_repaired(key, item.fingerprint):
                fingerprint = item.fingerprint
            if item.fingerprint is not None and item.fingerprint == fingerprint and same_id:
                assigned[item.ordinal] = key
            elif item.fingerprint is not None:
                self._large.pop(fingerprint, None)
                replaced.append((item.ordinal,))
                unassigned.append(item)
            elif error != item.error_message or not same_id:
                self._large.pop(fingerprint, None)
                replaced.append((item.ordinal,))
                unrenderable.append(encoding.item_row(item))
        self._db.conn.executemany("DELETE FROM items WHERE ordinal = ?", replaced)
        planned: list[tuple[Any, ...]] = []
        for item, key in self._find_requests(unassigned, first_new, dedupe=dedupe):
            assigned[item.ordinal] = key
            planned.append(encoding.planned_row(item.ordinal, item.custom_id, key))
        # Nothing is replaced: SQLite would copy every page first that an `OR REPLACE` changes.
        self._db.conn.executemany(encoding.INSERT_ITEM, unrenderable)
        self._db.conn.executemany(encoding.INSERT_PLANNED, planned)
        return assigned

    def _held(self, rendered: Sequence[RenderedItem]) -> dict[int, tuple[Any, ...]]:
        rows = self._db.execute(_HELD, (rendered[0].ordinal, rendered[-1].ordinal))
        return {row[0]: row[1:] for row in rows}

    def _is_repaired(self, key: int, fingerprint: bytes | None) -> bool:
        """Restore the fingerprint of a damaged request if its checksum was written with this one."""
        names = ", ".join(("checksum", *encoding.REQUEST_COLUMNS))
        if fingerprint is None:
            return False
        expected, *row = self._db.execute(
            f"SELECT {names} FROM requests WHERE id = ?",  # noqa: S608 - our own names
            (key,),
        ).fetchone()
        stored = dict(zip(encoding.REQUEST_COLUMNS, row, strict=True))
        if stored["fingerprint"] == fingerprint:
            # The fingerprint is unchanged, so the checksum itself or the occurrence has changed.
            self._db.execute(encoding.REQUESTS.seal("id = ?"), (key,))
            return True
        tries = (
            {**stored, "fingerprint": fingerprint, "occurrence": occurrence}
            for occurrence in (stored["occurrence"], *range(1, MANY + 1))
        )
        if all(encoding.REQUESTS.of(one) != expected for one in tries):
            return False
        self.index()
        (highest,) = self._db.execute(_HIGHEST, (fingerprint,)).fetchone()
        self._db.execute(
            "UPDATE requests SET fingerprint = ?, occurrence = ? WHERE id = ?",
            (fingerprint, highest + 1, key),
        )
        self._db.execute(encoding.REQUESTS.seal("id = ?"), (key,))
        self._large.pop(fingerprint, None)
        return True

    def index(self) -> None:
        """Create the index of the fingerprints, if it is missing: seconds for millions of requests."""
        if not self._is_indexed:
            with temporary_space(needed=_SORTED_BYTES * self._next_key()):
                self._db.execute(REQUESTS_INDEX)
            self._is_indexed, self._new = True, None

    def _are_new(self, fingerprints: Sequence[bytes]) -> bool:
        """Return whether no request has one of these fingerprints, and all differ.

        If that is not certain, the requests are looked up, and so the index is created.
        """
        if self._is_indexed:
            return False
        if self._new is None and not self._db.execute("SELECT 1 FROM requests LIMIT 1").fetchone():
            self._new = _NewFingerprints()
        if self._new is not None and self._new.add(fingerprints):
            return True
        self.index()
        return False

    def _next_key(self) -> int:
        (key,) = self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM requests").fetchone()
        return int(key)

    def _find_requests(
        self, items: Sequence[RenderedItem], first_new: int, *, dedupe: bool
    ) -> Iterator[tuple[RenderedItem, int]]:
        """Find or create a request for each row; new ones are numbered from `first_new`."""
        if not items:
            return
        fingerprints = [item.fingerprint or b"" for item in items]
        if self._are_new(fingerprints):
            pools = {fingerprint: _RequestPool() for fingerprint in fingerprints}
        else:
            pools = self._pools({*fingerprints})
        new: list[tuple[Any, ...]] = []
        moved: list[tuple[str, int]] = []
        for item in items:
            fingerprint = item.fingerprint or b""
            pool = pools[fingerprint]
            if dedupe and pool.best is not None:
                key = pool.best
            elif pool.free:
                key = pool.take_free()
                moved.append((item.custom_id, key))
            else:
                key = first_new + len(new)
                new.append(encoding.request_row(key, fingerprint, pool.add(key), item.custom_id))
            yield item, key
        self._db.conn.executemany(encoding.INSERT_REQUEST, new)
        self._db.conn.executemany("UPDATE requests SET custom_id = ? WHERE id = ?", moved)
        seal = encoding.REQUESTS.seal("id = ?")
        self._db.conn.executemany(seal, [(key,) for _, key in moved])

    def _pools(self, fingerprints: set[bytes]) -> dict[bytes, _RequestPool]:
        """Return the requests of each fingerprint, the best last.

        A request that succeeded is best, then one that is in a batch, then the one with the lowest
        occurrence.
        """
        unknown = fingerprints - self._large.keys()
        pools = {fingerprint: _RequestPool() for fingerprint in unknown}
        rows = self._db.execute(
            f"""SELECT q.fingerprint, q.id, q.occurrence, i.ordinal IS NULL
            FROM requests q LEFT JOIN items i ON i.request_id = q.id
            LEFT JOIN results r ON r.request_id = q.id
            WHERE q.fingerprint IN ({_marks(unknown)})
            ORDER BY r.status IS 'succeeded',
                EXISTS (SELECT 1 FROM attempts WHERE request_id = q.id AND {OUT}),
                q.occurrence DESC""",  # noqa: S608 - marks only
            [quick_bytes(fingerprint) for fingerprint in unknown],
        )
        for fingerprint, key, occurrence, is_free in rows:
            pools[fingerprint].know(key, occurrence, is_free=bool(is_free))
        self._large.update((f, pool) for f, pool in pools.items() if pool.highest >= MANY)
        return {**self._large, **pools}

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
            f"""SELECT request_id FROM results
            WHERE request_id IN ({_marks(wanted)}) AND NOT ({again})""",  # noqa: S608 - marks only
            wanted,
        )
        return {row[0] for row in rows}

    def _out(self, keys: Iterable[int]) -> set[int]:
        """Return which requests are in batches."""
        wanted = list(keys)
        rows = self._db.execute(
            f"""SELECT request_id FROM attempts
            WHERE request_id IN ({_marks(wanted)}) AND {OUT}""",  # noqa: S608 - marks only
            wanted,
        )
        return {row[0] for row in rows}

    def _attempts_made(self, keys: Iterable[int]) -> dict[int, tuple[int, str | None]]:
        """Return how often requests were sent, and how the last attempt failed if it was in a batch."""
        wanted = list(keys)
        # SQLite takes the other columns from the row with the maximum.
        rows = self._db.execute(
            f"""SELECT request_id, max(number), iif(batch IS NULL, NULL, error_type)
            FROM attempts
            WHERE request_id IN ({_marks(wanted)}) GROUP BY request_id""",  # noqa: S608 - marks
            wanted,
        )
        return {key: (number, error) for key, number, error in rows}

    def _turns(self, keys: Iterable[int]) -> dict[int, tuple[Turn, ...]]:
        """Return the turns of conversations so far, by request."""
        wanted = list(keys)
        rows = self._db.execute(
            f"""SELECT checksum, request_id, number, {_TEXTS_OF_TURNS} FROM turns t
            WHERE request_id IN ({_marks(wanted)}) ORDER BY number""",  # noqa: S608 - marks only
            wanted,
        )
        turns: dict[int, tuple[Turn, ...]] = {}
        for checksum, *row in rows:
            turn = Turn(*row)
            if checksum not in (None, encoding.turn_checksum(turn)):
                raise self._damaged(turn)
            turns[turn.key] = (*turns.get(turn.key, ()), turn)
        return turns

    def _damaged(self, turn: Turn) -> RecordsDamaged:
        row = self._db.execute("SELECT custom_id FROM requests WHERE id = ?", (turn.key,))
        (custom_id,) = row.fetchone() or (None,)
        record = DamagedRecord(Record.TURN, turn.key, turn.number, custom_id)
        message = f"checkpoint.db: {record.where}{record}; {DAMAGE_REMEDY}"
        return RecordsDamaged(message, Damage(1, (record,)))


@dataclass(frozen=True, slots=True)
class UnsettledRows:
    """Numbers of rows that have to be sent, cannot be rendered, or are in batches."""

    to_send: int
    unrenderable: int
    out: int


def count_unsettled(db: Database, first: int, end: int, *, retry_errored: bool) -> UnsettledRows:
    """Count the rows from `first` up to `end` that have no result."""
    again = _TRY_AGAIN[retry_errored]
    found = db.execute(
        f"""SELECT coalesce(sum(i.request_id IS NOT NULL AND o.request_id IS NULL
            AND (r.request_id IS NULL OR {again})), 0),
        coalesce(sum(i.request_id IS NULL), 0), count(o.request_id)
        FROM items i LEFT JOIN results r ON r.request_id = i.request_id
        LEFT JOIN (SELECT request_id FROM attempts WHERE {OUT}) o ON o.request_id = i.request_id
        WHERE i.ordinal >= ? AND i.ordinal < ?""",  # noqa: S608 - no values
        (first, end),
    ).fetchone()
    return UnsettledRows(*found)


def places_of_requests(store: Checkpoint, keys: Sequence[int]) -> list[int]:
    """Return the ordinals of the items that have these requests."""
    with usable(store.path):
        rows = store.db.execute(
            f"SELECT ordinal FROM items WHERE request_id IN ({_marks(keys)})",  # noqa: S608 - marks
            list(keys),
        )
        return [ordinal for (ordinal,) in rows]


def _marks(values: Iterable[object]) -> str:
    return ",".join("?" for _ in values)
