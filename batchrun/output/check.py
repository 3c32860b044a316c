"""Comparing a file of the outputs with what would be written now: as values, chunk by chunk.

A file that was saved again by another program is as good as the one that was written, as long as it
reads the same. In text formats both sides are read by the same reader, so that only what the format
can tell apart counts.
"""

from __future__ import annotations

from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import polars as pl
from polars.exceptions import PanicException, PolarsError

from batchrun.errors import Flaw
from batchrun.job.reader import listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from batchrun.output.frames import FileContents

_FILE_ERRORS = (PolarsError, PanicException, OSError, ValueError)
LONGEST_VALUE = 60


class _Reader(Protocol):
    """A file that is read from its start to its end, beside the frames that belong into it.

    `is_written` says that its values are texts as they stand in the file.
    """

    is_written: bool

    def schema_flaw(self) -> str | None:
        """Say what is wrong with the columns, None when nothing is."""

    def pair(self, wanted: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return a frame as the file's format has it, and the file's next rows, at most as many."""

    def rest(self) -> int:
        """Return how many rows are left."""


def differences(path: Path, contents: FileContents) -> Iterator[Flaw]:
    """Yield what is wrong with a file: one flaw for each column that differs, or for the file.

    Raises:
        BatchrunError: when the expected content cannot be determined.
    """
    wanted = contents.frames(list(contents.schema))
    try:
        reader = _READERS[path.suffix](path, contents)
        if (problem := reader.schema_flaw()) is not None:
            yield Flaw(problem)
            return
    except _FILE_ERRORS as error:
        yield _unreadable(error)
        return
    yield from _Comparison(reader, contents.key).flaws(wanted)


def _unreadable(error: BaseException) -> Flaw:
    lines = str(error).strip().splitlines()
    return Flaw(f"cannot be read: {lines[0] if lines else type(error).__name__}")


class _Comparison:
    """What differs between a file and the rows that belong into it."""

    def __init__(self, reader: _Reader, key: Sequence[str]) -> None:
        self._reader = reader
        self._key = key
        self._by_column: dict[str, Flaw] = {}
        self._first: tuple[int, str] | None = None  # the first row that differs

    def flaws(self, frames: Iterator[pl.DataFrame]) -> Iterator[Flaw]:
        """Yield what differs; a file with too few or too many rows has that flaw alone."""
        read = total = 0
        for frame in frames:
            try:
                wanted, found = self._reader.pair(frame)
            except _FILE_ERRORS as error:
                yield _unreadable(error)
                return
            self._compare(total, frame, wanted.head(found.height), found)
            if found.height < frame.height and self._first is None:
                self._first = total + found.height, self._name(frame, found.height)
            total += frame.height
            read += found.height
        try:
            read += self._reader.rest()
        except _FILE_ERRORS as error:
            yield _unreadable(error)
            return
        if read == total:
            yield from self._by_column.values()
        else:
            yield Flaw(f"has {read:,} rows, and there should be {total:,}; {self._where(total)}")

    def _where(self, total: int) -> str:
        row, name = self._first or (total, "")
        return f"the first that differs is row {row + 1:,}{f' ({name})' if name else ''}"

    def _compare(
        self, start: int, frame: pl.DataFrame, wanted: pl.DataFrame, found: pl.DataFrame
    ) -> None:
        for name in wanted.columns:
            should, has = wanted.get_column(name), found.get_column(name)
            if not (rows := _differing(should, has)):
                continue
            row = self._name(frame, rows[0])
            if self._first is None or start + rows[0] < self._first[0]:
                self._first = start + rows[0], row
            flaw = self._by_column.get(name)
            if flaw is None:
                is_now, should_be = self._shown(has[rows[0]]), self._shown(should[rows[0]])
                problem = f"{name} is {is_now}, and the checkpoint gives {should_be}"
                flaw = Flaw(problem, row, -1)
            self._by_column[name] = Flaw(flaw.problem, flaw.row, flaw.others + len(rows))

    def _shown(self, value: object) -> str:
        if isinstance(value, pl.Series):
            value = value.to_list()
        written = str(value) if self._reader.is_written else repr(value)
        text = "empty" if value is None else written
        return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"

    def _name(self, frame: pl.DataFrame, row: int) -> str:
        parts = [str(frame.get_column(name)[row]) for name in self._key if name in frame.columns]
        return ", attempt ".join(parts)


def _differing(wanted: pl.Series, found: pl.Series) -> list[int]:
    if wanted.equals(found):
        return []
    pairs = zip(wanted.to_list(), found.to_list(), strict=True)
    # As text, NaN equals itself.
    return [n for n, (one, other) in enumerate(pairs) if repr(one) != repr(other)]


def columns_in(path: Path) -> list[str]:
    """Return the names of a file's columns; none when it cannot be read."""
    try:
        if path.suffix == ".parquet":
            return list(pl.scan_parquet(path, glob=False).collect_schema())
        if path.suffix == ".csv":
            return list(_scan(path).collect_schema())
        return list(_record(next(_lines(path), b"{}")))
    except _FILE_ERRORS:
        return []


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


class _Parquet:
    is_written = False

    def __init__(self, path: Path, contents: FileContents) -> None:
        self._lazy = pl.scan_parquet(path, glob=False)
        self._contents = contents
        self._taken = 0

    def schema_flaw(self) -> str | None:
        schema, found = self._contents.schema, self._lazy.collect_schema()
        if (problem := _columns_flaw(list(schema), list(found), self._contents)) is not None:
            return problem
        retyped = [name for name in schema if found[name] != schema[name]]
        return f"has columns of another type: {listed(retyped)}" if retyped else None

    def pair(self, wanted: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        found = self._lazy.slice(self._taken, wanted.height).collect(engine="streaming")
        self._taken += found.height
        return wanted, found

    def rest(self) -> int:
        return int(self._lazy.select(pl.len()).collect().item()) - self._taken


class _Csv:
    is_written = False

    def __init__(self, path: Path, contents: FileContents) -> None:
        lazy = _scan(path)
        self._contents, self._header = contents, lazy.collect_schema()
        self._batches = lazy.collect_batches(maintain_order=True, lazy=True)
        self._held = pl.DataFrame(schema=self._header)

    def schema_flaw(self) -> str | None:
        wanted = _as_text(pl.DataFrame(schema=self._contents.schema)).columns
        return _columns_flaw(wanted, list(self._header), self._contents)

    def pair(self, wanted: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        while self._held.height < wanted.height:
            batch = next(self._batches, None)
            if batch is None:
                break
            self._held = pl.concat([self._held, batch])
        found, self._held = self._held.head(wanted.height), self._held.slice(wanted.height)
        return _as_text(wanted), found

    def rest(self) -> int:
        return self._held.height + sum(batch.height for batch in self._batches)


def _as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Return what is read from a CSV file of this frame."""
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


_READERS: dict[str, type[_Parquet | _Csv | _JsonLines]] = {
    ".parquet": _Parquet,
    ".csv": _Csv,
    ".jsonl": _JsonLines,
}
