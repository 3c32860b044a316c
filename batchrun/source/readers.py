"""CSV, TSV and Parquet through polars: the columns of files, and their rows in bounded frames."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from batchrun.errors import JobError
from batchrun.job.reader import did_you_mean, listed
from batchrun.source import parquet
from batchrun.source.inputs import SEPARATORS, explained

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


PART_BYTES = 8 * 1024 * 1024
# Every cell is text.
CSV_OPTIONS: dict[str, Any] = {"infer_schema": False, "empty_string_is_null": False}


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


def frames(
    path: Path, kind: str, columns: list[str], where: pl.Expr | None = None
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file in order, in bounded frames; with a condition, those that satisfy it.

    Raises:
        JobError: when it cannot be read.
    """
    if kind == ".parquet":
        yield from parquet.frames(path, columns, where)
        return
    with explained(path):
        lazy = _scan(path, kind)
        kept = lazy if where is None else lazy.filter(where)
        # A batch is what polars parses at a time: a few megabytes.
        yield from kept.select(columns).collect_batches(maintain_order=True, lazy=True)


def parts(frame: pl.DataFrame, most_rows: int) -> Iterator[pl.DataFrame]:
    """Cut a frame into parts whose values, as Python's, take no more than a few megabytes."""
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
    """Return the bytes of each value; equal values may share them in a frame, but not in Python."""
    if column.dtype == pl.String:
        sizes = column.str.len_bytes()
    elif column.dtype == pl.Binary:
        sizes = column.bin.size()
    else:
        each = column.estimated_size() // max(1, len(column))
        return pl.Series("", [each] * len(column), dtype=pl.Int64)
    return sizes.fill_null(0).cast(pl.Int64)


def _scan(path: Path, kind: str) -> pl.LazyFrame:
    if kind == ".parquet":
        return parquet.scan(path)
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


# What looks at more than one row; a table is read in parts, so that would depend on the parts.
_MORE_THAN_A_ROW = frozenset(["Agg", "Len", "Over", "Range", "Rank", "Rolling", "Shift", "SubPlan"])
_NAMES_AND_VALUES = frozenset(["Column", "Literal"])


class Where:
    """The condition that the rows of an input must satisfy.

    Args:
        text: SQL, as after the word WHERE.
        schema: the input's columns.
        path: of the input, for messages.

    Raises:
        JobError: naming the input, the key, the condition, and what is wrong.
    """

    def __init__(self, text: str, schema: pl.Schema, path: str) -> None:
        self._text = text
        self._path = path
        with self._explained():
            self.condition = pl.sql_expr(text)
            self._check_columns(schema)
            if _looks_further(json.loads(self.condition.meta.serialize(format="json"))):
                raise self._wrong(
                    "looks at more than one row (count, sum, over …); it must tell of each row by "
                    "itself whether to take it"
                )
            # Types are known without any row.
            pl.DataFrame(schema=schema).lazy().filter(self.condition).collect()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what polars says about the condition into a `JobError`."""
        try:
            yield
        except (PolarsError, PanicException) as error:
            reason = str(error).strip().splitlines()[0]
            if "string with numeric" in reason or "must be of type `Boolean`" in reason:
                reason += "; in CSV every column is text: CAST(n AS BIGINT) > 3"
            raise self._wrong(reason) from error

    @contextmanager
    def mentioned(self) -> Iterator[None]:
        """Name the condition when reading fails: a cell may have been what it cannot work with."""
        try:
            yield
        except JobError as error:
            if isinstance(error.__cause__, PolarsError):
                raise JobError(
                    f"{error} (read with [input] where = {self._text!r:.300})"
                ) from error
            raise

    def _check_columns(self, schema: pl.Schema) -> None:
        for name in self.condition.meta.root_names():
            if name not in schema:
                hint = did_you_mean(name, schema)
                raise self._wrong(f"there is no column {name!r}{hint}; it has {listed(schema)}")

    def _wrong(self, reason: str) -> JobError:
        return JobError(f"{self._path}: [input] where = {self._text!r:.300}: {reason}")


def _looks_further(node: Any) -> bool:  # noqa: ANN401 - polars' own tree, as JSON
    if isinstance(node, dict):
        inner = {key: part for key, part in node.items() if key not in _NAMES_AND_VALUES}
        return not _MORE_THAN_A_ROW.isdisjoint(inner) or any(map(_looks_further, inner.values()))
    if isinstance(node, list):
        return any(map(_looks_further, node))
    return isinstance(node, str) and node in _MORE_THAN_A_ROW
