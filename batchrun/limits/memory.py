"""Limits the bytes of requests that wait or are in flight, and of answers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import anyio

# The bodies of requests from planning to result. For each body in flight the transport holds a copy.
REQUEST_BYTES = 96 * 1024 * 1024
# Answers from their arrival until they are in the checkpoint.
ANSWER_BYTES = 128 * 1024 * 1024
# Python looks for cyclic garbage after this many new objects, without those that are gone (default: 700).
COLLECTED_EVERY = 10_000


@dataclass(eq=False, slots=True)
class _ByteWaiter:
    size: int
    share: Share | None
    admitted: anyio.Event = field(default_factory=anyio.Event)


class ByteBudget:
    """A number of bytes that all holders share; waiters are served in order.

    A size above the whole budget is admitted when nothing else is held.

    Args:
        most: the budget in bytes.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self.held = 0
        self._waiting: deque[_ByteWaiter] = deque()
        self._exempt: Share | None = None

    async def take(self, size: int) -> None:
        """Wait until there is room for `size` bytes, and hold them."""
        if not self.took(size):
            await self.wait_for(size, None)

    def took(self, size: int) -> bool:
        """Hold `size` bytes if there is room and nothing waits; return whether they are held."""
        if self._waiting or (self.held and self.held + size > self._most):
            return False
        self.held += size
        return True

    async def wait_for(self, size: int, share: Share | None) -> None:
        """Wait until `size` bytes may be held, with or without a share."""
        await self._admitted(_ByteWaiter(size, share))

    def give_back(self, size: int) -> None:
        """Release `size` bytes."""
        self.held -= size
        self._admit()

    def share(self) -> Share:
        """Return a share for a holder that does not know its size in advance."""
        return Share(self)

    async def _admitted(self, waiter: _ByteWaiter) -> None:
        if waiter.share is not None and waiter.share is self._exempt:
            self._waiting.appendleft(waiter)
        else:
            self._waiting.append(waiter)
        self._admit()
        try:
            await waiter.admitted.wait()
        except anyio.get_cancelled_exc_class():
            if waiter.admitted.is_set():
                self._leave(waiter)
            else:
                self._waiting.remove(waiter)
                self._admit()
            raise

    def _leave(self, waiter: _ByteWaiter) -> None:
        if waiter.share is not None:
            waiter.share.add(-waiter.size)
        self.give_back(waiter.size)

    def _admit(self) -> None:
        """Admit waiters in order, as far as there is room."""
        while self._waiting and self._may(self._waiting[0]):
            waiter = self._waiting.popleft()
            self.held += waiter.size
            if waiter.share is not None:
                waiter.share.add(waiter.size)
            waiter.admitted.set()

    def _may(self, waiter: _ByteWaiter) -> bool:
        if not self.held or self.held + waiter.size <= self._most:
            return True
        # When all holders wait for more, nothing would ever be released. So one of them may exceed the
        # budget until it is finished.
        if waiter.share is not None and self._exempt in (None, waiter.share):
            self._exempt = waiter.share
            return True
        return False

    def closed(self, share: Share) -> None:
        """Release everything that a share holds."""
        if self._exempt is share:
            self._exempt = None
        self.give_back(share.size)


class Share:
    """The bytes of one holder. `size` is in bytes."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.size = 0

    async def grow(self, size: int) -> None:
        """Hold `size` bytes in total; wait for room if that is more than before."""
        more = size - self.size
        if more > 0 and not self._budget.took(more):
            await self._budget.wait_for(more, self)
        elif more > 0:
            self.size = size

    def add(self, size: int) -> None:
        """Hold `size` bytes more, which the budget has admitted; fewer if negative."""
        self.size += size

    def close(self) -> None:
        """Release everything. May be called again."""
        if self.size:
            self._budget.closed(self)
            self.size = 0
