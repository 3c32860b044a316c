"""The columns of results and attempts, each declared once.

The tables of the checkpoint, the statements that write them, their checksums, the outputs, the views for
users and the checks of `verify` follow from these declarations by name.

SQLite makes one JSON list of each column of an output. This takes half as long as reading row by row, and
mostly runs without Python's global lock, so that other threads can work.
"""

from __future__ import annotations

import sqlite3
import zlib
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import orjson

from batchrun.checkpoint import long_texts
from batchrun.records import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from batchrun.checkpoint.sqlite import Database
    from batchrun.records import Attempt, Completion, Kind


# How the values of a row's samples become one: that of the first sample, of the first that errored,
# the latest, their sum, the row's status, the list of all responses.
OfSamples = Literal["first", "failed", "latest", "sum", "status", "responses"]

# Attempts with an answer, whether or not it is accepted.
ANSWERED = "latency_s IS NOT NULL AND (error_type IS NULL OR cause = 'invalid_answer')"
# Attempts that used something whose cost is not known.
UNPRICED = (
    "cost IS NULL AND latency_s IS NOT NULL AND (error_type IS NULL OR output_tokens NOT NULL)"
)
# An attempt that is in a batch whose results have not been collected.
OUT = "batch IS NOT NULL AND latency_s IS NULL AND error_type IS NULL"
# The state of an item `i` whose result is `r`, and whether it errored.
STATUS = "CASE WHEN i.error_type IS NOT NULL THEN 'errored' ELSE coalesce(r.status, 'pending') END"
ERRORED = "(i.error_type IS NOT NULL OR r.status = 'errored')"
# The results `r` of items `i`, and their last attempts `a`.
RESULTS_OF_ITEMS = "LEFT JOIN results r ON r.request_id = i.request_id"
LAST_ATTEMPTS = "LEFT JOIN attempts a ON a.request_id = r.request_id AND a.number = r.attempts"

_SQL_TYPES: dict[Kind, str] = {
    "text": "TEXT",
    "texts": "TEXT",
    "integer": "INTEGER",
    "number": "REAL",
    "money": "INTEGER",
    "time": "INTEGER",
    "flag": "INTEGER NOT NULL DEFAULT 0",
}


def exact_sum(amount: str) -> str:
    """Return SQL for a sum of pico-dollars that cannot overflow: beyond 64 bits it is a float."""
    return f"(sum(({amount}) / 1000000) * 1000000 + sum(({amount}) % 1000000))"


@dataclass(frozen=True, slots=True)
class ColumnOf:
    """A column of results or attempts: in the outputs, in a table of the checkpoint, or both.

    Attributes:
        name: in the outputs.
        kind: kind of its values; amounts of money are pico-dollars in the checkpoint.
        stored: the value that the table stores: a path of attributes or a function, of the
            `Completion` for results and of the `Attempt` for attempts. None if the table has no
            such column, or if the value does not come from the record.
        column: its name in the table, if it differs.
        sql: SQL over `items i`, `results r` and `attempts a` (for results, the last attempt); by
            default, its column of the table.
        of_samples: how the samples of a row become one value.
        amount: SQL over one attempt, if the value of a row is the sum over its attempts.
        is_optional: whether only a job that asks for the column has it. It is stored compressed, which
            other programs cannot read.
        is_long: whether its texts may be long: those are in pieces, see `long_texts`.
        is_output: whether the outputs have it.
    """

    name: str
    kind: Kind
    stored: str | Callable[[Any], Any] | None = None
    column: str = ""
    sql: str = ""
    of_samples: OfSamples = "first"
    amount: str | None = None
    is_optional: bool = False
    is_long: bool = False
    is_output: bool = True

    @property
    def table_column(self) -> str:
        """Its name in the table."""
        return self.column or self.name

    @property
    def definition(self) -> str:
        """Its definition in the table, as SQL."""
        return f"{self.table_column} {'ANY' if self.is_long else _SQL_TYPES[self.kind]}"

    def value(self, table: str, pieces: str = "pieces") -> str:
        """Return SQL for its value, with the alias of its table and the table of its pieces."""
        stored = f"{table}.{self.table_column}"
        if self.is_long:
            stored = long_texts.whole(stored, pieces)
        if self.is_optional:
            return f"unpacked(CAST({stored} AS BLOB))"
        return self.sql or stored


def total_of(kind: Kind, amount: str) -> str:
    """Return SQL for the sum over the attempts of a row, of tokens or money."""
    if kind != "money":
        return f"sum({amount})"
    # Unknown when the cost of one of them is; at most what fits in 64 bits.
    known = f"min({exact_sum(amount)}, 9000000000000000000)"
    return f"CASE WHEN count(*) FILTER (WHERE {UNPRICED}) = 0 THEN {known} END"


def _sum_of(name: str, kind: Kind, amount: str) -> ColumnOf:
    """Return SQL for the sum over the attempts of a row; usually there is only one."""
    sql = f"""CASE WHEN r.attempts = 1 THEN a.{amount} ELSE
        (SELECT {total_of(kind, amount)} FROM attempts s WHERE s.request_id = r.request_id)
        END"""  # noqa: S608
    return ColumnOf(name, kind, sql=sql, of_samples="sum", amount=amount)


def packed(content: bytes) -> bytes:
    """Return the text compressed: repetitive JSON takes a tenth of its length."""
    return zlib.compress(content)


def unpacked(content: bytes | None) -> str | None:
    """Return the text that `packed` compressed; bytes that are not UTF-8 become replacement characters.

    Raises:
        zlib.error: if `packed` did not return these bytes.
    """
    return None if content is None else zlib.decompress(content).decode("utf-8", "replace")


def _responses(completion: Completion) -> str | None:
    texts = completion.texts
    return orjson.dumps(texts).decode() if len(texts) > 1 else None


def _logprobs(completion: Completion) -> bytes | None:
    return None if completion.logprobs is None else packed(completion.logprobs.encode())


def _raw(completion: Completion) -> bytes | None:
    return None if completion.raw is None else packed(completion.raw)


def _latency(attempt: Attempt) -> float:
    return round(attempt.latency_s, 6)  # microseconds survive being written as JSON


def _maybe_billed(attempt: Attempt) -> int:
    return int(attempt.maybe_billed)  # a number is written and covered by a checksum faster


def _asked_model(attempt: Attempt) -> str | None:
    """Return the requested model; None if it is the one that answered, which is usual."""
    return None if attempt.asked_model == attempt.model else attempt.asked_model


def _internal(name: str, kind: Kind, stored: str | Callable[[Any], Any]) -> ColumnOf:
    return ColumnOf(name, kind, stored, is_output=False)


RESULTS = (
    ColumnOf("custom_id", "text", sql="i.custom_id"),
    ColumnOf("status", "text", sql=STATUS, of_samples="status"),
    ColumnOf("response", "text", lambda completion: completion.texts[0], is_long=True),
    ColumnOf("responses", "texts", _responses, is_long=True, of_samples="responses"),
    ColumnOf("reasoning", "text", "reasoning", is_long=True),
    ColumnOf("tool_calls", "text", "tool_calls", is_long=True),
    ColumnOf("stop_reason", "text", "stop_reason"),
    ColumnOf("model", "text", sql="a.model"),
    ColumnOf("ending", "text", "ending.value"),
    ColumnOf("refusal", "text", "refusal"),
    ColumnOf("citations", "text", "citations", is_long=True),
    ColumnOf("logprobs", "text", _logprobs, is_optional=True, is_long=True),
    ColumnOf("raw", "text", _raw, is_optional=True, is_long=True),
    ColumnOf("stop_sequence", "text", "stop_sequence"),
    ColumnOf("choices", "text", "choices"),
    ColumnOf("server_tools", "text", "server_tools", is_long=True),
    ColumnOf("response_id", "text", "response_id"),
    ColumnOf("request_id", "text", column="provider_request_id", sql="a.provider_request_id"),
    _sum_of("input_tokens", "integer", "input_tokens"),
    _sum_of("output_tokens", "integer", "output_tokens"),
    _sum_of("cache_read_tokens", "integer", "cache_read_tokens"),
    _sum_of("cache_write_tokens", "integer", "cache_write_tokens"),
    _sum_of("reasoning_tokens", "integer", "reasoning_tokens"),
    _sum_of("cost_usd", "money", "cost"),
    ColumnOf("attempts", "integer", of_samples="sum", amount="1"),
    ColumnOf("latency_s", "number", sql="a.latency_s"),
    ColumnOf("finished_at", "time", column="finished_us", of_samples="latest"),
    ColumnOf("http_status", "integer", sql="a.http_status", of_samples="failed"),
    ColumnOf("error_type", "text", sql="coalesce(i.error_type, a.error_type)", of_samples="failed"),
    ColumnOf(
        "error_message",
        "text",
        sql="coalesce(i.error_message, a.error_message)",
        of_samples="failed",
    ),
)
ATTEMPTS = (
    ColumnOf("custom_id", "text", sql="q.custom_id"),
    ColumnOf("attempt", "integer", column="number"),
    ColumnOf("execution", "integer"),
    ColumnOf("started_at", "time", column="started_us"),
    ColumnOf("latency_s", "number", _latency),
    ColumnOf("http_status", "integer", "http_status"),
    ColumnOf("error_type", "text", "error_type"),
    ColumnOf("error_message", "text", "error_message"),
    ColumnOf("request_id", "text", "request_id", column="provider_request_id"),
    ColumnOf("model", "text", "model"),
    ColumnOf("input_tokens", "integer", "usage.input_tokens"),
    ColumnOf("output_tokens", "integer", "usage.output_tokens"),
    ColumnOf("cache_read_tokens", "integer", "usage.cache_read_tokens"),
    ColumnOf("cache_write_tokens", "integer", "usage.cache_write_tokens"),
    ColumnOf("reasoning_tokens", "integer", "usage.reasoning_tokens"),
    ColumnOf("cost_usd", "money", sql="a.cost"),
    ColumnOf("cost_source", "text", "cost.source.value"),
    ColumnOf("service_tier", "text", "billing.service_tier"),
    ColumnOf("web_searches", "integer", "billing.web_search_requests"),
    ColumnOf("maybe_billed", "flag", _maybe_billed),
    ColumnOf("dropped", "text", "dropped"),
    _internal("cause", "text", "cause"),
    _internal("asked_model", "text", _asked_model),
    _internal("cache_write_1h_tokens", "integer", "usage.cache_write_1h_tokens"),
    _internal("audio_input_tokens", "integer", "usage.audio_input_tokens"),
    _internal("audio_cache_read_tokens", "integer", "usage.audio_cache_read_tokens"),
    _internal("audio_output_tokens", "integer", "usage.audio_output_tokens"),
    _internal("speed", "text", "billing.speed"),
    _internal("inference_geo", "text", "billing.inference_geo"),
    _internal("stated_cost", "integer", "billing.stated_cost"),
    _internal("cost_uncached_input", "money", "cost.uncached_input"),
    _internal("cost_cache_read", "money", "cost.cache_read"),
    _internal("cost_cache_write", "money", "cost.cache_write"),
    _internal("cost_output", "money", "cost.output"),
    _internal("cost_other", "money", "cost.other"),
    _internal("cache_saved", "money", "cost.cache_saved"),
    _internal("batch_saved", "money", "cost.batch_saved"),
)
# What the cost of an attempt is the sum of: its column `cost` in the table.
COST_PARTS = tuple(
    column.name
    for column in ATTEMPTS
    if column.kind == "money"
    and column.stored
    and column.name not in {"cache_saved", "batch_saved"}
)
USAGE_COLUMNS = tuple(column for column in ATTEMPTS if column.is_output)
ATTEMPT_KINDS: Mapping[str, Kind] = {column.name: column.kind for column in USAGE_COLUMNS}
RESULT = {column.name: column for column in RESULTS}
LONG = tuple(column.name for column in RESULTS if column.is_long)

_FROM_ITEMS = f"""FROM {{items}} i {RESULTS_OF_ITEMS} {LAST_ATTEMPTS}
    WHERE i.ordinal >= ? AND i.ordinal < ? ORDER BY i.ordinal"""
# Of rows that share a request the first has what it took, the others took nothing: sums stay true.
_SHARED_ITEMS = """(SELECT o.*, o.ordinal IS (
        SELECT min(f.ordinal) FROM items f WHERE f.request_id = o.request_id
    ) AS is_first FROM items o)"""
_FROM_ATTEMPTS = """FROM attempts a JOIN requests q ON q.id = a.request_id
    WHERE (a.request_id, a.number) > (?, ?) ORDER BY a.request_id, a.number LIMIT ?"""


def result_kinds(optional: Collection[str] = ()) -> dict[str, Kind]:
    """Return the kinds of the columns of results by name, in order; of the optional columns only these."""
    wanted = (c for c in RESULTS if not c.is_optional or c.name in optional)
    return {column.name: column.kind for column in wanted}


def _as_lists(expressions: Sequence[str], source: str) -> str:
    named = ", ".join(f"{expression} AS c{n}" for n, expression in enumerate(expressions))
    lists = ", ".join(f"json_group_array(c{n})" for n in range(len(expressions)))
    return f"SELECT {lists} FROM (SELECT {named} {source})"  # noqa: S608 - no values


@cache
def _result_query(names: tuple[str, ...], *, shared: bool) -> str:
    values = [
        f"({column.value('r')}) * i.is_first" if shared and column.amount else column.value("r")
        for column in (RESULT[name] for name in names)
    ]
    items = _SHARED_ITEMS if shared else "items"
    return _as_lists(["i.ordinal", *values], _FROM_ITEMS.format(items=items))


_ATTEMPT_QUERY = _as_lists(
    ["a.request_id", *(column.value("a") for column in USAGE_COLUMNS)], _FROM_ATTEMPTS
)


# What a row holds as text; what is packed takes several times its length when it is read.
_LENGTHS = " + ".join(
    f"{8 if column.is_optional else 1} * {long_texts.length(f'r.{column.name}')}"
    if column.is_long
    else f"coalesce(length(r.{column.name}), 0)"
    for column in RESULTS
    if column.stored
)
_ANSWERS_OF = """FROM items i JOIN results r ON r.request_id = i.request_id
    WHERE i.ordinal >= ? AND i.ordinal < ?"""
_SIZE_LEFT = f"SELECT ? - coalesce(sum({_LENGTHS}), 0) {_ANSWERS_OF}"
_SIZES = f"SELECT i.ordinal, {_LENGTHS} {_ANSWERS_OF} ORDER BY i.ordinal"


def items_within(db: Database, first: int, end: int, most_bytes: int) -> int:
    """Return how many items from ordinal `first` have answers of at most this total size; at least 1."""
    # Most answers are short, and one sum takes half as long as the size of each row.
    (left,) = db.execute(_SIZE_LEFT, (most_bytes, first, end)).fetchone()
    sizes = db.execute(_SIZES, (first, end)) if left < 0 else ()
    for ordinal, size in sizes:
        most_bytes -= size
        if most_bytes < 0:
            return max(1, int(ordinal) - first)
    return end - first


def result_columns(
    db: Database, first: int, end: int, names: Sequence[str], *, shared: bool
) -> dict[str, list[Any]]:
    """Return the columns of results with these names, and `ordinal`, for items that have been planned.

    Args:
        db: the checkpoint.
        first: ordinal of the first item.
        end: ordinal after the last item.
        names: names of columns of `RESULTS`.
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


def combine_samples(found: Mapping[str, list[Any]], samples: int) -> dict[str, list[Any]]:
    """Return columns of results with one value for each row of the input.

    A row succeeded if all of its samples did, and errored if one of them did. `responses` has the texts
    of all samples, and amounts are sums. All other values are those of the first sample, or of the first
    one that errored.

    Args:
        found: `ordinal`, the columns of `NEEDED` and any others, with a value for each sample.
        samples: number of samples of each row.
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
    """Yield the start and end index of the samples of each row."""
    start = 0
    for _, group in groupby(ordinals, key=lambda ordinal: ordinal // samples):
        end = start + sum(1 for _ in group)
        yield start, end
        start = end


def combine_answers(items: Iterable[tuple[Any, ...]], samples: int) -> list[tuple[Any, ...]]:
    """Return (ordinal, custom_id, response, responses) of the rows whose samples all succeeded."""
    rows = ((row, list(group)) for row, group in groupby(items, key=lambda i: i[0] // samples))
    return [
        (row, group[0][1], group[0][2], orjson.dumps([item[2] for item in group]).decode())
        for row, group in rows
        if len(group) == samples
    ]
