"""How many requests are in flight at most, found out while they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

START = 16
MOST = 4_000
USED_SHARE = 0.8  # so much of the limit must be in use for it to grow
CUT_SHARE = 0.8
ROUND_S = 1.0  # a doubling takes at least so long
DOUBLING = 1.0
AFTER_CUT = 0.1
PROBING = 0.25
# More in flight must bring more answers: so much of the growth, or it is taken back.
LEAST_GAIN = 0.25
PATIENCE_ROUNDS = 8
MOST_PATIENCE_ROUNDS = 64


class Concurrency:
    """A limit that grows while all goes well and is cut when the provider has had enough.

    Args:
        cap: the most that it may grow to.
        start: where it begins; at the cap, it only falls and recovers.
        clock: seconds that never go back.
    """

    def __init__(
        self, cap: int, start: int = START, clock: Callable[[], float] = anyio.current_time
    ) -> None:
        self._cap = cap
        self._clock = clock
        self._limit = float(min(start, cap))
        self._growth = DOUBLING
        self._patience = PATIENCE_ROUNDS
        self._hold = 0
        self._base = self._limit
        self._since: float | None = None
        self._done = 0
        self._rate: float | None = None
        self.in_flight = 0
        self.epoch = 0

    @property
    def limit(self) -> int:
        """The most that may be in flight now."""
        return int(self._limit)

    def take(self) -> int:
        """Count a request in; return the epoch that it was sent in."""
        if self._since is None:
            self._since = self._clock()
        self.in_flight += 1
        return self.epoch

    def leave(self, epoch: int, *, succeeded: bool) -> None:
        """Count a request out. Successes of requests sent before the last cut prove nothing."""
        is_used = self.in_flight >= USED_SHARE * self.limit
        self.in_flight -= 1
        if not succeeded or epoch != self.epoch or self._limit >= self._cap:
            return
        if not is_used:
            # The limit did not hold anything back; what comes now says nothing about it.
            self._begin_round(rate=None)
            return
        self._done += 1
        if self._growth:
            # By one at least: a tenth of very few would take for ever.
            most = self._base + max(1.0, self._base * self._growth)
            step = max(self._growth, 1 / self._base)
            self._limit = min(self._limit + step, most, float(self._cap))
        now = self._clock()
        if self._done >= self._base and now - (self._since or 0.0) >= ROUND_S:
            self._judge(self._done / (now - (self._since or 0.0)))

    def cut(self, epoch: int) -> None:
        """The provider has had enough: cut by a fifth, once for all that was sent before."""
        if epoch != self.epoch:
            return
        self.epoch += 1
        self._limit = max(1.0, self._limit * CUT_SHARE)
        self._growth, self._hold = AFTER_CUT, 0
        self._begin_round(rate=None)

    def _judge(self, rate: float) -> None:
        """A round is over: did more in flight bring more answers?"""
        needed = None
        if self._rate is not None and self._growth in {DOUBLING, PROBING}:
            needed = self._rate * (1 + LEAST_GAIN * self._growth)
        if self._hold:
            self._hold -= 1
            self._growth = 0.0 if self._hold else PROBING
        elif needed is not None and rate < needed:
            # The server's own queue grew, no more.
            self._limit = self._base
            self._growth, self._hold = 0.0, self._patience
            self._patience = min(2 * self._patience, MOST_PATIENCE_ROUNDS)
        self._begin_round(rate)

    def _begin_round(self, rate: float | None) -> None:
        self._rate = rate
        self._base = self._limit
        self._since = self._clock()
        self._done = 0
