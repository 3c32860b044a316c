"""The run directory: distinguishing it from the user's folders, creating it, moving it aside.

A run may use a directory that is empty or that a run made. A run made it if it has a file
that nothing else writes: a checkpoint, or an output with a key that only batchrun writes.
"""

from __future__ import annotations

import itertools
import os
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import orjson

from batchrun.checkpoint import file
from batchrun.checkpoint.file import usable
from batchrun.checkpoint.lock import MATRIX_FILE, PARTS_FILE, DirectoryLock, unusable
from batchrun.errors import CheckpointError, JobError
from batchrun.job.paths import flush_directory, is_same_file
from batchrun.job.reader import listed

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

FILE_NAME = "checkpoint.db"
# The folder of a job's judge, which is a run of its own; with several scorers the name of one follows.
JUDGE_FOLDER = "judge"
# Where the simulator keeps the batches of a run.
SIMULATED_BATCHES = "simulated_batches"
# Files that only a run writes, with a key that they always have had.
_MARKS = {
    MATRIX_FILE: "cells",
    PARTS_FILE: "partition_rows",
    "summary.json": "possibly_double_billed",
}
_PART = re.compile(r"part-\d{4,}")
# What any run may write to its directory, beside its results.
FILES = (
    *(f"{FILE_NAME}{suffix}" for suffix in ("", "-wal", "-shm", "-journal")),
    "usage.parquet",
    "summary.json",
    "report.html",
    MATRIX_FILE,
    PARTS_FILE,
)
# What a killed process leaves before there is a checkpoint, and what file managers leave anywhere.
_LEFTOVER = re.compile(
    r"\.(?:matrix|parts)\.json\.partial|input-[0-9a-f]{16}\.(?:parquet|partial)|\.DS_Store|lost\+found"
)
_CHOOSE = (
    'name a directory of its own, such as [output] dir = "runs/NAME", or one with --output-dir'
)


def check_directory(directory: Path, *, besides: Path | None = None) -> None:
    """Check that a directory is empty, or that a run created it.

    Args:
        directory: the run directory; it need not exist.
        besides: another file that may be in it: the log file.

    Raises:
        JobError: if it is a file, or contains files that are not from a run.
    """
    try:
        names = sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise JobError(f"[output] dir: {directory} is a file; {_CHOOSE}") from None
    except OSError:
        return  # opening it says what is wrong
    foreign = [name for name in names if not _LEFTOVER.fullmatch(name)]
    # The cells of a matrix are runs, too, when the file that lists them is gone.
    foreign = [name for name in foreign if not _has_mark(directory / name)]
    if besides is not None:
        foreign = [name for name in foreign if not is_same_file(directory / name, besides)]
    if foreign and not _has_mark(directory):
        raise JobError(
            f"[output] dir: {directory} contains files that are not from a run ({listed(foreign)}), and a "
            f"run would write its files beside them; {_CHOOSE}"
        )


def open_directory(
    directory: Path, *, new: bool = False, files: Collection[str] = ()
) -> DirectoryLock:
    """Create a run directory if needed, and lock it.

    Args:
        directory: the run directory; created with mode 0700.
        new: move an earlier run aside, to `<directory>.1` or the next free number. A directory
            without a run stays where it is.
        files: names of the run's results.

    Raises:
        CheckpointError: if it cannot be created, another process works on it, or its checkpoint is
            a file of another program.
    """
    try:
        _make(directory)
        lock = DirectoryLock(directory)
        if new and _is_run(directory, files):
            # The lock moves along with the directory, so the new one needs its own.
            with lock:
                directory.rename(_free_name(directory))
            _make(directory)
            lock = DirectoryLock(directory)
    except OSError as error:
        raise unusable(directory, error) from None
    return lock


def other_files(directory: Path, files: Collection[str]) -> list[Path]:
    """Return the files in the directory of a run or matrix whose names are not those of a run's files.

    Args:
        directory: the directory; it need not contain a run.
        files: names of the run's results.

    Raises:
        CheckpointError: if the file `checkpoint.db` is not a checkpoint.
    """
    try:
        if not _is_run(directory, files):
            return []
        cells = _cells(directory)
        runs = (directory, *(directory / cell for cell in cells))
        known = {*files, *(file for run in runs for file in _earlier_files(run / FILE_NAME))}
        cells += [folder.name for folder in _judges(directory)]
        found = [path for path in directory.iterdir() if not _is_ours(path.name, known)]
        inside = [path for cell in cells for path in other_files(directory / cell, files)]
    except OSError as error:
        raise unusable(directory, error) from None
    return sorted([*(path for path in found if path.name not in cells), *inside])


def holds_run(directory: Path) -> bool:
    """Return whether a directory has a checkpoint with a run; see `file.holds_run`."""
    return file.holds_run(directory / FILE_NAME)


def judge_folders(directory: Path) -> list[Path]:
    """Return the folders in a run directory that have the run of a judge."""
    return [folder for folder in _judges(directory) if holds_run(folder)]


def _judges(directory: Path) -> list[Path]:
    found = directory.glob(f"{JUDGE_FOLDER}*/{FILE_NAME}")
    names = (path.parent for path in found)
    is_judge = re.compile(rf"{JUDGE_FOLDER}(?:-\w+)?\Z")
    return sorted(folder for folder in names if is_judge.match(folder.name))


def part_folders(directory: Path) -> list[Path]:
    """Return the folders of the parts of a run that have begun, in order."""
    return [folder for folder in _parts(directory) if holds_run(folder)]


def _parts(directory: Path) -> list[Path]:
    found = (path.parent for path in directory.glob(f"part-*/{FILE_NAME}"))
    folders = [folder for folder in found if _PART.fullmatch(folder.name)]
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("part-")))


def _earlier_files(path: Path) -> list[str]:
    """Return the names of the results that the run last wrote; none if they are unknown."""
    try:
        with usable(path), closing(file.open_existing(path)) as db:
            row = db.execute("SELECT job -> '$.output.files' FROM run").fetchone()
    except CheckpointError:
        return []
    return list(orjson.loads(row[0])) if row and row[0] else []


def _cells(directory: Path) -> list[str]:
    """Return the names of a matrix's cells, or of parts, that are runs; none for other directories."""
    if (directory / PARTS_FILE).is_file():
        return sorted(folder.name for folder in _parts(directory))
    try:
        listed = orjson.loads((directory / MATRIX_FILE).read_bytes())
        names = [str(cell["name"]) for cell in listed["cells"]]
    except (OSError, LookupError, TypeError, ValueError):
        return []
    return [name for name in names if "/" not in name and (directory / name / FILE_NAME).exists()]


def _make(directory: Path) -> None:
    """Create a directory so that its name survives a power failure."""
    missing = list(itertools.takewhile(lambda p: not p.exists(), (directory, *directory.parents)))
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for made in missing:
        flush_directory(made.parent)


def _has_mark(directory: Path) -> bool:
    if os.path.lexists(directory / FILE_NAME) or _has_written(directory):
        return True  # whatever is there: opening it says so
    return (directory / MATRIX_FILE).is_file() and any(directory.glob(f"*/{FILE_NAME}"))


def _has_written(directory: Path) -> bool:
    """Return whether there is a file that only a run writes, even without a checkpoint."""
    return any(_has_key(directory / name, key) for name, key in _MARKS.items())


def _has_key(path: Path, key: str) -> bool:
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and key in found


def _is_run(directory: Path, files: Collection[str]) -> bool:
    """Return whether there is a run to move aside, which may be damaged.

    Raises:
        CheckpointError: if the file `checkpoint.db` is not a checkpoint.
    """
    if _has_written(directory):
        return True
    path = directory / FILE_NAME
    if not os.path.lexists(path):
        return False
    try:
        is_made = file.is_checkpoint(path)
    except sqlite3.DatabaseError:
        # A damaged checkpoint cannot say whose it is, but the names beside it can.
        is_made = all(_is_ours(entry.name, files) for entry in directory.iterdir())
    if not is_made:
        raise CheckpointError(
            f"{path}: is not the checkpoint of a run, so --new leaves {directory} where it is; "
            f"{_CHOOSE}"
        )
    return True


def _is_ours(name: str, files: Collection[str]) -> bool:
    if name == SIMULATED_BATCHES:
        return True
    plain = name.removeprefix(".").removesuffix(".partial") if name.startswith(".") else name
    is_part = plain.endswith(".parquet") and _PART.fullmatch(plain.removesuffix(".parquet"))
    return bool(plain in FILES or plain in files or _LEFTOVER.fullmatch(name) or is_part)


def _free_name(directory: Path) -> Path:
    numbers = itertools.count(1)
    names = (directory.with_name(f"{directory.name}.{number}") for number in numbers)
    return next(name for name in names if not os.path.lexists(name))


__all__ = [
    "FILES",
    "check_directory",
    "holds_run",
    "judge_folders",
    "open_directory",
    "other_files",
    "part_folders",
]
