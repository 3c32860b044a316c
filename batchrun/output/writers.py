"""Write the contents of a file: one function for each format."""

from __future__ import annotations

import io
import shutil
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

import polars as pl
from polars.io.plugins import register_io_source

from batchrun.errors import OutputError, quoted
from batchrun.footers import row_group_file
from batchrun.output import workbooks
from batchrun.output.frames import CHUNK_ROWS, FileContents, ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


# Rows of a row group of Parquet, which has fewer of them where they are large.
GROUP_ROWS = 2 * CHUNK_ROWS
MOST_GROUP_BYTES = 8 * 1024 * 1024
# Every partition has a row group in memory.
PARTITION_GROUP_ROWS = 1_000
PARTITION_BYTES = 8 * 1024 * 1024
MOST_PARTITION_BYTES = 64 * 1024 * 1024
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
        write_parquet(path, [contents])
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


def write_parquet(path: Path, pieces: Sequence[FileContents | Path]) -> None:
    """Write rows of the same columns, one piece after the other, as Parquet.

    The row groups of a piece that is a Parquet file are copied without decoding them, if the same version of
    polars wrote all files. Each group is written on its own: a writer keeps the metadata of all its groups in memory.
    """
    if not _appended(path, pieces):
        read = [
            _as_contents(piece) if not isinstance(piece, FileContents) else piece
            for piece in pieces
        ]
        if not _appended(path, read):
            raise OSError("the parts have different columns")


def _appended(path: Path, pieces: Sequence[FileContents | Path]) -> bool:
    with row_group_file(path) as whole:
        return all(whole.append(content) for piece in pieces for content in _encoded(piece))


def _encoded(piece: FileContents | Path) -> Iterator[BinaryIO]:
    """Yield Parquet files with the row groups of a piece."""
    if not isinstance(piece, FileContents):
        with piece.open("rb") as file:
            yield file
        return
    is_empty = True
    for group in ahead(_groups(piece.frames(list(piece.schema)))):
        is_empty = False
        yield _parquet(group)
        del group  # otherwise it stays in memory until the next one has been read
    if is_empty:
        yield _parquet(pl.DataFrame(schema=piece.schema))


def _groups(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield row groups, which have fewer rows where they are large."""
    held: list[pl.DataFrame] = []
    rows = size = 0
    for frame in chain.from_iterable(map(_slices, frames)):
        more = int(frame.estimated_size())
        if held and (rows >= GROUP_ROWS or size + more > MOST_GROUP_BYTES):
            yield pl.concat(held)
            held, rows, size = [], 0, 0
        held.append(frame)
        rows, size = rows + frame.height, size + more
        del frame
    if rows:
        yield pl.concat(held)


def _slices(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield a frame in pieces of at most the bytes of a row group, if its rows are about alike."""
    count = -(-int(frame.estimated_size()) // MOST_GROUP_BYTES)
    return frame.iter_slices(max(1, frame.height // max(1, count)))


def _parquet(rows: pl.DataFrame) -> BinaryIO:
    content = io.BytesIO()
    rows.write_parquet(content, row_group_size=max(1, rows.height))
    return content


def _as_contents(path: Path) -> FileContents:
    return FileContents(pl.Schema(pl.read_parquet_schema(path)), partial(_stored, path), ())


def _stored(path: Path, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    rows = pl.scan_parquet(path, glob=False).select(columns)
    yield from rows.collect_batches(maintain_order=True, lazy=True, chunk_size=CHUNK_ROWS)


def write_dataset(folder: Path, contents: FileContents) -> None:
    """Write a Parquet dataset: a folder for each value of the columns of `contents.partition_by`.

    Raises:
        OutputError: when there are too many such folders, or a value has the name of the folder of nulls.
    """
    rows: int | None = PARTITION_GROUP_ROWS
    while rows is not None:
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        rows = _write_partitions(folder, contents, rows)
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
                f"[output] partition_by: the value {quoted(NO_VALUE)} is the name of the folder of nulls; "
                "choose another column"
            )


def _write_partitions(folder: Path, contents: FileContents, group_rows: int) -> int | None:
    """Write a dataset; return a smaller number of rows for a group if `group_rows` was too many.

    polars keeps a row group in memory until it is complete, and limits it only by the number of rows.
    """
    keys = list(contents.partition_by)
    check = _PartitionCheck(keys)
    smaller: int | None = None

    def bounded(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        nonlocal smaller
        for frame in contents.frames(columns):
            row_bytes = max(1, int(frame.estimated_size()) // max(1, frame.height))
            if group_rows > 1 and group_rows * row_bytes > MOST_PARTITION_BYTES:
                smaller = max(1, PARTITION_BYTES // row_bytes)
                return
            check(frame)
            yield frame

    target = pl.PartitionBy(folder, key=keys, include_key=False)
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
