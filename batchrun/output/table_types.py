"""The kinds of tables that Python programs pass: converted to polars, and back to their own kind.

A table of pandas or pyarrow keeps its own columns; only the answers are converted.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl
from polars.exceptions import PanicException, PolarsError

from batchrun.errors import JobError
from batchrun.output.files import parquet_bytes

if TYPE_CHECKING:
    from pathlib import Path

ACCEPTED = "a DataFrame or LazyFrame of polars, a DataFrame of pandas, a Table of pyarrow, or a list of dicts"
EXTRA = "pip install 'batchrun[pandas]'"
COPY_BYTES = 1024 * 1024


class GivenTable(Protocol):
    """A table in the kind in which it was passed."""

    def store(self, path: Path) -> str:
        """Write the rows to a Parquet file; return a digest of them.

        Raises:
            JobError: when a column has a type that Parquet does not know.
        """

    def rows(self) -> pl.DataFrame:
        """Return the rows as a DataFrame of polars."""

    def answered(self, results: pl.LazyFrame, keep: Path) -> Any:  # noqa: ANN401 - its own kind
        """Return the table with the answers as further columns.

        Args:
            results: the rows and the answers.
            keep: path for a file that is still read after this call.
        """


class PolarsTable:
    """A DataFrame of polars, used unchanged."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self._rows = rows

    def store(self, path: Path) -> str:
        """See `GivenTable`, as for the following."""
        content = parquet_bytes(self._rows)
        path.write_bytes(content)
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def rows(self) -> pl.DataFrame:
        """The rows."""
        return self._rows

    def added(self, results: pl.LazyFrame) -> pl.DataFrame:
        """Return the answers alone."""
        found = results.collect()
        return found.select(found.columns[self._rows.width :])

    def answered(self, results: pl.LazyFrame, keep: Path) -> Any:  # noqa: ANN401 - as declared
        """Return the rows with the answers as further columns."""
        return self._rows.hstack(self.added(results))


class LazyTable:
    """A LazyFrame: its rows and the results are passed in files."""

    def __init__(self, rows: pl.LazyFrame) -> None:
        self._rows = rows

    def store(self, path: Path) -> str:
        """See `GivenTable`, as for the following."""
        try:
            self._rows.sink_parquet(path, maintain_order=True)
        except (PolarsError, PanicException, TypeError) as error:
            raise JobError(f"the LazyFrame cannot be read: {_first_line(error)}") from error
        digest = hashlib.blake2b(digest_size=8)
        with path.open("rb") as file:
            while part := file.read(COPY_BYTES):
                digest.update(part)
        return digest.hexdigest()

    def rows(self) -> pl.DataFrame:
        """The rows, collected."""
        try:
            return self._rows.collect()
        except (PolarsError, PanicException) as error:
            raise JobError(f"the LazyFrame cannot be read: {_first_line(error)}") from error

    def answered(self, results: pl.LazyFrame, keep: Path) -> Any:  # noqa: ANN401 - as declared
        """Return a LazyFrame over a file that later calls do not change."""
        results.sink_parquet(keep, maintain_order=True)
        return pl.scan_parquet(keep)


class PandasTable(PolarsTable):
    """A DataFrame of pandas, with its index and the types of its columns."""

    def __init__(self, frame: Any) -> None:  # noqa: ANN401 - of a library that may be missing
        if find_spec("pyarrow") is None:
            raise JobError(f"tables of pandas need pyarrow: {EXTRA}")
        self._frame = frame
        super().__init__(_converted(frame, pl.from_pandas))

    def answered(self, results: pl.LazyFrame, keep: Path) -> Any:  # noqa: ANN401 - as declared
        """Return the frame with the answers. Counts and flags may be missing, so their types are nullable."""
        import pandas as pd  # noqa: PLC0415 - only where the caller uses it
        import pyarrow as pa  # noqa: PLC0415 - as above

        nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
        added = self.added(results).to_arrow().to_pandas(types_mapper=nullable.get)
        return pd.concat([self._frame, added.set_index(self._frame.index)], axis=1)


class ArrowTable(PolarsTable):
    """A Table of pyarrow, with the types of its columns."""

    def __init__(self, table: Any) -> None:  # noqa: ANN401 - of a library that may be missing
        self._table = table
        super().__init__(_converted(table, pl.from_arrow))

    def answered(self, results: pl.LazyFrame, keep: Path) -> Any:  # noqa: ANN401 - as declared
        """Return the table with the answers as further columns."""
        added = self.added(results).to_arrow()
        table = self._table
        for name in added.column_names:
            table = table.append_column(name, added.column(name))
        return table


class RowList(PolarsTable):
    """A list of dicts; missing keys are null."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._dicts = rows
        super().__init__(_converted(rows, _frame_of_dicts))

    def answered(self, results: pl.LazyFrame, keep: Path) -> Any:  # noqa: ANN401 - as declared
        """Return new dicts with the keys of the answers added."""
        added = self.added(results).to_dicts()
        return [{**row, **more} for row, more in zip(self._dicts, added, strict=True)]


def given_table(frame: object) -> GivenTable:
    """Return a table of any accepted kind.

    Any other table with `__arrow_c_stream__`, such as one of DuckDB, is converted to polars.

    Raises:
        JobError: if it is not a table, or cannot be converted.
    """
    if isinstance(frame, pl.DataFrame):
        return PolarsTable(frame)
    if isinstance(frame, pl.LazyFrame):
        return LazyTable(frame)
    if _is_a(frame, "pandas", "DataFrame"):
        return PandasTable(frame)
    if _is_a(frame, "pyarrow", "Table"):
        return ArrowTable(frame)
    if isinstance(frame, list) and all(isinstance(row, dict) for row in frame):
        return RowList(frame)
    if hasattr(frame, "__arrow_c_stream__"):
        return PolarsTable(_converted(frame, pl.DataFrame))
    kind = type(frame)
    raise JobError(f"the rows must be {ACCEPTED}, not {kind.__module__}.{kind.__qualname__}")


def _is_a(frame: object, library: str, name: str) -> bool:
    return any(
        kind.__name__ == name and kind.__module__.partition(".")[0] == library
        for kind in type(frame).__mro__
    )


def _frame_of_dicts(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.from_dicts(rows, infer_schema_length=None) if rows else pl.DataFrame()


def _converted(frame: Any, convert: Any) -> Any:  # noqa: ANN401 - any table
    try:
        return convert(frame)
    except (PolarsError, PanicException, TypeError, ValueError) as error:
        kind = type(frame).__name__
        raise JobError(f"the rows ({kind}) cannot be read: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
