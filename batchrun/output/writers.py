"""Write the contents of a file: one function for each format."""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl
from polars.io.plugins import register_io_source

from batchrun.errors import OutputError
from batchrun.output import workbooks
from batchrun.output.frames import CHUNK_ROWS, FileContents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


# Rows of a row group of Parquet, which has fewer of them where they are large.
GROUP_ROWS = 2 * CHUNK_ROWS
GROUP_BYTES = 8 * 1024 * 1024
MOST_GROUP_BYTES = 64 * 1024 * 1024
# Every partition has a row group in memory.
PARTITION_GROUP_ROWS = 1_000
MOST_PARTITIONS = 10_000
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # the name of the folder of nulls


def write_file(path: Path, suffix: str, contents: FileContents) -> int:
    """Write a file of the outputs; return the number of cells that were truncated to fit the format.

    Args:
        path: an existing, empty file.
        suffix: determines the format.
        contents: the contents of the file.

    Raises:
        OutputError: when the format cannot hold the contents.
    """
    if suffix == ".parquet":
        _write_groups(contents, GROUP_ROWS, lambda: path)
    elif suffix == ".arrow":
        # Types that every reader of Arrow knows.
        compat = pl.CompatLevel.oldest()
        _lazy(contents, contents.frames).sink_ipc(
            path, compression="zstd", compat_level=compat, maintain_order=True
        )
    elif suffix == ".csv":
        _lazy(contents, contents.frames).sink_csv(path, maintain_order=True)
    elif suffix == ".xlsx":
        return workbooks.write(path, contents)
    else:
        _lazy(contents, contents.frames).sink_ndjson(path, maintain_order=True)
    return 0


def write_concatenated(path: Path, parts: Sequence[Path]) -> None:
    """Write the rows of Parquet files with the same columns, in order, into one."""
    schema = pl.scan_parquet(parts[0], glob=False).collect_schema()
    _write_groups(FileContents(schema, partial(_stored, parts), ()), GROUP_ROWS, lambda: path)


def _stored(parts: Sequence[Path], columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    for part in parts:
        rows = pl.scan_parquet(part, glob=False).select(columns)
        yield from rows.collect_batches(maintain_order=True, lazy=True, chunk_size=CHUNK_ROWS)


def write_dataset(folder: Path, contents: FileContents) -> None:
    """Write a Parquet dataset: a folder for each value of the columns of `contents.partition_by`.

    Raises:
        OutputError: when there are too many such folders, or a value has the name of the folder of nulls.
    """
    keys = list(contents.partition_by)

    def target() -> pl.PartitionBy:
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        return pl.PartitionBy(folder, key=keys, include_key=False)

    _write_groups(contents, PARTITION_GROUP_ROWS, target, check=_PartitionCheck(keys))
    if not any(folder.iterdir()):
        pl.DataFrame(schema=contents.schema).write_parquet(folder / "empty.parquet")


class _PartitionCheck:
    """Refuses values that would make a dataset unreadable.

    Args:
        keys: the columns whose values are the folders.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = keys
        self._seen: set[tuple[Any, ...]] = set()

    def __call__(self, frame: pl.DataFrame) -> None:
        columns = [frame.get_column(key) for key in self._keys]
        self._seen.update(pl.DataFrame(columns).unique().rows())
        if len(self._seen) > MOST_PARTITIONS:
            raise OutputError(
                f"[output] partition_by: the columns have more than {MOST_PARTITIONS:,} different "
                "values, and each would be a folder; choose columns with fewer"
            )
        if any(NO_VALUE in values for values in self._seen):
            raise OutputError(
                f"[output] partition_by: the value {NO_VALUE!r} is the name of the folder of nulls; "
                "choose another column"
            )


def _write_groups(
    contents: FileContents,
    group_rows: int,
    target: Callable[[], Any],
    check: Callable[[pl.DataFrame], None] | None = None,
) -> None:
    """Write Parquet; if a row group takes too much memory, write it again with smaller groups."""
    rows: int | None = group_rows
    while rows is not None:
        rows = _write_parquet(target(), contents, rows, check)


def _write_parquet(
    target: Any,  # noqa: ANN401 - what polars takes
    contents: FileContents,
    group_rows: int,
    check: Callable[[pl.DataFrame], None] | None,
) -> int | None:
    """Write Parquet; if groups of `group_rows` rows are too large, return a smaller number.

    polars keeps a row group in memory until it is complete, and limits it only by the number of rows.
    """
    smaller: int | None = None

    def bounded(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        nonlocal smaller
        for frame in contents.frames(columns):
            row_bytes = max(1, int(frame.estimated_size()) // max(1, frame.height))
            if group_rows > 1 and group_rows * row_bytes > MOST_GROUP_BYTES:
                smaller = max(1, GROUP_BYTES // row_bytes)
                return
            if check is not None:
                check(frame)
            yield frame

    lazy = _lazy(contents, bounded)
    lazy.sink_parquet(target, row_group_size=group_rows, maintain_order=True, mkdir=True)
    return smaller


def _lazy(
    contents: FileContents, frames: Callable[[Sequence[str]], Iterator[pl.DataFrame]]
) -> pl.LazyFrame:
    def produce(
        with_columns: list[str] | None,
        predicate: object,
        n_rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        yield from frames(with_columns or list(contents.schema))

    return register_io_source(produce, schema=contents.schema)
