"""Opens text files, and explains what is wrong with a file that is not the table that it should be."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from polars.exceptions import PanicException, PolarsError

from batchrun.errors import JobError
from batchrun.source.inputs import SEPARATORS, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Errors of polars, the file system and decompression for a damaged file. polars panics over some
# (a BaseException); OverflowError: a date outside Python's years.
_FILE_ERRORS = (
    PolarsError,
    PanicException,
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    OverflowError,
    RecursionError,
)


class TableFault(ValueError):
    """Why a file is not a table, as a complete sentence."""


def open_text(path: Path) -> BinaryIO:
    """Open a text file for reading bytes; decompresses `.gz`."""
    return cast("BinaryIO", gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def record(line: bytes) -> dict[str, Any]:
    """Parse one line of JSON Lines.

    Raises:
        ValueError: when it is not a JSON object.
    """
    value = json.loads(line, parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")  # noqa: TRY004 - like json's own error
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"contains {name}, which is not JSON")


@contextmanager
def file_errors(label: str | Path, separator: str | None = None) -> Iterator[None]:
    """Translate errors of a file into a `JobError` with the file and, if possible, the line.

    Args:
        label: the file, or its name in messages.
        separator: the separator of cells; by default the usual one of its kind.
    """
    try:
        yield
    except TableFault as found:
        raise JobError(f"{label}: {found}") from None
    except _FILE_ERRORS as error:
        lines = str(error).strip().splitlines()
        fault = _fault(label, separator) if isinstance(label, Path) else None
        reason = fault or (lines[0] if lines else type(error).__name__)
        raise JobError(f"{label}: cannot be read as a table: {reason}") from error


def _fault(path: Path, separator: str | None) -> str | None:
    """Return the first wrong line of a text file and the reason, None if it cannot be found."""
    kind = kind_of(path.name)
    if kind != ".jsonl" and kind not in SEPARATORS:
        return None
    try:
        with open_text(path) as file:
            if kind == ".jsonl":
                return _json_fault(file)
            return _csv_fault(file, separator or SEPARATORS[kind])
    except (csv.Error, *_FILE_ERRORS):
        return None


def _json_fault(lines: Iterable[bytes]) -> str | None:
    for number, line in enumerate(lines, 1):
        try:
            record(line if line.strip() else b"{}")
        except UnicodeDecodeError:
            return f"line {number} is not UTF-8 text"
        except json.JSONDecodeError as error:
            return f"line {number} is not JSON: {error.msg} at column {error.colno}"
        except ValueError as error:
            return f"line {number} {error}"
    return None


def _csv_fault(lines: Iterable[bytes], separator: str) -> str | None:
    number = 0

    def decoded() -> Iterator[str]:
        nonlocal number
        for line in lines:
            number += 1
            yield line.decode("utf-8")

    rows = csv.reader(decoded(), delimiter=separator)
    try:
        width = len(next(rows, ()))
        wide = next((row for row in rows if len(row) > width), None)
    except UnicodeDecodeError:
        return f"line {number} is not UTF-8 text"
    if wide is None:
        return None
    return (
        f"line {number} has {len(wide)} fields, the header has {width}; a cell that contains the "
        "separator or a line break must be in double quotes"
    )
