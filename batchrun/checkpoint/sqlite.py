"""sqlite-utils, without the libraries that it would bring along.

Where pandas and NumPy are installed it imports both, to store their values. Nothing here does, and
pandas alone takes half a second of every command.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from batchrun.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator


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
def temporary_space() -> Iterator[None]:
    """Tell a full folder of temporary files from a full disk under the checkpoint.

    Raises:
        OutputError: naming the folder, when a temporary table cannot be written.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode not in _NO_ROOM:
            raise
        named = (os.environ.get(name) for name in ("SQLITE_TMPDIR", "TMPDIR"))
        folder = next(filter(None, named), "/var/tmp")  # noqa: S108 - where SQLite looks next
        raise OutputError(
            f"{folder}: temporary files cannot be written there ({error}); make room, or name "
            "another folder in the environment variable TMPDIR"
        ) from error


__all__ = ["Database", "Migrations", "temporary_space"]
