"""Adds up a run over all its executions: counts, tokens, money, times."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.checkpoint.columns import (
    ANSWERED,
    ERRORED,
    LAST_ATTEMPTS,
    RESULT,
    RESULTS_OF_ITEMS,
    UNPRICED,
    exact_sum,
)
from batchrun.checkpoint.file import usable
from batchrun.checkpoint.stored_batches import stored_batches
from batchrun.checkpoint.stored_prices import prices
from batchrun.errors import RunEnd
from batchrun.pricing.totals import ExecutionTotals, ModelTotals, RunTotals
from batchrun.records import PICO_PER_USD, Cost, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchrun.checkpoint.sqlite import Database
    from batchrun.checkpoint.store import Checkpoint


PERCENTILES = (50, 90, 99)
_TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
_COUNTS = f"""SELECT
    count(*) FILTER (WHERE r.status = 'succeeded'),
    count(*) FILTER (WHERE {ERRORED}),
    count(*) FILTER (WHERE r.retryable)
    FROM items i {RESULTS_OF_ITEMS}"""  # noqa: S608 - no values, as below
# With several samples, a row succeeded only if all of them did.
_ROW_COUNTS = f"""SELECT count(*) FILTER (WHERE good = :samples), count(*) FILTER (WHERE bad),
    count(*) FILTER (WHERE again) FROM (
        SELECT sum(r.status = 'succeeded') AS good, max(r.retryable) AS again,
            max({ERRORED}) AS bad
        FROM items i {RESULTS_OF_ITEMS} GROUP BY i.ordinal / :samples)"""  # noqa: S608
_COST_PARTS = ("uncached_input", "cache_read", "cache_write", "output")
_ATTEMPTS = f"""SELECT
    count(*), coalesce(sum(maybe_billed), 0),
    count(*) FILTER (WHERE latency_s IS NULL AND error_type IS NULL AND batch IS NULL),
    count(*) FILTER (WHERE {UNPRICED}), count(*) FILTER (WHERE {ANSWERED}),
    count(*) FILTER (WHERE {UNPRICED} AND output_tokens IS NULL),
    count(*) FILTER (WHERE stated_cost IS NOT NULL),
    sum(input_tokens), sum(output_tokens), sum(cache_read_tokens), sum(cache_write_tokens),
    sum(reasoning_tokens), {", ".join(exact_sum(f"cost_{part}") for part in _COST_PARTS)},
    {exact_sum("cache_saved")}, {exact_sum("cost_other")}, {exact_sum("batch_saved")}
    FROM attempts"""  # noqa: S608 - our own names, as below
# Failed attempts that reported what they used count as well.
_BY_MODEL = f"""SELECT model, count(*) FILTER (WHERE {ANSWERED}),
    sum(input_tokens), sum(output_tokens), {exact_sum("cost")}
    FROM attempts WHERE latency_s IS NOT NULL AND model IS NOT NULL
    AND (error_type IS NULL OR input_tokens IS NOT NULL OR cost IS NOT NULL)
    GROUP BY model ORDER BY 5 DESC, 2 DESC"""  # noqa: S608
# Results that only rows of an earlier job or input had say nothing about the present rows.
_HELD = "SELECT count(*) FROM items i JOIN results r ON r.request_id = i.request_id"
_LEFT_BEHIND = f"""SELECT coalesce({exact_sum("cost")}, 0) FROM attempts a WHERE NOT EXISTS
    (SELECT 1 FROM items i WHERE i.request_id = a.request_id)"""  # noqa: S608
_RESULTS = "SELECT count(*) FROM results"
_BUSY = "SELECT DISTINCT execution FROM attempts"
# An attempt without a status was sent, unless it was refused or cancelled before. What was sent in a
# batch counts for the execution that submitted it, its outcome for the one that collected it.
_LAST = f"""SELECT
    count(DISTINCT a.request_id) FILTER (WHERE a.execution = (SELECT max(id) FROM executions) AND (
        a.http_status IS NOT NULL OR a.maybe_billed OR a.latency_s IS NULL
        OR (a.latency_s > 0 AND a.error_type <> 'cancelled'))),
    count(*) FILTER (WHERE r.status = 'succeeded'), count(*) FILTER (WHERE r.status = 'errored'),
    sum(input_tokens), sum(output_tokens), {exact_sum("cost")}, count(*) FILTER (WHERE {ANSWERED}),
    count(*) FILTER (WHERE {UNPRICED})
    FROM attempts a LEFT JOIN results r ON r.request_id = a.request_id AND r.attempts = a.number
    WHERE coalesce(a.answered_in, a.execution) = (SELECT max(id) FROM executions)"""  # noqa: S608
_CAP = "SELECT json_extract(job, '$.limits.max_cost_usd') FROM run"
# A retry is a failed attempt that another one followed; a turn that called tools has not failed.
_RETRIES = """SELECT coalesce(a.cause, a.error_type), count(*) FROM attempts a
    WHERE EXISTS (SELECT 1 FROM attempts b WHERE b.request_id = a.request_id
    AND b.number = a.number + 1) AND a.error_type IS NOT NULL GROUP BY 1"""
_ERRORS = f"""SELECT type, count(*), max(message) FROM (
    SELECT coalesce({RESULT["error_type"].sql}, 'unknown') AS type,
        coalesce({RESULT["error_message"].sql}, 'its attempt is missing') AS message
    FROM items i {RESULTS_OF_ITEMS} {LAST_ATTEMPTS}
    WHERE {ERRORED}) GROUP BY type ORDER BY 2 DESC"""  # noqa: S608
_DROPPED = """SELECT DISTINCT coalesce(asked_model, model), dropped FROM attempts
    WHERE dropped IS NOT NULL ORDER BY 1, 2"""
_LAST_ERROR = """SELECT error_type || ': ' || error_message FROM attempts
    WHERE error_type IS NOT NULL ORDER BY started_us DESC LIMIT 1"""
# With fewer rows it may be chance that all have the same answer.
FEWEST_ALIKE = 3
_SUCCEEDED = """FROM items i JOIN results r ON r.request_id = i.request_id
    WHERE r.status = 'succeeded'"""
# Percentiles come from counts by millisecond, then by microsecond only where a percentile falls, which is
# the stored precision. Sorting a million latencies would take seconds.
_BY_MS = f"""SELECT CAST(latency_s * 1e3 AS INTEGER) AS ms, count(*) FROM attempts
    WHERE {ANSWERED} AND batch IS NULL GROUP BY ms ORDER BY ms"""  # noqa: S608 - no values
_BY_US = f"""SELECT CAST(latency_s * 1e3 AS INTEGER) AS ms,
    CAST(round(latency_s * 1e6) AS INTEGER) AS us, count(*) FROM attempts
    WHERE {ANSWERED} AND batch IS NULL AND ms IN (SELECT value FROM json_each(?))
    GROUP BY ms, us ORDER BY us"""  # noqa: S608 - no values
_WAITING = "SELECT waiting FROM executions ORDER BY id DESC LIMIT 1"
_LAST_OUTCOME = "SELECT outcome FROM executions ORDER BY id DESC LIMIT 1"
_EXECUTIONS = """SELECT e.id, e.started_us, e.finished_us, e.outcome, e.reason, e.version, e.waits,
    CASE WHEN e.finished_us IS NULL THEN (
        SELECT max(a.started_us + coalesce(a.latency_s, 0) * 1e6) FROM attempts a
        WHERE a.execution = e.id) END
    FROM executions e ORDER BY e.id"""


def dropped_parameters(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Return pairs of a model and a parameter that is left out of its requests.

    Raises:
        CheckpointError: when the checkpoint cannot be used.
    """
    with usable(checkpoint.path):
        return [(model, name) for model, name in checkpoint.db.execute(_DROPPED)]


def totals(checkpoint: Checkpoint) -> RunTotals:
    """Add up a run as it is at one moment. Only reads; works beside a running writer.

    Raises:
        CheckpointError: when the checkpoint cannot be used.
    """
    with checkpoint.transaction():
        return _totals(checkpoint)


def _totals(checkpoint: Checkpoint) -> RunTotals:
    db = checkpoint.db
    total, samples = checkpoint.size()
    (name,) = db.execute("SELECT name FROM run").fetchone() or ("",)
    succeeded, errored, to_retry = _counts(checkpoint)
    counts = db.execute(_ATTEMPTS).fetchone()
    attempts, maybe_billed, in_flight, unpriced, answers, unreported, stated, *amounts = counts
    tokens = zip(_TOKENS, amounts[:5], strict=True)
    uncached, read, write, output, saved, other, by_batches = (
        int(amount or 0) for amount in amounts[5:]
    )
    cost = Cost(uncached, read, write, output, saved, other, batch_saved=by_batches)
    known = executions(db)
    busy = {key for (key,) in db.execute(_BUSY)}
    models = tuple(map(_model, db.execute(_BY_MODEL)))
    return RunTotals(
        name=name,
        total=total,
        succeeded=succeeded,
        errored=errored,
        pending=max(0, total - succeeded - errored),
        to_retry=to_retry,
        attempts=attempts,
        maybe_billed=maybe_billed,
        in_flight=in_flight,
        unpriced=unpriced,
        unreported=unreported,
        stated=stated,
        usage=Usage(**{name: _counted(amount, answers) for name, amount in tokens}),
        cost=cost,
        cost_by_model={one.model: one.cost for one in models if one.cost is not None},
        latency_s=percentiles(latency_counts(db), partial(fine_latencies, db)),
        retries_by_cause=dict(db.execute(_RETRIES).fetchall()),
        dropped=tuple(db.execute(_DROPPED).fetchall()),
        waits_s_by_cause=_waits(known),
        errors_by_type={row[0]: (row[1], row[2]) for row in db.execute(_ERRORS)},
        executions=tuple(known),
        wall_time_s=sum(execution["wall_time_s"] for execution in known),
        last_error=_one(db, _LAST_ERROR),
        waiting=_one(db, _WAITING),
        cap=None if (cap := _one(db, _CAP)) is None else int(cap * PICO_PER_USD),
        prices=prices(db),
        models=models,
        endings=endings(db),
        results=_one(db, _RESULTS) / samples,
        busy_s=sum(each["wall_time_s"] for each in known if each["execution"] in busy),
        held_rows=_one(db, _HELD) / samples,
        held_cost=cost.total - int(_one(db, _LEFT_BEHIND)),
        last_execution=_last_execution(db) if known else None,
        batches=tuple(stored_batches(db)),
        same_answer=_same_answer(db) if succeeded >= FEWEST_ALIKE else None,
    )


def _same_answer(db: Database) -> str | None:
    """Return the answer of the first row if every row that succeeded has the same."""
    response = RESULT["response"].value("r")
    found = db.execute(f"SELECT {response} {_SUCCEEDED} LIMIT 1").fetchone()
    if found is None or found[0] is None:
        return None
    # Ends at the first other answer, which in most runs is that of the second row.
    other = db.execute(f"SELECT 1 {_SUCCEEDED} AND {response} IS NOT ? LIMIT 1", found)
    return None if other.fetchone() else str(found[0])


def _one(db: Database, query: str) -> Any:  # noqa: ANN401 - a value of the file
    row = db.execute(query).fetchone()
    return row[0] if row else None


def _counted(tokens: int | None, answers: int) -> int | None:
    """Return a sum of tokens; None if there are answers, but none of them reported these tokens."""
    return tokens if tokens is not None or answers else 0


def _model(row: tuple[Any, ...]) -> ModelTotals:
    model, answers, taken_in, given_out, cost = row
    return ModelTotals(model, answers, taken_in, given_out, None if cost is None else int(cost))


def _last_execution(db: Database) -> ExecutionTotals:
    sent, succeeded, errored, taken_in, given_out, cost, answers, unpriced = db.execute(
        _LAST
    ).fetchone()
    return ExecutionTotals(
        sent=sent,
        succeeded=succeeded,
        errored=errored,
        input_tokens=_counted(taken_in, answers),
        output_tokens=_counted(given_out, answers),
        cost=None if cost is None and unpriced else int(cost or 0),
    )


def executions(db: Database) -> list[dict[str, Any]]:
    """Return the executions of a run in order, with times and waits."""
    return [_execution(row) for row in db.execute(_EXECUTIONS)]


def _counts(checkpoint: Checkpoint) -> tuple[int, int, int]:
    """Return how many rows succeeded, errored, and will be tried again."""
    samples = checkpoint.samples
    if samples == 1:
        found = checkpoint.db.execute(_COUNTS).fetchone()
    else:
        found = checkpoint.db.execute(_ROW_COUNTS, {"samples": samples}).fetchone()
    return found[0], found[1], found[2]


def latency_counts(db: Database) -> list[tuple[int, int]]:
    """Return pairs of a latency in milliseconds and the number of successful attempts with it, in order."""
    return db.execute(_BY_MS).fetchall()


def fine_latencies(db: Database, milliseconds: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (milliseconds, microseconds, number of attempts) for these milliseconds, in order."""
    return db.execute(_BY_US, (orjson.dumps(milliseconds).decode(),)).fetchall()


def percentiles(
    counts: Sequence[tuple[int, int]],
    fine: Callable[[Sequence[int]], Sequence[tuple[int, int, int]]],
) -> dict[str, float | None]:
    """Return percentiles of the latency of successful attempts (nearest rank), in seconds.

    Args:
        counts: what `latency_counts` returns.
        fine: does the same as `fine_latencies`.
    """
    total = sum(count for _, count in counts)
    if not total:
        return {f"p{percent}": None for percent in PERCENTILES}
    ranks = {percent: -(-total * percent // 100) - 1 for percent in PERCENTILES}
    places = {percent: _ranked(counts, rank) for percent, rank in ranks.items()}
    by_ms: dict[int, list[tuple[int, int]]] = {}
    for ms, us, count in fine(sorted({ms for ms, _ in places.values()})):
        by_ms.setdefault(ms, []).append((us, count))
    return {f"p{p}": _ranked(by_ms[ms], rank)[0] / 1e6 for p, (ms, rank) in places.items()}


def _ranked(counts: Sequence[tuple[int, int]], rank: int) -> tuple[int, int]:
    """Return the value at a rank, and the rank among the entries with that value."""
    for value, count in counts:
        if rank < count:
            return value, rank
        rank -= count
    raise IndexError(rank)


def _execution(row: tuple[Any, ...]) -> dict[str, Any]:
    key, started, finished, outcome, reason, version, waits, last_attempt = row
    # An execution that died has no recorded end; the end of its last attempt counts.
    end = finished or last_attempt or started
    return {
        "execution": key,
        "started_us": started,
        # The clock may have been set back meanwhile.
        "wall_time_s": max(0.0, (end - started) / 1e6),
        "outcome": RunEnd(outcome or RunEnd.UNFINISHED),
        "reason": reason,
        "version": version,
        "waits_s": orjson.loads(waits) if waits else {},
    }


def _waits(executions: list[dict[str, Any]]) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for execution in executions:
        for cause, seconds in execution["waits_s"].items():
            found[cause] = found.get(cause, 0.0) + seconds
    return found


def last_outcome(checkpoint: Checkpoint) -> RunEnd | None:
    """Return what ended the latest execution; None if there was none."""
    with checkpoint.transaction():
        row = checkpoint.db.execute(_LAST_OUTCOME).fetchone()
        return RunEnd(row[0] or RunEnd.UNFINISHED) if row else None


_ANSWERS = """JOIN results r ON r.request_id = i.request_id LEFT JOIN json_each(r.choices) c
    WHERE r.ending IS NOT NULL"""
_ENDING = "coalesce(c.value ->> '$.ending', r.ending)"
_BY_ENDING = f"""SELECT {_ENDING}, count(*) FROM items i {_ANSWERS}
    GROUP BY 1 ORDER BY 2 DESC, 1"""  # noqa: S608 - no values
_SCORED = f"""SELECT {_ENDING}, count(*) FROM scores s CROSS JOIN run
    JOIN items i ON i.ordinal >= s.ordinal * run.samples
        AND i.ordinal < (s.ordinal + 1) * run.samples
    {_ANSWERS} AND s.scorer = ? AND s.score IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"""  # noqa: S608 - no values


def endings(db: Database) -> dict[str, int]:
    """Return the number of answers of the present rows by ending, the most frequent first."""
    return dict(db.execute(_BY_ENDING).fetchall())


def scored_endings(db: Database, scorer: str) -> dict[str, int]:
    """Return the number of answers by ending, of those that a scorer has scored."""
    return dict(db.execute(_SCORED, (scorer,)).fetchall())
