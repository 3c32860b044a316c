"""Reads files of the outputs from start to end, in parallel with their expected frames."""

from __future__ import annotations

from functools import partial
from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import polars as pl
from polars.exceptions import PanicException, PolarsError

from batchrun.job.reader import listed
from batchrun.output import workbooks
from batchrun.output.frames import FileContents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

FILE_ERRORS = (PolarsError, PanicException, OSError, ValueError, ImportError)
# Columns that every table of results has had in every version, behind whatever prefix.
_ALWAYS_THERE = ("custom_id", "status", "response", "error_type")
_FILE = "\0file"  # no column has this name
# Read at a time from each file of a dataset; small, because many files are open.
_PART_ROWS = 500
_NO_FILE = -1
_SCANS: dict[str, Callable[[Path], pl.LazyFrame]] = {
    ".parquet": partial(pl.scan_parquet, glob=False),
    ".arrow": pl.scan_ipc,
}


class FileReader(Protocol):
    """Reads a file from start to end, in parallel with its expected frames.

    `is_written`: its values are the texts as written in the file.
    """

    is_written: bool

    def schema_flaw(self) -> str | None:
        """Return the problem of the columns; None if there is none."""

    def pair(self, wanted: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return an expected frame in the types of the file's format, and the file's next rows, at most as many."""

    def rest(self) -> int:
        """Return the number of remaining rows."""


def columns_in(path: Path) -> list[str]:
    """Return the names of a file's columns; none if it cannot be read."""
    try:
        if path.is_dir():
            return list(pl.scan_parquet(path, hive_partitioning=True).collect_schema())
        if path.suffix in _SCANS:
            return list(_SCANS[path.suffix](path).collect_schema())
        if path.suffix == ".csv":
            return list(_scan(path).collect_schema())
        if path.suffix == ".xlsx":
            return workbooks.read(path).columns
        return list(_record(next(_lines(path), b"{}")))
    except FILE_ERRORS:
        return []


def has_columns(path: Path, schema: pl.Schema) -> bool:
    """Return whether a file is a Parquet file with exactly these columns and types."""
    try:
        return pl.read_parquet_schema(path) == dict(schema)
    except (PolarsError, PanicException, OSError):
        return False


def are_results(columns: Sequence[str]) -> bool:
    """Return whether these are the columns of a table of results, of any version."""
    prefixes = (name.removesuffix("custom_id") for name in columns if name.endswith("custom_id"))
    return any({prefix + name for name in _ALWAYS_THERE} <= {*columns} for prefix in prefixes)


def _columns_flaw(
    wanted: Sequence[str], found: Sequence[str], contents: FileContents
) -> str | None:
    missing = [name for name in wanted if name not in found]
    if missing:
        return f"lacks the columns {listed(missing)}"
    if contents.is_part:
        return None
    extra = [name for name in found if name not in wanted]
    if extra:
        return f"has columns that do not belong there: {listed(extra)}"
    return None if list(wanted) == list(found) else "has its columns in another order"


class _Batches:
    """A table that is read in batches: a typed file, CSV, or a workbook.

    Args:
        header: the columns of the file.
        batches: its rows.
        contents: the expected contents.
        as_read: converts a frame to the values that are read from such a file; None if types are preserved.
    """

    is_written = False

    def __init__(
        self,
        header: pl.Schema,
        batches: Iterator[pl.DataFrame],
        contents: FileContents,
        as_read: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    ) -> None:
        self._header, self._batches = header, batches
        self._contents, self._as_read = contents, as_read
        self._held = pl.DataFrame(schema=header)

    def schema_flaw(self) -> str | None:
        if self._as_read is None:
            return _typed_flaw(self._header, self._contents)
        wanted = self._as_read(pl.DataFrame(schema=self._contents.schema)).columns
        return _columns_flaw(wanted, list(self._header), self._contents)

    def pair(self, wanted: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        while self._held.height < wanted.height:
            batch = next(self._batches, None)
            if batch is None:
                break
            self._held = pl.concat([self._held, batch])
        found, self._held = self._held.head(wanted.height), self._held.slice(wanted.height)
        return wanted if self._as_read is None else self._as_read(wanted), found

    def rest(self) -> int:
        return self._held.height + sum(batch.height for batch in self._batches)


def _scanned(
    lazy: pl.LazyFrame,
    contents: FileContents,
    as_read: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
) -> _Batches:
    batches = lazy.collect_batches(maintain_order=True, lazy=True)
    return _Batches(lazy.collect_schema(), batches, contents, as_read)


def _typed_flaw(found: pl.Schema, contents: FileContents) -> str | None:
    schema = contents.schema
    if (problem := _columns_flaw(list(schema), list(found), contents)) is not None:
        return problem
    retyped = [name for name in schema if found[name] != schema[name]]
    return f"has columns of another type: {listed(retyped)}" if retyped else None


class _Dataset:
    """A Parquet dataset: rows are found by their ids, and each file is read in its own order."""

    is_written = False

    def __init__(self, path: Path, contents: FileContents) -> None:
        self._contents = contents
        self._id = contents.key[0]
        keys = {n: k for n, k in contents.schema.items() if n in contents.partition_by}
        self._lazy = pl.scan_parquet(
            path, hive_partitioning=True, hive_schema=keys or None, include_file_paths=_FILE
        )
        self._header = self._lazy.collect_schema()
        self._files: list[str] = []
        self._parts: dict[int, _Part] = {}
        # The hash of each id, sorted, and the number of its file.
        self._hashes, self._numbers = pl.Series([], dtype=pl.UInt64), pl.Series([], dtype=pl.UInt32)
        self._taken = 0

    def schema_flaw(self) -> str | None:
        # The columns of the folders come last, in whatever place they were.
        names = [name for name in self._contents.schema if name in self._header]
        names += [name for name in self._header if name not in {*names, _FILE}]
        found = pl.Schema({name: self._header[name] for name in names})
        flaw = _typed_flaw(found, self._contents)
        if flaw is None:
            self._index_ids()
        return flaw

    def _index_ids(self) -> None:
        """Record the file of each id; takes 12 bytes for each row."""
        numbers: dict[str, int] = {}
        found = [pl.DataFrame({"id": self._hashes, "file": self._numbers})]
        rows = self._lazy.select(self._id, _FILE)
        for frame in rows.collect_batches(maintain_order=True, lazy=True):
            files = [numbers.setdefault(file, len(numbers)) for file in frame[_FILE]]
            file = pl.Series("file", files, dtype=pl.UInt32)
            found.append(pl.DataFrame([frame[self._id].hash().alias("id"), file]))
        index = pl.concat(found).sort("id")
        self._files, self._hashes, self._numbers = [*numbers], index["id"], index["file"]

    def pair(self, wanted: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the rows with the ids of a frame, in their order, up to the first that is missing."""
        places: dict[int, list[int]] = {}
        for row, number in enumerate(self._file_numbers(wanted[self._id])):
            places.setdefault(number, []).append(row)
        parts, order = [wanted.clear()], []
        missing = set(places.pop(_NO_FILE, ()))
        for number, rows in places.items():
            part = self._part(number).take(len(rows))
            parts.append(part)
            order += rows[: part.height]
            missing.update(rows[part.height :])
        found = pl.concat(parts)[pl.Series(order, dtype=pl.UInt32).arg_sort()]
        found = found.head(min(missing, default=found.height))
        self._taken += found.height
        return wanted, found

    def _file_numbers(self, ids: pl.Series) -> list[int]:
        hashes = ids.hash()
        at = self._hashes.search_sorted(hashes).clip(0, max(0, len(self._hashes) - 1))
        if not len(self._hashes):
            return [_NO_FILE] * len(ids)
        is_there = self._hashes[at] == hashes
        return [
            n if there else _NO_FILE for n, there in zip(self._numbers[at], is_there, strict=True)
        ]

    def _part(self, number: int) -> _Part:
        if number not in self._parts:
            of_file = self._lazy.filter(pl.col(_FILE) == self._files[number])
            self._parts[number] = _Part(of_file.select(list(self._contents.schema)))
        return self._parts[number]

    def rest(self) -> int:
        return int(self._lazy.select(pl.len()).collect().item()) - self._taken


class _Part:
    """One file of a dataset, read in small pieces, because many files are open."""

    def __init__(self, lazy: pl.LazyFrame) -> None:
        self._lazy = lazy
        self._read = 0
        self._held = pl.DataFrame(schema=lazy.collect_schema())

    def take(self, rows: int) -> pl.DataFrame:
        """Return the next rows, at most as many as there are."""
        if self._held.height < rows:
            more = self._lazy.slice(self._read, max(rows, _PART_ROWS)).collect(engine="streaming")
            self._read += more.height
            self._held = pl.concat([self._held, more])
        taken, self._held = self._held.head(rows), self._held.slice(rows)
        return taken


def _as_cells(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the values that are read from a workbook with this frame."""
    content = BytesIO()
    workbooks.write(content, FileContents(frame.schema, lambda _names: iter((frame,)), ()))
    read = workbooks.read(content.getvalue())
    # Rows at the end without any value are not in the file.
    return read.head(0) if not frame.height else read


def _as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the values that are read from a CSV file with this frame."""
    return _scan(BytesIO(frame.write_csv().encode())).collect()


def _scan(source: Path | BytesIO) -> pl.LazyFrame:
    return pl.scan_csv(source, infer_schema=False, empty_string_is_null=False, glob=False)


class _JsonLines:
    is_written = True

    def __init__(self, path: Path, contents: FileContents) -> None:
        self._lines = _lines(path)
        self._contents, self._columns = contents, list(contents.schema)

    def schema_flaw(self) -> str | None:
        return None  # each line has its own names

    def pair(self, wanted: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        lines = list(islice(self._lines, wanted.height))
        should = wanted.write_ndjson().encode().splitlines(keepends=True)
        if lines == should:
            return wanted, wanted
        return self._frame(should), self._frame(lines)

    def _frame(self, lines: Sequence[bytes]) -> pl.DataFrame:
        """Return the lines' values as JSON, column by column."""
        records = [_record(line) for line in lines]
        extra = {name for record in records for name in record}.difference(self._columns)
        if (
            problem := _columns_flaw(self._columns, [*self._columns, *extra], self._contents)
        ) is not None:
            raise ValueError(problem)
        return pl.DataFrame(
            {name: [_json(record, name) for record in records] for name in self._columns},
            schema=dict.fromkeys(self._columns, pl.String),
        )

    def rest(self) -> int:
        return sum(1 for _ in self._lines)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _record(line: bytes) -> dict[str, Any]:
    found = orjson.loads(line)
    if not isinstance(found, dict):
        raise ValueError("a line is not a JSON object")  # noqa: TRY004 - as orjson's own
    return found


def _json(record: dict[str, Any], name: str) -> str | None:
    return orjson.dumps(record[name]).decode() if name in record else None


def reader_of(path: Path, contents: FileContents) -> FileReader:
    """Return the reader of a file for comparison with its expected contents."""
    if path.is_dir():
        return _Dataset(path, contents)
    if path.suffix == ".jsonl":
        return _JsonLines(path, contents)
    if path.suffix == ".xlsx":
        found = workbooks.read(path)
        return _Batches(found.schema, iter((found,)), contents, _as_cells)
    if path.suffix == ".csv":
        return _scanned(_scan(path), contents, _as_text)
    return _scanned(_SCANS[path.suffix](path), contents)
