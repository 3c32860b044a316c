"""The asynchronous side of the checkpoint: events are committed in groups by one writer.

Whoever reports an event waits until it is on disk. While one group is being committed the next one
gathers, so that the cost of a commit is shared by everything that arrived meanwhile.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import anyio
import anyio.to_thread

from batchrun.checkpoint.schema import unusable
from batchrun.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskStatus

    from batchrun.checkpoint.store import Checkpoint
    from batchrun.records import Attempt, AttemptStart, Result

P = ParamSpec("P")
T = TypeVar("T")


class _Group:
    """Events that are committed together."""

    def __init__(self) -> None:
        self.starts: list[AttemptStart] = []
        self.attempts: list[Attempt] = []
        self.results: list[Result] = []
        self.committed = anyio.Event()

    @property
    def is_empty(self) -> bool:
        return not (self.starts or self.attempts or self.results)


class Journal:
    """Groups commits, and lends the connection to one caller at a time.

    Use: start `run` in a task group, report events, `close` at the end.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        # One thread at a time, so that everything happens in the order in which it was asked for.
        self._thread = anyio.CapacityLimiter(1)
        self._group = _Group()
        self._wake = anyio.Event()
        self._closed = False
        self._failure: CheckpointError | None = None

    async def begin(self, start: AttemptStart) -> None:
        """Record that an attempt is about to be sent; returns when that is on disk.

        Raises:
            CheckpointError: when it cannot be written.
        """
        self._group.starts.append(start)
        await self._commit()

    async def fail(self, attempt: Attempt) -> None:
        """Record a failed attempt; returns when it is on disk."""
        self._group.attempts.append(attempt)
        await self._commit()

    async def finish(self, result: Result) -> None:
        """Record a result with its last attempt; returns when it is on disk."""
        self._group.attempts.append(result.last)
        self._group.results.append(result)
        await self._commit()

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of the checkpoint in its thread."""
        try:
            return await anyio.to_thread.run_sync(
                lambda: function(*args, **kwargs), limiter=self._thread
            )
        except sqlite3.Error as error:
            raise unusable(self._checkpoint.path, error) from error

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Commit groups until `close`; a failure is raised here and in everyone who waits."""
        task_status.started()
        while True:
            if self._group.is_empty:
                if self._closed:
                    return
                self._wake = anyio.Event()
                await self._wake.wait()
                continue
            group, self._group = self._group, _Group()
            try:
                await self.call(
                    self._checkpoint.record, group.starts, group.attempts, group.results
                )
            except CheckpointError as error:
                self._failure = error
                raise
            finally:
                group.committed.set()

    def close(self) -> None:
        """Let `run` end once everything is committed."""
        self._closed = True
        self._wake.set()

    async def _commit(self) -> None:
        group = self._group
        self._wake.set()
        await group.committed.wait()
        if self._failure is not None:
            raise self._failure
