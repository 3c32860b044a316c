"""Records as rows of the tables, each with a checksum that reveals later changes on the disk.

The checksum covers everything that is known once an attempt or a request has ended. The values that are
written when an attempt begins (execution, start, reserved cost) have a separate checksum. Costs do, too,
because they can be computed again from the tokens.
"""

from __future__ import annotations

import zlib
from functools import cache
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

from batchrun.checkpoint.columns import ATTEMPTS as ATTEMPT_COLUMNS
from batchrun.checkpoint.columns import LONG
from batchrun.checkpoint.columns import RESULTS as RESULT_COLUMNS
from batchrun.checkpoint.long_texts import whole
from batchrun.checkpoint.sqlite import quick_bytes
from batchrun.records import MOST_COST, Cost, Status, changed

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from batchrun.checkpoint.columns import ColumnOf
    from batchrun.records import Attempt, AttemptStart, RenderedItem, Result, Turn


FUNCTION = "row_checksum"
_SEPARATOR = b"\x1f"


class Checked:
    """A table whose rows have a checksum over some of their columns.

    The checksum uses the columns in the order of their names. So their order in the declaration does not
    matter, and a column that is added later changes nothing for rows where it is null.

    Args:
        table: name of the table.
        columns: the columns that the checksum covers: text, numbers or bytes.
        checksum: the column with the checksum.
        reals: the columns with seconds, which are rounded to microseconds.
        is_written: SQL condition: the row `{0}` is complete, and so has a checksum.
        long: columns whose texts may be in pieces. The checksum covers the whole texts.
    """

    def __init__(
        self,
        table: str,
        columns: Iterable[str],
        checksum: str = "checksum",
        reals: Collection[str] = (),
        is_written: str = "1",
        *,
        long: Collection[str] = (),
    ) -> None:
        self.table = table
        self.checksum = checksum
        self.columns = tuple(sorted(columns))
        self._reals = reals
        self._is_written = is_written
        self._long = long

    def pick(self, names: Sequence[str]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
        """Return a function that picks the covered values from a row of these columns."""
        return itemgetter(*(names.index(name) for name in self.columns))

    def of(self, row: Mapping[str, Any]) -> int:
        """Return the checksum of a row, given as a mapping."""
        return checksum([row[name] for name in self.columns])

    def stored(self, alias: str) -> str:
        """Return SQL for the covered values of a row."""
        # As bytes, because damaged text need not be UTF-8.
        return ", ".join(f"CAST({self._whole(f'{alias}.{n}', n)} AS BLOB)" for n in self.columns)

    def _whole(self, value: str, name: str) -> str:
        if name in self._long:
            return whole(value)
        return f"CAST(round({value} * 1e6) AS INTEGER)" if name in self._reals else value

    def value(self, alias: str) -> str:
        """Return SQL for the checksum of the present values of a row."""
        return f"{FUNCTION}({self.stored(alias)})"

    def differs(self, alias: str) -> str:
        """Return an SQL condition: the row has changed since it was written."""
        return f"""CASE WHEN {alias}.{self.checksum} IS NULL THEN {self._is_written.format(alias)}
            ELSE {alias}.{self.checksum} <> {self.value(alias)} END"""

    def seal(self, condition: str) -> str:
        """Return SQL that updates the checksum of the rows `d` that meet a condition."""
        return f"UPDATE {self.table} AS d SET {self.checksum} = {self.value('d')} WHERE {condition}"  # noqa: S608


def checksum(values: Iterable[Any]) -> int:
    """Return the checksum of a row's values, in the order of their columns' names.

    Empty text counts as null. Every change of one bit, one byte or a few adjacent bytes is detected.
    """
    return zlib.crc32(_covered(values))


def plain_checksum(values: tuple[int | str, ...]) -> int:
    """Do the same as `checksum` for values of which none is null or empty, in a third of the time."""
    return zlib.crc32((_joined(len(values)) % values).encode())


@cache
def _joined(number: int) -> str:
    return _SEPARATOR.decode().join(["%s"] * number)


def _covered(values: Iterable[Any]) -> bytes:
    """Return the bytes that the checksum of these values covers."""
    # For every answer: most values are None, and most of the others are int or str.
    parts = [
        b"%d" % value
        if (kind := type(value)) is int
        else value.encode()
        if kind is str
        else _as_bytes(value)
        for value in values
        if value is not None
    ]
    return _SEPARATOR.join(filter(None, parts))


def _as_bytes(value: Any) -> bytes:  # noqa: ANN401 - a value of SQLite
    if isinstance(value, float):
        return b"%d" % round(value * 1e6)
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, bytes) else b"%d" % value


def register(connection: sqlite3.Connection) -> None:
    """Let the SQL of a connection compute checksums."""
    connection.create_function(FUNCTION, -1, _of_bytes, deterministic=True)


def _of_bytes(*values: bytes | None) -> int:
    return zlib.crc32(_SEPARATOR.join(filter(None, values)))


# Above this, an integer of a server does not fit in a column.
_MOST = 2**63 - 1


def _stored(columns: Iterable[ColumnOf]) -> tuple[ColumnOf, ...]:
    """Return the columns of a table that come from a record, those with a path first."""
    found = (column for column in columns if column.stored is not None)
    return tuple(sorted(found, key=lambda column: not isinstance(column.stored, str)))


def _reader(columns: Sequence[ColumnOf]) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function that reads the values of these columns (two or more with a path) from a record."""
    # All paths at once, without a call for each: this runs for every answer.
    read = attrgetter(*(c.stored for c in columns if isinstance(c.stored, str)))
    compute = [c.stored for c in columns if c.stored is not None and not isinstance(c.stored, str)]
    return lambda record: (*read(record), *[function(record) for function in compute])


def _fields(part: str) -> dict[str, str]:
    """Return the columns of a part of an attempt (`usage`, `billing`, `cost`) with its fields."""
    paths = {c.table_column: c.stored for c in ATTEMPT_COLUMNS if isinstance(c.stored, str)}
    found = {name: path.removeprefix(f"{part}.") for name, path in paths.items()}
    return {name: field for name, field in found.items() if field != paths[name]}


def _names(columns: Iterable[ColumnOf]) -> tuple[str, ...]:
    return tuple(column.table_column for column in columns)


def _marks(names: Iterable[str]) -> str:
    return ", ".join("?" for _ in names)


# The columns of these parts of an attempt, with the fields of their records.
USAGE, BILLING, _COST = _fields("usage"), _fields("billing"), _fields("cost")
MONEY = tuple(_COST)
_ANSWER = _stored(RESULT_COLUMNS)
# The cost is read apart, because it may be unknown.
_ATTEMPT = _stored(column for column in ATTEMPT_COLUMNS if column.table_column not in MONEY)
_RESULT_COLUMNS = ("request_id", "status", "retryable", "attempts", "finished_us", *_names(_ANSWER))
_ATTEMPT_COLUMNS = (*_names(_ATTEMPT), *MONEY, "request_id", "number")
START_COLUMNS = ("request_id", "number", "execution", "started_us", "reserved")
LONG_OF_TURNS = ("said", "calls", "results")
_TURN_COLUMNS = ("request_id", "number", *LONG_OF_TURNS)
_ITEM_COLUMNS = ("ordinal", "custom_id", "request_id", "error_type", "error_message")
REQUEST_COLUMNS = ("id", "fingerprint", "occurrence", "custom_id")
RUN_COLUMNS = (
    *("name", "job", "base", "plan_signature", "planned", "total", "samples", "scored"),
    *("given_price", "created_us"),
)
EXECUTION_COLUMNS = (
    *("id", "started_us", "finished_us", "outcome", "reason", "version", "provider", "base_url"),
    *("dispatcher", "waits"),
)
BATCH_COLUMNS = (
    *("execution", "tag", "stage", "account", "base_url", "model", "rows", "tokens"),
    *("queued_tokens", "is_primer", "intended_us", "input_file", "remote_id", "is_proven"),
    *("refused_ids", "state", "done", "failed", "created_us", "expires_us", "ended_us"),
    *("results_expire_us", "closed_us", "reason"),
)
PRICE_COLUMNS = ("execution", "model", "conditions", "source", "as_of_us", "matched", "rates")

_OF_STATUS = ("request_id", "status", "retryable")
ANSWERS = Checked("results", {*_RESULT_COLUMNS} - {"status", "retryable"}, long=LONG)
# Apart from the answer, because a changed `[request] reject` may change it.
STATUSES = Checked("results", _OF_STATUS, "status_checksum")
_REALS = _names(column for column in _ATTEMPT if column.kind == "number")
_HAS_ENDED = "({0}.latency_s IS NOT NULL OR {0}.error_type IS NOT NULL)"
SENT = Checked("attempts", {*_ATTEMPT_COLUMNS} - {*MONEY}, reals=_REALS, is_written=_HAS_ENDED)
COSTS = Checked(
    "attempts", ("request_id", "number", *MONEY), "cost_checksum", is_written=_HAS_ENDED
)
STARTS = Checked("attempts", START_COLUMNS, "start_checksum")
TURNS = Checked("turns", _TURN_COLUMNS, long=LONG_OF_TURNS)
ITEMS = Checked("items", _ITEM_COLUMNS)
REQUESTS = Checked("requests", REQUEST_COLUMNS)
RUN = Checked("run", RUN_COLUMNS)
# Without `waiting`, which changes all the time and which only `status` shows.
EXECUTIONS = Checked("executions", EXECUTION_COLUMNS)
BATCHES = Checked("batches", ("id", *BATCH_COLUMNS))
PRICES = Checked("prices", ("id", *PRICE_COLUMNS))
_of_result = ANSWERS.pick(_RESULT_COLUMNS)
_of_attempt = SENT.pick(_ATTEMPT_COLUMNS)
_of_cost = COSTS.pick(_ATTEMPT_COLUMNS)
_of_start = STARTS.pick(START_COLUMNS)
_of_turn = TURNS.pick(_TURN_COLUMNS)
_of_status = STATUSES.pick(_RESULT_COLUMNS)
_of_item = ITEMS.pick(_ITEM_COLUMNS)
_read_answer = _reader(_ANSWER)
_read_attempt = _reader(_ATTEMPT)
_read_cost = attrgetter(*_COST.values())
_NO_ANSWER = (None,) * len(_ANSWER)


def _insert(verb: str, table: str, *columns: str) -> str:
    return f"{verb} INTO {table} ({', '.join(columns)}) VALUES ({_marks(columns)})"


INSERT_START = _insert("INSERT", "attempts", "start_checksum", *START_COLUMNS)
UPDATE_ATTEMPT = f"""UPDATE attempts SET {
    ", ".join(f"{name} = ?" for name in ("checksum", "cost_checksum", *_ATTEMPT_COLUMNS[:-2]))
} WHERE request_id = ? AND number = ?"""  # noqa: S608 - our own names
UPDATE_MEMBER = UPDATE_ATTEMPT.replace("SET ", "SET answered_in = ?, ", 1)
REPLACE_RESULT = _insert(
    "INSERT OR REPLACE", "results", "checksum", "status_checksum", *_RESULT_COLUMNS
)
# Positions of the texts that may be long in a row of `REPLACE_RESULT`.
LONG_PLACES = tuple(2 + _RESULT_COLUMNS.index(name) for name in LONG)
INSERT_ITEM = _insert("INSERT", "items", "checksum", *_ITEM_COLUMNS)
INSERT_PLANNED = _insert("INSERT", "items", "checksum", "ordinal", "custom_id", "request_id")
INSERT_REQUEST = _insert("INSERT", "requests", "checksum", *REQUEST_COLUMNS)
REPLACE_TURN = _insert("INSERT OR REPLACE", "turns", "checksum", *_TURN_COLUMNS)
# A turn is written again when its tools have run: only their results are new.
ADD_TOOL_RESULTS = f"""{_insert("INSERT", "turns", "checksum", *_TURN_COLUMNS)}
    ON CONFLICT (request_id, number)
    DO UPDATE SET checksum = excluded.checksum, results = excluded.results"""
LONG_TURN_PLACES = tuple(1 + _TURN_COLUMNS.index(name) for name in LONG_OF_TURNS)
TOOL_RESULTS_PLACES = LONG_TURN_PLACES[-1:]


def start_row(start: AttemptStart, execution: int) -> tuple[Any, ...]:
    """Return the values for `INSERT_START`."""
    row = (start.key, start.number, execution, microseconds(start.started_at), start.reserved)
    known = tuple([value for value in _of_start(row) if value is not None])
    return (plain_checksum(known), *row)


def attempt_row(attempt: Attempt) -> tuple[Any, ...]:
    """Return the values for `UPDATE_ATTEMPT`."""
    attempt = _with_fitting_bill(attempt)
    row = (*_read_attempt(attempt), *money_row(attempt.cost), attempt.key, attempt.number)
    of_cost = checksum if attempt.cost is None else plain_checksum
    return (checksum(_of_attempt(row)), of_cost(_of_cost(row)), *row)


def _with_fitting_bill(attempt: Attempt) -> Attempt:
    bill = attempt.billing
    searches, cost = bill.web_search_requests or 0, bill.stated_cost or 0
    if max(searches, cost) <= _MOST:
        return attempt
    bill = changed(bill, web_search_requests=min(searches, _MOST), stated_cost=min(cost, _MOST))
    return changed(attempt, billing=bill)


def money_row(cost: Cost | None) -> tuple[Any, ...]:
    """Return the columns of `MONEY`, all None if the cost is unknown."""
    if cost is None:
        return (None,) * len(MONEY)
    if max(cost.total, cost.cache_saved) > MOST_COST:
        cost = Cost(0, 0, 0, 0, other=MOST_COST, source=cost.source)
    return _read_cost(cost)


def result_row(result: Result) -> tuple[tuple[Any, ...], int]:
    """Return the values for `REPLACE_RESULT`, and about how many bytes they have."""
    completion, status = result.completion, result.status
    row = (
        result.key,
        status.value,
        int(result.retryable and status is Status.ERRORED),
        result.last.number,
        microseconds(result.finished_at),
        *(_NO_ANSWER if completion is None else _read_answer(completion)),
    )
    covered = _covered(_of_result(row))
    return (zlib.crc32(covered), plain_checksum(_of_status(row)), *row), len(covered)


def item_row(item: RenderedItem) -> tuple[Any, ...]:
    """Return the values for `INSERT_ITEM` for an item without a request."""
    row = (item.ordinal, item.custom_id, None, item.error_type, item.error_message)
    return (checksum(_of_item(row)), *row)


def planned_row(ordinal: int, custom_id: str, key: int) -> tuple[Any, ...]:
    """Return the values for `INSERT_PLANNED` for an item with this request. Called for every row of the input."""
    return (plain_checksum((custom_id, ordinal, key)), ordinal, custom_id, key)


def request_row(key: int, fingerprint: bytes, occurrence: int, custom_id: str) -> tuple[Any, ...]:
    """Return the values for `INSERT_REQUEST`. Called for every row of the input."""
    covered = (custom_id.encode(), fingerprint, key, occurrence)
    found = zlib.crc32(b"%b\x1f%b\x1f%d\x1f%d" % covered)
    return (found, key, quick_bytes(fingerprint), occurrence, custom_id)


def turn_row(turn: Turn) -> tuple[tuple[Any, ...], int]:
    """Return the values for `REPLACE_TURN` or `ADD_TOOL_RESULTS`, and about how many bytes they have."""
    row = (turn.key, turn.number, turn.said, turn.calls, turn.results)
    covered = _covered(_of_turn(row))
    return (zlib.crc32(covered), *row), len(covered)


def is_written_again(turn: Turn) -> bool:
    """Return whether a turn is stored already, without the results of its tools.

    A turn without calls has empty results from the beginning.
    """
    return turn.results is not None and turn.calls != "[]"


def turn_checksum(turn: Turn) -> int:
    """Return the checksum that is stored with a turn."""
    return int(turn_row(turn)[0][0])


def microseconds(moment: datetime) -> int:
    """Return a time in microseconds since 1970 UTC."""
    return round(moment.timestamp() * 1_000_000)


def every_checked() -> list[Checked]:
    """Return all tables with checksums."""
    return [value for value in globals().values() if isinstance(value, Checked)]
