"""The tables of a checkpoint, and how those of earlier versions become them.

Money is whole pico-dollars (1e-12 USD), times are microseconds since 1970 UTC, so that sums and
round trips are exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.checkpoint.columns import ATTEMPTS as ATTEMPT_COLUMNS
from batchrun.checkpoint.columns import RESULTS as RESULT_COLUMNS
from batchrun.checkpoint.columns import total_of
from batchrun.checkpoint.sqlite import Migrations

if TYPE_CHECKING:
    from batchrun.checkpoint.columns import Column
    from batchrun.checkpoint.sqlite import Database


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


_INITIAL = (
    """CREATE TABLE run (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        name TEXT NOT NULL,
        job TEXT NOT NULL,
        base TEXT NOT NULL,
        plan_signature TEXT,
        total INTEGER,
        created_us INTEGER NOT NULL
    ) STRICT""",
    """CREATE TABLE executions (
        id INTEGER PRIMARY KEY,
        started_us INTEGER NOT NULL,
        finished_us INTEGER,
        outcome TEXT,
        version TEXT NOT NULL,
        waits TEXT
    ) STRICT""",
    # A request is what is asked, however often and wherever it stands in the input.
    """CREATE TABLE requests (
        id INTEGER PRIMARY KEY,
        fingerprint BLOB NOT NULL,
        occurrence INTEGER NOT NULL,
        custom_id TEXT NOT NULL,
        UNIQUE (fingerprint, occurrence)
    ) STRICT""",
    # An item is a row of the input as it is now, with the request that answers it.
    """CREATE TABLE items (
        ordinal INTEGER PRIMARY KEY,
        custom_id TEXT NOT NULL,
        request_id INTEGER REFERENCES requests (id),
        error_type TEXT,
        error_message TEXT
    ) STRICT""",
    "CREATE INDEX items_by_request ON items (request_id)",
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
    ) STRICT, WITHOUT ROWID""",
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
    ) STRICT""",
)


# What is null has no score, or no label to compare.
SCORES = """CREATE TABLE scores (
    ordinal INTEGER PRIMARY KEY,
    score REAL,
    predicted TEXT,
    expected TEXT,
    answers INTEGER NOT NULL,
    correct INTEGER NOT NULL,
    majority REAL,
    problem TEXT
) STRICT"""


@migrations()
def m001_initial(db: Database) -> None:
    """The tables of the first release."""
    for statement in _INITIAL:
        db.execute(statement)


@migrations()
def m002_turns(db: Database) -> None:
    """Conversations with tools: what the model said in each turn, and what its calls gave."""
    db.execute(
        """CREATE TABLE turns (
        request_id INTEGER NOT NULL REFERENCES requests (id),
        number INTEGER NOT NULL,
        said TEXT NOT NULL,
        calls TEXT NOT NULL,
        results TEXT,
        PRIMARY KEY (request_id, number)
    ) STRICT, WITHOUT ROWID"""
    )


@migrations()
def m003_limits(db: Database) -> None:
    """What was reserved for an attempt, and what an execution was waiting for last."""
    db.execute("ALTER TABLE attempts ADD COLUMN reserved INTEGER")
    db.execute("ALTER TABLE executions ADD COLUMN waiting TEXT")


@migrations()
def m004_planned(db: Database) -> None:
    """Which plan was carried through to the last row."""
    db.execute("ALTER TABLE run ADD COLUMN planned TEXT")


@migrations()
def m005_scores(db: Database) -> None:
    """What the answer of each row is worth, as the outputs were last written."""
    db.execute(SCORES)


@migrations()
def m006_samples(db: Database) -> None:
    """How often each row is asked: row r has the items r * samples up to (r + 1) * samples."""
    db.execute("ALTER TABLE run ADD COLUMN samples INTEGER NOT NULL DEFAULT 1")


@migrations()
def m007_prices(db: Database) -> None:
    """By which price each execution counted the costs of each model, as it answered."""
    db.execute(
        """CREATE TABLE prices (
        execution INTEGER NOT NULL REFERENCES executions (id),
        model TEXT NOT NULL,
        source TEXT NOT NULL,
        as_of_us INTEGER NOT NULL,
        matched TEXT,
        rates TEXT,
        PRIMARY KEY (execution, model)
    ) STRICT, WITHOUT ROWID"""
    )


@migrations()
def m008_views(db: Database) -> None:
    """Views for people have the names of these tables, which keep what they hold under others."""
    db.execute("ALTER TABLE results RENAME TO outcomes")
    db.execute("ALTER TABLE attempts RENAME TO exchanges")


@migrations()
def m009_reasons(db: Database) -> None:
    """What ended an execution is a word, with the reason beside it."""
    db.execute("ALTER TABLE executions ADD COLUMN reason TEXT")
    db.execute("ALTER TABLE executions ADD COLUMN peer TEXT")
    db.execute(
        """UPDATE executions SET reason = outcome, outcome = CASE
        WHEN outcome LIKE 'stopped: interrupted%' THEN 'interrupted'
        WHEN outcome LIKE '%max_cost_usd =%' THEN 'max_cost_usd'
        WHEN outcome LIKE '%max_errors =%' THEN 'max_errors' ELSE 'refused' END
        WHERE outcome LIKE 'stopped: %'"""
    )


@migrations()
def m010_endings(db: Database) -> None:
    """How each answer ended, and all that it brought beside its text."""
    for name in ("ending", "refusal", "citations", "stop_sequence", "choices", "server_tools"):
        db.execute(f"ALTER TABLE outcomes ADD COLUMN {name} TEXT")
    for name in ("logprobs", "raw"):  # compressed
        db.execute(f"ALTER TABLE outcomes ADD COLUMN {name} BLOB")


@migrations()
def m011_scored(db: Database) -> None:
    """By which `[score]` the answers were last scored; null once others may have come."""
    db.execute("ALTER TABLE run ADD COLUMN scored TEXT")


@migrations()
def m012_billing(db: Database) -> None:
    """What it takes to count a cost again: who answered, the tier, all kinds of tokens."""
    for name in ("provider", "base_url"):
        db.execute(f"ALTER TABLE executions ADD COLUMN {name} TEXT")
    for name in ("asked_model", "service_tier", "speed", "inference_geo", "cost_source"):
        db.execute(f"ALTER TABLE exchanges ADD COLUMN {name} TEXT")
    for name in (
        *("cache_write_1h_tokens", "audio_input_tokens", "audio_cache_read_tokens"),
        *("audio_output_tokens", "web_searches", "stated_cost", "cost_other"),
    ):
        db.execute(f"ALTER TABLE exchanges ADD COLUMN {name} INTEGER")
    db.execute(
        """UPDATE exchanges SET cost_other = 0, cost_source = 'price_list'
        WHERE cost_output IS NOT NULL"""
    )
    # A model may have several prices in one execution: by tier, by the time of day.
    db.execute("DROP TABLE prices")
    db.execute(
        """CREATE TABLE prices (
        id INTEGER PRIMARY KEY,
        execution INTEGER NOT NULL REFERENCES executions (id),
        model TEXT NOT NULL,
        conditions TEXT NOT NULL,
        source TEXT NOT NULL,
        as_of_us INTEGER NOT NULL,
        matched TEXT,
        rates TEXT
    ) STRICT"""
    )


@migrations()
def m013_checksums(db: Database) -> None:
    """A checksum with what was paid for; null where a row was written without one."""
    for name in ("outcomes", "exchanges", "turns"):
        db.execute(f"ALTER TABLE {name} ADD COLUMN checksum INTEGER")


@migrations()
def m014_place_checksums(db: Database) -> None:
    """A checksum with what says which row asks what, and with the status of an answer."""
    for name in ("items", "requests"):
        db.execute(f"ALTER TABLE {name} ADD COLUMN checksum INTEGER")
    db.execute("ALTER TABLE outcomes ADD COLUMN status_checksum INTEGER")


@migrations()
def m015_recosted(db: Database) -> None:
    """The price that `recost` was given; it holds for later executions as well."""
    db.execute("ALTER TABLE run ADD COLUMN given_price TEXT")


def migrate(db: Database) -> None:
    """Bring the tables to this version, and the views to the columns that it declares."""
    migrations.apply(db)
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
    """Over all attempts of a row; of rows that share a request the first has what it took."""
    return f"""CASE WHEN r.request_id IS NULL THEN NULL
        WHEN i.ordinal > (SELECT min(f.ordinal) FROM items f WHERE f.request_id = i.request_id)
        THEN 0 ELSE (SELECT {amount} FROM exchanges x WHERE x.request_id = i.request_id) END"""  # noqa: S608 - no values


def _shown(column: Column) -> str:
    """Return a column as people read it."""
    value = column.value
    if column.amount is not None:
        value = _over_attempts(total_of(column.kind, column.amount))
    if column.kind == "money":
        value = f"({value}) / 1e12"
    elif column.kind == "time":
        value = _moment(value)
    return f"{value} AS {column.name}"


# One row for each sample of each row of the input, as far as they have been planned.
RESULTS = f"""CREATE VIEW results AS SELECT
    i.ordinal / run.samples + 1 AS "row",
    i.ordinal % run.samples + 1 AS sample,
    {", ".join(_shown(column) for column in RESULT_COLUMNS if not column.is_optional)},
    s.score AS score,
    s.predicted AS predicted
FROM items i CROSS JOIN run
LEFT JOIN outcomes r ON r.request_id = i.request_id
LEFT JOIN exchanges a ON a.request_id = r.request_id AND a.number = r.attempts
LEFT JOIN scores s ON s.ordinal = i.ordinal / run.samples"""  # noqa: S608 - no values

# One row for each HTTP exchange, failed ones included.
ATTEMPTS = f"""CREATE VIEW attempts AS SELECT
    {", ".join(map(_shown, ATTEMPT_COLUMNS))},
    a.cause AS cause
FROM exchanges a JOIN requests q ON q.id = a.request_id"""  # noqa: S608

# The rows without an answer, with the reason, and whether the next run tries them again.
ERRORS = f"""CREATE VIEW errors AS SELECT
    i.ordinal / run.samples + 1 AS "row",
    i.custom_id,
    coalesce(i.error_type, a.error_type) AS error_type,
    coalesce(i.error_message, a.error_message) AS error_message,
    a.http_status,
    a.model,
    coalesce(r.attempts, 0) AS attempts,
    coalesce(r.retryable, 0) AS tried_again,
    {_moment("r.finished_us")} AS finished_at
FROM items i CROSS JOIN run
LEFT JOIN outcomes r ON r.request_id = i.request_id
LEFT JOIN exchanges a ON a.request_id = r.request_id AND a.number = r.attempts
WHERE i.error_type IS NOT NULL OR r.status = 'errored'"""  # noqa: S608

VIEWS = {"results": RESULTS, "attempts": ATTEMPTS, "errors": ERRORS}
