"""The workers: each takes one request after another to its end."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from anyio.abc import ObjectReceiveStream

    from batchrun.records import PlannedRequest

# Started at once; the others as they are needed.
FIRST_WORKERS = 64


class Workers:
    """As many as have something to do, up to a number that changes while they work.

    Requests come in chunks: a step through a stream for each of them would cost more than a commit.

    Args:
        complete: takes one request to its end.
        wanted: returns how many workers could have something to do now.
    """

    def __init__(
        self, complete: Callable[[PlannedRequest], Awaitable[None]], wanted: Callable[[], int]
    ) -> None:
        self._complete = complete
        self._wanted = wanted
        self._ready: deque[PlannedRequest] = deque()
        self._low = 0
        self._is_low = anyio.Event()
        self._working = 0
        self._is_stopped = False

    async def run(self, chunks: ObjectReceiveStream[Sequence[PlannedRequest]]) -> None:
        """Complete every request of the stream, or until `stop` those that were begun."""
        async with anyio.create_task_group() as self._group:
            async for chunk in chunks:
                if self._is_stopped:
                    continue
                self._ready.extend(chunk)
                for _ in range(min(len(chunk), FIRST_WORKERS)):
                    self.add()
                await self._until_low(len(chunk))

    def add(self) -> None:
        """Add a worker, if one more would have something to do."""
        if self._ready and self._working < self._wanted():
            self._working += 1
            self._group.start_soon(self._work)

    def stop(self) -> None:
        """Begin no further request."""
        self._is_stopped = True
        self._ready.clear()
        self._is_low.set()

    async def _until_low(self, low: int) -> None:
        """Keep a chunk at hand, so that workers do not run out while the next one is fetched."""
        self._low = low
        if len(self._ready) > low:
            self._is_low = anyio.Event()
            await self._is_low.wait()

    async def _work(self) -> None:
        ready = self._ready
        while ready:
            request = ready.popleft()
            if len(ready) <= self._low:
                self._is_low.set()
            self.add()
            await self._complete(request)
        self._working -= 1
