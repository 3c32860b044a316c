"""What happens in an execution, as JSON lines in a file: `--log-file`.

The file is appended to. When it is moved away, as logrotate does, the next line begins a new one. A
disk that cannot take it is told about once, and never ends a run.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.errors import BatchrunError, JobError
from batchrun.job.paths import PRIVATE_FILE
from batchrun.records import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from batchrun.records import Attempt, PlannedRequest, RenderedItem, Result


# How much of an existing file is looked at.
HEAD_BYTES = 64 * 1024


class EventFile:
    """A file of JSON lines that is appended to; without a path, nothing is written.

    Attributes:
        tell: is told once when the file cannot be written any more.

    Raises:
        JobError: when the file cannot be opened for appending.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd: int | None = None
        self._is_broken = False
        self._is_torn = False
        self.tell: Callable[[str], None] = _ignored
        if path is not None:
            try:
                self._fd = _opened(path)
            except OSError as error:
                raise JobError(
                    f"--log-file {path}: cannot be written ({error.strerror}); name another file"
                ) from None

    @property
    def is_there(self) -> bool:
        """Whether anything is written at all."""
        return self._path is not None

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def write(self, event: str, **facts: Any) -> None:  # noqa: ANN401 - what JSON can say
        """Append an event."""
        if self._path is None:
            return
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": moment, "event": event, "pid": os.getpid(), **facts}
        try:
            self._follow(self._path)
            self._append(orjson.dumps(line, default=str) + b"\n")
        except OSError as error:
            if not self._is_broken:
                self.tell(f"{self._path}: the log cannot be written ({error}); the run continues")
            self._is_broken = True
        else:
            self._is_broken = False

    def _follow(self, path: Path) -> None:
        """Open the file anew when another one, or none, is at its place."""
        try:
            is_same = self._fd is not None and os.path.samestat(path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            is_same = False
        if not is_same:
            fd = _opened(path)
            self.close()
            self._fd, self._is_torn = fd, False

    def _append(self, line: bytes) -> None:
        """Write a line whole, in one go where the disk allows: other processes may append, too."""
        rest = b"\n" + line if self._is_torn else line
        while rest and self._fd is not None:
            rest = rest[os.write(self._fd, rest) :]
            self._is_torn = bool(rest)


@contextmanager
def event_file(path: Path | None) -> Iterator[EventFile]:
    """Open the file for as long as the block lasts; an error that leaves it is its last line.

    Raises:
        JobError: see `EventFile`.
    """
    file = EventFile(path)
    try:
        yield file
    except BaseException as error:
        file.write("end", run=None, exit_code=_exit_code(error), error=_told(error), summary=None)
        raise
    finally:
        file.close()


class EventLog:
    """The events of one run.

    Args:
        file: where they are written.
        name: of the run.
    """

    def __init__(self, file: EventFile, name: str) -> None:
        self._file = file
        self._name = name
        self._ids: dict[int, str] = {}

    def write(self, event: str, **facts: Any) -> None:  # noqa: ANN401 - what JSON can say
        """Append an event."""
        self._file.write(event, run=self._name, **facts)

    def planned(self, requests: Iterable[PlannedRequest]) -> None:
        """Learn the ids of requests that are about to be sent."""
        if self._file.is_there:
            self._ids.update((request.key, request.custom_id) for request in requests)

    def unrenderable(self, items: Iterable[RenderedItem]) -> None:
        """Rows that cannot become a request."""
        for item in items:
            if item.fingerprint is None:
                self.write(
                    "row_errored",
                    custom_id=item.custom_id,
                    attempt=0,
                    error_type=item.error_type,
                    error_message=item.error_message,
                )

    def failed(self, attempt: Attempt) -> None:
        """An attempt failed; the request goes on, or stays pending."""
        self.write("attempt_failed", **self._facts(attempt))

    def finished(self, result: Result) -> None:
        """A request has its result; only those without an answer are told."""
        if result.status is Status.ERRORED:
            self.write("row_errored", **self._facts(result.last), tried_again=result.retryable)
        self._ids.pop(result.key, None)

    def _facts(self, attempt: Attempt) -> Mapping[str, Any]:
        return {
            "custom_id": self._ids.get(attempt.key),
            "attempt": attempt.number,
            "http_status": attempt.http_status,
            "error_type": attempt.error_type,
            "error_message": attempt.error_message,
            "cause": attempt.cause,
            "latency_s": round(attempt.latency_s, 3),
            "request_id": attempt.request_id,
        }

    def ended(self, exit_code: int, error: BatchrunError | None, summary: Any) -> None:  # noqa: ANN401
        """The execution is over: with what exit code, why, and what the run amounts to."""
        told = None if error is None else _told(error)
        self.write("end", exit_code=exit_code, error=told, summary=summary)


def _told(error: BaseException) -> str:
    # What went wrong unforeseen may say anything, a key too.
    return str(error) if isinstance(error, BatchrunError) else type(error).__name__


def _exit_code(error: BaseException) -> int:
    """Return the exit code that an error which leaves a run has at the command line."""
    if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
        return 130
    return int(getattr(error, "exit_code", 1))


def _ignored(_message: str) -> None:
    return None


def _opened(path: Path) -> int:
    """Open a log for appending.

    Raises:
        OSError: when that is not possible, or another file is there.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    if not is_log(path):
        raise OSError(errno.EEXIST, "another file is there, and batchrun did not write it")
    return os.open(path, flags, PRIVATE_FILE)


def is_log(path: Path) -> bool:
    """Say whether events can be appended to a file: one of its first lines is one, or it has none.

    Also where nothing can be read: opening it says what is wrong.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return True
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return True
    return not head or any(map(_is_event, head.splitlines()))


def _is_event(line: bytes) -> bool:
    try:
        found = orjson.loads(line)
    except ValueError:
        return False
    return isinstance(found, dict) and {"time", "event", "pid"} <= found.keys()
