"""The asynchronous side of the checkpoint: events are committed in groups by one writer.

A call that reports an event returns when it is on disk. Events that arrive while a group is being committed form
the next group, and share the cost of its commit.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from batchrun.checkpoint.file import usable
from batchrun.checkpoint.sqlite import FullDiskRetry
from batchrun.errors import CheckpointError, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyio.abc import TaskStatus

    from batchrun.checkpoint.store import Checkpoint
    from batchrun.records import Attempt, AttemptStart, Result, Turn

P = ParamSpec("P")
T = TypeVar("T")


class _Group:
    """Events that are committed together."""

    def __init__(self) -> None:
        self.starts: list[AttemptStart] = []
        self.attempts: list[Attempt] = []
        self.results: list[Result] = []
        self.turns: list[Turn] = []
        # Not anyio's: two tasks wait for one of these for every row.
        self.committed = asyncio.Event()
        self.failure: CheckpointError | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.starts or self.attempts or self.results or self.turns)

    def add(
        self,
        begun: Sequence[AttemptStart],
        failed: Sequence[Attempt],
        turns: Sequence[tuple[Turn, Attempt | None]],
        finished: Sequence[Result],
    ) -> None:
        self.starts += begun
        self.attempts += failed
        self.attempts += [attempt for _, attempt in turns if attempt is not None]
        self.attempts += [result.last for result in finished]
        self.turns += [turn for turn, _ in turns]
        self.results += finished

    def fail(self, failure: CheckpointError) -> None:
        self.failure = failure


class CheckpointJournal:
    """Groups commits, and gives one caller at a time the connection.

    Start `run` in a task group, report events, and call `close` at the end. Reported events are
    committed even if the reporting task is cancelled while it waits.

    Args:
        checkpoint: the file.
        full_disk_retry: waits for room on a full disk; by default, a full disk is an error at once.
    """

    def __init__(
        self, checkpoint: Checkpoint, full_disk_retry: FullDiskRetry | None = None
    ) -> None:
        self._checkpoint = checkpoint
        self._full_disk_retry = full_disk_retry or FullDiskRetry(0.0)
        # One thread at a time, so that everything happens in the order in which it was asked for.
        self._thread = anyio.CapacityLimiter(1)
        self._group = _Group()
        self._wake = anyio.Event()
        self._is_running = False
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

    async def turn(self, turn: Turn, attempt: Attempt | None = None) -> None:
        """Record a turn of a conversation, with its attempt when it is new."""
        if attempt is not None:
            self._group.attempts.append(attempt)
        self._group.turns.append(turn)
        await self._commit()

    async def keep(
        self,
        begun: Sequence[AttemptStart],
        failed: Sequence[Attempt],
        turns: Sequence[tuple[Turn, Attempt | None]],
        finished: Sequence[Result],
    ) -> None:
        """Record several events together; returns when they are on disk."""
        self._group.add(begun, failed, turns, finished)
        if not self._group.is_empty:
            await self._commit()

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of the checkpoint in its thread."""

        def call() -> T:
            with usable(self._checkpoint.path):
                return function(*args, **kwargs)

        # While one waits for room, the others wait behind it, so the order stays.
        return await anyio.to_thread.run_sync(
            lambda: self._full_disk_retry.call(call), limiter=self._thread
        )

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Commit groups until `close`; a failure is raised here and in every waiting task.

        If this task is cancelled, nothing is lost: from then on, each reporting task commits its
        events itself, such as a task that saves an answer under a shield.
        """
        self._is_running = True
        task_status.started()
        try:
            while not self._closed:
                if self._group.is_empty:
                    self._wake = anyio.Event()
                    await self._wake.wait()
                else:
                    await self._flush()
        finally:
            self._is_running = False
            if not self._group.is_empty:
                await self._flush()

    def close(self) -> None:
        """Let `run` end once everything is committed."""
        self._closed = True
        self._wake.set()

    async def _commit(self) -> None:
        group = self._group
        if self._is_running:
            self._wake.set()
            await group.committed.wait()
        else:
            await self._flush()
            await anyio.lowlevel.checkpoint_if_cancelled()
        if group.failure is not None:
            raise group.failure

    async def _flush(self) -> None:
        """Commit the collected events, completely even if this task is being cancelled."""
        # Before the first await: events that arrive during the commit go to the next group.
        group, self._group = self._group, _Group()
        try:
            await self._write(group)
        except BaseException as error:
            # Every later commit fails with this error, so that nothing is sent after a gap.
            if self._failure is None:
                self._failure = _failure(self._checkpoint, error)
            group.fail(self._failure)
            raise
        finally:
            group.committed.set()

    async def _write(self, group: _Group) -> None:
        if self._failure is not None:
            raise self._failure
        with anyio.CancelScope(shield=True):
            await self.call(
                self._checkpoint.record, group.starts, group.attempts, group.results, group.turns
            )


def _failure(checkpoint: Checkpoint, error: BaseException) -> CheckpointError:
    """Return the error for those who wait for a commit that failed."""
    if isinstance(error, CheckpointError):
        return error
    return CheckpointError(f"{checkpoint.path}: could not be written: {quoted(error, 500)}")
