"""The checkpoint file: opening it safely."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import orjson

from batchrun.checkpoint import encoding
from batchrun.checkpoint.columns import unpacked
from batchrun.checkpoint.lock import MATRIX_FILE, FileLock, is_locked, refuse_hard_links
from batchrun.checkpoint.migrations import applied
from batchrun.checkpoint.schema import (
    DEVELOPMENT,
    known_migrations,
    migrate,
    missing_columns,
)
from batchrun.checkpoint.sqlite import Database
from batchrun.errors import CheckpointError, CheckpointFull
from batchrun.job.paths import PRIVATE_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


# "btrn": tells a checkpoint from any other SQLite file.
APPLICATION_ID = 0x6274726E
# `long_texts` divides long texts so that they fill pages of this size.
PAGE_BYTES = 16384
# Of a writer: the part of an index of a million requests that its plan needs again and again.
CACHE_KIB = 16 * 1024
_NO_COLUMN = re.compile("no such (?:table|column)|table .* has no column")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def lock(path: Path) -> FileLock:
    """Create a checkpoint's file if there is none, and keep every other process from writing to it.

    Raises:
        CheckpointError: if another process writes to it, or could do so under another name.
    """
    with usable(path):
        with suppress(FileExistsError):
            # Made here, because SQLite would leave its mode to the umask.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE))
        return FileLock(path)


def create(path: Path) -> Database:
    """Open a checkpoint for writing, filling or migrating it; its file is there and locked.

    Raises:
        CheckpointError: when the file is foreign, damaged or newer than this version.
    """
    with usable(path):
        _check(path)
        path.chmod(PRIVATE_FILE)
        db = _connect(path, "mode=rw")
        try:
            # Before WAL: later the page size cannot change any more. An existing file keeps its size.
            db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            # `status` and `export` read beside the writer, and a commit that returned survives a
            # power failure.
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            migrate(db)
        except BaseException:
            db.close()
            raise
    return db


def open_existing(path: Path) -> Database:
    """Open a checkpoint for reading, also while another process writes to it.

    Raises:
        CheckpointError: when it is not there, foreign, damaged or newer than this version.
    """
    with usable(path):
        had = _begun(path, _check(_existing(path)))
        if had != known_migrations():
            _refuse_running(path)
            refuse_hard_links(path)
            with closing(_connect(path, "mode=rw")) as older:
                migrate(older)
        return _connect_reader(path)


def _refuse_running(path: Path) -> None:
    """Refuse to migrate the file while an earlier version works on it, with its own tables."""
    if is_locked(path.parent):
        raise CheckpointError(
            f"{path}: an earlier version of batchrun is working on this run; wait until it has "
            "ended, or use that version to read it"
        )


def open_still(path: Path) -> Database:
    """Open a checkpoint that nobody writes to, for reading, without creating files beside it.

    Raises:
        CheckpointError: as `open_existing`, and when it is of an earlier version: it is not migrated.
    """
    if _has_wal(path):
        connect = _connect_reader  # the files that it needs are there
    else:
        connect = partial(_connect, options="mode=ro&immutable=1")
    with usable(path):
        if _begun(path, _check(_existing(path), connect)) != known_migrations():
            raise CheckpointError(
                f"{path}: was written by an earlier version of batchrun; upgrade it with: "
                f"batchrun status {path.parent}"
            )
        return connect(path)


def holds_run(path: Path) -> bool:
    """Return whether there is a checkpoint with a run.

    There is none if a process was killed while it created the file, before it recorded the run. A file that
    cannot be read counts: opening it says what is wrong.
    """
    if not path.exists():
        return False
    try:
        with closing(_connect_reader(path)) as db:
            tables = db.table_names()
            if "run" in tables:
                return db.execute("SELECT 1 FROM run").fetchone() is not None
    except (sqlite3.Error, OSError):
        return True
    return bool(tables)


def is_checkpoint(path: Path) -> bool:
    """Return whether a SQLite file is a checkpoint of any version. An empty one counts as new.

    Raises:
        sqlite3.DatabaseError: if it cannot be read.
    """
    with closing(_connect_reader(path)) as db:
        (application_id,) = db.execute("PRAGMA application_id").fetchone()
        return application_id == APPLICATION_ID or not db.table_names()


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """Translate errors of SQLite and the file system into messages for the user.

    Raises:
        CheckpointError: says what is wrong with the file, and what to do.
    """
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a mistake of ours: it says nothing about the file
    except (sqlite3.OperationalError, OSError) as error:
        if _is_full(error):
            raise CheckpointFull(
                f"{path}: cannot be used: {error}; check the disk: it is full, over its quota or "
                "failing. Make room and run the job again: the stored answers are safe, and those "
                "that could not be saved count as possibly billed"
            ) from error
        if _NO_COLUMN.match(str(error)):
            raise _of_another_version(path, str(error)) from error
        # The second is what SQLite says when `unpacked` is given what was never packed.
        if "decode" in str(error) or "user-defined function" in str(error):
            raise _damaged(path, str(error)) from error
        raise CheckpointError(
            f"{path}: cannot be used: {error}; check the disk and permissions"
        ) from error
    except (sqlite3.Error, UnicodeDecodeError, orjson.JSONDecodeError) as error:
        raise _damaged(path, str(error)) from error


def check_integrity(db: Database, path: Path, because: Exception) -> None:
    """Check the whole file, which takes seconds for each gigabyte.

    Raises:
        CheckpointError: when it is damaged.
    """
    with usable(path):
        (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise _damaged(path, found) from because


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    # The lower byte is the kind: what is above it says at which operation.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
    }


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: is damaged or not a SQLite file ({reason}); it was left as it is. "
        "Restore it from a backup, or start over with --new"
    )


def _connect(path: Path, options: str) -> Database:
    db = Database(f"{path.absolute().as_uri()}?{options}")
    db.conn.create_function("unpacked", 1, unpacked, deterministic=True)
    encoding.register(db.conn)
    return db


def _connect_reader(path: Path) -> Database:
    """Connect read-only: even recovery and clean-up of the write-ahead log change nothing."""
    db = _connect(path, "mode=ro")
    try:
        db.table_names()
    except sqlite3.OperationalError:
        db.close()
        if _has_wal(path):
            raise
        # SQLite wants to write beside the file even to read it. Nothing changes an archived run, so
        # it can be read from a folder that nobody may write to.
        return _connect(path, "immutable=1")
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def attached(db: Database, path: Path) -> Iterator[None]:
    """Attach another checkpoint to a reader's connection as `other`, read-only."""
    address = path.absolute().as_uri()
    try:
        db.execute("ATTACH DATABASE ? AS other", (f"{address}?mode=ro",))
        db.execute("SELECT 1 FROM other.run")
    except sqlite3.OperationalError:
        if _has_wal(path):
            raise
        # As for one reader alone: an archived run may lie where nothing can be written.
        with suppress(sqlite3.OperationalError):  # it was not even attached
            db.execute("DETACH DATABASE other")
        db.execute("ATTACH DATABASE ? AS other", (f"{address}?immutable=1",))
    try:
        yield
    finally:
        db.execute("DETACH DATABASE other")


def _existing(path: Path) -> Path:
    if not path.exists():
        is_matrix = path.with_name(MATRIX_FILE).exists()
        hint = "it is a matrix: name the folder of a cell"
        raise CheckpointError(
            f"{path.parent}: has no checkpoint.db; "
            f"{hint if is_matrix else 'it is not a run directory'}"
        )
    return path


def _begun(path: Path, had: set[str]) -> set[str]:
    if not had:
        raise CheckpointError(f"{path}: contains no run yet; run the job first")
    return had


def _check(path: Path, connect: Callable[[Path], Database] | None = None) -> set[str]:
    """Return the names of the applied migrations, without touching the file.

    Raises:
        CheckpointError: if the file is foreign, truncated, or of a version that this one cannot read.
    """
    with closing((connect or _connect_reader)(path)) as db:
        (application_id,) = db.execute("PRAGMA application_id").fetchone()
        (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
        if db.table_names() and application_id != APPLICATION_ID:
            raise CheckpointError(
                f"{path}: is a SQLite file of another program; it was left as it is. "
                "Choose another directory with --output-dir"
            )
        if path.stat().st_size % page_bytes and not _has_wal(path):
            raise _damaged(path, "it ends in the middle of a page")
        had = applied(db)
        missing = missing_columns(db) if had == known_migrations() else ()
    if DEVELOPMENT & had:
        raise CheckpointError(
            f"{path}: was made by an earlier development version of batchrun, which this version "
            "cannot read. Start over with: batchrun run JOB --new. To keep the results, export "
            "them with the version that made them"
        )
    if not had <= known_migrations():
        raise CheckpointError(
            f"{path}: was written by a newer version of batchrun; it was left as it is. "
            "Upgrade batchrun, or choose another directory with --output-dir"
        )
    if missing:
        table, name, kind = min(missing)
        raise _of_another_version(path, f"it has no column {table}.{name} of the type {kind}")
    return had


def _of_another_version(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: was made by another version of batchrun ({reason}); it was left as it is. Start over "
        "with: batchrun run JOB --new. To keep the results, export them with the version that made them"
    )


def _has_wal(path: Path) -> bool:
    wal = path.with_name(f"{path.name}-wal")
    return wal.exists() and wal.stat().st_size > 0
