"""A checksum with each record: what has changed on the disk since it was written.

It covers what the provider sent, which was paid for and cannot be had again for nothing (texts,
tokens, names), what says which row that belongs to, and whether a row is done. It leaves out costs,
which can be counted again.
"""

from __future__ import annotations

import zlib
from dataclasses import fields
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.records import MOST_COST, Cost, Status, Usage

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from batchrun.records import Attempt, AttemptStart, Completion, RenderedItem, Result, Turn


FUNCTION = "row_checksum"
_SEPARATOR = b"\x1f"


class Checked:
    """A table whose rows have a checksum over others of their columns.

    The columns count by their names: where they stand in the declaration does not matter, and one
    that is added later changes nothing for rows that do not have it.

    Args:
        table: its name.
        columns: those that the checksum is over; text, whole numbers or bytes.
        checksum: the column that has it.
    """

    def __init__(self, table: str, columns: Iterable[str], checksum: str = "checksum") -> None:
        self.table = table
        self.checksum = checksum
        self.columns = tuple(sorted(columns))

    def pick(self, names: Sequence[str]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
        """Return what picks the covered values out of a row of these columns, for `checksum`."""
        return itemgetter(*(names.index(name) for name in self.columns))

    def of(self, row: Mapping[str, Any]) -> int:
        """Return the checksum of a row by name."""
        return checksum([row[name] for name in self.columns])

    def value(self, alias: str) -> str:
        """Return SQL for the checksum of a row as it is now."""
        # As bytes, because damaged text need not be UTF-8.
        values = ", ".join(f"CAST({alias}.{name} AS BLOB)" for name in self.columns)
        return f"{FUNCTION}({values})"

    def differs(self, alias: str) -> str:
        """Return SQL that says whether a row is no longer what was written; false where unknown."""
        return f"""CASE WHEN {alias}.{self.checksum} IS NULL THEN 0
            ELSE {alias}.{self.checksum} <> {self.value(alias)} END"""

    def seal(self, condition: str) -> str:
        """Return SQL that gives the rows `d` of a condition the checksum of what they are now."""
        return f"UPDATE {self.table} AS d SET {self.checksum} = {self.value('d')} WHERE {condition}"  # noqa: S608


def checksum(values: Iterable[Any]) -> int:
    """Return the checksum of a row's values, in the order of their columns' names.

    An empty text counts as none. Any change of a single bit, byte or short run of bytes shows.
    """
    # For every answer: written so that it costs a few microseconds.
    parts = [
        value.encode()
        if isinstance(value, str)
        else value
        if isinstance(value, bytes)
        else b"%d" % value
        for value in values
        if value is not None and value != ""
    ]
    return zlib.crc32(_SEPARATOR.join(parts))


def register(connection: sqlite3.Connection) -> None:
    """Let a connection's SQL work checksums out."""
    connection.create_function(FUNCTION, -1, _of_bytes, deterministic=True)


def _of_bytes(*values: bytes | None) -> int:
    return zlib.crc32(_SEPARATOR.join(filter(None, values)))


# Tokens of an attempt, each in a column of its name.
USAGE = tuple(field.name for field in fields(Usage))
# What an answer says about its price: the column, and the field of `Billing`.
BILLING = {
    "service_tier": "service_tier",
    "speed": "speed",
    "inference_geo": "inference_geo",
    "web_searches": "web_search_requests",
    "stated_cost": "stated_cost",
}
# Above this, an integer of a server fits in no column.
_MOST = 2**63 - 1

_ATTEMPT: Mapping[str, Callable[[Attempt], Any]] = {
    # Microseconds survive being written as JSON.
    "latency_s": lambda a: round(a.latency_s, 6),
    "http_status": lambda a: a.http_status,
    "error_type": lambda a: a.error_type,
    "error_message": lambda a: a.error_message,
    "cause": lambda a: a.cause,
    "maybe_billed": lambda a: a.maybe_billed,
    "provider_request_id": lambda a: a.request_id,
    "model": lambda a: a.model,
    # Mostly the model that answered, and then not worth a copy.
    "asked_model": lambda a: None if a.asked_model == a.model else a.asked_model,
}
MONEY: Mapping[str, Callable[[Cost], Any]] = {
    "cost_uncached_input": lambda c: c.uncached_input,
    "cost_cache_read": lambda c: c.cache_read,
    "cost_cache_write": lambda c: c.cache_write,
    "cost_output": lambda c: c.output,
    "cache_saved": lambda c: c.cache_saved,
    "cost_other": lambda c: c.other,
    "cost_source": lambda c: c.source.value,
}
_ANSWER: Mapping[str, Callable[[Completion], Any]] = {
    "response": lambda c: c.texts[0],
    "responses": lambda c: orjson.dumps(c.texts).decode() if len(c.texts) > 1 else None,
    "reasoning": lambda c: c.reasoning,
    "tool_calls": lambda c: c.tool_calls,
    "stop_reason": lambda c: c.stop_reason,
    "response_id": lambda c: c.response_id,
    "ending": lambda c: c.ending.value,
    "refusal": lambda c: c.refusal,
    "citations": lambda c: c.citations,
    "logprobs": lambda c: None if c.logprobs is None else packed(c.logprobs.encode()),
    "stop_sequence": lambda c: c.stop_sequence,
    "choices": lambda c: c.choices,
    "server_tools": lambda c: c.server_tools,
    "raw": lambda c: None if c.raw is None else packed(c.raw),
}
_RESULT: Mapping[str, Callable[[Result], Any]] = {
    "request_id": lambda r: r.key,
    "status": lambda r: r.status.value,
    "retryable": lambda r: r.retryable and r.status is Status.ERRORED,
    "attempts": lambda r: r.last.number,
    "finished_us": lambda r: microseconds(r.finished_at),
}


def _places(names: Iterable[str]) -> str:
    return ", ".join("?" for _ in names)


# What the provider sent, which nothing can give back once it is damaged.
_RESULT_COLUMNS = (*_RESULT, *_ANSWER)
_ATTEMPT_COLUMNS = (*_ATTEMPT, *USAGE, *BILLING, *MONEY, "request_id", "number")
_TURN_COLUMNS = ("request_id", "number", "said", "calls", "results")
ANSWERS = Checked("results", ("request_id", "attempts", "finished_us", *_ANSWER))
RECEIVED = Checked(
    "attempts",
    (
        *("request_id", "number", "http_status", "provider_request_id", "model", "asked_model"),
        *(*USAGE, *BILLING),
    ),
)
TURNS = Checked("turns", _TURN_COLUMNS)
# Apart from the answer, because a changed `[request] reject` may change it.
STATUSES = Checked("results", ("request_id", "status", "retryable"), "status_checksum")
# Which row asks what: not paid for, but it says whose an answer is.
ITEM_COLUMNS = ("ordinal", "custom_id", "request_id", "error_type", "error_message")
REQUEST_COLUMNS = ("id", "fingerprint", "occurrence", "custom_id")
ITEMS = Checked("items", ITEM_COLUMNS)
REQUESTS = Checked("requests", REQUEST_COLUMNS)
_of_result = ANSWERS.pick(_RESULT_COLUMNS)
_of_attempt = RECEIVED.pick(_ATTEMPT_COLUMNS)
_of_turn = TURNS.pick(_TURN_COLUMNS)
_of_status = STATUSES.pick(_RESULT_COLUMNS)
_of_item = ITEMS.pick(ITEM_COLUMNS)
_of_request = REQUESTS.pick(REQUEST_COLUMNS)

INSERT_START = (
    "INSERT INTO attempts (request_id, number, execution, started_us, reserved) "
    "VALUES (?, ?, ?, ?, ?)"
)
UPDATE_ATTEMPT = f"""UPDATE attempts SET {
    ", ".join(f"{name} = ?" for name in ("checksum", *_ATTEMPT_COLUMNS[:-2]))
} WHERE request_id = ? AND number = ?"""  # noqa: S608 - our own names
REPLACE_RESULT = f"""INSERT OR REPLACE INTO results
    (checksum, status_checksum, {", ".join(_RESULT_COLUMNS)})
    VALUES (?, ?, {_places(_RESULT_COLUMNS)})"""  # noqa: S608 - our own names
REPLACE_ITEM = f"""INSERT OR REPLACE INTO items (checksum, {", ".join(ITEM_COLUMNS)})
    VALUES (?, {_places(ITEM_COLUMNS)})"""  # noqa: S608 - our own names
INSERT_REQUEST = f"""INSERT INTO requests (checksum, {", ".join(REQUEST_COLUMNS)})
    VALUES (?, {_places(REQUEST_COLUMNS)})"""  # noqa: S608 - our own names
REPLACE_TURN = f"""INSERT OR REPLACE INTO turns (checksum, {", ".join(_TURN_COLUMNS)})
    VALUES (?, {_places(_TURN_COLUMNS)})"""  # noqa: S608 - our own names


def start_row(start: AttemptStart, execution: int) -> tuple[Any, ...]:
    """Return what `INSERT_START` takes."""
    return start.key, start.number, execution, microseconds(start.started_at), start.reserved


def attempt_row(attempt: Attempt) -> tuple[Any, ...]:
    """Return what `UPDATE_ATTEMPT` takes."""
    row = (
        *(value(attempt) for value in _ATTEMPT.values()),
        *(getattr(attempt.usage, name) for name in USAGE),
        *(_storable(getattr(attempt.billing, field)) for field in BILLING.values()),
        *money_row(attempt.cost),
        attempt.key,
        attempt.number,
    )
    return (checksum(_of_attempt(row)), *row)


def money_row(cost: Cost | None) -> tuple[Any, ...]:
    """Return the columns of `MONEY`, all None when the cost is not known."""
    if cost is None:
        return (None,) * len(MONEY)
    if max(cost.total, cost.cache_saved) > MOST_COST:
        cost = Cost(0, 0, 0, 0, other=MOST_COST, source=cost.source)
    return tuple(value(cost) for value in MONEY.values())


def _storable(value: str | int | None) -> str | int | None:
    return min(value, _MOST) if isinstance(value, int) else value


def result_row(result: Result) -> tuple[Any, ...]:
    """Return what `REPLACE_RESULT` takes."""
    completion = result.completion
    answer = [None if completion is None else value(completion) for value in _ANSWER.values()]
    row = (*(value(result) for value in _RESULT.values()), *answer)
    return (checksum(_of_result(row)), checksum(_of_status(row)), *row)


def item_row(item: RenderedItem, key: int | None) -> tuple[Any, ...]:
    """Return what `REPLACE_ITEM` takes for an item with this request."""
    row = (item.ordinal, item.custom_id, key, item.error_type, item.error_message)
    return (checksum(_of_item(row)), *row)


def request_row(key: int, fingerprint: bytes, occurrence: int, custom_id: str) -> tuple[Any, ...]:
    """Return what `INSERT_REQUEST` takes."""
    row = (key, fingerprint, occurrence, custom_id)
    return (checksum(_of_request(row)), *row)


def turn_row(turn: Turn) -> tuple[Any, ...]:
    """Return what `REPLACE_TURN` takes."""
    row = (turn.key, turn.number, turn.said, turn.calls, turn.results)
    return (checksum(_of_turn(row)), *row)


def packed(content: bytes) -> bytes:
    """Return bytes compressed: JSON that repeats itself takes a tenth of its length."""
    return zlib.compress(content)


def unpacked(content: bytes | None) -> str | None:
    """Return as text what `packed` gave; what is not UTF-8 becomes replacement characters.

    Raises:
        zlib.error: when the bytes are not those that `packed` gave.
    """
    return None if content is None else zlib.decompress(content).decode("utf-8", "replace")


def microseconds(moment: datetime) -> int:
    """Return a time in microseconds since 1970 UTC."""
    return round(moment.timestamp() * 1_000_000)
