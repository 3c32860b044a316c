"""Datasets are folders, which are written atomically, too."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from polars.exceptions import PanicException, PolarsError

from batchrun.errors import OutputError
from batchrun.job.paths import PRIVATE_FILE, flush_directory
from batchrun.output.file_readers import are_results, columns_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Provide a temporary folder; if the block succeeds, flush it and move it into place.

    Raises:
        OutputError: when that is not possible; the earlier folder is unchanged.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        remove(temporary)  # a killed execution left it
        temporary.mkdir(mode=0o700)
        yield temporary
        _flush(temporary)
        put_in_place(temporary, path)
        flush_directory(path.parent)
    except (OSError, PolarsError, PanicException) as error:
        raise OutputError(
            f"{path}: could not be written: {error}. The results are safe in the checkpoint; "
            f"fix the cause and run: batchrun export {path.parent}"
        ) from error
    finally:
        with suppress(OSError):
            remove(temporary)


def put_in_place(temporary: Path, path: Path) -> None:
    """Move a file or folder to its place. A file or dataset that is there is exchanged with it.

    Raises:
        OSError: when something else is there.
    """
    if path.is_dir() and not _is_replaceable(path):
        raise FileExistsError(errno.EEXIST, "a folder that batchrun did not write is there")
    if not path.is_dir() and not (temporary.is_dir() and os.path.lexists(path)):
        temporary.replace(path)
    elif not _exchanged(temporary, path):
        # Without an exchange in one step, the old dataset is kept aside until the new one is there.
        aside = path.with_name(f".{path.name}.old")
        remove(aside)
        path.rename(aside)
        temporary.rename(path)
        remove(aside)


def is_dataset(path: Path) -> bool:
    """Return whether a folder contains Parquet files and nothing else."""
    if not path.is_dir():
        return False
    suffixes = {inner.suffix for inner in path.rglob("*") if not inner.is_dir()}
    return suffixes == {".parquet"}


def _is_replaceable(path: Path) -> bool:
    """Return whether a folder is a dataset of results; one that cannot be read counts as damaged results."""
    columns = columns_in(path) if is_dataset(path) else ["other"]
    return not columns or are_results(columns)


def remove(path: Path) -> None:
    """Remove a file or a folder with everything in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one step, if the system can do that."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)


def _flush(folder: Path) -> None:
    """Flush a folder with all its files to disk, and make it readable by its owner only."""
    for inner in folder.rglob("*"):
        if inner.is_dir():
            inner.chmod(0o700)
            flush_directory(inner)
        else:
            inner.chmod(PRIVATE_FILE)
            with inner.open("rb") as file:
                os.fsync(file.fileno())
    flush_directory(folder)
