"""Bytes that may be held at a time: of requests that wait or are in flight, and of answers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import anyio

# The bodies of requests from their planning to their result. Beside each body that is under way,
# the transport holds a copy.
REQUEST_BYTES = 96 * 1024 * 1024
# Answers from their arrival until they are in the checkpoint.
ANSWER_BYTES = 128 * 1024 * 1024


@dataclass(eq=False, slots=True)
class _Waiter:
    size: int
    share: Share | None
    admitted: anyio.Event = field(default_factory=anyio.Event)


class ByteBudget:
    """A number of bytes that everybody together may hold; who waits for some is served in order.

    Something larger than all of it is admitted when nothing else is held.

    Args:
        most: how many bytes.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self.held = 0
        self._waiting: deque[_Waiter] = deque()
        self._exempt: Share | None = None

    async def take(self, size: int) -> None:
        """Wait until there is room for `size` bytes, and hold them."""
        if not self.took(size):
            await self.wait_for(size, None)

    def took(self, size: int) -> bool:
        """Hold `size` bytes if there is room now and nobody waits; say whether that was so."""
        if self._waiting or (self.held and self.held + size > self._most):
            return False
        self.held += size
        return True

    async def wait_for(self, size: int, share: Share | None) -> None:
        """Wait until `size` bytes may be held, as a part of a share or by themselves."""
        await self._admitted(_Waiter(size, share))

    def give_back(self, size: int) -> None:
        """Hold so many bytes less."""
        self.held -= size
        self._admit()

    def share(self) -> Share:
        """Return the share of somebody who does not know beforehand how much it will be."""
        return Share(self)

    async def _admitted(self, waiter: _Waiter) -> None:
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

    def _leave(self, waiter: _Waiter) -> None:
        if waiter.share is not None:
            waiter.share.size -= waiter.size
        self.give_back(waiter.size)

    def _admit(self) -> None:
        """Admit those who have waited longest, as far as there is room."""
        while self._waiting and self._may(self._waiting[0]):
            waiter = self._waiting.popleft()
            self.held += waiter.size
            if waiter.share is not None:
                waiter.share.size += waiter.size
            waiter.admitted.set()

    def _may(self, waiter: _Waiter) -> bool:
        if not self.held or self.held + waiter.size <= self._most:
            return True
        # When all who hold something wait for more, nothing would ever be given back. So one of
        # them may go beyond the budget, until it is through.
        if waiter.share is not None and self._exempt in (None, waiter.share):
            self._exempt = waiter.share
            return True
        return False

    def closed(self, share: Share) -> None:
        """Take back all that a share has."""
        if self._exempt is share:
            self._exempt = None
        self.give_back(share.size)


class Share:
    """What one holder has of a budget. `size` is in bytes."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.size = 0

    async def grow(self, size: int) -> None:
        """Hold `size` bytes in all; wait for room if that is more than before."""
        more = size - self.size
        if more > 0 and not self._budget.took(more):
            await self._budget.wait_for(more, self)
        elif more > 0:
            self.size = size

    def close(self) -> None:
        """Give everything back. May be called again."""
        if self.size:
            self._budget.closed(self)
            self.size = 0
