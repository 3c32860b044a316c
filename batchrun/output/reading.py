"""The outputs of a run, read again as tables."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import polars as pl
from polars.exceptions import PanicException, PolarsError

from batchrun.errors import JobError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable
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
    if path.suffix == ".parquet":
        return pl.scan_parquet(path, glob=False)
    if path.suffix == ".jsonl":
        return pl.scan_ndjson(path, infer_schema_length=None)
    return pl.scan_csv(path, infer_schema_length=None, glob=False)


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
