"""The workers: each takes one request after another to its end."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from anyio.abc import ObjectReceiveStream

    from batchrun.limits import ByteBudget
    from batchrun.records import PlannedRequest

# Started at once; the others as they are needed.
FIRST_WORKERS = 64
# Requests that may rest by themselves while others take their places: each is held in memory.
MOST_RESTING = 10_000


class Workers:
    """As many as have something to do, up to a number that changes while they work.

    Requests come in chunks: a step through a stream for each of them would cost more than a commit.

    Args:
        complete: takes one request to its end.
        wanted: returns how many workers could have something to do now.
        memory: bounds the bodies that are held.
    """

    def __init__(
        self,
        complete: Callable[[PlannedRequest], Awaitable[None]],
        wanted: Callable[[], int],
        memory: ByteBudget,
    ) -> None:
        self._complete = complete
        self._wanted = wanted
        self._memory = memory
        self._ready: deque[PlannedRequest] = deque()
        self._low = 0
        self._is_low = anyio.Event()
        self._working = 0
        self._resting = 0
        self._surplus = 0
        self._idle: list[anyio.Event] = []
        self._is_over = False

    async def run(self, chunks: ObjectReceiveStream[Sequence[PlannedRequest]]) -> None:
        """Complete every request of the stream, or until `stop` those that were begun."""
        async with anyio.create_task_group() as self._group:
            async for chunk in chunks:
                await self._memory.take(size := sum(map(_size, chunk)))
                if self._is_over:
                    self._memory.give_back(size)
                else:
                    self._ready.extend(chunk)
                    for _ in range(min(len(chunk), FIRST_WORKERS)):
                        self.add()
                    await self._until_low(len(chunk))
            self._end()

    def add(self) -> None:
        """Let a further worker have something to do, if there is something."""
        if not self._ready:
            return
        if self._idle:
            self._idle.pop().set()
        elif self._working < self._wanted():
            self._working += 1
            self._group.start_soon(self._work)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """While one request rests by itself, another worker takes its place."""
        counts = self._resting < MOST_RESTING
        self._resting += 1
        self._working -= counts
        self.add()
        try:
            yield
        finally:
            self._resting -= 1
            self._working += counts
            self._surplus += counts

    def stop(self) -> None:
        """Begin no further request."""
        self._memory.give_back(sum(map(_size, self._ready)))
        self._ready.clear()
        self._is_low.set()
        self._end()

    def _end(self) -> None:
        self._is_over = True
        while self._idle:
            self._idle.pop().set()

    async def _until_low(self, low: int) -> None:
        """Keep a chunk at hand, so that workers do not run out while the next one is fetched."""
        self._low = low
        if len(self._ready) > low:
            self._is_low = anyio.Event()
            await self._is_low.wait()

    async def _work(self) -> None:
        while (request := await self._next()) is not None:
            self.add()
            try:
                await self._complete(request)
            finally:
                self._memory.give_back(_size(request))
            if self._surplus and self._working > self._wanted():
                self._surplus -= 1
                break
        self._working -= 1

    async def _next(self) -> PlannedRequest | None:
        """Return the next request; wait for one, and return None when none will come."""
        while not self._ready:
            if self._is_over:
                return None
            self._idle.append(something := anyio.Event())
            await something.wait()
        request = self._ready.popleft()
        if len(self._ready) <= self._low:
            self._is_low.set()
        return request


def _size(request: PlannedRequest) -> int:
    return len(request.wire.body)
