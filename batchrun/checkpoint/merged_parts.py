"""A temporary copy of the parts of a run in one checkpoint, for figures that are not sums over parts."""

from __future__ import annotations

import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from batchrun.checkpoint import encoding, long_texts
from batchrun.checkpoint.columns import LONG
from batchrun.checkpoint.file import attached, usable
from batchrun.checkpoint.sqlite import temporary_space
from batchrun.checkpoint.store import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# More requests than a part can have: those of each part get numbers of their own.
_STEP = 1 << 40
# Long texts are copied as a whole, because the ids of their pieces differ between parts.
_WHOLE = {name: long_texts.whole(f"results.{name}", "other.pieces") for name in LONG}
# Columns that get other values, by table: SQL with the number of the part and its first row.
_SHIFTED = {
    "requests": {"id": "id + {keys}", "occurrence": "occurrence + {keys}"},
    "items": {"ordinal": "ordinal + {items}", "request_id": "request_id + {keys}"},
    "batches": {"id": "id + {keys}"},
    "attempts": {"request_id": "request_id + {keys}", "batch": "batch + {keys}"},
    "results": {"request_id": "request_id + {keys}"} | _WHOLE,
    "scores": {"ordinal": "ordinal + {rows}"},
    "prices": {"id": "NULL"},
}
_EXECUTIONS = """INSERT INTO executions (id, started_us, finished_us, outcome, reason, version)
    SELECT id, started_us, finished_us, outcome, reason, version FROM other.executions WHERE true
    ON CONFLICT (id) DO UPDATE SET started_us = min(started_us, excluded.started_us),
    finished_us = excluded.finished_us, outcome = excluded.outcome, reason = excluded.reason"""
_RUN = "INSERT OR IGNORE INTO run SELECT * FROM other.run"
_COLUMNS = "SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0"
# What sums of scores are made of.
SCORED = ("items", "results", "scores")
EVERYTHING = tuple(_SHIFTED)


@contextmanager
def merged(
    folders: Sequence[tuple[Path, int]], rows: int, tables: Sequence[str] = EVERYTHING
) -> Iterator[Checkpoint]:
    """Copy the parts of a run into one checkpoint in a temporary folder, which is removed afterwards.

    Args:
        folders: the folders of the parts, each with the ordinal of its first row.
        rows: number of rows of the whole input.
        tables: the tables to copy, in addition to the run and its executions.

    Raises:
        CheckpointError: if a part cannot be used.
        OutputError: if there is no room for temporary files.
    """
    with (
        tempfile.TemporaryDirectory(prefix="batchrun-") as place,
        closing(Checkpoint(Path(place), writable=True)) as store,
    ):
        folder_of_copy = str(Path(place).parent)
        store.db.execute("PRAGMA synchronous = OFF")
        store.db.execute("PRAGMA foreign_keys = OFF")
        for number, (folder, first) in enumerate(folders):
            with closing(Checkpoint(folder, writable=False)) as part:
                samples = part.samples
            path = folder / store.path.name
            with usable(path), temporary_space(folder_of_copy), attached(store.db, path):
                _copy(store, number, first, samples, tables)
        with temporary_space(folder_of_copy):
            _seal(store, rows, tables)
        yield store


def _seal(store: Checkpoint, rows: int, tables: Sequence[str]) -> None:
    """Write new checksums for the records whose values were shifted, and set the totals of the whole run."""
    document, _, _ = store.job()
    document.pop("part", None)
    store.replace_job(document)
    changed = {table: _SHIFTED[table].keys() for table in tables} | {"executions": {"outcome"}}
    with store.transaction():
        store.update_run("total = ?", rows)
        for checked in encoding.every_checked():
            if changed.get(checked.table, set()) & {*checked.columns}:
                is_new = checked.table == "executions"  # these are not copied as they are
                condition = "1" if is_new else f"d.{checked.checksum} IS NOT NULL"
                store.db.execute(checked.seal(condition))


def _copy(store: Checkpoint, number: int, first: int, samples: int, tables: Sequence[str]) -> None:
    given = {"keys": number * _STEP, "rows": first, "items": first * samples}
    with store.db.atomic():
        store.db.execute(_RUN)
        store.db.execute(_EXECUTIONS)
        for table in tables:
            columns = [name for (name,) in store.db.execute(_COLUMNS, (table,))]
            shifted = {name: sql.format(**given) for name, sql in _SHIFTED[table].items()}
            values = ", ".join(shifted.get(name, name) for name in columns)
            store.db.execute(
                f"INSERT INTO main.{table} ({', '.join(columns)}) SELECT {values} FROM other.{table}"  # noqa: S608 - our own names
            )
