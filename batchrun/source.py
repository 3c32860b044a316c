"""The input: files → frames in bounded chunks → `Item`s.

polars reads the files. Text formats keep text ("007" stays "007"; a cell that is empty in CSV is
empty text); typed Parquet columns reach templates as Python values. A frame never holds more than
a bounded number of rows and bytes, whatever the size of the file.
"""

from __future__ import annotations

import glob
import gzip
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import polars as pl
from polars.exceptions import PolarsError

from batchrun.errors import JobError
from batchrun.records import Item

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchrun.job import InputConfig

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
TARGET_FRAME_BYTES = 16 * 1024 * 1024
MAX_FRAME_ROWS = 50_000
CSV_FRAME_ROWS = 10_000
PROBE_ROWS = 256


def is_table(path: str) -> bool:
    """Say whether a path names a table rather than a job file."""
    return _kind(path) is not None


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells whether an input file has changed: path, size in bytes, time in nanoseconds."""

    path: str
    size: int
    modified_ns: int


class Source:
    """An opened input: its columns, its rows in order.

    Args:
        config: which files, which id column, how many rows at most.

    Raises:
        JobError: when files are missing, of different kinds, or cannot be parsed.
    """

    def __init__(self, config: InputConfig) -> None:
        self._config = config
        self.paths = _resolve(config.path)
        self._kind = _common_kind(self.paths)
        self.stamps = tuple(_stamp(path) for path in self.paths)
        with _explained(self.paths):
            self.schema = self._read_schema()
        if config.id is not None and config.id not in self.schema:
            raise JobError(
                f'{config.path}: [input] id names the column "{config.id}", which is not there; '
                f"the columns are {', '.join(self.schema)}"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The column names, in order."""
        return tuple(self.schema)

    def count(self) -> int:
        """Return the number of rows that will be read.

        Raises:
            JobError: when the input cannot be parsed.
        """
        with _explained(self.paths):
            if self._kind == ".jsonl":
                total = sum(frame.height for frame in self._all_frames([]))
            else:
                total = int(self._scan(self.paths).select(pl.len()).collect().item())
        return total if self._config.limit is None else min(total, self._config.limit)

    def check_ids(self) -> None:
        """Make sure that every row has an id and that no two share one.

        Hashes of the ids are compared, 8 bytes a row; equal ones are looked up again.

        Raises:
            JobError: naming a row or a value.
        """
        if self._config.id is None:
            return
        column, start, hashes = self._config.id, 0, []
        for frame in self.frames([column]):
            ids = frame.get_column(column)
            if ids.null_count():
                row = start + int(ids.is_null().arg_max() or 0) + 1
                raise JobError(
                    f'{self._config.path}: row {row} has no id in the column "{column}"; '
                    "fill it in, or leave [input] id out to number the rows"
                )
            hashes.append(ids.cast(pl.String).hash())
            start += frame.height
        # Sorting finds equal neighbours in place of a hash table several times the size.
        every = (pl.concat(hashes) if hashes else pl.Series([], dtype=pl.UInt64)).sort()
        suspects = set(every.filter(every == every.shift(1)).head(1_000).to_list())
        if suspects:
            self._report_duplicates(column, suspects)

    def frames(self, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """Yield the rows in order, in bounded frames.

        Args:
            columns: only these; None for all.

        Raises:
            JobError: when the input cannot be parsed.
        """
        left = self._config.limit
        with _explained(self.paths):
            for frame in self._all_frames(columns):
                if left is not None:
                    frame = frame.head(left)  # noqa: PLW2901 - the frame, cut to the limit
                    left -= frame.height
                if frame.height:
                    yield frame
                if left == 0:
                    return

    def items(self, columns: Sequence[str], chunk_rows: int) -> Iterator[list[Item]]:
        """Yield the items in order, at most `chunk_rows` at a time, with these columns' values."""
        wanted = list(dict.fromkeys([*columns, *([self._config.id] if self._config.id else [])]))
        ordinal = 0
        for frame in self.frames(wanted):
            for part in frame.iter_slices(chunk_rows):
                rows = part.rows(named=True) if wanted else [{}] * part.height
                yield [self._item(ordinal + n, row) for n, row in enumerate(rows)]
                ordinal += part.height

    def is_unchanged(self) -> bool:
        """Say whether the files are still those that were opened."""
        try:
            return self.stamps == tuple(_stamp(path) for path in self.paths)
        except JobError:
            return False

    def _item(self, ordinal: int, row: Mapping[str, Any]) -> Item:
        column = self._config.id
        custom_id = str(ordinal + 1) if column is None else str(row[column])
        return Item(ordinal, custom_id, row)

    def _report_duplicates(self, column: str, suspects: set[int]) -> None:
        seen: dict[str, int] = {}
        row = 0
        for frame in self.frames([column]):
            ids = frame.get_column(column).cast(pl.String)
            for value, digest in zip(ids, ids.hash(), strict=True):
                row += 1
                if digest in suspects and seen.setdefault(value, row) != row:
                    raise JobError(
                        f"{self._config.path}: the id {value!r} in the column "
                        f'"{column}" stands in row {seen[value]} and in row {row}; ids must be '
                        "unique. Mend the table, or leave [input] id out to number the rows"
                    )

    def _read_schema(self) -> pl.Schema:
        if self._kind == ".jsonl":
            return _jsonl_schema(self.paths)
        schemas = [self._scan([path]).collect_schema() for path in self.paths]
        for path, schema in zip(self.paths, schemas, strict=True):
            if schema != schemas[0]:
                raise JobError(_schema_difference(self.paths[0], schemas[0], path, schema))
            _check_names(path, schema)
        return schemas[0]

    def _scan(self, paths: list[Path]) -> pl.LazyFrame:
        if self._kind == ".parquet":
            return pl.scan_parquet(paths, glob=False)
        return pl.scan_csv(
            paths,
            separator="\t" if self._kind == ".tsv" else ",",
            infer_schema=False,
            empty_string_is_null=False,
            glob=False,
            # polars leaves doubled quotes in a quoted column name as they are.
            with_column_names=lambda header: [name.replace('""', '"') for name in header],
        )

    def _all_frames(self, columns: Sequence[str] | None) -> Iterator[pl.DataFrame]:
        if self._kind == ".jsonl":
            for path in self.paths:
                for frame in _jsonl_frames(path, self.schema):
                    # A frame without columns has no height, so one is kept for counting.
                    yield frame if columns is None else frame.select(columns or frame.columns[:1])
            return
        # Without columns there is still a height to know: one column is read for it.
        names = list(self.schema if columns is None else columns) or list(self.schema)[:1]
        for path in self.paths:
            lazy = self._scan([path]).select(names)
            if self._kind == ".parquet":
                yield from _slices(lazy)
            else:
                yield from lazy.collect_batches(
                    chunk_size=CSV_FRAME_ROWS, maintain_order=True, lazy=True
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


def _jsonl_blocks(path: Path) -> Iterator[bytes]:
    """Yield whole lines, a few megabytes at a time: polars would map the whole file."""
    with _open_text(path) as file:
        while lines := file.readlines(TARGET_FRAME_BYTES // 4):
            block = b"".join(line for line in lines if line.strip())
            if block:
                yield block.removeprefix(b"\xef\xbb\xbf")


def _jsonl_frames(path: Path, schema: pl.Schema) -> Iterator[pl.DataFrame]:
    for block in _jsonl_blocks(path):
        yield pl.read_ndjson(io.BytesIO(block), schema=schema)


def _jsonl_schema(paths: Sequence[Path]) -> pl.Schema:
    """Infer the columns from every line: a later line may have a key or a type that is new."""
    empty = pl.DataFrame()
    for path in paths:
        for block in _jsonl_blocks(path):
            part = pl.read_ndjson(io.BytesIO(block), infer_schema_length=None).clear()
            empty = pl.concat([empty, part], how="diagonal_relaxed")
    if not empty.columns:
        raise JobError(f"{paths[0]}: holds no rows")
    return empty.schema


def _open_text(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _kind(path: str) -> str | None:
    """Return the suffix that says how to read a file; `.ndjson` counts as `.jsonl`."""
    name = path.lower()
    text = name.removesuffix(".gz")
    for suffix in TABLE_SUFFIXES:
        if text.endswith(suffix):
            if suffix == ".parquet" and name != text:
                return None
            return ".jsonl" if suffix == ".ndjson" else suffix
    return None


def _resolve(pattern: str) -> list[Path]:
    if Path(pattern).exists():
        paths = [Path(pattern)]
    else:
        paths = sorted(Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207
    if not paths:
        raise JobError(f"{pattern}: there is no such file; [input] path starts at the job file")
    directories = [path for path in paths if path.is_dir()]
    if directories:
        raise JobError(f'{directories[0]}: is a folder; name its files, such as "folder/*.csv"')
    return paths


def _common_kind(paths: Sequence[Path]) -> str:
    kinds = {path: _kind(path.name) for path in paths}
    for path, kind in kinds.items():
        if kind is None:
            raise JobError(
                f"{path}: is no table that batchrun reads; it reads {', '.join(TABLE_SUFFIXES)}, "
                "text formats also with .gz"
            )
    found = sorted({str(kind) for kind in kinds.values()})
    if len(found) > 1:
        raise JobError(f"[input] path matches files of different kinds: {', '.join(found)}")
    return found[0]


def _stamp(path: Path) -> FileStamp:
    try:
        info = path.stat()
    except OSError as error:
        raise JobError(f"{path}: cannot be read ({error.strerror})") from None
    return FileStamp(str(path), info.st_size, info.st_mtime_ns)


def _check_names(path: Path, schema: pl.Schema) -> None:
    # polars renames a repeated column; a template would silently read the first one.
    for name in schema:
        original = name.rpartition("_duplicated_")[0]
        if original and original in schema:
            raise JobError(f'{path}: the column "{original}" appears twice; rename one')


def _schema_difference(first: Path, expected: pl.Schema, path: Path, found: pl.Schema) -> str:
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    retyped = [n for n in expected if n in found and expected[n] != found[n]]
    details = [
        f"{label} {', '.join(names)}"
        for label, names in (("lacks", missing), ("adds", extra), ("has another type for", retyped))
        if names
    ]
    what = "; ".join(details) or "has them in another order"
    return f"{path}: its columns differ from those of {first}: it {what}"


class _explained:
    """Turn polars' and the file system's errors into `JobError`s that name the file."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._label = str(paths[0]) if len(paths) == 1 else f"{paths[0]} … {paths[-1]}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, PolarsError | OSError | EOFError):
            reason = (
                str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            )
            raise JobError(f"{self._label}: cannot be read as a table: {reason}") from error
