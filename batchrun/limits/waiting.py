"""Waiting for admission: the order, and the seconds by cause."""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(order=True, slots=True)
class _RankedWaiter:
    rank: int
    event: anyio.Event = field(compare=False)
    has_left: bool = field(default=False, compare=False)

    def leave(self) -> None:
        self.has_left = True


class PriorityLock:
    """A lock whose next holder is the waiter with the lowest rank."""

    def __init__(self) -> None:
        self.is_held = False
        self._waiters: list[_RankedWaiter] = []

    async def acquire(self, rank: int) -> None:
        """Wait for the lock and hold it."""
        if not self.is_held:
            self.is_held = True
            return
        waiter = _RankedWaiter(rank, anyio.Event())
        heapq.heappush(self._waiters, waiter)
        try:
            await waiter.event.wait()
        except BaseException:
            waiter.leave()
            if waiter.event.is_set():  # it got the lock while it was being cancelled
                self.release()
            raise

    def release(self) -> None:
        """Pass the lock to the next waiter."""
        while self._waiters:
            waiter = heapq.heappop(self._waiters)
            if not waiter.has_left:
                waiter.event.set()
                return
        self.is_held = False


class Waits:
    """Seconds spent waiting by cause, and what is being waited for now.

    Args:
        clock: monotonic, in seconds.
        parent: counts the waits of several runs together.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, parent: Waits | None = None
    ) -> None:
        self._clock = clock
        self._parent = parent
        self.seconds: dict[str, float] = defaultdict(float)
        self._waiting: dict[str, int] = defaultdict(int)

    @property
    def current(self) -> str | None:
        """What most requests wait for at this moment; None when none waits."""
        waiting = {cause: count for cause, count in self._waiting.items() if count}
        return max(waiting, key=waiting.__getitem__) if waiting else None

    @property
    def waiting(self) -> Mapping[str, int]:
        """How many requests wait now, by cause."""
        return self._waiting

    def add(self, cause: str, seconds: float, change: int) -> None:
        """Count waits in another process.

        Args:
            cause: what is waited for.
            seconds: the time spent.
            change: of the number of requests that wait now.
        """
        self.seconds[cause] += seconds
        self._count(cause, change)

    def waiting_for(self, cause: str) -> _Wait:
        """Return a context manager that counts the time spent in it."""
        return _Wait(self, cause)

    def _enter(self, cause: str) -> float:
        self._count(cause, 1)
        return self._clock()

    def _leave(self, cause: str, since: float) -> None:
        self._count(cause, -1)
        self.seconds[cause] += self._clock() - since

    def _count(self, cause: str, change: int) -> None:
        self._waiting[cause] += change
        if self._parent is not None:
            self._parent._count(cause, change)


class _Wait:
    def __init__(self, waits: Waits, cause: str) -> None:
        self._waits = waits
        self._cause = cause
        self._start = 0.0

    def __enter__(self) -> None:
        self._start = self._waits._enter(self._cause)

    def __exit__(self, *_error: object) -> None:
        self._waits._leave(self._cause, self._start)
