"""Turns: who came first goes first, also after having been sent back."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import anyio


@dataclass(order=True, slots=True)
class _Waiter:
    place: int
    event: anyio.Event = field(compare=False)
    has_left: bool = field(default=False, compare=False)


class Turn:
    """A lock whose next holder is the waiter with the lowest place."""

    def __init__(self) -> None:
        self._is_held = False
        self._waiters: list[_Waiter] = []

    @property
    def is_held(self) -> bool:
        """Whether somebody has the turn."""
        return self._is_held

    async def take(self, place: int) -> None:
        """Wait for the turn."""
        if not self._is_held:
            self._is_held = True
            return
        waiter = _Waiter(place, anyio.Event())
        heapq.heappush(self._waiters, waiter)
        try:
            await waiter.event.wait()
        except BaseException:
            waiter.has_left = True
            if waiter.event.is_set():  # it was given the turn as it was being cancelled
                self.pass_on()
            raise

    def pass_on(self) -> None:
        """End the turn; the next one begins."""
        while self._waiters:
            waiter = heapq.heappop(self._waiters)
            if not waiter.has_left:
                waiter.event.set()
                return
        self._is_held = False
