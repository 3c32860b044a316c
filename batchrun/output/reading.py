"""The outputs of a run, read again as tables."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from batchrun.errors import JobError, OutputError
from batchrun.output.check import columns_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


def scan_results(directory: Path, files: Iterable[str]) -> pl.LazyFrame:
    """Return the result table of a run directory; nothing is read before it is collected.

    Args:
        directory: the run directory.
        files: the names of the result files; Parquet, which keeps types, goes before the others.

    Raises:
        OutputError: when none of them is there.
    """
    there = [directory / name for name in files if (directory / name).is_file()]
    if not there:
        raise OutputError(
            f"{directory}: holds no results yet; run the job, or write them: "
            f"batchrun export {directory}"
        )
    path = min(there, key=lambda path: (".parquet", ".jsonl", ".csv").index(path.suffix))
    return scan_file(path)


def rows_called(path: Path, key: Mapping[str, Any], prefix: str) -> list[dict[str, Any]]:
    """Return the rows of an output with these values in our columns; of a damaged file, none.

    Args:
        path: the file.
        key: the values, by our names without the prefix.
        prefix: what may stand before our names.

    Returns:
        The rows, by our names.
    """
    there = columns_in(path)
    try:
        names = {name: prefix + name if prefix + name in there else name for name in key}
        found = scan_file(path, as_text=True)
        for name, value in key.items():
            found = found.filter(pl.col(names[name]).cast(pl.String) == str(value))
        rows = found.head(2).collect().to_dicts()
    except (PolarsError, PanicException, OSError):
        return []
    return [{name.removeprefix(prefix): value for name, value in row.items()} for row in rows]


def scan_file(path: Path, *, as_text: bool = False) -> pl.LazyFrame:
    """Return a file of the outputs as a table; nothing is read before it is collected.

    Values of a CSV file stay texts with `as_text`.
    """
    if path.suffix == ".parquet":
        return pl.scan_parquet(path, glob=False)
    if path.suffix == ".jsonl":
        return pl.scan_ndjson(path, infer_schema_length=None)
    return pl.scan_csv(path, infer_schema=not as_text, infer_schema_length=None, glob=False)


def parquet_bytes(rows: pl.DataFrame) -> bytes:
    """Return a table as the content of a Parquet file, the same for the same table.

    Raises:
        JobError: when a column has a type that Parquet does not know.
    """
    content = io.BytesIO()
    try:
        rows.write_parquet(content)
    except (PolarsError, PanicException, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise JobError(f"the DataFrame cannot be kept as Parquet: {reason}") from error
    return content.getvalue()
