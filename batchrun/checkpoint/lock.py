"""One execution at a time per run directory."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, ClassVar, Self

from batchrun.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MATRIX_FILE = "matrix.json"
PARTS_FILE = "parts.json"
# Together 0.4 s: long enough for another process that only checks the lock to release it.
_TRIES = 20
_PAUSE_S = 0.02


@contextmanager
def shared_lock(directory: Path) -> Iterator[None]:
    """Keep executions out of a run directory while it is read. Changes no file.

    Raises:
        CheckpointError: when a process works on it.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise unusable(directory, error) from None
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
        """Release the lock."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()


class FileLock:
    """An exclusive lock on a checkpoint under all of its names, held until `close`.

    A second name for the file (a link, a mount of it elsewhere) has a separate write-ahead log. A
    process that writes through it destroys the checkpoint, and the directory lock does not prevent that.

    Raises:
        CheckpointError: when the file has several names, or another process holds it.
        OSError: when it cannot be opened.
    """

    # Closing any descriptor of a file drops the locks that SQLite has on it in this process (POSIX).
    # So a file that this process already writes to must not be opened here.
    _held: ClassVar[set[tuple[int, int]]] = set()

    def __init__(self, path: Path) -> None:
        refuse_hard_links(path)
        facts = path.stat()
        self._file = (facts.st_dev, facts.st_ino)
        if self._file in self._held:
            raise _in_use(path.parent)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        if not _try_lock(self._fd, fcntl.LOCK_EX):
            os.close(self._fd)
            raise _in_use(path.parent)
        self._held.add(self._file)

    def close(self) -> None:
        """Release the lock. SQLite must have closed the file before."""
        self._held.discard(self._file)
        os.close(self._fd)


def refuse_hard_links(path: Path) -> None:
    """Check that a checkpoint has only one name.

    Raises:
        CheckpointError: if it has several (hard links).
    """
    leftover = path.with_name(f".{path.name}.partial")
    with suppress(FileNotFoundError):
        if leftover.samefile(path):
            leftover.unlink()  # the process that restored the file was killed before this
    if (names := path.stat().st_nlink) > 1:
        copy = f"{path}.copy"
        raise CheckpointError(
            f"{path}: has {names} names (hard links). Writing to it would damage the file "
            f"under its other names, so nothing was written. Make it a separate file: "
            f"cp {path} {copy} && mv {copy} {path}"
        )


def is_locked(directory: Path) -> bool:
    """Return whether a process is working on a run directory.

    Raises:
        CheckpointError: if the directory cannot be opened.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return not _try_lock(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)
    except OSError as error:
        raise unusable(directory, error) from None


def refuse_locked(directory: Path) -> None:
    """Refuse a run that another process works on, before the input is read.

    Raises:
        CheckpointError: when one does.
    """
    if directory.is_dir() and is_locked(directory):
        raise _in_use(directory)


def _locked(directory: Path) -> int:
    """Return a descriptor that holds the lock on the directory that is at this path now."""
    for _ in range(_TRIES):
        fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _try_lock(fd, fcntl.LOCK_EX):
                if os.path.samestat(os.fstat(fd), directory.stat()):
                    return os.dup(fd)  # the lock stays while any copy is open
                # Another process moved it aside after it was opened here: try the new directory.
            elif not _try_lock(fd, fcntl.LOCK_SH):
                break
            # Otherwise another process only checked the lock (`is_locked`), and releases it at once.
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
        "wait for it to end, or stop it. `batchrun status` shows its progress"
    )


def unusable(directory: Path, error: OSError) -> CheckpointError:
    """Return the error for a directory to which the system refuses access."""
    return CheckpointError(f"{directory}: cannot be used as run directory: {error}")
