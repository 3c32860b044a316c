"""A connection to a checkpoint, and what to do when a disk is full."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from contextlib import contextmanager
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

from batchrun.errors import CheckpointFull, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


T = TypeVar("T")

# How long SQLite waits for a lock that another connection holds.
BUSY_TIMEOUT_S = 30.0
_TABLE_NAMES = "SELECT name FROM sqlite_master WHERE type = 'table'"
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR_WRITE}


class Database:
    """A connection to a SQLite file. Each statement is a transaction, except in the block of `atomic`.

    Attributes:
        conn: the connection of Python's `sqlite3`, which begins no transactions itself.
    """

    def __init__(self, address: str = ":memory:") -> None:
        self.conn = sqlite3.connect(
            address,
            uri=True,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_S,
            # A transaction that sqlite3 begins implicitly would swallow every commit after it.
            isolation_level=None,
        )
        # Python crashes if a connection is closed while another thread executes a statement: an
        # interrupted export closes it while the next rows are being read.
        self._in_use = threading.Lock()

    def execute(
        self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
    ) -> sqlite3.Cursor:
        """Execute a statement."""
        with self._in_use:
            return self.conn.execute(sql, parameters)

    def query(
        self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
    ) -> Iterator[dict[str, Any]]:
        """Execute a statement; return its rows by the names of their columns."""
        found = self.execute(sql, parameters)
        names = [column[0] for column in found.description]
        return (dict(zip(names, row, strict=True)) for row in found)

    def table_names(self) -> list[str]:
        """Return the names of the tables."""
        return [name for (name,) in self.execute(_TABLE_NAMES)]

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Run the block in one transaction: an error undoes all that it has written. Blocks may be nested."""
        is_inner = self.conn.in_transaction
        self.execute("SAVEPOINT inner_block" if is_inner else "BEGIN")
        try:
            yield
            self.execute("RELEASE inner_block" if is_inner else "COMMIT")
        except BaseException:
            self._undo(is_inner=is_inner)
            raise

    def _undo(self, *, is_inner: bool) -> None:
        if not self.conn.in_transaction:
            return  # SQLite has undone it: the disk is full, or the file cannot be used
        if is_inner:
            self.execute("ROLLBACK TO inner_block")
            self.execute("RELEASE inner_block")
        else:
            self.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection, when no thread executes a statement."""
        with self._in_use:
            self.conn.close()


@contextmanager
def temporary_space(used: str | None = None, needed: int | None = None) -> Iterator[None]:
    """Distinguish a full folder of temporary files from a full disk under the checkpoint.

    Args:
        used: the folder; None for that of SQLite's own temporary files.
        needed: bytes of temporary files; a folder with this much room is not the cause. None if nothing but
            temporary files is written.

    Raises:
        OutputError: names the folder, if a temporary table cannot be written.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode not in _NO_ROOM:
            raise
        named = (os.environ.get(name) for name in ("SQLITE_TMPDIR", "TMPDIR"))
        folder = used or next(filter(None, named), "/var/tmp")  # noqa: S108 - where SQLite looks next
        if needed is not None and shutil.disk_usage(folder).free >= needed:
            raise
        raise OutputError(
            f"{folder}: temporary files cannot be written there ({error}); make room, or name "
            "another folder in the environment variable TMPDIR"
        ) from error


# Different types of rows whose statements are kept.
_MOST_STATEMENTS = 64


def write_rows(db: Database, statement: str, rows: Iterable[Sequence[Any]]) -> None:
    """Execute a statement with two or more values for each row, in order.

    Most columns of most rows are null, and sqlite3 takes five times as long to bind a null as a number.
    Nulls therefore become a part of the statement.
    """
    for types, alike in groupby(rows, key=_types):
        with_nulls, pick = _without_nulls(statement, types)
        db.conn.executemany(with_nulls, map(pick, alike))


def _types(row: Sequence[Any]) -> tuple[type, ...]:
    return tuple(map(type, row))


@lru_cache(_MOST_STATEMENTS)
def _without_nulls(
    statement: str, types: Sequence[type]
) -> tuple[str, Callable[[Sequence[Any]], tuple[Any, ...]]]:
    """Return the statement for rows with values of these types, and a function that picks its values."""
    first, *parts = statement.split("?")
    are_null = [each is NoneType for each in types]
    marks = ["NULL" if is_null else "?" for is_null in are_null]
    pick = itemgetter(*(place for place, is_null in enumerate(are_null) if not is_null))
    return first + "".join(mark + part for mark, part in zip(marks, parts, strict=True)), pick


def quick_bytes(content: bytes) -> bytearray:
    """Return bytes as sqlite3 binds them in a third of the time."""
    return bytearray(content)


PAUSE_S = 0.5


class FullDiskRetry:
    """Repeats calls that failed because the disk was full, for a number of seconds.

    Meanwhile all reports to the checkpoint wait, so nothing more is sent, and the answers that
    arrive are kept in memory.

    Args:
        seconds: how long to wait; 0 gives up at once.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._note: str | None = None
        self._over = threading.Event()

    def end(self) -> None:
        """End the present wait, and do not wait again."""
        self._over.set()

    def take_note(self) -> str | None:
        """Return what to tell the user about a wait that has begun since the last call.

        The wait is in another thread, so the event loop asks for this.
        """
        note, self._note = self._note, None
        return note

    def call(self, function: Callable[[], T]) -> T:
        """Call a function until the disk has room; return its value.

        Raises:
            CheckpointFull: if there is still no room after the time.
        """
        deadline: float | None = None
        while True:
            try:
                return function()
            except CheckpointFull:
                if deadline is None:
                    deadline = time.monotonic() + self._seconds
                    self._announce()
                if time.monotonic() >= deadline:
                    self._over.set()
                if self._over.wait(PAUSE_S):
                    raise

    def _announce(self) -> None:
        if not self._over.is_set():
            self._note = (
                "the checkpoint cannot be written: the disk is full, over its quota or failing; "
                f"nothing is sent, and this waits up to {self._seconds:g} s for room"
            )
