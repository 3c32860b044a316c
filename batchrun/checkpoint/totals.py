"""Adding a run up: counts, tokens, money, times, over all its executions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from batchrun.checkpoint.endings import endings
from batchrun.checkpoint.prices import prices
from batchrun.history import ModelTotals, RunTotals
from batchrun.records import PICO_PER_USD, Cost, RunEnd, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchrun.checkpoint.sqlite import Database
    from batchrun.checkpoint.store import Checkpoint

PERCENTILES = (50, 90, 99)
_COUNTS = """SELECT
    count(*) FILTER (WHERE r.status = 'succeeded'),
    count(*) FILTER (WHERE r.status = 'errored' OR i.error_type IS NOT NULL),
    count(*) FILTER (WHERE r.retryable)
    FROM items i LEFT JOIN outcomes r ON r.request_id = i.request_id"""
# With several samples a row is as good as all of them.
_ROW_COUNTS = """SELECT count(*) FILTER (WHERE good = :samples), count(*) FILTER (WHERE bad),
    count(*) FILTER (WHERE again) FROM (
        SELECT sum(r.status = 'succeeded') AS good, max(r.retryable) AS again,
            max(r.status = 'errored' OR i.error_type IS NOT NULL) AS bad
        FROM items i LEFT JOIN outcomes r ON r.request_id = i.request_id
        GROUP BY i.ordinal / :samples)"""
_ATTEMPTS = """SELECT
    count(*), sum(maybe_billed), count(*) FILTER (WHERE latency_s IS NULL AND error_type IS NULL),
    count(*) FILTER (WHERE error_type IS NULL AND latency_s IS NOT NULL AND cost_output IS NULL),
    sum(input_tokens), sum(output_tokens), sum(cache_read_tokens), sum(cache_write_tokens),
    sum(reasoning_tokens), sum(cost_uncached_input), sum(cost_cache_read), sum(cost_cache_write),
    sum(cost_output), sum(cache_saved)
    FROM exchanges"""
# Failed attempts that reported what they used count as well.
_BY_MODEL = """SELECT model, count(*) FILTER (WHERE error_type IS NULL),
    coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0),
    sum(cost_uncached_input + cost_cache_read + cost_cache_write + cost_output)
    FROM exchanges WHERE latency_s IS NOT NULL AND model IS NOT NULL
    AND (error_type IS NULL OR input_tokens IS NOT NULL) GROUP BY model ORDER BY 5 DESC, 2 DESC"""
_CAP = "SELECT json_extract(job, '$.limits.max_cost_usd') FROM run"
# A retry is a failed attempt that another one followed; a turn that called tools has not failed.
_RETRIES = """SELECT coalesce(a.cause, a.error_type), count(*) FROM exchanges a
    WHERE EXISTS (SELECT 1 FROM exchanges b WHERE b.request_id = a.request_id
    AND b.number = a.number + 1) AND a.error_type IS NOT NULL GROUP BY 1"""
_ERRORS = """SELECT type, count(*), max(message) FROM (
    SELECT coalesce(i.error_type, a.error_type, 'unknown') AS type,
        coalesce(i.error_message, a.error_message, 'its attempt is missing') AS message
    FROM items i LEFT JOIN outcomes r ON r.request_id = i.request_id
    LEFT JOIN exchanges a ON a.request_id = r.request_id AND a.number = r.attempts
    WHERE i.error_type IS NOT NULL OR r.status = 'errored') GROUP BY type ORDER BY 2 DESC"""
_LAST_ERROR = """SELECT error_type || ': ' || error_message FROM exchanges
    WHERE error_type IS NOT NULL ORDER BY started_us DESC LIMIT 1"""
# Counted by the millisecond first, then those that matter by the microsecond, which is as fine as
# they are kept: to sort a million latencies takes seconds.
_BY_MS = """SELECT CAST(latency_s * 1e3 AS INTEGER) AS ms, count(*) FROM exchanges
    WHERE error_type IS NULL AND latency_s IS NOT NULL GROUP BY ms ORDER BY ms"""
_BY_US = """SELECT CAST(latency_s * 1e3 AS INTEGER) AS ms,
    CAST(round(latency_s * 1e6) AS INTEGER) AS us, count(*) FROM exchanges
    WHERE error_type IS NULL AND latency_s IS NOT NULL AND ms IN (SELECT value FROM json_each(?))
    GROUP BY ms, us ORDER BY us"""
_WAITING = "SELECT waiting FROM executions ORDER BY id DESC LIMIT 1"
_LAST_OUTCOME = "SELECT outcome FROM executions ORDER BY id DESC LIMIT 1"
_EXECUTIONS = """SELECT e.id, e.started_us, e.finished_us, e.outcome, e.reason, e.version, e.waits,
    CASE WHEN e.finished_us IS NULL THEN (
        SELECT max(a.started_us + coalesce(a.latency_s, 0) * 1e6) FROM exchanges a
        WHERE a.execution = e.id) END
    FROM executions e ORDER BY e.id"""


def totals(checkpoint: Checkpoint) -> RunTotals:
    """Add up a run as it is at one moment. Reads only; works beside a running writer.

    Raises:
        CheckpointError: when the checkpoint cannot be used.
    """
    with checkpoint.transaction():
        return _added_up(checkpoint)


def _added_up(checkpoint: Checkpoint) -> RunTotals:
    db = checkpoint.db
    name, total = db.execute("SELECT name, total FROM run").fetchone() or ("", 0)
    succeeded, errored, to_retry = _counts(checkpoint)
    numbers = [value or 0 for value in db.execute(_ATTEMPTS).fetchone()]
    told = executions(db)
    last = db.execute(_LAST_ERROR).fetchone()
    waiting = db.execute(_WAITING).fetchone()
    models = tuple(ModelTotals(*row) for row in db.execute(_BY_MODEL))
    cap = db.execute(_CAP).fetchone()
    return RunTotals(
        name=name,
        total=total,
        succeeded=succeeded,
        errored=errored,
        pending=max(0, total - succeeded - errored),
        to_retry=to_retry,
        attempts=numbers[0],
        maybe_billed=numbers[1],
        in_flight=numbers[2],
        unpriced=numbers[3],
        usage=Usage(
            input_tokens=numbers[4],
            output_tokens=numbers[5],
            cache_read_tokens=numbers[6],
            cache_write_tokens=numbers[7],
            reasoning_tokens=numbers[8],
        ),
        cost=Cost(*numbers[9:14]),
        cost_by_model={one.model: one.cost for one in models if one.cost is not None},
        latency_s=_percentiles(checkpoint),
        retries_by_cause=dict(db.execute(_RETRIES).fetchall()),
        waits_s_by_cause=_waits(told),
        errors_by_type={row[0]: (row[1], row[2]) for row in db.execute(_ERRORS)},
        executions=tuple(told),
        wall_time_s=sum(execution["wall_time_s"] for execution in told),
        last_error=last[0] if last else None,
        waiting=waiting[0] if waiting else None,
        cap=int(cap[0] * PICO_PER_USD) if cap and cap[0] is not None else None,
        prices=prices(db),
        models=models,
        endings=endings(db),
    )


def executions(db: Database) -> list[dict[str, Any]]:
    """Return the executions of a run in their order, with times and what they waited for."""
    return [_execution(row) for row in db.execute(_EXECUTIONS)]


def _counts(checkpoint: Checkpoint) -> tuple[int, int, int]:
    """Return how many rows succeeded, errored, and will be tried again."""
    samples = checkpoint.samples
    if samples == 1:
        found = checkpoint.db.execute(_COUNTS).fetchone()
    else:
        found = checkpoint.db.execute(_ROW_COUNTS, {"samples": samples}).fetchone()
    return found[0], found[1], found[2]


def _percentiles(checkpoint: Checkpoint) -> dict[str, float | None]:
    """The latency that so many per cent of the successful attempts stayed within (nearest rank)."""
    counts = checkpoint.db.execute(_BY_MS).fetchall()
    total = sum(count for _, count in counts)
    if not total:
        return {f"p{percent}": None for percent in PERCENTILES}
    ranks = {percent: -(-total * percent // 100) - 1 for percent in PERCENTILES}
    places = {percent: _ranked(counts, rank) for percent, rank in ranks.items()}
    wanted = orjson.dumps(sorted({ms for ms, _ in places.values()})).decode()
    fine: dict[int, list[tuple[int, int]]] = {}
    for ms, us, count in checkpoint.db.execute(_BY_US, (wanted,)):
        fine.setdefault(ms, []).append((us, count))
    return {f"p{p}": _ranked(fine[ms], rank)[0] / 1e6 for p, (ms, rank) in places.items()}


def _ranked(counts: Sequence[tuple[int, int]], rank: int) -> tuple[int, int]:
    """Return the value that the one of a rank has, and its rank among those of the same value."""
    for value, count in counts:
        if rank < count:
            return value, rank
        rank -= count
    raise IndexError(rank)


def _execution(row: tuple[Any, ...]) -> dict[str, Any]:
    key, started, finished, outcome, reason, version, waits, last_attempt = row
    # An execution that died has no end of its own; its last attempt is the last sign of life.
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
    """Return what ended the latest execution; None when there was none."""
    with checkpoint.transaction():
        row = checkpoint.db.execute(_LAST_OUTCOME).fetchone()
        return RunEnd(row[0] or RunEnd.UNFINISHED) if row else None
