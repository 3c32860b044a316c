"""The tables of a checkpoint, its views for people, and the migrations between versions.

Money is whole pico-dollars (1e-12 USD), times are microseconds since 1970 UTC, so that sums and
round trips are exact.
"""

from __future__ import annotations

from contextlib import closing
from functools import cache
from typing import TYPE_CHECKING

from batchrun.checkpoint.columns import (
    ATTEMPTS as ATTEMPT_COLUMNS,
)
from batchrun.checkpoint.columns import (
    COST_PARTS,
    ERRORED,
    LAST_ATTEMPTS,
    OUT,
    RESULT,
    RESULTS_OF_ITEMS,
    USAGE_COLUMNS,
    total_of,
)
from batchrun.checkpoint.columns import (
    RESULTS as RESULT_COLUMNS,
)
from batchrun.checkpoint.long_texts import TABLE as PIECES
from batchrun.checkpoint.migrations import apply
from batchrun.checkpoint.sqlite import Database

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchrun.checkpoint.columns import ColumnOf
    from batchrun.checkpoint.migrations import Migration


def _definitions(columns: Iterable[ColumnOf]) -> str:
    return ", ".join(column.definition for column in columns if column.stored is not None)


# Not WITHOUT ROWID: there, each row of more than a quarter of a page takes another page.
SCORES = """CREATE TABLE scores (
    scorer TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    score REAL,
    predicted TEXT,
    expected TEXT,
    answers INTEGER NOT NULL,
    correct INTEGER,
    majority REAL,
    problem TEXT,
    reason TEXT,
    state TEXT,
    consistency REAL,
    fields TEXT,
    cluster TEXT,
    slices TEXT,
    confidence REAL,
    kind TEXT,
    PRIMARY KEY (scorer, ordinal)
) STRICT"""

_TABLES = (
    """CREATE TABLE run (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        name TEXT NOT NULL,
        job TEXT NOT NULL,
        base TEXT NOT NULL,
        plan_signature TEXT,
        planned TEXT,
        total INTEGER,
        samples INTEGER NOT NULL DEFAULT 1,
        scored TEXT,
        given_price TEXT,
        created_us INTEGER NOT NULL,
        checksum INTEGER
    ) STRICT""",
    """CREATE TABLE executions (
        id INTEGER PRIMARY KEY,
        started_us INTEGER NOT NULL,
        finished_us INTEGER,
        outcome TEXT,
        reason TEXT,
        version TEXT NOT NULL,
        provider TEXT,
        base_url TEXT,
        dispatcher TEXT NOT NULL DEFAULT 'live',
        waits TEXT,
        waiting TEXT,
        checksum INTEGER
    ) STRICT""",
    # A request is what is asked, however often and wherever it is in the input. See `REQUESTS_INDEX`.
    """CREATE TABLE requests (
        id INTEGER PRIMARY KEY,
        fingerprint BLOB NOT NULL,
        occurrence INTEGER NOT NULL,
        custom_id TEXT NOT NULL,
        checksum INTEGER
    ) STRICT""",
    # An item is a row of the input, or a sample of one, with the request that answers it.
    """CREATE TABLE items (
        ordinal INTEGER PRIMARY KEY,
        custom_id TEXT NOT NULL,
        request_id INTEGER REFERENCES requests (id),
        error_type TEXT,
        error_message TEXT,
        checksum INTEGER
    ) STRICT""",
    "CREATE INDEX items_by_request ON items (request_id)",
    # Requests that are handed to a batch endpoint together. Its members are attempts.
    """CREATE TABLE batches (
        id INTEGER PRIMARY KEY,
        execution INTEGER NOT NULL REFERENCES executions (id),
        tag TEXT NOT NULL UNIQUE,
        stage TEXT NOT NULL,
        account TEXT NOT NULL,
        base_url TEXT NOT NULL,
        model TEXT,
        rows INTEGER NOT NULL,
        tokens INTEGER NOT NULL,
        queued_tokens INTEGER NOT NULL,
        is_primer INTEGER NOT NULL,
        intended_us INTEGER NOT NULL,
        input_file TEXT,
        remote_id TEXT,
        is_proven INTEGER NOT NULL DEFAULT 1,
        refused_ids TEXT,
        state TEXT,
        done INTEGER,
        failed INTEGER,
        created_us INTEGER,
        expires_us INTEGER,
        ended_us INTEGER,
        results_expire_us INTEGER,
        closed_us INTEGER,
        reason TEXT,
        checksum INTEGER
    ) STRICT""",
    f"""CREATE TABLE attempts (
        request_id INTEGER NOT NULL REFERENCES requests (id),
        number INTEGER NOT NULL,
        execution INTEGER NOT NULL REFERENCES executions (id),
        started_us INTEGER NOT NULL,
        reserved INTEGER,
        batch INTEGER REFERENCES batches (id),
        answered_in INTEGER REFERENCES executions (id),
        {_definitions(ATTEMPT_COLUMNS)},
        cost INTEGER AS ({" + ".join(COST_PARTS)}),
        checksum INTEGER,
        cost_checksum INTEGER,
        start_checksum INTEGER,
        PRIMARY KEY (request_id, number)
    ) STRICT, WITHOUT ROWID""",
    # A request is in one batch at a time.
    f"CREATE UNIQUE INDEX attempts_out ON attempts (request_id) WHERE {OUT}",
    # Only members without an outcome: these have no checksum yet.
    """CREATE INDEX attempts_by_batch ON attempts (batch)
    WHERE batch IS NOT NULL AND checksum IS NULL""",
    f"""CREATE TABLE results (
        request_id INTEGER PRIMARY KEY REFERENCES requests (id),
        status TEXT NOT NULL,
        retryable INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        finished_us INTEGER NOT NULL,
        {_definitions(RESULT_COLUMNS)},
        checksum INTEGER,
        status_checksum INTEGER
    ) STRICT""",
    # The long texts of results and turns.
    PIECES,
    # Conversations with tools: what the model said in each turn, and the results of its calls.
    """CREATE TABLE turns (
        request_id INTEGER NOT NULL REFERENCES requests (id),
        number INTEGER NOT NULL,
        said ANY NOT NULL,
        calls ANY NOT NULL,
        results ANY,
        checksum INTEGER,
        PRIMARY KEY (request_id, number)
    ) STRICT, WITHOUT ROWID""",
    # The prices that each execution used. A model may have several: by tier, by the time of day.
    """CREATE TABLE prices (
        id INTEGER PRIMARY KEY,
        execution INTEGER NOT NULL REFERENCES executions (id),
        model TEXT NOT NULL,
        conditions TEXT NOT NULL,
        source TEXT NOT NULL,
        as_of_us INTEGER NOT NULL,
        matched TEXT,
        rates TEXT,
        checksum INTEGER
    ) STRICT""",
    # The scores of each row's answers by each scorer, and by all of them: the scorer with an empty
    # name. A null score means: not scored.
    SCORES,
)
# Fingerprints are random, so that a chunk of new rows changes almost every page of this index, and each commit
# writes them. That would be 30 KB for each of two million rows, so the index is created after the first plan.
REQUESTS_INDEX = """CREATE UNIQUE INDEX IF NOT EXISTS requests_by_fingerprint
    ON requests (fingerprint, occurrence)"""
# The first migrations of versions before the first release, whose tables had other names or columns.
DEVELOPMENT = frozenset({"m001_initial", "m001_schema", "m001_tables"})


def m001_checkpoint(db: Database) -> None:
    """Create the tables."""
    for statement in _TABLES:
        db.execute(statement)


def add_missing_columns(db: Database) -> None:
    """Add the declared columns that the tables of an earlier version lack; for migrations."""
    for table, columns in (("attempts", ATTEMPT_COLUMNS), ("results", RESULT_COLUMNS)):
        there = {row[1] for row in db.execute(f"PRAGMA table_xinfo({table})")}
        for column in columns:
            if column.stored is not None and column.table_column not in there:
                db.execute(f"ALTER TABLE {table} ADD COLUMN {column.definition}")


# In the order in which they are applied. A later version adds its changes in a function of its own.
MIGRATIONS: list[Migration] = [m001_checkpoint]


def known_migrations() -> set[str]:
    """Return the names of the migrations that this version has."""
    return {each.__name__ for each in MIGRATIONS}


# One row for each column: its table, its name and its type.
_COLUMNS_IN = """SELECT t.name, c.name, c.type FROM sqlite_master t JOIN pragma_table_xinfo(t.name) c
    WHERE t.type = 'table'"""


def missing_columns(db: Database) -> set[tuple[str, str, str]]:
    """Return the columns that a checkpoint with all migrations lacks: table, name and type.

    A version that was never released may have had migrations of the same names.
    """
    return _columns_after(tuple(MIGRATIONS)) - _columns_in(db)


@cache
def _columns_after(steps: Iterable[Migration]) -> set[tuple[str, str, str]]:
    with closing(Database()) as db:
        for step in steps:
            step(db)
        return _columns_in(db)


def _columns_in(db: Database) -> set[tuple[str, str, str]]:
    return {(table, name, kind) for table, name, kind in db.execute(_COLUMNS_IN)}


def migrate(db: Database) -> None:
    """Apply the missing migrations, and create the views again if they differ."""
    apply(db, MIGRATIONS)
    with db.atomic():
        there = dict(db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'view'"))
        for name, sql in VIEWS.items():
            if there.get(name) == sql:
                continue
            db.execute(f"DROP VIEW IF EXISTS {name}")
            db.execute(sql)


def _moment(microseconds: str) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', {microseconds} / 1e6, 'unixepoch')"


def _over_attempts(amount: str) -> str:
    """Return SQL for a sum over all attempts of a row; if rows share a request, the first has the sum."""
    return f"""CASE WHEN r.request_id IS NULL THEN NULL
        WHEN i.ordinal > (SELECT min(f.ordinal) FROM items f WHERE f.request_id = i.request_id)
        THEN 0 ELSE (SELECT {amount} FROM attempts x WHERE x.request_id = i.request_id) END"""  # noqa: S608 - no values


def _shown(column: ColumnOf, table: str = "r") -> str:
    """Return SQL for a column in the units of the outputs."""
    value = column.value(table)
    if table == "r" and column.amount is not None:
        value = _over_attempts(total_of(column.kind, column.amount))
    if column.kind == "money":
        value = f"({value}) / 1e12"
    elif column.kind == "time":
        value = _moment(value)
    return f"{value} AS {column.name}"


def _columns(*names: str) -> str:
    return ", ".join(f"{RESULT[name].value('r')} AS {name}" for name in names)


_ROWS = f"""FROM items i CROSS JOIN run {RESULTS_OF_ITEMS} {LAST_ATTEMPTS}"""
# One row for each sample of each row of the input that has been planned.
_RESULTS = f"""CREATE VIEW result_rows AS SELECT
    i.ordinal / run.samples + 1 AS "row",
    i.ordinal % run.samples + 1 AS sample,
    {", ".join(_shown(column) for column in RESULT_COLUMNS if not column.is_optional)},
    s.score AS score,
    s.predicted AS predicted
{_ROWS} LEFT JOIN scores s ON s.scorer = '' AND s.ordinal = i.ordinal / run.samples"""

# One row for each HTTP exchange, failed ones included.
_ATTEMPTS = f"""CREATE VIEW attempt_rows AS SELECT
    {", ".join(_shown(column, "a") for column in USAGE_COLUMNS)},
    a.cause AS cause
FROM attempts a JOIN requests q ON q.id = a.request_id"""  # noqa: S608

# The rows without an answer, with the reason, and whether the next run tries them again.
_ERRORS = f"""CREATE VIEW errors AS SELECT
    i.ordinal / run.samples + 1 AS "row",
    {_columns("custom_id", "error_type", "error_message", "http_status", "model")},
    coalesce(r.attempts, 0) AS attempts,
    coalesce(r.retryable, 0) AS tried_again,
    {_moment("r.finished_us")} AS finished_at
{_ROWS} WHERE {ERRORED}"""

VIEWS = {"result_rows": _RESULTS, "attempt_rows": _ATTEMPTS, "errors": _ERRORS}
