"""Finding the rate of a provider that tells none.

At each refusal the provider's bucket is empty, so what it accepted between two refusals is what it
refilled: that is its rate. Requests then go a little slower, and faster again with every success.
After the first refusal they go much slower, and twice as fast every second until the second one.
Refusals that come as often at any rate (a provider short of capacity, say) teach no rate: then the
cooldowns have to do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio

from batchrun.limits.buckets import Meter

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_SHARE = 0.125  # of the recent rate, after the first refusal
SHARE = 0.95  # of the rate that was found
GROWTH = 0.0005  # with every success at first; twice that with every hundred more
GROWTH_DOUBLES_AFTER = 100
# The measurement begins anew when it has become this long and this exact.
LONG_S = 30.0
MANY = 100
MEMORY_S = 10.0
# So many refusals in a row after few requests each: the rate is another one by now. If the new one
# fares no better, refusals have nothing to do with a rate; it is asked after again after so many
# requests, and twice as many each time.
FEW = 60
SHORTS = 4
RELEARN_AFTER = 200
# Beyond so many times the recent rate, a pace holds nothing back.
OPEN_FACTOR = 4.0


class Learner:
    """The learned rate of one kind of thing: requests, or tokens.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = anyio.current_time) -> None:
        self._clock = clock
        self._recent = Meter(MEMORY_S, clock)
        self._since: float | None = None
        self._taken = 0.0
        self._requests = 0
        self._refused_at = 0.0
        self._taken_at_refusal = 0.0
        self._successes = 0
        self._is_exploring = False
        self._grown_at = 0.0
        self._sent = 0
        self._sent_at_refusal = 0
        self._shorts = 0
        self._deaf_until = 0
        self._deaf_for = 0
        self.per_minute = math.inf

    def take(self, amount: float) -> None:
        """An amount is sent."""
        self._taken += amount
        self._requests += 1
        self._sent += 1
        self._recent.add(amount)

    def refund(self, amount: float) -> None:
        """An answer used so much less than was taken for it, whenever that was."""
        self._taken -= amount
        self._recent.add(-amount)

    def refused(self, amount: float, sent_at: float, *, is_first: bool) -> None:
        """An amount was refused.

        Args:
            amount: what was taken for it.
            sent_at: when.
            is_first: nothing that was sent since the refusal before was refused until now.
        """
        self._recent.add(-amount)
        if self._since is not None and sent_at >= self._since:
            self._taken -= amount
            if not is_first and sent_at <= self._refused_at:
                self._taken_at_refusal -= amount
        if is_first and self._is_about_rate():
            self._note_empty(amount)
        self._reckon()

    def _is_about_rate(self) -> bool:
        """Say whether refusals get rarer as requests go slower; otherwise forget the rate."""
        is_short = self._sent - self._sent_at_refusal < FEW
        self._sent_at_refusal = self._sent
        if self._sent < self._deaf_until:
            return False
        self._shorts = self._shorts + 1 if is_short else 0
        if not is_short:
            self._deaf_for = 0
        elif self._shorts >= SHORTS:
            self._shorts = 0
            self._deaf_until = self._sent + self._deaf_for
            self._deaf_for = max(RELEARN_AFTER, 2 * self._deaf_for)
            self.per_minute, self._since = math.inf, None
        return self._sent >= self._deaf_until

    def _note_empty(self, least_per_s: float) -> None:
        now = self._clock()
        self._successes = 0
        if self._since is None:
            self.per_minute = max(FIRST_SHARE * self._recent.per_s(), least_per_s) * 60
            self._is_exploring, self._grown_at = True, now
            self._start(now)
        elif self._refused_at - self._since > LONG_S and self._requests >= MANY:
            self._start(self._refused_at, self._taken - self._taken_at_refusal)
        self._refused_at, self._taken_at_refusal = now, self._taken

    def succeeded(self, sent_at: float) -> None:
        """A request was answered: dare a little more, if it was sent after the last refusal."""
        if math.isinf(self.per_minute) or sent_at <= self._refused_at:
            return
        self._successes += 1
        now = self._clock()
        if self._is_exploring:
            self.per_minute *= 2 ** (now - self._grown_at)
        self._grown_at = now
        self.per_minute *= 1 + GROWTH * 2 ** (self._successes / GROWTH_DOUBLES_AFTER)
        if self._successes > MANY and self.per_minute > OPEN_FACTOR * 60 * self._recent.per_s():
            self.per_minute, self._since = math.inf, None

    def _start(self, since: float, taken: float = 0.0) -> None:
        self._since, self._taken = since, taken
        self._requests = 0

    def _reckon(self) -> None:
        """Set the pace by what was accepted until the latest refusal."""
        if self._since is None or self._refused_at <= self._since:
            return
        accepted = self._taken_at_refusal
        self._is_exploring = False
        if accepted > 0:  # otherwise the cooldowns say more than a rate could
            self.per_minute = SHARE * accepted / (self._refused_at - self._since) * 60
