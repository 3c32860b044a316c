"""Views of a checkpoint for people who open it in datasette, sqlite-utils or sqlite3.

Amounts are dollars, times ISO 8601 in UTC. batchrun itself reads the tables, never these.
"""

from __future__ import annotations

_COST = "cost_uncached_input + cost_cache_read + cost_cache_write + cost_output"


def _moment(microseconds: str) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', {microseconds} / 1e6, 'unixepoch')"


def _over_exchanges(amount: str) -> str:
    """Over all attempts of a row; of rows that share a request the first has what it took."""
    return f"""CASE WHEN r.request_id IS NULL THEN NULL
        WHEN i.ordinal > (SELECT min(f.ordinal) FROM items f WHERE f.request_id = i.request_id)
        THEN 0 ELSE (SELECT {amount} FROM exchanges x WHERE x.request_id = i.request_id) END"""  # noqa: S608 - no values


# One row for each sample of each row of the input, as far as they have been planned.
RESULTS = f"""CREATE VIEW results AS SELECT
    i.ordinal / run.samples + 1 AS "row",
    i.ordinal % run.samples + 1 AS sample,
    i.custom_id,
    CASE WHEN i.error_type IS NOT NULL THEN 'errored' ELSE coalesce(r.status, 'pending') END
        AS status,
    r.response,
    r.responses,
    r.reasoning,
    r.tool_calls,
    r.stop_reason,
    a.model,
    r.response_id,
    a.provider_request_id AS request_id,
    {_over_exchanges("sum(x.input_tokens)")} AS input_tokens,
    {_over_exchanges("sum(x.output_tokens)")} AS output_tokens,
    {_over_exchanges("sum(x.cache_read_tokens)")} AS cache_read_tokens,
    {_over_exchanges("sum(x.cache_write_tokens)")} AS cache_write_tokens,
    {_over_exchanges("sum(x.reasoning_tokens)")} AS reasoning_tokens,
    {_over_exchanges(f"sum({_COST}) / 1e12")} AS cost_usd,
    {_over_exchanges("count(*)")} AS attempts,
    a.latency_s,
    {_moment("r.finished_us")} AS finished_at,
    a.http_status,
    coalesce(i.error_type, a.error_type) AS error_type,
    coalesce(i.error_message, a.error_message) AS error_message,
    s.score,
    s.predicted
FROM items i CROSS JOIN run
LEFT JOIN outcomes r ON r.request_id = i.request_id
LEFT JOIN exchanges a ON a.request_id = r.request_id AND a.number = r.attempts
LEFT JOIN scores s ON s.ordinal = i.ordinal / run.samples"""  # noqa: S608 - no values

# One row for each HTTP exchange, failed ones included.
ATTEMPTS = f"""CREATE VIEW attempts AS SELECT
    q.custom_id,
    a.number AS attempt,
    a.execution,
    {_moment("a.started_us")} AS started_at,
    a.latency_s,
    a.http_status,
    a.error_type,
    a.error_message,
    a.cause,
    a.provider_request_id AS request_id,
    a.model,
    a.input_tokens,
    a.output_tokens,
    a.cache_read_tokens,
    a.cache_write_tokens,
    a.reasoning_tokens,
    ({_COST}) / 1e12 AS cost_usd,
    a.maybe_billed
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

VIEWS = (RESULTS, ATTEMPTS, ERRORS)
