"""CSV, TSV and Parquet through polars: the columns of files, and their rows in bounded frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from batchrun.errors import JobError
from batchrun.sections import listed
from batchrun.source.files import SEPARATORS, explained

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

TARGET_FRAME_BYTES = 16 * 1024 * 1024
MAX_FRAME_ROWS = 50_000
PROBE_ROWS = 16
# Every cell is text.
CSV_OPTIONS: dict[str, Any] = {"infer_schema": False, "empty_string_is_null": False}
ROW_NUMBER = "\0row"  # no column of a Parquet file is called so


def schema(paths: Sequence[Path], kind: str) -> pl.Schema:
    """Return the columns that all files have.

    Raises:
        JobError: when a file cannot be read, or the files differ.
    """
    schemas = [_schema(path, kind) for path in paths]
    for path, found in zip(paths, schemas, strict=True):
        if found != schemas[0]:
            raise JobError(_difference(paths[0], schemas[0], path, found))
    return schemas[0]


def count_parquet(path: Path, where: pl.Expr | None = None) -> int:
    """Return how many rows a Parquet file says that it has, or has that satisfy a condition.

    Raises:
        JobError: when it cannot be read.
    """
    with explained(path):
        lazy = _scan(path, ".parquet")
        kept = lazy if where is None else lazy.filter(where)
        return int(kept.select(pl.len()).collect(engine="streaming").item())


def frames(
    path: Path, kind: str, columns: list[str], where: pl.Expr | None = None
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file in order, in bounded frames; with a condition, those that satisfy it.

    Raises:
        JobError: when it cannot be read.
    """
    with explained(path):
        lazy = _scan(path, kind)
        if kind == ".parquet" and where is not None:
            yield from _picked(lazy.select(columns), _row_numbers(path, where))
        elif kind == ".parquet":
            yield from _slices(lazy.select(columns))
        else:
            kept = (
                lazy if where is None else lazy.filter(where)
            )  # a batch is what polars parses at a time: a few megabytes
            yield from kept.select(columns).collect_batches(maintain_order=True, lazy=True)


def _scan(path: Path, kind: str) -> pl.LazyFrame:
    if kind == ".parquet":
        return pl.scan_parquet(path, glob=False)
    return pl.scan_csv(
        path,
        separator=SEPARATORS[kind],
        **CSV_OPTIONS,
        glob=False,
        with_column_names=lambda header: [plain_name(name) for name in header],
    )


def plain_name(name: str) -> str:
    """Return a column's name without doubled quotes, which polars leaves as they are."""
    return name.replace('""', '"')


def _slices(lazy: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """Read Parquet slice by slice, as many rows at a time as fit the byte target.

    `collect_batches` would hold a whole row group (and often the whole file) in memory.
    """
    offset = 0
    rows: int = PROBE_ROWS
    while True:
        frame = lazy.slice(offset, rows).collect(engine="streaming")
        if frame.height:
            yield frame
        if frame.height < rows:
            return
        offset += frame.height
        rows = _next_rows(rows, frame)


def _next_rows(rows: int, frame: pl.DataFrame) -> int:
    """Return how many rows to read next, given the last ones."""
    bytes_per_row = max(1, frame.estimated_size() // frame.height)
    affordable = int(TARGET_FRAME_BYTES // bytes_per_row)
    return max(1, min(MAX_FRAME_ROWS, rows * 16, affordable))


def _row_numbers(path: Path, where: pl.Expr) -> pl.Series:
    """Return the numbers of the rows that satisfy a condition, reading no more than it needs."""
    scan = pl.scan_parquet(path, glob=False, row_index_name=ROW_NUMBER)
    return scan.filter(where).select(ROW_NUMBER).collect(engine="streaming").to_series()


def _picked(lazy: pl.LazyFrame, numbers: pl.Series) -> Iterator[pl.DataFrame]:
    """Read Parquet slice by slice, as `_slices`, where there are rows that are wanted."""
    done = 0
    rows: int = PROBE_ROWS
    while done < len(numbers):
        first = numbers[done]
        end = int(numbers.search_sorted(first + rows))
        frame = lazy.slice(first, rows).collect(engine="streaming")
        yield frame[(numbers[done:end] - first)]
        done = end
        rows = _next_rows(rows, frame)


def _schema(path: Path, kind: str) -> pl.Schema:
    with explained(path):
        found = _scan(path, kind).collect_schema()
    if kind != ".parquet":
        check_header(path, found)
    return found


def check_header(path: Path | str, columns: pl.Schema) -> None:
    """See that a text file's columns can be told apart.

    Raises:
        JobError: saying which cannot.
    """
    for name in columns:
        # polars renames a repeated column; a template would silently read the first one.
        original = name.rpartition("_duplicated_")[0]
        if original and original in columns:
            raise JobError(f'{path}: the column "{original}" appears twice; rename one')
        if "\ufffd" in name or "\0" in name:
            raise JobError(f"{path}: the header is not UTF-8 text; save the table as UTF-8")
        if "\r" in name.replace("\r\n", ""):
            raise JobError(
                f"{path}: its lines end in a bare carriage return; save it with line feeds"
            )


def _difference(first: Path, expected: pl.Schema, path: Path, found: pl.Schema) -> str:
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    retyped = [n for n in expected if n in found and expected[n] != found[n]]
    details = [
        f"{label} {listed(names)}"
        for label, names in (("lacks", missing), ("adds", extra), ("has another type for", retyped))
        if names
    ]
    what = "; ".join(details) or "has them in another order"
    return f"{path}: its columns differ from those of {first}: it {what}"
