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


class _FirstRequests:
    """The requests that the first plan has created, while there are no others: the latest of each fingerprint.

    A hash table of 24 to 48 bytes for each fingerprint, at most 48 MiB; a dict would take 200 bytes.
    """

    _FIRST_SLOTS = 1 << 14
    _MOST_SLOTS = 1 << 22

    def __init__(self) -> None:
        self._count = 0
        self._make_slots(self._FIRST_SLOTS)

    def _make_slots(self, number: int) -> None:
        self._hashes = array("q", bytes(8 * number))  # 0 for an empty slot
        self._keys = array("I", bytes(4 * number))

    @property
    def is_full(self) -> bool:
        """Whether the index has to take over."""
        return self._count > self._MOST_SLOTS // 2

    def latest(self, fingerprints: Iterable[bytes]) -> dict[bytes, int]:
        """Return the keys of the fingerprints that are there; of one in many millions it may be another's."""
        hashes, last, found = self._hashes, len(self._hashes) - 1, {}
        for fingerprint in fingerprints:
            value = hash(fingerprint) or 1
            slot = value & last
            while there := hashes[slot]:
                if there == value:
                    found[fingerprint] = self._keys[slot]
                    break
                slot = (slot + 1) & last
        return found

    def add(self, requests: Sequence[tuple[bytes, int]]) -> None:
        """Add requests: fingerprint and key."""
        self._count += len(requests)
        number = len(self._hashes)
        while number < min(2 * self._count, self._MOST_SLOTS):
            number *= 2
        if number > len(self._hashes):
            known = zip(self._hashes, self._keys, strict=True)
            self._make_slots(number)
            self._fill((value, key) for value, key in known if value)
        self._fill((hash(fingerprint) or 1, key) for fingerprint, key in requests)

    def _fill(self, entries: Iterable[tuple[int, int]]) -> None:
        hashes, last = self._hashes, len(self._hashes) - 1
        for value, key in entries:
            slot = value & last
            while (there := hashes[slot]) and there != value:
                slot = (slot + 1) & last
            hashes[slot] = value
            self._keys[slot] = key


class Planner:
    """Gives rows their requests. Runs inside the caller's transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._is_indexed = False
        # In place of the index; None until the first row is planned.
        self._first: _FirstRequests | None = None
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
        if replaced:
            self.index()
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
            self._is_indexed, self._first = True, None

    def _known(self, fingerprints: set[bytes]) -> dict[bytes, _RequestPool]:
        """Return the requests of each fingerprint, in the first plan without the index."""
        if self._first is None and not self._is_indexed:
            if self._db.execute("SELECT 1 FROM requests LIMIT 1").fetchone() is None:
                self._first = _FirstRequests()
            else:
                self.index()
        if self._first is None:
            return self._pools(fingerprints)
        pools = {fingerprint: _RequestPool() for fingerprint in fingerprints}
        latest = self._first.latest(fingerprints)
        if not latest:
            return pools
        rows = self._db.execute(
            f"SELECT fingerprint, id, occurrence FROM requests WHERE id IN ({_marks(latest)})",  # noqa: S608
            list(latest.values()),
        )
        for fingerprint, key, occurrence in rows:
            if latest.pop(fingerprint, None) == key:
                # A row holds it: when a row releases its request, the index takes over.
                pools[fingerprint].know(key, occurrence, is_free=False)
        if latest:  # two fingerprints have the same hash
            self.index()
            return self._pools(fingerprints)
        return pools

    def _next_key(self) -> int:
        (key,) = self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM requests").fetchone()
        return int(key)

    def _find_requests(
        self, items: Sequence[RenderedItem], first_new: int, *, dedupe: bool
    ) -> Iterator[tuple[RenderedItem, int]]:
        """Find or create a request for each row; new ones are numbered from `first_new`."""
        if not items:
            return
        pools = self._known({item.fingerprint or b"" for item in items})
        new: list[tuple[Any, ...]] = []
        created: list[tuple[bytes, int]] = []
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
                created.append((fingerprint, key))
            yield item, key
        self._db.conn.executemany(encoding.INSERT_REQUEST, new)
        if self._first is not None:
            self._first.add(created)
            if self._first.is_full:
                self.index()
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
