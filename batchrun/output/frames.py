"""The frames of the outputs: the input's rows with what is known of them, and the attempts.

Everything comes in bounded chunks, and the next one is fetched while this one is worked on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import polars as pl

from batchrun.errors import OutputError
from batchrun.output.ahead import ahead
from batchrun.output.unnest import unnested
from batchrun.records import PICO_PER_USD, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CHUNK_ROWS = 5_000
CHUNK_BYTES = 16 * 1024 * 1024
FIRST_ROWS = 500
# Marks the properties of an answer among the columns' own names.
UNNESTED = "answer."

_TIME = pl.Datetime("us", "UTC")

RESULT_SCHEMA: dict[str, Any] = {
    "custom_id": pl.String,
    "status": pl.String,
    "response": pl.String,
    "responses": pl.List(pl.String),
    "reasoning": pl.String,
    "tool_calls": pl.String,
    "stop_reason": pl.String,
    "model": pl.String,
    "response_id": pl.String,
    "request_id": pl.String,
    "input_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "cache_read_tokens": pl.Int64,
    "cache_write_tokens": pl.Int64,
    "reasoning_tokens": pl.Int64,
    "cost_usd": pl.Float64,
    "attempts": pl.Int64,
    "latency_s": pl.Float64,
    "finished_at": _TIME,
    "http_status": pl.Int64,
    "error_type": pl.String,
    "error_message": pl.String,
}
# After these, when the job has a [score].
SCORE_SCHEMA: dict[str, Any] = {"score": pl.Float64, "predicted": pl.String}
USAGE_SCHEMA: dict[str, Any] = {
    "custom_id": pl.String,
    "attempt": pl.Int64,
    "execution": pl.Int64,
    "started_at": _TIME,
    "latency_s": pl.Float64,
    "http_status": pl.Int64,
    "error_type": pl.String,
    "error_message": pl.String,
    "request_id": pl.String,
    "model": pl.String,
    "input_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "cache_read_tokens": pl.Int64,
    "cache_write_tokens": pl.Int64,
    "reasoning_tokens": pl.Int64,
    "cost_usd": pl.Float64,
    "maybe_billed": pl.Boolean,
}


# (first, end) → (ordinal, score, predicted) of the rows that have been scored
Scores = Callable[[int, int], "list[tuple[Any, ...]]"]


@dataclass(frozen=True, slots=True)
class Contents:
    """What belongs into a file.

    Attributes:
        schema: its columns, with their types in the file.
        frames: yields these columns of its rows, as they are in the file, in bounded frames.
        key: the columns that name a row.
        is_part: whether the file has other columns, too.
    """

    schema: pl.Schema
    frames: Callable[[Sequence[str]], Iterator[pl.DataFrame]]
    key: tuple[str, ...]
    is_part: bool = False


class Rows(Protocol):
    """Where results come from: columns of `RESULT_SCHEMA` behind the ordinal, and attempts."""

    def columns(self, first: int, end: int) -> list[list[Any]]:
        """Return the rows from ordinal `first` up to `end`; unknown ones are left out."""

    def attempt_columns(self, chunk_rows: int) -> Iterator[list[list[Any]]]:
        """Yield the attempts in chunks."""


class Table(Protocol):
    """The input: its columns, and its rows in order."""

    @property
    def schema(self) -> pl.Schema:
        """The columns and their types."""

    def frames(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """Yield the rows in bounded frames."""


class Ids:
    """The rows' ids in place of an input that is not at hand.

    Args:
        total: how many rows there are.
        ids: (first, end) → the ids of rows from ordinal `first` up to `end`.
    """

    column = "\0"  # no name of ours

    def __init__(self, total: int, ids: Callable[[int, int], list[str]]) -> None:
        self._total = total
        self._ids = ids
        self.schema = pl.Schema({self.column: pl.String()})

    def frames(self, _columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """Yield the ids in order."""
        for first in range(0, self._total, CHUNK_ROWS):
            ids = self._ids(first, min(first + CHUNK_ROWS, self._total))
            yield pl.DataFrame({self.column: ids}, schema=self.schema)


def joined_frames(
    table: Table,
    rows: Rows,
    id_column: str | None,
    names: dict[str, str],
    *,
    properties: Mapping[str, Any],
    scores: Scores | None,
) -> Iterator[pl.DataFrame]:
    """Yield the input's rows with our columns beside them."""
    chunks = _Chunks()
    for start, part, found, marks in ahead(_fetched(table, rows, scores, chunks)):
        columns = _result_columns(part, start, found, id_column)
        answers = unnested(properties, columns["response"].to_list(), columns["status"].to_list())
        if marks is not None:
            columns |= _score_columns(start, part.height, marks)
        columns |= {UNNESTED + name: column for name, column in answers.items()}
        joined = part.hstack([column.alias(names[name]) for name, column in columns.items()])
        chunks.measure(joined)
        yield joined


class _Chunks:
    """How many rows are taken at a time, so that those with long answers take no more memory."""

    def __init__(self) -> None:
        self.rows = FIRST_ROWS

    def measure(self, frame: pl.DataFrame) -> None:
        """Take as many rows from now on as have about `CHUNK_BYTES`."""
        row_bytes = max(1, int(frame.estimated_size()) // frame.height)
        self.rows = max(1, min(CHUNK_ROWS, CHUNK_BYTES // row_bytes))


def _fetched(
    table: Table, rows: Rows, scores: Scores | None, chunks: _Chunks
) -> Iterator[tuple[int, pl.DataFrame, list[list[Any]], list[tuple[Any, ...]] | None]]:
    """Yield parts of the input with their first ordinal, their results and their scores."""
    start = 0
    for frame in table.frames():
        taken = 0
        while taken < frame.height:
            part = frame.slice(taken, chunks.rows)
            taken += part.height
            end = start + part.height
            marks = None if scores is None else scores(start, end)
            yield start, part, rows.columns(start, end), marks
            start = end


def _result_columns(
    part: pl.DataFrame, start: int, found: list[list[Any]], id_column: str | None
) -> dict[str, pl.Series]:
    """Make our columns for one part of the input; rows without a record are pending."""
    if id_column is None:
        ids = [str(start + n + 1) for n in range(part.height)]
    else:
        # As they were made: `str` of the Python value, which is not what polars' cast gives.
        ids = [str(value) for value in part.get_column(id_column).to_list()]
    if len(found[0]) < part.height:
        found = _with_pending(start, ids, found)
    _, *columns = found
    if columns[0] != ids:
        raise OutputError(
            "the input has changed since the run began, so results cannot be matched to its rows; "
            "they are safe in the checkpoint. Run the job again to match them anew"
        )
    data: dict[str, Sequence[Any]] = dict(zip(RESULT_SCHEMA, columns, strict=True))
    data["responses"] = [None if text is None else orjson.loads(text) for text in data["responses"]]
    return _typed(data, RESULT_SCHEMA)


def _score_columns(start: int, height: int, found: list[tuple[Any, ...]]) -> dict[str, pl.Series]:
    by_row = {row[0]: row[1:] for row in found}
    rows = [by_row.get(start + n, (None, None)) for n in range(height)]
    return _typed(dict(zip(SCORE_SCHEMA, zip(*rows, strict=True), strict=True)), SCORE_SCHEMA)


def _with_pending(start: int, ids: list[str], found: list[list[Any]]) -> list[list[Any]]:
    known = {row[0]: row for row in zip(*found, strict=True)}
    blank = (None,) * (len(RESULT_SCHEMA) - 2)
    rows = [
        known.get(start + n) or (start + n, custom_id, Status.PENDING.value, *blank)
        for n, custom_id in enumerate(ids)
    ]
    return [list(column) for column in zip(*rows, strict=True)]


def usage_frames(rows: Rows) -> Iterator[pl.DataFrame]:
    """Yield all attempts."""
    for columns in ahead(rows.attempt_columns(CHUNK_ROWS)):
        data: dict[str, Sequence[Any]] = dict(zip(USAGE_SCHEMA, columns, strict=True))
        data["maybe_billed"] = [bool(value) for value in data["maybe_billed"]]
        yield pl.DataFrame(_typed(data, USAGE_SCHEMA))


def _typed(data: dict[str, Sequence[Any]], schema: dict[str, Any]) -> dict[str, pl.Series]:
    series = {}
    for name, kind in schema.items():
        if name == "cost_usd":
            # In Python: polars divides by multiplying with 1e-12, which is not quite the same.
            usd = [None if pico is None else pico / PICO_PER_USD for pico in data[name]]
            series[name] = pl.Series(name, usd, dtype=kind)
        elif kind == _TIME:
            series[name] = pl.Series(name, data[name], dtype=pl.Int64).cast(kind)
        else:
            series[name] = pl.Series(name, data[name], dtype=kind, strict=True)
    return series
