"""Output files: written atomically, read again as tables, with cells escaped that a spreadsheet would execute."""

from __future__ import annotations

import io
import itertools
import os
import stat
import zipfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import orjson
import polars as pl
from polars.exceptions import PanicException, PolarsError

from batchrun.errors import JobError, OutputError
from batchrun.job.paths import PRIVATE_FILE, flush_directory
from batchrun.output import workbooks
from batchrun.output.file_readers import are_results, columns_in
from batchrun.output.folders import is_dataset, put_in_place, remove

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path


_BY_FIDELITY = (".parquet", ".arrow", ".jsonl", ".csv", ".xlsx")
_PAGE_MARK = "· batchrun</title>"
_HEAD_BYTES = 64 * 1024


def write_text(
    path: Path, text: str, *, again: str | None = None, in_run_directory: bool = True
) -> None:
    """Write a small text file atomically.

    Args:
        path: the file.
        text: the content.
        again: the command that writes the file again, if that is not `batchrun export`.
        in_run_directory: False for a folder of the user, where other files are not ours.

    Raises:
        OutputError: when it cannot be written.
    """
    with replacing(path, again, in_run_directory=in_run_directory) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(
    path: Path, again: str | None = None, *, in_run_directory: bool = True
) -> Iterator[Path]:
    """Provide a temporary file; if the block succeeds, flush it and move it into place.

    Raises:
        OutputError: when that is not possible; the earlier file is unchanged.
    """
    temporary = None
    try:
        temporary = _begun(path, in_run_directory=in_run_directory)
        yield temporary
        # Flush before the rename: after a power failure, the name must not lead to an incomplete file.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        put_in_place(temporary, path)
        flush_directory(path.parent)
    except (OSError, PolarsError, PanicException) as error:
        raise OutputError(
            f"{path}: could not be written: {error}. The results are safe in the checkpoint; "
            f"fix the cause and run: {again or f'batchrun export {path.parent}'}"
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                remove(temporary)


def _begun(path: Path, *, in_run_directory: bool) -> Path:
    """Create the temporary file; never open an existing one, which could be a link to something else."""
    first = path.with_name(f".{path.name}.partial")
    if in_run_directory:
        remove(first)  # a killed execution left it
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    for number in itertools.count(1):
        try:
            descriptor = os.open(first, flags, PRIVATE_FILE)
        except FileExistsError:
            first = path.with_name(f".{path.name}.{number}.partial")
        else:
            os.close(descriptor)
            break
    return first


def refuse_foreign_results(path: Path, key: str, *, in_run_directory: bool) -> None:
    """Check that a table of results replaces nothing but a table of results.

    In a run directory, a file that cannot be read counts as damaged results.

    Raises:
        JobError: when another file is there.
    """
    if _is_empty(path):
        return
    is_file = path.is_file() or is_dataset(path)
    columns = columns_in(path) if is_file else []
    is_damaged = in_run_directory and is_file and not columns
    if not (is_damaged or are_results(columns)):
        raise _foreign(path, key, "table of results")


def refuse_foreign_page(path: Path, key: str) -> None:
    """Check that a page replaces nothing but a page that batchrun wrote.

    Raises:
        JobError: when another file is there.
    """
    if _is_empty(path):
        return
    if not (path.is_file() and _PAGE_MARK in _head(path)):
        raise _foreign(path, key, "page")


def refuse_existing(path: Path, key: str) -> None:
    """Check that there is no file at this place yet, for formats that other programs write, too.

    Raises:
        JobError: when a file is there.
    """
    if not _is_empty(path):
        raise JobError(f"{key}: {path} exists; choose another name, or move that file away")


def refuse_foreign_log(path: Path, key: str) -> None:
    """Check that a log of inspect_ai replaces nothing but a log that batchrun wrote.

    Raises:
        JobError: when another file is there.
    """
    if _is_empty(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            header = orjson.loads(archive.read("header.json"))
        is_ours = "batchrun" in header["eval"]["packages"]
    except (OSError, LookupError, TypeError, ValueError, zipfile.BadZipFile):
        is_ours = False
    if not is_ours:
        raise _foreign(path, key, "log")


def _is_empty(path: Path) -> bool:
    """Return whether there is no file, or an empty one, at a place."""
    try:
        found = path.stat()
    except OSError:
        return True
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


def _head(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _foreign(path: Path, key: str, kind: str) -> JobError:
    return JobError(
        f"{key}: {path} exists and is not a {kind} that batchrun wrote, so it is left as it is; "
        "choose another name, or move that file away"
    )


def scan_results(directory: Path, files: Iterable[str]) -> pl.LazyFrame:
    """Return the result table of a run directory as a lazy frame.

    Args:
        directory: the run directory.
        files: names of the result files. Parquet is preferred, because it preserves types.

    Raises:
        OutputError: when none of them is there.
    """
    there = [directory / name for name in files if (directory / name).exists()]
    if not there:
        raise OutputError(
            f"{directory}: contains no results yet; run the job, or write them: "
            f"batchrun export {directory}"
        )
    return scan_file(min(there, key=lambda path: _BY_FIDELITY.index(path.suffix)))


def rows_called(
    path: Path, custom_ids: Collection[str], prefix: str
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of an output with these ids; none if the file is damaged.

    Args:
        path: the file.
        custom_ids: the ids.
        prefix: prefix that our names may have.

    Returns:
        The rows of each id, by our names without the prefix.
    """
    name = "custom_id"
    if prefix + name in columns_in(path):
        name = prefix + name
    try:
        is_wanted = pl.col(name).cast(pl.String).is_in(list(custom_ids))
        rows = scan_file(path, as_text=True).filter(is_wanted).collect().to_dicts()
    except (PolarsError, PanicException, OSError):
        return {}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        named = {each.removeprefix(prefix): value for each, value in row.items()}
        found.setdefault(str(row[name]), []).append(named)
    return found


def scan_file(path: Path, *, as_text: bool = False) -> pl.LazyFrame:
    """Return a file of the outputs as a lazy frame.

    With `as_text`, values of a CSV file stay text.
    """
    if path.suffix == ".parquet":
        return pl.scan_parquet(path, glob=False, hive_partitioning=path.is_dir())
    if path.suffix == ".arrow":
        return pl.scan_ipc(path)
    if path.suffix == ".xlsx":
        return workbooks.read(path).lazy()
    if path.suffix == ".jsonl":
        return pl.scan_ndjson(path, infer_schema_length=None)
    return pl.scan_csv(path, infer_schema=not as_text, infer_schema_length=None, glob=False)


def parquet_bytes(rows: pl.DataFrame) -> bytes:
    """Return a table as the content of a Parquet file; equal tables give the same bytes.

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


# What the common spreadsheets take for the start of a formula, at once or after leaving it out.
_STARTS = ("=", "+", "-", "@", "\t", "\r")
_FORMULA = r"^[=+\-@\t\r]"


def escaped_names(names: Iterable[str]) -> dict[str, str]:
    """Return the names of columns in the file, escaped like other cells, with the original names.

    A name that another column already has gets another apostrophe.
    """
    taken = set(names)
    found: dict[str, str] = {}
    for name in names:
        plain = name
        while plain.startswith(_STARTS) or (plain != name and plain in taken):
            plain = f"'{plain}"
        found[plain] = name
        taken.add(plain)
    return found


def escaped(columns: dict[str, pl.Series]) -> dict[str, pl.Series]:
    """Return columns with an apostrophe before each text that a spreadsheet would execute."""
    return {name: _escaped(column) for name, column in columns.items()}


def _escaped(column: pl.Series) -> pl.Series:
    if column.dtype != pl.String:
        return column
    return ("'" + column).zip_with(column.str.contains(_FORMULA).fill_null(value=False), column)
