"""One execution at a time per run directory."""

from __future__ import annotations

import fcntl
import itertools
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from batchrun.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MATRIX_FILE = "matrix.json"
# What tells a run from a folder that holds other things: any of these files.
_TRACES = ("checkpoint.db", "usage.parquet", "summary.json", MATRIX_FILE)
_TRIES = 20
_PAUSE_S = 0.02


@contextmanager
def held_still(directory: Path) -> Iterator[None]:
    """Keep executions out of a run directory while it is looked at. Changes nothing there.

    Raises:
        CheckpointError: when a process works on it.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(directory, error) from None
    try:
        if not _try_lock(fd, fcntl.LOCK_SH):
            raise _in_use(directory)
        yield
    finally:
        os.close(fd)


class DirectoryLock:
    """An exclusive lock on a directory, held until `release`.

    The kernel drops it when the process dies, however it dies, so a lock never goes stale.

    Raises:
        CheckpointError: when another process holds it.
    """

    def __init__(self, directory: Path) -> None:
        self._fd = _locked(directory)

    def release(self) -> None:
        """Let go of the lock."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()


def is_locked(directory: Path) -> bool:
    """Say whether a process is working on a run directory.

    Raises:
        CheckpointError: when that cannot be found out.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return not _try_lock(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)
    except OSError as error:
        raise _unusable(directory, error) from None


def refuse_locked(directory: Path) -> None:
    """Say at once that another process works on a run, before the input is looked at.

    Raises:
        CheckpointError: when one does.
    """
    if directory.is_dir() and is_locked(directory):
        raise _in_use(directory)


def open_directory(directory: Path, *, new: bool) -> DirectoryLock:
    """Make a run directory if needed and lock it.

    Args:
        directory: where the run keeps its files; made with mode 0700.
        new: move an earlier run aside, to `<directory>.1` or the next free number.

    Raises:
        CheckpointError: when it cannot be made, or another process works on it.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DirectoryLock(directory)
        if new and any((directory / name).exists() for name in _TRACES):
            with lock:
                directory.rename(_free_name(directory))
            directory.mkdir(mode=0o700, exist_ok=True)
            lock = DirectoryLock(directory)
    except OSError as error:
        raise _unusable(directory, error) from None
    return lock


def _locked(directory: Path) -> int:
    """Return a descriptor that holds the lock on what is at this path now."""
    for _ in range(_TRIES):
        fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _try_lock(fd, fcntl.LOCK_EX):
                if os.path.samestat(os.fstat(fd), directory.stat()):
                    return os.dup(fd)  # the lock stays while any copy is open
                # Somebody moved it aside after we had opened it; what is there now is another.
            elif not _try_lock(fd, fcntl.LOCK_SH):
                break
            # Otherwise somebody was only looking (`is_locked`), and is gone in a moment.
        finally:
            os.close(fd)
        time.sleep(_PAUSE_S)
    raise _in_use(directory)


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _in_use(directory: Path) -> CheckpointError:
    return CheckpointError(
        f"{directory}: another batchrun process is working on this run; "
        "wait for it, or stop it. `batchrun status` shows how far it is"
    )


def _unusable(directory: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{directory}: cannot be used as run directory: {error}")


def _free_name(directory: Path) -> Path:
    numbers = itertools.count(1)
    names = (directory.with_name(f"{directory.name}.{number}") for number in numbers)
    return next(name for name in names if not name.exists())
