"""sqlite-utils, without the libraries that it would import; and what to do when a disk is full.

sqlite-utils imports pandas and NumPy if they are installed, to store their values. batchrun does not need
that, and importing pandas takes half a second of every command.
"""

from __future__ import annotations

import os
import sqlite3
import sys
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
    from collections.abc import Callable, Iterable, Iterator, Sequence


@contextmanager
def _as_if_without(*names: str) -> Iterator[None]:
    modules: dict[str, Any] = sys.modules
    hidden = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(hidden))  # an import of what is None there fails
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


with _as_if_without("pandas", "numpy"):
    from sqlite_utils import Database, Migrations

_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR_WRITE}


@contextmanager
def temporary_space(used: str | None = None) -> Iterator[None]:
    """Distinguish a full folder of temporary files from a full disk under the checkpoint.

    Args:
        used: the folder; None for that of SQLite's own temporary files.

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


__all__ = ["Database", "Migrations", "quick_bytes", "temporary_space", "write_rows"]


T = TypeVar("T")

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
