"""Files of the outputs: whole or not there, for their owner alone, and over nothing of the user's."""

from __future__ import annotations

import itertools
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from polars.exceptions import PanicException, PolarsError

from batchrun.errors import JobError, OutputError
from batchrun.job.files import PRIVATE_FILE, flush_directory
from batchrun.output.check import columns_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Columns that every table of results has had in every version, behind whatever prefix.
_ALWAYS_THERE = ("custom_id", "status", "response", "error_type")
_PAGE_MARK = "· batchrun</title>"
_HEAD_BYTES = 64 * 1024


def write_text(
    path: Path, text: str, *, again: str | None = None, in_run_directory: bool = True
) -> None:
    """Write a small text file, whole or not at all.

    Args:
        path: the file.
        text: what it is to hold.
        again: what writes it, when that is not `batchrun export`.
        in_run_directory: False for a place of the user's, where other files are not ours.

    Raises:
        OutputError: when it cannot be written.
    """
    with replacing(path, again, in_run_directory=in_run_directory) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(
    path: Path, again: str | None = None, *, in_run_directory: bool = True
) -> Iterator[Path]:
    """Give a temporary file; when the block succeeds, flush it and move it into place.

    Raises:
        OutputError: when that is not possible; what was there before is untouched.
    """
    temporary = None
    try:
        temporary = _begun(path, in_run_directory=in_run_directory)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        flush_directory(path.parent)
    except (OSError, PolarsError, PanicException) as error:
        raise OutputError(
            f"{path}: could not be written: {error}. The results are safe in the checkpoint; "
            f"fix the cause and run: {again or f'batchrun export {path.parent}'}"
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _begun(path: Path, *, in_run_directory: bool) -> Path:
    """Make the temporary file: never an existing one, which could be a link to something else."""
    first = path.with_name(f".{path.name}.partial")
    if in_run_directory:
        first.unlink(missing_ok=True)  # a killed execution left it
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
    """See that a table of results replaces nothing but a table of results.

    In a run directory a file that cannot be read counts as a damaged one of ours.

    Raises:
        JobError: when another file is there.
    """
    if _is_empty(path):
        return
    columns = columns_in(path) if path.is_file() else []
    is_damaged = in_run_directory and path.is_file() and not columns
    if not (is_damaged or _are_results(columns)):
        raise _foreign(path, key, "table of results")


def refuse_foreign_page(path: Path, key: str) -> None:
    """See that a page replaces nothing but a page that batchrun wrote.

    Raises:
        JobError: when another file is there.
    """
    if _is_empty(path):
        return
    if not (path.is_file() and _PAGE_MARK in _head(path)):
        raise _foreign(path, key, "page")


def _are_results(columns: list[str]) -> bool:
    prefixes = (name.removesuffix("custom_id") for name in columns if name.endswith("custom_id"))
    return any({prefix + name for name in _ALWAYS_THERE} <= {*columns} for prefix in prefixes)


def _is_empty(path: Path) -> bool:
    """Say whether there is nothing to lose at a place."""
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
