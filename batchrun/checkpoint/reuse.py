"""Which earlier answers a changed plan would reuse. Changes nothing in a checkpoint."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.checkpoint.columns import OUT
from batchrun.checkpoint.file import usable
from batchrun.checkpoint.sqlite import temporary_space

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchrun.checkpoint.store import Checkpoint


@dataclass(frozen=True, slots=True)
class Reuse:
    """How many earlier answers a changed plan reuses.

    Attributes:
        reused: rows that already have a result.
        new: requests to send.
        paid: answers that rows have now, and their requests in batches, which will be billed.
        left_behind: number of these that no row would use any more.
        out: rows whose requests are in batches.
        left_out: requests in batches that are left behind.
    """

    reused: int
    new: int
    paid: int
    left_behind: int
    out: int = 0
    left_out: int = 0


# As in `request_counts`, rows are appended and then sorted once.
_ROWS = "CREATE TEMP TABLE wanted_rows (fingerprint BLOB NOT NULL, number INTEGER NOT NULL)"
_WANTED = """CREATE TEMP TABLE wanted (fingerprint BLOB PRIMARY KEY, number INTEGER NOT NULL)
    WITHOUT ROWID"""
_SORT = """INSERT INTO wanted SELECT fingerprint, sum(number) FROM wanted_rows
    GROUP BY fingerprint ORDER BY fingerprint"""
# Rows that have their answer, rows in batches, and requests to send; of `shared` rows that ask the
# same, one is sent.
_USABLE = """SELECT
    coalesce(sum(CASE WHEN :shared THEN number * (held > 0) ELSE min(number, held) END), 0),
    coalesce(sum(CASE WHEN :shared THEN (held = 0 AND sent > 0) * number
        ELSE min(max(0, number - held), sent) END), 0),
    coalesce(sum(CASE WHEN :shared THEN held + sent = 0 ELSE max(0, number - held - sent) END), 0)
    FROM (SELECT w.number, coalesce(h.number, 0) AS held, coalesce(o.number, 0) AS sent
        FROM wanted w LEFT JOIN (
            SELECT q.fingerprint, count(*) AS number
            FROM results r JOIN requests q ON q.id = r.request_id
            WHERE NOT {again} GROUP BY q.fingerprint) h USING (fingerprint)
        LEFT JOIN (
            SELECT q.fingerprint, count(*) AS number
            FROM attempts a JOIN requests q ON q.id = a.request_id
            WHERE {out} GROUP BY q.fingerprint) o USING (fingerprint))"""
# After an interrupted plan it is unknown which answers it would have left behind, so all count. Answers that
# will arrive from batches are paid, too; stored answers are used before them.
_LEFT = f"""SELECT coalesce(sum(number), 0), coalesce(sum(unused), 0),
    coalesce(sum(min(unused, out)), 0)
    FROM (SELECT h.number, h.out, max(0, h.number - CASE WHEN ? THEN min(1, coalesce(w.number, 0))
        ELSE coalesce(w.number, 0) END) AS unused
        FROM (SELECT q.fingerprint, count(*) AS number, sum(is_out) AS out
            FROM (SELECT request_id, 0 AS is_out FROM results WHERE status = 'succeeded'
                UNION ALL SELECT request_id, 1 FROM attempts WHERE {OUT}) r
            JOIN requests q ON q.id = r.request_id
            WHERE (SELECT planned FROM run) IS NULL
                OR EXISTS (SELECT 1 FROM items i WHERE i.request_id = r.request_id)
            GROUP BY q.fingerprint) h
        LEFT JOIN wanted w USING (fingerprint))"""  # noqa: S608 - our own names


class Comparison:
    """Compares the requests of a plan with the stored answers. Changes nothing.

    Args:
        store: the checkpoint.
        shared: whether rows with the same request share an answer.
    """

    def __init__(self, store: Checkpoint, *, shared: bool) -> None:
        self._store = store
        self._shared = shared
        for table in ("wanted", "wanted_rows"):
            store.db.execute(f"DROP TABLE IF EXISTS temp.{table}")
        store.db.execute(_ROWS)

    def add(self, fingerprints: Iterable[bytes | None]) -> None:
        """Count rows by fingerprint; None for a row that cannot be rendered."""
        counts = Counter(fingerprints)
        counts.pop(None, None)
        with self._store.transaction(), temporary_space():
            self._store.db.conn.executemany("INSERT INTO wanted_rows VALUES (?, ?)", counts.items())

    def result(self, *, retry_errored: bool) -> Reuse:
        """Return the answers that would be reused. Call it after all rows were added."""
        again = "r.status = 'errored'" if retry_errored else "r.retryable"
        with usable(self._store.path), temporary_space():
            db = self._store.db
            with self._store.transaction():
                db.execute(_WANTED)
                db.execute(_SORT)
                db.execute("DROP TABLE temp.wanted_rows")
            standing = _USABLE.format(again=f"({again})", out=OUT)
            reused, out, new = db.execute(standing, {"shared": self._shared}).fetchone()
            paid, left, left_out = db.execute(_LEFT, (self._shared,)).fetchone()
            db.execute("DROP TABLE temp.wanted")
        return Reuse(
            reused=reused, new=new, paid=paid, left_behind=left, out=out, left_out=left_out
        )


def has_answers(store: Checkpoint) -> bool:
    """Return whether any answer was paid for, or will be when its batch ends."""
    with usable(store.path):
        row = store.db.execute(
            f"""SELECT EXISTS (SELECT 1 FROM results WHERE status = 'succeeded')
            OR EXISTS (SELECT 1 FROM attempts WHERE {OUT})"""  # noqa: S608 - our own names
        )
        return bool(row.fetchone()[0])


def answers_without_body(store: Checkpoint) -> int:
    """Count the answers that arrived before `keep_raw` was set; 0 if the latest execution set it."""
    with usable(store.path):
        kept = store.db.execute(
            "SELECT json_extract(job, '$.request.keep_raw') FROM run"
        ).fetchone()
        if kept is None or kept[0]:
            return 0
        row = store.db.execute(
            "SELECT count(*) FROM results WHERE ending IS NOT NULL AND raw IS NULL"
        )
        return int(row.fetchone()[0])


def latest_plan(store: Checkpoint) -> tuple[str, int, str] | None:
    """Return the plan that the latest execution worked on (signature, rows) and its version."""
    with usable(store.path):
        row = store.db.execute(
            """SELECT plan_signature, total,
            (SELECT version FROM executions ORDER BY id DESC LIMIT 1) FROM run"""
        ).fetchone()
    return None if row is None else (row[0], row[1], row[2])
