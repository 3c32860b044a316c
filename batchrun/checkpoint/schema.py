"""The checkpoint file: its tables, its migrations, and opening it safely.

Money is whole pico-dollars (1e-12 USD), times are microseconds since 1970 UTC, so that sums and
round trips are exact.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from sqlite_utils import Database, Migrations

from batchrun.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

# "btrn": tells a checkpoint from any other SQLite file.
APPLICATION_ID = 0x6274726E
BUSY_TIMEOUT_S = 30.0

migrations = Migrations("batchrun")

_USAGE_COLUMNS = """
    input_tokens INTEGER,
    output_tokens INTEGER,
    cache_read_tokens INTEGER,
    cache_write_tokens INTEGER,
    reasoning_tokens INTEGER,
    cost_uncached_input INTEGER,
    cost_cache_read INTEGER,
    cost_cache_write INTEGER,
    cost_output INTEGER,
    cache_saved INTEGER
"""


@migrations()
def m001_initial(db: Database) -> None:
    """The tables of the first release."""
    db.execute(
        """CREATE TABLE run (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            name TEXT NOT NULL,
            job TEXT NOT NULL,
            base TEXT NOT NULL,
            plan_signature TEXT,
            total INTEGER,
            created_us INTEGER NOT NULL
        ) STRICT"""
    )
    db.execute(
        """CREATE TABLE executions (
            id INTEGER PRIMARY KEY,
            started_us INTEGER NOT NULL,
            finished_us INTEGER,
            outcome TEXT,
            version TEXT NOT NULL,
            waits TEXT
        ) STRICT"""
    )
    # A request is what is asked, however often and wherever it stands in the input.
    db.execute(
        """CREATE TABLE requests (
            id INTEGER PRIMARY KEY,
            fingerprint BLOB NOT NULL,
            occurrence INTEGER NOT NULL,
            custom_id TEXT NOT NULL,
            UNIQUE (fingerprint, occurrence)
        ) STRICT"""
    )
    # An item is a row of the input as it is now, with the request that answers it.
    db.execute(
        """CREATE TABLE items (
            ordinal INTEGER PRIMARY KEY,
            custom_id TEXT NOT NULL,
            request_id INTEGER REFERENCES requests (id),
            error_type TEXT,
            error_message TEXT
        ) STRICT"""
    )
    db.execute("CREATE INDEX items_by_request ON items (request_id)")
    db.execute(
        f"""CREATE TABLE attempts (
            request_id INTEGER NOT NULL REFERENCES requests (id),
            number INTEGER NOT NULL,
            execution INTEGER NOT NULL REFERENCES executions (id),
            started_us INTEGER NOT NULL,
            latency_s REAL,
            http_status INTEGER,
            error_type TEXT,
            error_message TEXT,
            cause TEXT,
            maybe_billed INTEGER NOT NULL DEFAULT 0,
            provider_request_id TEXT,
            model TEXT,
            {_USAGE_COLUMNS},
            PRIMARY KEY (request_id, number)
        ) STRICT, WITHOUT ROWID"""
    )
    db.execute(
        """CREATE TABLE results (
            request_id INTEGER PRIMARY KEY REFERENCES requests (id),
            status TEXT NOT NULL,
            retryable INTEGER NOT NULL,
            attempts INTEGER NOT NULL,
            finished_us INTEGER NOT NULL,
            response TEXT,
            responses TEXT,
            reasoning TEXT,
            tool_calls TEXT,
            stop_reason TEXT,
            response_id TEXT
        ) STRICT"""
    )


def create(path: Path) -> Database:
    """Open a checkpoint for writing, making or migrating it.

    Raises:
        CheckpointError: when the file is foreign, damaged or newer than this version.
    """
    try:
        connection = sqlite3.connect(path, check_same_thread=False, timeout=BUSY_TIMEOUT_S)
        path.chmod(0o600)
        db = Database(connection)
        _refuse_foreign(db, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrations.apply(db)
    except (sqlite3.Error, OSError) as error:
        raise unusable(path, error) from error
    return db


def open_existing(path: Path) -> Database:
    """Open a checkpoint for reading, also while another process writes to it.

    Raises:
        CheckpointError: when it is not there, foreign, damaged or newer than this version.
    """
    if not path.exists():
        raise CheckpointError(
            f"{path.parent}: holds no checkpoint.db; is it the directory of a run?"
        )
    try:
        connection = sqlite3.connect(path, check_same_thread=False, timeout=BUSY_TIMEOUT_S)
        db = Database(connection)
        _refuse_foreign(db, path)
        if migrations.pending(db):
            migrations.apply(db)
        connection.execute("PRAGMA query_only = ON")
    except (sqlite3.Error, OSError) as error:
        raise unusable(path, error) from error
    return db


def unusable(path: Path, error: Exception) -> CheckpointError:
    """Say what is wrong with a checkpoint file, and the way out."""
    if isinstance(error, sqlite3.OperationalError | OSError):
        return CheckpointError(f"{path}: cannot be used: {error}; check the disk and permissions")
    return CheckpointError(
        f"{path}: is damaged or no SQLite file ({error}); it was left as it is. "
        "Restore it from a backup, or start over with --new"
    )


def _refuse_foreign(db: Database, path: Path) -> None:
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    tables = set(db.table_names())
    if tables and application_id != APPLICATION_ID:
        raise CheckpointError(
            f"{path}: is a SQLite file of another program; it was left as it is. "
            "Choose another directory with --output-dir"
        )
    ours = {migration.name for migration in migrations.pending(Database(memory=True))}
    if any(migration.name not in ours for migration in migrations.applied(db)):
        raise CheckpointError(
            f"{path}: was written by a newer version of batchrun; it was left as it is. "
            "Upgrade batchrun, or choose another directory with --output-dir"
        )
