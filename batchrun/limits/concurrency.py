"""How many requests may be in flight: a limit that adapts during the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

START = 16
MOST = 4_000
USED_SHARE = 0.8  # share of the limit that must be in use for it to grow
ROUND_S = 1.0  # a doubling takes at least this long
DOUBLING = 1.0
PROBING = 0.25
# More in flight must bring more answers: at least this share of the growth, or the growth is undone.
LEAST_GAIN = 0.25
FIRST_HOLD_ROUNDS = 8
MOST_HOLD_ROUNDS = 64


class InFlight:
    """Requests in flight to all endpoints together.

    Args:
        most: how many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting = 0
        self._has_changed = anyio.Event()
        self.count = 0

    @property
    def is_full(self) -> bool:
        """Whether no further request may be sent."""
        return self.count >= self._most

    def enter(self) -> None:
        """Count a request that is sent."""
        self.count += 1

    def leave(self) -> None:
        """Count a request that was settled, and wake the waiting tasks."""
        self.count -= 1
        if self._waiting:
            self._has_changed.set()
            self._has_changed = anyio.Event()

    async def changed(self) -> None:
        """Wait until a request was settled."""
        self._waiting += 1
        try:
            await self._has_changed.wait()
        finally:
            self._waiting -= 1


class Concurrency:
    """A limit that grows while more requests in flight bring more answers.

    Args:
        cap: the most that it may grow to.
        start: its initial value; if this is the cap, the limit stays there.
        clock: monotonic, in seconds.
    """

    def __init__(
        self, cap: int, start: int = START, clock: Callable[[], float] = anyio.current_time
    ) -> None:
        self._cap = cap
        self._clock = clock
        self._limit = float(min(start, cap))
        self._growth = DOUBLING
        self._hold_rounds = FIRST_HOLD_ROUNDS
        self._hold = 0
        self._base = self._limit
        self._since: float | None = None
        self._done = 0
        self._rate: float | None = None
        self.in_flight = 0
        self.limit = int(self._limit)  # the most that may be in flight now

    def take(self) -> None:
        """Count a request in."""
        if self._since is None:
            self._since = self._clock()
        self.in_flight += 1

    def leave(self, *, succeeded: bool) -> None:
        """Count a request out."""
        is_used = self.in_flight >= USED_SHARE * self.limit
        self.in_flight -= 1
        if not succeeded or self._limit >= self._cap:
            return
        if not is_used:
            # The limit was not reached, so this answer says nothing about it.
            self.begin_round()
            return
        self._done += 1
        if self._growth:
            # By one at least: a share of a small number would take too long.
            most = self._base + max(1.0, self._base * self._growth)
            step = max(self._growth, 1 / self._base)
            self._limit = min(self._limit + step, most, float(self._cap))
            self.limit = int(self._limit)
        now = self._clock()
        if self._done >= self._base and now - (self._since or 0.0) >= ROUND_S:
            self._judge(self._done / (now - (self._since or 0.0)))

    def begin_round(self, rate: float | None = None) -> None:
        """Begin a round; compare its rate of answers with this one, if there is one."""
        self._rate = rate
        self._base = self._limit
        self._since = self._clock()
        self._done = 0

    def _judge(self, rate: float) -> None:
        """End a round: keep the growth if more in flight brought more answers."""
        needed = None
        if self._rate is not None and self._growth:
            needed = self._rate * (1 + LEAST_GAIN * self._growth)
        if self._hold:
            self._hold -= 1
            self._growth = 0.0 if self._hold else PROBING
        elif needed is not None and rate < needed:
            # Only the server's queue grew.
            self._limit = self._base
            self.limit = int(self._limit)
            self._growth, self._hold = 0.0, self._hold_rounds
            self._hold_rounds = min(2 * self._hold_rounds, MOST_HOLD_ROUNDS)
        self.begin_round(rate)
