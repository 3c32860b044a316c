"""The events of an execution, as JSON lines in a file: `--log-file`.

Lines are appended. If the file is moved away, as logrotate does, the next line begins a new file. If the file
cannot be written, a message says so once, and the run continues.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from batchrun import __version__
from batchrun.errors import BatchrunError, JobError
from batchrun.job.paths import PRIVATE_FILE
from batchrun.records import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from batchrun.records import Attempt, PlannedRequest, RenderedItem, Result
    from batchrun.run.preparation import Prepared
    from batchrun.run.progress import Progress
    from batchrun.run.run_options import RunOptions


# How much of an existing file is read to recognize it.
HEAD_BYTES = 64 * 1024


class EventFile:
    """A file that JSON lines are appended to; without a path, nothing is written.

    Raises:
        JobError: when the file cannot be opened for appending.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd: int | None = None
        self._is_broken = False
        self._is_torn = False
        if path is not None:
            try:
                self._fd = _opened(path)
            except OSError as error:
                raise JobError(
                    f"--log-file {path}: cannot be written ({error.strerror}); name another file"
                ) from None

    @property
    def is_there(self) -> bool:
        """Whether events are written to a file."""
        return self._path is not None

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def write(self, event: str, **facts: Any) -> str | None:  # noqa: ANN401 - any JSON value
        """Append an event; return a message once if the file can no longer be written."""
        if self._path is None:
            return None
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": moment, "event": event, "pid": os.getpid(), **facts}
        try:
            self._follow(self._path)
            self._append(orjson.dumps(line, default=str) + b"\n")
        except OSError as error:
            was_broken, self._is_broken = self._is_broken, True
            if was_broken:
                return None
            return f"{self._path}: the log cannot be written ({error}); the run continues"
        self._is_broken = False
        return None

    def _follow(self, path: Path) -> None:
        """Open the file again if it was moved or replaced."""
        try:
            is_same = self._fd is not None and os.path.samestat(path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            is_same = False
        if not is_same:
            fd = _opened(path)
            self.close()
            self._fd, self._is_torn = fd, False

    def _append(self, line: bytes) -> None:
        """Write a whole line, if possible with one call: other processes may append as well."""
        rest = b"\n" + line if self._is_torn else line
        while rest and self._fd is not None:
            rest = rest[os.write(self._fd, rest) :]
            self._is_torn = bool(rest)


@contextmanager
def event_file(path: Path | None) -> Iterator[EventFile]:
    """Open the file for a block; if the block raises an error, that is the last line.

    Raises:
        JobError: see `EventFile`.
    """
    file = EventFile(path)
    try:
        yield file
    except BaseException as error:
        file.write(
            "end", run=None, exit_code=_exit_code(error), error=_message(error), summary=None
        )
        raise
    finally:
        file.close()


class RunLog:
    """Reports what happens in one run: messages to the terminal, events to the file.

    Args:
        file: for events.
        progress: shows messages.
        name: name of the run.
        label: prefix of each message on the terminal; empty if there is only one run.
    """

    def __init__(self, file: EventFile, progress: Progress, name: str, label: str = "") -> None:
        self._file = file
        self._progress = progress
        self._name = name
        self._label = label
        self._ids: dict[int, str] = {}
        self._dropped: set[tuple[str | None, str]] = set()

    def write(self, event: str, **facts: Any) -> None:  # noqa: ANN401 - any JSON value
        """Append an event to the file."""
        problem = self._file.write(event, run=self._name, **facts)
        if problem is not None:
            self._progress.note(problem)

    def note(self, message: str) -> None:
        """Show a message, and append it to the file."""
        self._progress.note(f"{self._label}: {message}" if self._label else message)
        self.write("note", message=message)

    def planned(self, requests: Iterable[PlannedRequest]) -> None:
        """Note the ids of requests that will be sent."""
        if self._file.is_there:
            self._ids.update((request.key, request.custom_id) for request in requests)

    def unrenderable(self, items: Iterable[RenderedItem]) -> None:
        """Note the rows that cannot be rendered into a request."""
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
        """Note a failed attempt; its request is sent again or stays pending."""
        self.write("attempt_failed", **self._facts(attempt))

    def dropped(self, attempt: Attempt) -> None:
        """Show a message, once for each model, about a parameter that it does not support."""
        if attempt.dropped is None:
            return
        known = (attempt.asked_model, attempt.dropped)
        if known not in self._dropped:
            self._dropped.add(known)
            self.note(
                f"{attempt.asked_model} does not support {attempt.dropped}: it is omitted from its "
                "requests from now on"
            )

    def finished(self, result: Result) -> None:
        """Note a result; only a failed row is an event."""
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
        """Note the end of the execution: its exit code, its error, and the summary of the run."""
        message = None if error is None else _message(error)
        self.write("end", exit_code=exit_code, error=message, summary=summary)


def _message(error: BaseException) -> str:
    # The message of an unforeseen error may contain anything, also a key.
    return str(error) if isinstance(error, BatchrunError) else type(error).__name__


def _exit_code(error: BaseException) -> int:
    """Return the exit code of the command line for an error."""
    from asyncio import CancelledError  # noqa: PLC0415 - most commands have no event loop

    if isinstance(error, KeyboardInterrupt | CancelledError):
        return 130
    return int(getattr(error, "exit_code", 1))


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
    """Return whether events may be appended to a file: it is empty, or one of its first lines is an event.

    Also true for a file that cannot be read: opening it raises the error.
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


def started(plan: Prepared, execution: int, options: RunOptions) -> dict[str, Any]:
    """Return the facts of the log's `start` event."""
    request = plan.job.request
    return {
        "version": __version__,
        "execution": execution,
        "directory": str(plan.directory),
        "rows": plan.total,
        "format": request.format,
        "base_url": request.base_url,
        "provider": request.provider_name,
        "model": request.model,
        "simulated": options.simulator is not None,
        "date": plan.job.date,
    }
