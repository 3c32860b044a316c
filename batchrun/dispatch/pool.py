"""The tasks that work on requests, and how they end when a run drains."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from anyio.abc import ObjectReceiveStream

    from batchrun.dispatch.ports import Admission, Tally
    from batchrun.errors import Stop
    from batchrun.records import PlannedRequest

# Tasks started at once; the others are started when they are needed.
FIRST_TASKS = 64
# Requests that may pause while other tasks take their places: each is held in memory.
MOST_PAUSED = 10_000


class Draining:
    """Whether a run drains. When it begins to, all waits end.

    Args:
        tally: stores the reason.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._waiting: set[anyio.CancelScope] = set()
        self.has_begun = False

    def begin(self, stop: Stop | None = None) -> None:
        """End all waits. The first reason counts."""
        self._tally.end_with(stop)
        self.has_begun = True
        for scope in list(self._waiting):
            scope.cancel()

    async def interruptible(self, wait: Callable[[], Awaitable[object]]) -> bool:
        """Wait, but no longer than until the run drains; return False if it does."""
        if self.has_begun:
            return False
        with anyio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                await wait()
            finally:
                self._waiting.discard(scope)
        return not self.has_begun


class TaskPool:
    """Runs as many tasks as have something to do, up to a number that changes during the run.

    Requests arrive in chunks: passing each one through a stream would cost more than a commit. A pool is
    used only once.

    Args:
        complete: takes one request to its end.
        admission: knows how many tasks are useful, and bounds the bytes of requests in memory.
        draining: ends the pool early.
    """

    def __init__(
        self,
        complete: Callable[[PlannedRequest], Awaitable[None]],
        admission: Admission,
        draining: Draining,
    ) -> None:
        self._complete = complete
        self._admission = admission
        self._memory = admission.request_memory
        self._draining = draining
        self._group = anyio.create_task_group()
        self._ready: deque[PlannedRequest] = deque()
        self._low = 0
        self._is_low = anyio.Event()
        self._working = 0
        self._paused = 0
        # Tasks that came back from a pause while others had taken their places; as many end.
        self._surplus = 0
        self._idle: list[anyio.Event] = []
        self._is_over = False

    async def run(self, requests: ObjectReceiveStream[Sequence[PlannedRequest]]) -> None:
        """Complete every request of the stream; if the run drains, only those that were begun."""
        async with self._group:
            try:
                async with requests:
                    await self._draining.interruptible(lambda: self._read(requests))
            finally:
                self._end()

    def add(self) -> None:
        """Let one more task work, if there is something to do."""
        if not self._ready:
            return
        if self._idle:
            self._idle.pop().set()
        elif self._working < self._admission.workers_wanted():
            self._working += 1
            self._group.start_soon(self._work)

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """While a request pauses, another task takes its place."""
        counts = self._paused < MOST_PAUSED
        self._paused += 1
        self._working -= counts
        self.add()
        try:
            yield
        finally:
            self._paused -= 1
            self._working += counts
            self._surplus += counts

    async def _read(self, requests: ObjectReceiveStream[Sequence[PlannedRequest]]) -> None:
        async for chunk in requests:
            await self._memory.take(sum(map(_size, chunk)))
            self._ready.extend(chunk)
            for _ in range(min(len(chunk), FIRST_TASKS)):
                self.add()
            await self._until_low(len(chunk))

    async def _until_low(self, low: int) -> None:
        """Wait until only a chunk's worth of requests is left: tasks work on it while the next is read."""
        self._low = low
        if len(self._ready) > low:
            self._is_low = anyio.Event()
            await self._is_low.wait()

    def _end(self) -> None:
        self._is_over = True
        if self._draining.has_begun:
            self._drop_ready()
        while self._idle:
            self._idle.pop().set()

    def _drop_ready(self) -> None:
        self._memory.give_back(sum(map(_size, self._ready)))
        self._ready.clear()

    async def _work(self) -> None:
        while (request := await self._next()) is not None:
            # Each task that finds work starts the next one, so only as many run as are needed.
            self.add()
            try:
                await self._complete(request)
            finally:
                self._memory.give_back(_size(request))
            if self._surplus and self._working > self._admission.workers_wanted():
                self._surplus -= 1
                break
        self._working -= 1

    async def _next(self) -> PlannedRequest | None:
        """Return the next request, or wait for one; None when none will come."""
        if self._draining.has_begun:
            self._drop_ready()
        while not self._ready:
            if self._is_over or self._draining.has_begun:
                return None
            self._idle.append(something := anyio.Event())
            await something.wait()
        request = self._ready.popleft()
        if len(self._ready) <= self._low:
            self._is_low.set()
        return request


def _size(request: PlannedRequest) -> int:
    return len(request.wire.body)
