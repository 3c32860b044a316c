"""Read CSV, TSV, Parquet and Arrow with polars: columns, and rows in bounded frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from batchrun.errors import JobError, short
from batchrun.job.reader import listed
from batchrun.source import parquet
from batchrun.source.table_faults import file_errors

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from batchrun.source.tables import TableFile


PART_BYTES = 8 * 1024 * 1024
# Every cell is text.
CSV_OPTIONS: dict[str, Any] = {"infer_schema": False, "empty_string_is_null": False}


def schema(tables: Sequence[TableFile]) -> pl.Schema:
    """Return the columns of the files, which must be the same.

    Raises:
        JobError: when a file cannot be read, or the files differ.
    """
    schemas = [_schema(table) for table in tables]
    for table, found in zip(tables, schemas, strict=True):
        if found != schemas[0]:
            raise JobError(_difference(tables[0].path, schemas[0], table.path, found))
    return schemas[0]


def frames(
    table: TableFile, columns: list[str], where: pl.Expr | None = None, skipped: int = 0
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file in order, or those that satisfy a condition, in bounded frames.

    The first `skipped` rows are left out, only for a Parquet file without a condition.

    Raises:
        JobError: when it cannot be read.
    """
    if table.kind == ".parquet":
        yield from parquet.frames(table.place, columns, where, skipped)
        return
    with errors_of(table):
        lazy = _scan(table)
        kept = lazy if where is None else lazy.filter(where)
        # A batch is a few megabytes.
        yield from kept.select(columns).collect_batches(maintain_order=True, lazy=True)


def errors_of(table: TableFile) -> AbstractContextManager[None]:
    """Translate polars' errors about a file."""
    return file_errors(table.place, None if table.dialect is None else table.dialect.separator)


def parts(frame: pl.DataFrame, most_rows: int) -> Iterator[pl.DataFrame]:
    """Cut a frame into parts whose values take no more than a few megabytes as Python objects."""
    if int(_row_bytes(frame).sum()) <= PART_BYTES:
        yield from frame.iter_slices(most_rows)
        return
    for part in frame.iter_slices(most_rows):
        sizes = _row_bytes(part)
        ends = sizes.cum_sum() // PART_BYTES
        start = 0
        for height in ends.rle().struct.field("len"):
            yield part.slice(start, height)
            start += height


def _row_bytes(frame: pl.DataFrame) -> pl.Series:
    sizes = pl.Series("", [0] * frame.height, dtype=pl.Int64)
    for column in frame:
        sizes += _value_bytes(column)
    return sizes


def _value_bytes(column: pl.Series) -> pl.Series:
    """Return the bytes of each value. Equal values share memory in a frame, but not in Python."""
    if column.dtype == pl.String:
        sizes = column.str.len_bytes()
    elif column.dtype == pl.Binary:
        sizes = column.bin.size()
    else:
        each = column.estimated_size() // max(1, len(column))
        return pl.Series("", [each] * len(column), dtype=pl.Int64)
    return sizes.fill_null(0).cast(pl.Int64)


def _scan(table: TableFile) -> pl.LazyFrame:
    if table.dialect is not None:
        return scan_text(table, table.place)
    scan = parquet.scan if table.kind == ".parquet" else pl.scan_ipc
    return scan(table.place)


def scan_text(
    table: TableFile, text: Path | io.BytesIO, columns: pl.Schema | None = None
) -> pl.LazyFrame:
    """Return the rows of a CSV file, or of a piece of it, as a lazy frame.

    Args:
        table: the file.
        text: the part of it to read.
        columns: the columns of a piece without the header; None reads the header.

    Raises:
        ValueError: when the file has no dialect.
    """
    if table.dialect is None:
        raise ValueError(f"{table.path} is not a text with cells")
    quote = table.dialect.quote
    header: dict[str, Any] = (
        {"with_column_names": lambda names: [unescape_quotes(name, quote) for name in names]}
        if columns is None
        else {"has_header": False, "schema": columns}
    )
    return pl.scan_csv(
        text,
        separator=table.dialect.separator,
        quote_char=quote or None,
        **CSV_OPTIONS,
        glob=False,
        **header,
    )


def unescape_quotes(name: str, quote: str = '"') -> str:
    """Replace doubled quotes in a column name, which polars leaves doubled."""
    return name.replace(quote * 2, quote) if quote else name


def _schema(table: TableFile) -> pl.Schema:
    with errors_of(table):
        found = _scan(table).collect_schema()
    if table.dialect is not None:
        check_header(table.path, found)
    return found


def check_header(path: Path | str, columns: pl.Schema) -> None:
    """Check the header of a text file.

    Raises:
        JobError: when columns have the same name, or the text is not UTF-8 with line feeds.
    """
    for name in columns:
        # polars renames repeated columns; a template would silently use the first one.
        original = name.rpartition("_duplicated_")[0]
        if original and original in columns:
            raise JobError(f'{path}: the column "{short(original)}" appears twice; rename one')
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
        for label, names in (("lacks", missing), ("adds", extra), ("has other types for", retyped))
        if names
    ]
    what = "; ".join(details) or "has another order"
    return f"{path}: its columns differ from those of {first}: it {what}"
