"""CSV, TSV and Parquet through polars: the columns of files, and their rows in bounded frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def count_parquet(path: Path) -> int:
    """Return how many rows a Parquet file says that it has.

    Raises:
        JobError: when it cannot be read.
    """
    with explained(path):
        return int(_scan(path, ".parquet").select(pl.len()).collect().item())


def frames(path: Path, kind: str, columns: list[str]) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file in order, in bounded frames.

    Raises:
        JobError: when it cannot be read.
    """
    with explained(path):
        lazy = _scan(path, kind).select(columns)
        if kind == ".parquet":
            yield from _slices(lazy)
        else:  # a batch is what polars parses at a time: a few megabytes
            yield from lazy.collect_batches(maintain_order=True, lazy=True)


def _scan(path: Path, kind: str) -> pl.LazyFrame:
    if kind == ".parquet":
        return pl.scan_parquet(path, glob=False)
    return pl.scan_csv(
        path,
        separator=SEPARATORS[kind],
        infer_schema=False,
        empty_string_is_null=False,
        glob=False,
        # polars leaves doubled quotes in a quoted column name as they are.
        with_column_names=lambda header: [name.replace('""', '"') for name in header],
    )


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
        bytes_per_row = max(1, frame.estimated_size() // frame.height)
        affordable = int(TARGET_FRAME_BYTES // bytes_per_row)
        rows = max(1, min(MAX_FRAME_ROWS, rows * 16, affordable))


def _schema(path: Path, kind: str) -> pl.Schema:
    with explained(path):
        found = _scan(path, kind).collect_schema()
    if kind != ".parquet":
        _check_header(path, found)
    return found


def _check_header(path: Path, columns: pl.Schema) -> None:
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
