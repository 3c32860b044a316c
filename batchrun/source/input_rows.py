"""An input as its columns and rows, in chunks that are bounded in rows and bytes."""

from __future__ import annotations

from contextlib import closing, nullcontext
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from batchrun.errors import JobError, quoted, short
from batchrun.records import Item
from batchrun.source import json_lines, parquet, readers
from batchrun.source.id_hashes import IdHashes
from batchrun.source.ids import (
    USE_ROW_NUMBERS,
    check_id_column,
    check_present,
    numbered,
    spelled,
)
from batchrun.source.opened_tables import OpenedTables
from batchrun.source.table_faults import file_errors
from batchrun.source.text_index import csv_frames, lines_after
from batchrun.source.where import Where

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from batchrun.job import InputConfig, RunPart
    from batchrun.source.tables import TableFile

Part = TypeVar("Part", pl.DataFrame, list[bytes])


class Source:
    """An opened input: its columns, and its rows in order.

    Args:
        config: the `[input]` of a job.
        opened: its tables; by default, they are opened.

    Attributes:
        paths: the files, in order.
        stamps: the states of the files when they were opened.
        schema: the columns with their types.

    Raises:
        JobError: when files are missing, of different kinds, or cannot be parsed.
    """

    def __init__(self, config: InputConfig, opened: OpenedTables | None = None) -> None:
        self._opened = OpenedTables(config) if opened is None else opened
        self._name = self._opened.name
        self._config = config if opened is not None else self._opened.config
        self.paths, self.stamps = self._opened.paths, self._opened.stamps
        self.schema = self._opened.schema
        where, name = self._config.where, self._config.id
        if name is not None:
            check_id_column(self._name, name, self.schema)
        self._where = Where(where, self.schema, self._name) if where else None

    @property
    def table(self) -> str:
        """The path that is read: the input, or the local copy of a remote one."""
        return self._config.path

    @property
    def columns(self) -> tuple[str, ...]:
        """The column names, in order."""
        return tuple(self.schema)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user about what was detected in the files."""
        return self._opened.notes

    @property
    def _condition(self) -> pl.Expr | None:
        return None if self._where is None else self._where.condition

    def _where_in_errors(self) -> AbstractContextManager[None]:
        return nullcontext() if self._where is None else self._where.named_in_errors()

    def count(self) -> int:
        """Return the number of rows.

        Raises:
            JobError: when the input cannot be parsed.
        """
        total = sum(self._count_file(table) for table in self._opened.files)
        first, rows = self._span
        return max(0, total - first) if rows is None else max(0, min(total - first, rows))

    def of_part(self, part: RunPart) -> Source:
        """Return the rows of one part as a table, without opening the files again."""
        return Source(replace(self._config, part=part), self._opened)

    @property
    def _span(self) -> tuple[int, int | None]:
        """The ordinal of the first row to read, and the number of rows; None for all that follow."""
        limit, part = self._config.limit, self._config.part
        if part is None:
            return 0, limit
        left = part.rows if limit is None else max(0, limit - part.first)
        return part.first, min(part.rows, left)

    def check_ids(self) -> None:
        """Check that every row has an id and that ids are unique.

        Compares hashes, and reads the ids again where hashes are equal.

        Raises:
            JobError: names the row or the id.
            OutputError: when there is no room for temporary files.
        """
        if self._config.id is None:
            return
        start = 0
        with closing(IdHashes()) as hashes:
            for frame in self.frames([self._config.id]):
                values = frame.get_column(self._config.id)
                ids = spelled(values)
                check_present(self._name, self._config.id, values, ids, start)
                hashes.add(ids.hash())
                start += frame.height
            suspects = hashes.repeated()
        if suspects:
            self._report_duplicates(self._config.id, suspects)

    def frames(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """Yield the rows in order, in bounded frames.

        Args:
            columns: the columns to read; None for all.

        Raises:
            JobError: when the input cannot be parsed.
        """
        # Without columns, one is read to know the number of rows.
        names = list(self.schema if columns is None else columns) or list(self.schema)[:1]
        first, rows = self._span
        return _first(self._frames_from(first, names), rows)

    def _frames_from(self, first: int, columns: list[str]) -> Iterator[pl.DataFrame]:
        """Yield the rows from an ordinal on. In Parquet files, most rows before it are not read."""
        for table in self._opened.files:
            skipped = min(first, self._skippable(table)) if first else 0
            first -= skipped
            for frame in self._file_frames(table, columns, skipped):
                kept, first = frame[first:], max(0, first - frame.height)
                yield kept

    def _skippable(self, table: TableFile) -> int:
        """Return how many rows of a file can be left out without reading them."""
        if self._where is not None:
            return 0
        if table.kind == ".parquet":
            with self._opened.named_as_given():
                return parquet.count(table.place)
        return 0 if (index := self._opened.index(table)) is None else index.rows

    def items(self, columns: Sequence[str], chunk_rows: int) -> Iterator[list[Item]]:
        """Yield the items in order, with the values of these columns.

        A chunk has at most `chunk_rows` items and a few megabytes; a single row may be larger.
        The values of a row do not depend on other rows: for JSON Lines they are those of the
        line, whatever the type of the column is.

        Raises:
            JobError: when the input cannot be parsed.
        """
        wanted = list(dict.fromkeys(columns))
        read = self._read_lines if self._opened.has_lines else self._read_frames
        start = 0
        for ids, rows in read(wanted, chunk_rows):
            names = ids or numbered(self._span[0] + start, len(rows))
            yield [Item(start + n, names[n], row) for n, row in enumerate(rows)]
            start += len(rows)

    def ids(self, frame: pl.DataFrame, start: int) -> Sequence[str]:
        """Return the ids of rows, as `items` gives them.

        Args:
            frame: consecutive rows, with all columns.
            start: the ordinal of the first one.
        """
        return self._ids(frame).to_list() or numbered(self._span[0] + start, frame.height)

    def class_names(self, column: str) -> tuple[str, ...]:
        """Return the names of the classes of a column with class numbers, if the file has them."""
        table = self._opened.files[0]
        return parquet.class_names(table.place, column) if table.kind == ".parquet" else ()

    def is_unchanged(self) -> bool:
        """Return whether the files have not changed since they were opened."""
        return self._opened.is_unchanged()

    def _count_file(self, table: TableFile) -> int:
        if table.kind == ".parquet":
            with self._where_in_errors(), self._opened.named_as_given():
                return parquet.count(table.place, self._condition)
        # Reads every cell, to find errors in a text file before anything is sent.
        return sum(frame.height for frame in self._file_frames(table, list(self.schema)))

    def _file_frames(
        self, table: TableFile, columns: list[str], skipped: int = 0
    ) -> Iterator[pl.DataFrame]:
        index = self._opened.index(table) if skipped and table.kind != ".parquet" else None
        if self._opened.has_lines:
            lines = json_lines.blocks(table.place)
            if index is not None:
                lines = lines_after(table.place, index, skipped)
            found = json_lines.frames(table.place, lines, self.schema, columns, self._condition)
        elif index is not None:
            found = csv_frames(table, self.schema, index, skipped, columns)
        else:
            found = readers.frames(table, columns, self._condition, skipped)
        with self._where_in_errors(), self._opened.named_as_given():
            yield from found

    def _read_frames(
        self, columns: list[str], chunk_rows: int
    ) -> Iterator[tuple[list[str], list[dict[str, Any]]]]:
        extra = [] if self._config.id is None else [self._config.id]
        for frame in self.frames(list(dict.fromkeys([*columns, *extra]))):
            for part in readers.parts(frame, chunk_rows):
                with file_errors(self._name):
                    rows = part.select(columns).rows(named=True) or [{}] * part.height
                yield self._ids(part).to_list(), rows

    def _read_lines(
        self, columns: list[str], chunk_rows: int
    ) -> Iterator[tuple[list[str], list[dict[str, Any]]]]:
        first, most = self._span
        every, first = self._blocks_from(first)
        for lines in _first(_after(map(self._matching, every), first), most):
            for start in range(0, len(lines), chunk_rows):
                part = lines[start : start + chunk_rows]
                with file_errors(self._name):
                    rows = json_lines.rows(part, columns)
                    ids = [] if self._config.id is None else self._line_ids(part)
                yield ids, rows

    def _blocks_from(self, first: int) -> tuple[Iterator[list[bytes]], int]:
        """Return blocks of lines, and the number of rows at their start that are before this ordinal."""
        blocks: list[Iterator[list[bytes]]] = []
        for table in self._opened.files:
            skipped = min(first, self._skippable(table)) if first else 0
            index = self._opened.index(table) if skipped else None
            if index is None:
                blocks.append(json_lines.blocks(table.place))
            elif skipped < index.rows:
                blocks.append(lines_after(table.place, index, skipped))
            first -= skipped
        return chain.from_iterable(blocks), first

    def _matching(self, lines: list[bytes]) -> list[bytes]:
        if self._condition is None:
            return lines
        with self._where_in_errors(), file_errors(self._name):
            return json_lines.matching(lines, self.schema, self._condition)

    def _line_ids(self, lines: list[bytes]) -> list[str]:
        return self._ids(json_lines.frame(lines, self.schema)).to_list()

    def _ids(self, frame: pl.DataFrame) -> pl.Series:
        """Return the ids as text; empty without an id column."""
        if self._config.id is None:
            return pl.Series([], dtype=pl.String)
        return spelled(frame.get_column(self._config.id))

    def _report_duplicates(self, column: str, suspects: set[int]) -> None:
        seen: dict[str, int] = {}
        row = 0
        for frame in self.frames([column]):
            ids = self._ids(frame)
            for value, digest in zip(ids, ids.hash(), strict=True):
                row += 1
                if digest in suspects and seen.setdefault(value, row) != row:
                    raise JobError(
                        f"{self._name}: the id {quoted(value)} in the column "
                        f'"{short(column)}" is in row {seen[value]} and in row {row}; ids must be unique. Fix the '
                        f"table, {USE_ROW_NUMBERS}"
                    )


def _after(parts: Iterable[Part], rows: int) -> Iterator[Part]:
    """Yield parts without the first rows of all parts together."""
    for part in parts:
        yield part[rows:]
        rows = max(0, rows - len(part))


def _first(parts: Iterable[Part], limit: int | None) -> Iterator[Part]:
    """Yield non-empty parts with at most `limit` rows in total."""
    left = limit
    for part in parts:
        cut = part if left is None else part[:left]
        if left is not None:
            left -= len(cut)
        if len(cut):
            yield cut
        if left == 0:
            return
