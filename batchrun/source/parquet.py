"""Read Parquet files in frames that are bounded in rows and bytes."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

import polars as pl
from polars.exceptions import PanicException, PolarsError

from batchrun.footers.thrift import DAMAGE_ERRORS
from batchrun.source.inputs import FileStamp
from batchrun.source.layout import Chunk, RowGroup, column_frames, row_groups
from batchrun.source.table_faults import file_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


# A frame ends at either limit, so that memory depends on neither the rows nor their size.
TARGET_FRAME_BYTES = 8 * 1024 * 1024
MAX_FRAME_ROWS = 50_000
# The long columns of a row group larger than this are read page by page.
LARGE_GROUP_BYTES = 64 * 1024 * 1024
# The size of rows is estimated from these if the footer cannot be read.
PROBE_ROWS = 16
ROW_NUMBER = "\0row"  # no column of a Parquet file has this name


def scan(path: Path) -> pl.LazyFrame:
    """Return a file as a lazy frame; its name is not used as a pattern."""
    return pl.scan_parquet(path, glob=False)


def count(path: Path, where: pl.Expr | None = None) -> int:
    """Return the number of rows, or of those that satisfy a condition.

    Raises:
        JobError: when it cannot be read.
    """
    with file_errors(path):
        # polars decodes a whole row group at once, so large ones are read in frames.
        if where is not None and _is_large(path, names := where.meta.root_names()):
            return sum(frame.height for frame in frames(path, names[:1], where))
        kept = scan(path) if where is None else scan(path).filter(where)
        return int(kept.select(pl.len()).collect(engine="streaming").item())


def class_names(path: Path, column: str) -> tuple[str, ...]:
    """Return the names of the classes of a column, as Hugging Face's `datasets` stores them."""
    with file_errors(path):
        stored = pl.read_parquet_metadata(path).get("huggingface", "{}")
        try:
            names = json.loads(stored)["info"]["features"][column]["names"]
        except (KeyError, TypeError, ValueError):
            return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def frames(
    path: Path, columns: list[str], where: pl.Expr | None = None, skipped: int = 0
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file in order, or those that satisfy a condition, in bounded frames.

    Without a condition, the first `skipped` rows are left out.

    Raises:
        JobError: when it cannot be read.
    """
    with file_errors(path):
        if where is None:
            yield from _every_frame(path, columns, skipped)
        elif _is_large(path, needed := list({*columns, *where.meta.root_names()})):
            for frame in _every_frame(path, needed):
                yield frame.filter(where).select(columns)
        else:
            yield from _picked(path, columns, _row_numbers(path, where))


def _picked(path: Path, columns: list[str], numbers: pl.Series) -> Iterator[pl.DataFrame]:
    """Yield the rows with these numbers; parts of the file without any are not read."""
    lazy = scan(path).select(columns)
    done = 0
    for first, rows in _spans(_groups(path), columns):
        end = int(numbers.search_sorted(first + rows))
        if end > done:
            frame = lazy.slice(first, rows).collect(engine="streaming")
            yield frame[(numbers[done:end] - first)]
        done = end


def _row_numbers(path: Path, where: pl.Expr) -> pl.Series:
    """Return the numbers of the rows that satisfy a condition; reads only its columns."""
    numbered = pl.scan_parquet(path, glob=False, row_index_name=ROW_NUMBER)
    return numbered.filter(where).select(ROW_NUMBER).collect(engine="streaming").to_series()


def _every_frame(path: Path, columns: list[str], skipped: int = 0) -> Iterator[pl.DataFrame]:
    """Yield the rows in order; row groups whose rows are all skipped are not read."""
    first, left = 0, [*_groups(path)]
    while left and first + left[0].rows <= skipped:
        first += left.pop(0).rows
    unwanted = skipped - first
    for frame in _group_frames(path, columns, first, left):
        yield frame[unwanted:] if unwanted else frame
        unwanted = max(0, unwanted - frame.height)


def _group_frames(
    path: Path, columns: list[str], first: int, groups: Sequence[RowGroup]
) -> Iterator[pl.DataFrame]:
    """Yield the rows of consecutive row groups; the first of them has the row `first`."""
    for is_large, run in groupby(groups, lambda group: _group_is_large(group, columns)):
        alike = list(run)
        if is_large:
            for number, group in enumerate(alike):
                start = first + sum(each.rows for each in alike[:number])
                yield from _paged(path, columns, start, group)
        else:
            yield from _sliced(path, columns, first, alike)
        first += sum(group.rows for group in alike)


def _sliced(
    path: Path, columns: Sequence[str], first: int, groups: Sequence[RowGroup]
) -> Iterator[pl.DataFrame]:
    """Yield the rows of consecutive row groups, read by polars in slices."""
    lazy = scan(path).select(columns)
    for start, rows in _spans(groups, columns):
        yield lazy.slice(first + start, rows).collect(engine="streaming")


def _paged(
    path: Path, columns: Sequence[str], first: int, group: RowGroup
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a large row group; its long text and binary columns are read by page."""
    kinds = scan(path).collect_schema()
    long = [
        name
        for name in columns
        if kinds[name] in (pl.String, pl.Binary) and group.size([name]) > TARGET_FRAME_BYTES
    ]
    readers = [_ColumnReader(_column(path, name, first, group)) for name in long]
    if rest := [name for name in columns if name not in long]:
        readers.append(_ColumnReader(_sliced(path, rest, first, [group])))
    left = group.rows
    while left:
        # Each column ends its frames at other rows, so only rows that all columns have are joined.
        rows = min(left, *(reader.ready() for reader in readers))
        yield pl.concat([reader.take(rows) for reader in readers], how="horizontal").select(columns)
        left -= rows


def _column(path: Path, name: str, first: int, group: RowGroup) -> Iterator[pl.DataFrame]:
    """Yield one column of a row group, page by page as far as its pages can be read."""
    done = 0
    try:
        if (chunk := group.pages_of(name)) is not None:
            for frame in column_frames(path, name, chunk, TARGET_FRAME_BYTES):
                yield frame
                done += frame.height
    except (*DAMAGE_ERRORS, PolarsError, PanicException):
        pass  # polars reads the rest, or reports what is wrong with the file
    for start, rows in _spans([group], [name]):
        if start + rows > done:
            skipped = max(0, done - start)
            lazy = scan(path).select(name).slice(first + start + skipped, rows - skipped)
            yield lazy.collect(engine="streaming")


class _ColumnReader:
    """Columns of a row group that are read together; buffers rows that were read but not yet taken."""

    def __init__(self, frames: Iterator[pl.DataFrame]) -> None:
        self._frames = frames
        self._held = pl.DataFrame()

    def ready(self) -> int:
        while not self._held.height:
            found = next(self._frames, None)
            if found is None:
                raise ValueError("a column has fewer rows than its row group")
            self._held = found
        return self._held.height

    def take(self, rows: int) -> pl.DataFrame:
        taken, self._held = self._held.head(rows), self._held.slice(rows)
        return taken


def _spans(groups: Sequence[RowGroup], columns: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the first row and the number of rows of each frame; joins small groups, cuts large ones."""
    start = end = size = 0
    for group in groups:
        added = group.size(columns)
        if size + added > TARGET_FRAME_BYTES or end - start + group.rows > MAX_FRAME_ROWS:
            yield from [(start, end - start)] if end > start else ()
            start, size = end, 0
        end, size = end + group.rows, size + added
        rows = end - start
        parts = max(math.ceil(size / TARGET_FRAME_BYTES), math.ceil(rows / MAX_FRAME_ROWS))
        if parts > 1:
            step = math.ceil(rows / min(parts, rows))
            yield from ((first, min(step, end - first)) for first in range(start, end, step))
            start, size = end, 0
    if end > start:
        yield start, end - start


def _group_is_large(group: RowGroup, columns: Sequence[str]) -> bool:
    return group.size(columns) > LARGE_GROUP_BYTES


def _is_large(path: Path, columns: Sequence[str]) -> bool:
    return any(_group_is_large(group, columns) for group in _groups(path))


def _groups(path: Path) -> Sequence[RowGroup]:
    return _groups_of(path, FileStamp.of(path))


@lru_cache(maxsize=64)
def _groups_of(path: Path, _stamp: FileStamp) -> Sequence[RowGroup]:
    """Return the row groups of a file; without a readable footer, one estimated from a few rows."""
    found = row_groups(path)
    if found is not None:
        return [group for group in found if group.rows > 0]
    total = count(path)
    probe = scan(path).slice(0, PROBE_ROWS).collect(engine="streaming")
    each = total / max(1, probe.height)
    chunks = {
        column.name: (Chunk(math.ceil(column.estimated_size() * each), 0, 0, {}, None),)
        for column in probe
    }
    return [RowGroup(total, chunks)] if total else []
