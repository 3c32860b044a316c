"""The columns of the outputs, each declared once: its name, its kind, and the SQL that gives it.

SQLite makes one JSON list of each column. A table comes over in half of the time that its rows would
take, and nearly all of that outside of Python's lock, so that somebody else can work meanwhile.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import orjson

from batchrun.records import Status

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from batchrun.checkpoint.sqlite import Database
    from batchrun.records import Kind


# How the values of a row's samples become one: that of the first sample, of the first that errored,
# the latest, their sum, the row's status, the list of all responses.
OfSamples = Literal["first", "failed", "latest", "sum", "status", "responses"]

COST = "cost_uncached_input + cost_cache_read + cost_cache_write + cost_output + cost_other"
# An attempt that used something whose cost is not known.
# Attempts that brought an answer, whether or not it is accepted.
ANSWERED = "latency_s IS NOT NULL AND (error_type IS NULL OR cause = 'invalid_answer')"
UNPRICED = "cost_output IS NULL AND latency_s IS NOT NULL AND (error_type IS NULL OR output_tokens NOT NULL)"


def exact_sum(amount: str) -> str:
    """Return SQL for a sum of pico-dollars that cannot overflow: beyond 64 bits it is a float."""
    return f"(sum(({amount}) / 1000000) * 1000000 + sum(({amount}) % 1000000))"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an output.

    Attributes:
        name: as in the outputs.
        kind: of its values.
        value: SQL over `items i`, `results r` and `attempts a` (of results the last attempt).
        of_samples: how the samples of a row become one value.
        amount: SQL over one attempt, where a row has the sum over its attempts.
        is_optional: whether only a job that asks for the column has it. It is kept compressed, which
            other programs cannot read.
    """

    name: str
    kind: Kind
    value: str
    of_samples: OfSamples = "first"
    amount: str | None = None
    is_optional: bool = False


def total_of(kind: Kind, amount: str) -> str:
    """Return SQL for what the attempts at a row used or cost together."""
    if kind != "money":
        return f"sum({amount})"
    # Unknown when the cost of one of them is; at most what fits in 64 bits.
    known = f"min({exact_sum(amount)}, 9000000000000000000)"
    return f"CASE WHEN count(*) FILTER (WHERE {UNPRICED}) = 0 THEN {known} END"


def _amount(name: str, kind: Kind, amount: str) -> Column:
    """What a row used or cost: that of all its attempts, which is mostly one."""
    value = f"""CASE WHEN r.attempts = 1 THEN a.{amount.replace(" + ", " + a.")} ELSE
        (SELECT {total_of(kind, amount)} FROM attempts s WHERE s.request_id = r.request_id)
        END"""  # noqa: S608
    return Column(name, kind, value, "sum", amount)


RESULTS = (
    Column("custom_id", "text", "i.custom_id"),
    Column(
        "status",
        "text",
        "CASE WHEN i.error_type IS NOT NULL THEN 'errored' ELSE coalesce(r.status, 'pending') END",
        "status",
    ),
    Column("response", "text", "r.response"),
    Column("responses", "texts", "r.responses", "responses"),
    Column("reasoning", "text", "r.reasoning"),
    Column("tool_calls", "text", "r.tool_calls"),
    Column("stop_reason", "text", "r.stop_reason"),
    Column("model", "text", "a.model"),
    Column("ending", "text", "r.ending"),
    Column("refusal", "text", "r.refusal"),
    Column("citations", "text", "r.citations"),
    Column("logprobs", "text", "unpacked(r.logprobs)", is_optional=True),
    Column("raw", "text", "unpacked(r.raw)", is_optional=True),
    Column("stop_sequence", "text", "r.stop_sequence"),
    Column("choices", "text", "r.choices"),
    Column("server_tools", "text", "r.server_tools"),
    Column("response_id", "text", "r.response_id"),
    Column("request_id", "text", "a.provider_request_id"),
    _amount("input_tokens", "integer", "input_tokens"),
    _amount("output_tokens", "integer", "output_tokens"),
    _amount("cache_read_tokens", "integer", "cache_read_tokens"),
    _amount("cache_write_tokens", "integer", "cache_write_tokens"),
    _amount("reasoning_tokens", "integer", "reasoning_tokens"),
    _amount("cost_usd", "money", COST),
    Column("attempts", "integer", "r.attempts", "sum", "1"),
    Column("latency_s", "number", "a.latency_s"),
    Column("finished_at", "time", "r.finished_us", "latest"),
    Column("http_status", "integer", "a.http_status", "failed"),
    Column("error_type", "text", "coalesce(i.error_type, a.error_type)", "failed"),
    Column("error_message", "text", "coalesce(i.error_message, a.error_message)", "failed"),
)
ATTEMPTS = (
    Column("custom_id", "text", "q.custom_id"),
    Column("attempt", "integer", "a.number"),
    Column("execution", "integer", "a.execution"),
    Column("started_at", "time", "a.started_us"),
    Column("latency_s", "number", "a.latency_s"),
    Column("http_status", "integer", "a.http_status"),
    Column("error_type", "text", "a.error_type"),
    Column("error_message", "text", "a.error_message"),
    Column("request_id", "text", "a.provider_request_id"),
    Column("model", "text", "a.model"),
    Column("input_tokens", "integer", "a.input_tokens"),
    Column("output_tokens", "integer", "a.output_tokens"),
    Column("cache_read_tokens", "integer", "a.cache_read_tokens"),
    Column("cache_write_tokens", "integer", "a.cache_write_tokens"),
    Column("reasoning_tokens", "integer", "a.reasoning_tokens"),
    Column("cost_usd", "money", "a." + COST.replace(" + ", " + a.")),
    Column("cost_source", "text", "a.cost_source"),
    Column("service_tier", "text", "a.service_tier"),
    Column("web_searches", "integer", "a.web_searches"),
    Column("maybe_billed", "flag", "a.maybe_billed"),
)
ATTEMPT_KINDS: Mapping[str, Kind] = {column.name: column.kind for column in ATTEMPTS}
_RESULT = {column.name: column for column in RESULTS}

_FROM_ITEMS = """FROM {items} i
    LEFT JOIN results r ON r.request_id = i.request_id
    LEFT JOIN attempts a ON a.request_id = r.request_id AND a.number = r.attempts
    WHERE i.ordinal >= ? AND i.ordinal < ? ORDER BY i.ordinal"""
# Of rows that share a request the first has what it took, the others took nothing: sums stay true.
_SHARED_ITEMS = """(SELECT o.*, o.ordinal IS (
        SELECT min(f.ordinal) FROM items f WHERE f.request_id = o.request_id
    ) AS is_first FROM items o)"""
_FROM_ATTEMPTS = """FROM attempts a JOIN requests q ON q.id = a.request_id
    WHERE (a.request_id, a.number) > (?, ?) ORDER BY a.request_id, a.number LIMIT ?"""


def result_kinds(optional: Collection[str] = ()) -> dict[str, Kind]:
    """Return the columns of results by name, in order, of the optional ones only these."""
    return {
        column.name: column.kind
        for column in RESULTS
        if not column.is_optional or column.name in optional
    }


def _as_lists(expressions: Sequence[str], source: str) -> str:
    named = ", ".join(f"{expression} AS c{n}" for n, expression in enumerate(expressions))
    lists = ", ".join(f"json_group_array(c{n})" for n in range(len(expressions)))
    return f"SELECT {lists} FROM (SELECT {named} {source})"  # noqa: S608 - no values


@cache
def _result_query(names: tuple[str, ...], *, shared: bool) -> str:
    columns = [_RESULT[name] for name in names]
    values = [
        f"({column.value}) * i.is_first" if shared and column.amount else column.value
        for column in columns
    ]
    items = _SHARED_ITEMS if shared else "items"
    return _as_lists(["i.ordinal", *values], _FROM_ITEMS.format(items=items))


_ATTEMPT_QUERY = _as_lists(["a.request_id", *(c.value for c in ATTEMPTS)], _FROM_ATTEMPTS)


# What a row holds as text; what is packed swells when it is read.
_SIZES = """SELECT i.ordinal, coalesce(length(r.response), 0) + coalesce(length(r.responses), 0)
    + coalesce(length(r.reasoning), 0) + coalesce(length(r.tool_calls), 0)
    + coalesce(length(r.citations), 0) + coalesce(length(r.choices), 0)
    + 8 * (coalesce(length(r.logprobs), 0) + coalesce(length(r.raw), 0))
    FROM items i JOIN results r ON r.request_id = i.request_id
    WHERE i.ordinal >= ? AND i.ordinal < ? ORDER BY i.ordinal"""


def items_within(db: Database, first: int, end: int, most_bytes: int) -> int:
    """Return how many items from ordinal `first` have answers of so many bytes together, or 1."""
    total = 0
    for ordinal, size in db.execute(_SIZES, (first, end)):
        total += size
        if total > most_bytes:
            return max(1, int(ordinal) - first)
    return end - first


def result_columns(
    db: Database, first: int, end: int, names: Sequence[str], *, shared: bool
) -> dict[str, list[Any]]:
    """Return the columns of results with these names, and `ordinal`, of what is known of items.

    Args:
        db: the checkpoint.
        first: ordinal of the first item.
        end: ordinal of the item behind the last.
        names: of columns of `RESULTS`.
        shared: whether rows may share a request.
    """
    query = _result_query(tuple(names), shared=shared)
    try:
        lists = [orjson.loads(text) for text in db.execute(query, (first, end)).fetchone()]
    except sqlite3.DataError:
        # Longer than SQLite's texts may be, which is a billion bytes.
        if end - first == 1:
            raise
        middle = (first + end) // 2
        one, other = (
            result_columns(db, *half, names, shared=shared)
            for half in ((first, middle), (middle, end))
        )
        return {name: values + other[name] for name, values in one.items()}
    return dict(zip(("ordinal", *names), lists, strict=True))


def attempt_columns(db: Database, chunk_rows: int) -> Iterator[dict[str, list[Any]]]:
    """Yield the columns of all attempts, at most `chunk_rows` at a time, by request and number."""
    last = (0, 0)
    while True:
        requests, *lists = (
            orjson.loads(t) for t in db.execute(_ATTEMPT_QUERY, (*last, chunk_rows)).fetchone()
        )
        if not requests:
            return
        chunk = dict(zip(ATTEMPT_KINDS, lists, strict=True))
        last = (requests[-1], chunk["attempt"][-1])
        yield chunk


# What the others are put together by.
NEEDED = ("status", "response")
_OF_SAMPLES = {column.name: column.of_samples for column in RESULTS}


def together(found: Mapping[str, list[Any]], samples: int) -> dict[str, list[Any]]:
    """Return columns of results with one value for each row of the input.

    A row succeeded when all of its samples did, and errored when one of them did. `responses` has the
    texts of all; amounts are sums; everything else is of the first sample, or of the first error.

    Args:
        found: `ordinal`, the columns of `NEEDED` and any others, with a value for each sample.
        samples: how many of them a row has.
    """
    rows = [range(*span) for span in _spans(found["ordinal"], samples)]
    merged = {name: _merged(name, rows, found, samples) for name in found if name != "ordinal"}
    return {"ordinal": [found["ordinal"][row.start] // samples for row in rows], **merged}


def _merged(
    name: str, rows: Sequence[range], found: Mapping[str, list[Any]], samples: int
) -> list[Any]:
    values, statuses = found[name], found["status"]
    match _OF_SAMPLES[name]:
        case "status":
            return [_status(values[row.start : row.stop], samples) for row in rows]
        case "responses":
            return [_texts(found["response"][row.start : row.stop]) for row in rows]
        case "sum":
            known = ([values[n] for n in row if values[n] is not None] for row in rows)
            return [sum(each) if each else None for each in known]
        case "latest":
            return [max((values[n] for n in row if values[n]), default=None) for row in rows]
        case "failed":
            failed = (next((n for n in row if statuses[n] == Status.ERRORED), None) for row in rows)
            pairs = zip(rows, failed, strict=True)
            return [values[row.start if at is None else at] for row, at in pairs]
        case _:
            return [values[row.start] for row in rows]


def _status(statuses: Sequence[str], samples: int) -> str:
    if Status.ERRORED in statuses:
        return Status.ERRORED.value
    is_whole = len(statuses) == samples and set(statuses) == {Status.SUCCEEDED}
    return (Status.SUCCEEDED if is_whole else Status.PENDING).value


def _texts(texts: Sequence[str | None]) -> str | None:
    return None if texts == [None] * len(texts) else orjson.dumps(texts).decode()


def _spans(ordinals: Sequence[int], samples: int) -> Iterator[tuple[int, int]]:
    """Yield where the samples of each row begin and end."""
    start = 0
    for _, group in groupby(ordinals, key=lambda ordinal: ordinal // samples):
        end = start + sum(1 for _ in group)
        yield start, end
        start = end


def answers_together(items: Iterable[tuple[Any, ...]], samples: int) -> list[tuple[Any, ...]]:
    """Return (ordinal, custom_id, response, responses) of the rows whose samples all succeeded."""
    rows = ((row, list(group)) for row, group in groupby(items, key=lambda i: i[0] // samples))
    return [
        (row, group[0][1], group[0][2], orjson.dumps([item[2] for item in group]).decode())
        for row, group in rows
        if len(group) == samples
    ]
