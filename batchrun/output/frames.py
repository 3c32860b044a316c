"""The frames of the outputs: the input's rows with their results, and the attempts.

Frames are bounded chunks. The next one is read while the present one is processed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import orjson
import polars as pl

from batchrun.errors import OutputError
from batchrun.records import PICO_PER_USD, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from batchrun.records import Kind


# A chunk ends at either limit. The first one is small: only after it is the size of rows known.
CHUNK_ROWS = 5_000
CHUNK_BYTES = 8 * 1024 * 1024
FIRST_ROWS = 500
# Marks the properties of an answer among the columns' own names.
UNNESTED = "answer."

_TIME = pl.Datetime("us", "UTC")

_TYPES: dict[str, Any] = {
    "text": pl.String,
    "texts": pl.List(pl.String),
    "integer": pl.Int64,
    "number": pl.Float64,
    "money": pl.Float64,
    "time": _TIME,
    "flag": pl.Boolean,
}


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The columns of scores.

    Attributes:
        kinds: their names and kinds.
        read: (first, end) → the ordinal and these columns of the scored rows.
    """

    kinds: Mapping[str, Kind]
    read: Callable[[int, int], list[tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class FileContents:
    """The contents of a file.

    Attributes:
        schema: its columns, with their types in the file.
        frames: yields these columns of its rows, as they are in the file, in bounded frames.
        key: the columns that identify a row.
        is_part: whether the file has other columns, too.
        partition_by: the columns whose values are the folders of a dataset; empty for a file.
    """

    schema: pl.Schema
    frames: Callable[[Sequence[str]], Iterator[pl.DataFrame]]
    key: tuple[str, ...]
    is_part: bool = False
    partition_by: tuple[str, ...] = ()


class Rows(Protocol):
    """Where results and attempts come from, in the units of their columns' kinds."""

    def columns(self, first: int, end: int, names: Sequence[str]) -> Mapping[str, list[Any]]:
        """Return `ordinal` and these columns of the rows from ordinal `first` up to `end`.

        Rows that are not in the checkpoint are left out.
        """

    def rows_within(self, first: int, end: int, most_bytes: int) -> int:
        """Return the number of rows from ordinal `first` with about this many bytes; at least 1."""

    def attempt_columns(self, chunk_rows: int) -> Iterator[Mapping[str, list[Any]]]:
        """Yield the columns of the attempts in chunks."""


class InputTable(Protocol):
    """The input: its columns, and its rows in order."""

    @property
    def schema(self) -> pl.Schema:
        """The columns and their types."""

    def frames(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """Yield the rows in bounded frames."""

    def ids(self, frame: pl.DataFrame, start: int) -> Sequence[str]:
        """Return the ids of the rows of a frame; its first row has the ordinal `start`."""


class IdTable:
    """The rows' ids in place of an input that is not available.

    Args:
        total: number of rows.
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

    def ids(self, frame: pl.DataFrame, _start: int) -> Sequence[str]:
        """Return the ids of the rows of a frame."""
        return frame.get_column(self.column).to_list()


@dataclass(frozen=True, slots=True)
class Results:
    """The sources of a table of results.

    Attributes:
        table: the input.
        rows: the results of its rows.
        kinds: our columns, in their order.
        scores: the scores of the answers, for a job with a `[score]`.
        since: leave out rows whose results are older; None for all rows.
    """

    table: InputTable
    rows: Rows
    kinds: Mapping[str, Kind]
    scores: ScoreTable | None = None
    since: datetime | None = None

    @property
    def all_kinds(self) -> dict[str, Kind]:
        """Our columns, followed by those of scores."""
        return {**self.kinds, **(self.scores.kinds if self.scores is not None else {})}


def schema_of(kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Return the types of columns of these kinds."""
    return {name: _TYPES[kind] for name, kind in kinds.items()}


def joined_frames(
    results: Results, names: Mapping[str, str], properties: Mapping[str, Any]
) -> Iterator[pl.DataFrame]:
    """Yield the input's rows with our columns added.

    Args:
        results: the sources.
        names: the names of our columns in the output.
        properties: properties of the answer's JSON schema that become columns.
    """
    chunks = _Chunks()
    for fetched in ahead(_fetched(results, chunks)):
        joined = _joined(fetched, results, names, properties)
        del fetched  # long answers are not held twice
        chunks.measure(joined)
        if results.since is not None:
            finished = joined.get_column(names["finished_at"])
            joined = joined.filter((finished >= results.since).fill_null(value=False))
        yield joined
        del joined


def _joined(
    fetched: _Fetched, results: Results, names: Mapping[str, str], properties: Mapping[str, Any]
) -> pl.DataFrame:
    start, part, found, marks = fetched
    columns = _result_columns(part, start, found, results)
    if properties:
        responses, statuses = (columns[name].to_list() for name in ("response", "status"))
        answers = unnested(properties, responses, statuses)
    else:
        answers = {}
    if results.scores is not None:
        columns |= _score_columns(results.scores.kinds, start, part.height, marks or [])
    columns |= {UNNESTED + name: column for name, column in answers.items()}
    return part.hstack([column.alias(names[name]) for name, column in columns.items()])


# The first ordinal of a part of the input, the part, its results and its scores.
_Fetched = tuple[int, pl.DataFrame, "Mapping[str, list[Any]]", "list[tuple[Any, ...]] | None"]


class _Chunks:
    """The number of rows to take at a time, so that long answers take no more memory."""

    def __init__(self) -> None:
        self.rows = FIRST_ROWS

    def measure(self, frame: pl.DataFrame) -> None:
        """From now on, take the number of rows that has about `CHUNK_BYTES`."""
        row_bytes = max(1, int(frame.estimated_size()) // frame.height)
        self.rows = max(1, min(CHUNK_ROWS, CHUNK_BYTES // row_bytes))


def _fetched(results: Results, chunks: _Chunks) -> Iterator[_Fetched]:
    """Yield parts of the input with their first ordinal, their results and their scores."""
    start, names, scores = 0, tuple(results.kinds), results.scores
    for frame in results.table.frames():
        taken = 0
        while taken < frame.height:
            most = min(chunks.rows, frame.height - taken)
            part = frame.slice(taken, results.rows.rows_within(start, start + most, CHUNK_BYTES))
            taken += part.height
            end = start + part.height
            marks = None if scores is None else scores.read(start, end)
            yield start, part, results.rows.columns(start, end, names), marks
            start = end


def _result_columns(
    part: pl.DataFrame, start: int, found: Mapping[str, list[Any]], results: Results
) -> dict[str, pl.Series]:
    """Return our columns for one part of the input; rows without a record are pending."""
    ids = list(results.table.ids(part, start))
    if len(found["ordinal"]) < part.height:
        found = _with_pending(start, ids, found)
    if found["custom_id"] != ids:
        raise OutputError(
            "the input has changed since the run began, so results cannot be matched to its rows; "
            "they are safe in the checkpoint. Run the job again to match them to its rows"
        )
    return _typed(found, results.kinds)


def _score_columns(
    kinds: Mapping[str, Kind], start: int, height: int, found: list[tuple[Any, ...]]
) -> dict[str, pl.Series]:
    by_row = {row[0]: row[1:] for row in found}
    none = (None,) * len(kinds)
    rows = [by_row.get(start + n, none) for n in range(height)]
    return _typed(dict(zip(kinds, zip(*rows, strict=True), strict=True)), kinds)


def _with_pending(
    start: int, ids: Sequence[str], found: Mapping[str, list[Any]]
) -> dict[str, list[Any]]:
    places = {ordinal: place for place, ordinal in enumerate(found["ordinal"])}
    at = [places.get(start + n) for n in range(len(ids))]
    whole = {name: [None if n is None else values[n] for n in at] for name, values in found.items()}
    for name, values in (("custom_id", ids), ("status", [Status.PENDING.value] * len(ids))):
        whole[name] = [
            value if n is None else known
            for n, value, known in zip(at, values, whole[name], strict=True)
        ]
    return whole


def usage_frames(rows: Rows, kinds: Mapping[str, Kind]) -> Iterator[pl.DataFrame]:
    """Yield all attempts, with columns of these kinds."""
    for columns in ahead(rows.attempt_columns(CHUNK_ROWS)):
        yield pl.DataFrame(_typed(columns, kinds))


def _typed(data: Mapping[str, Sequence[Any]], kinds: Mapping[str, Kind]) -> dict[str, pl.Series]:
    return {name: _series(name, data[name], kind) for name, kind in kinds.items()}


def _series(name: str, values: Sequence[Any], kind: Kind) -> pl.Series:
    if kind == "time":
        return pl.Series(name, values, dtype=pl.Int64).cast(_TIME)
    if kind == "money":
        # In Python: polars divides by multiplying with 1e-12, which is not quite the same.
        values = [None if pico is None else pico / PICO_PER_USD for pico in values]
    elif kind == "texts":
        values = [None if text is None else orjson.loads(text) for text in values]
    elif kind == "flag":
        values = [bool(value) for value in values]
    return pl.Series(name, values, dtype=_TYPES[kind], strict=True)


def row_values(
    found: Mapping[str, list[Any]], kinds: Mapping[str, Kind], properties: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return rows of columns of these kinds as the Python values of a file of results.

    `properties` of the answer's JSON schema become columns; they are given by marked names.
    """
    typed = _typed(found, kinds)
    answers = unnested(properties, found["response"], found["status"])
    typed |= {UNNESTED + name: column for name, column in answers.items()}
    columns = [column.to_list() for column in typed.values()]
    return [dict(zip(typed, row, strict=True)) for row in zip(*columns, strict=True)]


_FLAT_TYPES: dict[str, Any] = {
    "string": pl.String(),
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
}


def column_type(schema: object) -> Any:  # noqa: ANN401 - a polars type
    """Return the type of a property's column.

    Scalars and lists of scalars have their own types; all others (objects, unions) are JSON text. A
    property that may be null is a column with nulls.
    """
    schema = _not_null(schema)
    kinds = schema.get("type") if isinstance(schema, dict) else None
    names = [kinds] if isinstance(kinds, str) else [k for k in kinds or () if k != "null"]
    if len(names) != 1:
        return pl.String()
    if names[0] == "array" and isinstance(schema, dict):
        return pl.List(column_type(schema.get("items")))
    return _FLAT_TYPES.get(names[0], pl.String())


def _not_null(schema: object) -> object:
    """Return the schema without null, if that is a single schema; pydantic writes optional fields so."""
    if not isinstance(schema, dict) or not isinstance(schema.get("anyOf"), list):
        return schema
    others = [one for one in schema["anyOf"] if one != {"type": "null"}]
    return others[0] if len(others) == 1 else schema


def unnested(
    properties: Mapping[str, Any], responses: Sequence[str | None], statuses: Sequence[str]
) -> dict[str, pl.Series]:
    """Return a column for each property; null where a row has no valid answer or no such value.

    Args:
        properties: JSON schemas by name.
        responses: texts of the answers.
        statuses: statuses of the same rows; only answers that succeeded are known to be valid.
    """
    if not properties:
        return {}  # no answer has to be parsed
    answers = [
        _read(text) if status == "succeeded" else {}
        for text, status in zip(responses, statuses, strict=True)
    ]
    columns = {}
    for name, schema in properties.items():
        kind = column_type(schema)
        values = [_fitted(answer.get(name), kind) for answer in answers]
        columns[name] = pl.Series(name, values, dtype=kind, strict=False)
    return columns


def _read(text: str | None) -> dict[str, Any]:
    try:
        answer = orjson.loads(text or "")
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _fitted(value: Any, kind: Any) -> Any:  # noqa: ANN401 - JSON and polars types
    if isinstance(kind, pl.List) and isinstance(value, list):
        return [_fitted(item, kind.inner) for item in value]
    if kind == pl.String() and value is not None and not isinstance(value, str):
        return orjson.dumps(value).decode()
    return value


T = TypeVar("T")


def ahead(parts: Iterator[T]) -> Iterator[T]:
    """Yield the values of an iterator that runs in a thread, one value ahead."""
    with ThreadPoolExecutor(1, "read ahead") as thread:
        following = thread.submit(next, parts, None)
        while (part := following.result()) is not None:
            following = thread.submit(next, parts, None)
            yield part
            del part  # it may be large, and waiting for the next one takes time
