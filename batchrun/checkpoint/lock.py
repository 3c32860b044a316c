"""One execution at a time per run directory."""

from __future__ import annotations

import fcntl
import itertools
import os
from typing import TYPE_CHECKING, Self

from batchrun.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


class DirectoryLock:
    """An exclusive lock on a directory, held until `release`.

    The kernel drops it when the process dies, however it dies, so a lock never goes stale.

    Raises:
        CheckpointError: when another process holds it.
    """

    def __init__(self, directory: Path) -> None:
        self._fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise CheckpointError(
                f"{directory}: another batchrun process is working on this run; "
                "wait for it, or stop it. `batchrun status` shows how far it is"
            ) from None

    def release(self) -> None:
        """Let go of the lock."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()


def is_locked(directory: Path) -> bool:
    """Say whether a process is working on a run directory."""
    try:
        DirectoryLock(directory).release()
    except CheckpointError:
        return True
    return False


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
        if new and any(directory.iterdir()):
            directory.rename(_free_name(directory))
            lock.release()
            directory.mkdir(mode=0o700)
            lock = DirectoryLock(directory)
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be used as run directory: {error}") from None
    return lock


def _free_name(directory: Path) -> Path:
    numbers = itertools.count(1)
    names = (directory.with_name(f"{directory.name}.{number}") for number in numbers)
    return next(name for name in names if not name.exists())
