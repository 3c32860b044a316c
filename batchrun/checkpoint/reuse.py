"""What a changed plan would use again of the answers that were paid for, before it is made."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from batchrun.checkpoint.schema import usable
from batchrun.checkpoint.sqlite import temporary_space
from batchrun.records import Reuse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchrun.checkpoint.store import Checkpoint

_WANTED = """CREATE TEMP TABLE wanted (fingerprint BLOB PRIMARY KEY, number INTEGER NOT NULL)
    WITHOUT ROWID"""
_COUNT = """INSERT INTO wanted VALUES (?, ?)
    ON CONFLICT (fingerprint) DO UPDATE SET number = number + excluded.number"""
# Rows that have their answer, and requests to send; of `shared` rows that ask the same, one is sent.
_USABLE = """SELECT
    coalesce(sum(CASE WHEN ? THEN number * (held > 0) ELSE min(number, held) END), 0),
    coalesce(sum(CASE WHEN ? THEN held = 0 ELSE max(0, number - held) END), 0)
    FROM (SELECT w.number, coalesce(h.number, 0) AS held FROM wanted w LEFT JOIN (
        SELECT q.fingerprint, count(*) AS number FROM outcomes r JOIN requests q ON q.id = r.request_id
        WHERE NOT {again} GROUP BY q.fingerprint) h USING (fingerprint))"""
# Of an interrupted plan nobody knows what it would have left behind, so all answers count.
_LEFT = """SELECT coalesce(sum(h.number), 0), coalesce(sum(max(0, h.number -
        CASE WHEN ? THEN min(1, coalesce(w.number, 0)) ELSE coalesce(w.number, 0) END)), 0)
    FROM (
        SELECT q.fingerprint, count(*) AS number FROM outcomes r JOIN requests q ON q.id = r.request_id
        WHERE r.status = 'succeeded' AND (
            (SELECT planned FROM run) IS NULL
            OR EXISTS (SELECT 1 FROM items i WHERE i.request_id = r.request_id))
        GROUP BY q.fingerprint) h
    LEFT JOIN wanted w USING (fingerprint)"""


class Comparison:
    """Compares the requests of a plan with the answers that are there. Changes nothing.

    Args:
        store: the checkpoint.
        shared: whether rows that ask the same share an answer.
    """

    def __init__(self, store: Checkpoint, *, shared: bool) -> None:
        self._store = store
        self._shared = shared
        store.db.execute("DROP TABLE IF EXISTS temp.wanted")
        store.db.execute(_WANTED)

    def add(self, fingerprints: Iterable[bytes | None]) -> None:
        """Count rows by what they ask; None for one that cannot be rendered."""
        counts = Counter(fingerprints)
        counts.pop(None, None)
        with self._store.transaction(), temporary_space():
            self._store.db.conn.executemany(_COUNT, counts.items())

    def result(self, *, retry_errored: bool) -> Reuse:
        """Return what would be used again, once all rows have been added."""
        again = "r.status = 'errored'" if retry_errored else "r.retryable"
        with usable(self._store.path), temporary_space():
            db = self._store.db
            standing = _USABLE.format(again=f"({again})")
            reused, new = db.execute(standing, (self._shared, self._shared)).fetchone()
            paid, left = db.execute(_LEFT, (self._shared,)).fetchone()
            db.execute("DROP TABLE temp.wanted")
        return Reuse(reused=reused, new=new, paid=paid, left_behind=left)


def has_answers(store: Checkpoint) -> bool:
    """Say whether there is any answer that was paid for."""
    with usable(store.path):
        row = store.db.execute("SELECT 1 FROM outcomes WHERE status = 'succeeded' LIMIT 1")
        return row.fetchone() is not None


def answers_without_body(store: Checkpoint) -> int:
    """Count the answers that came before bodies were kept; 0 when the latest execution kept them."""
    with usable(store.path):
        kept = store.db.execute(
            "SELECT json_extract(job, '$.request.keep_raw') FROM run"
        ).fetchone()
        if kept is None or kept[0]:
            return 0
        row = store.db.execute(
            "SELECT count(*) FROM outcomes WHERE ending IS NOT NULL AND raw IS NULL"
        )
        return int(row.fetchone()[0])


def begun_as(store: Checkpoint) -> tuple[str, int, str] | None:
    """Return the plan that the latest execution worked on (signature, rows) and its version."""
    with usable(store.path):
        row = store.db.execute(
            """SELECT plan_signature, total,
            (SELECT version FROM executions ORDER BY id DESC LIMIT 1) FROM run"""
        ).fetchone()
    return None if row is None else (row[0], row[1], row[2])
