"""Token buckets that requests are paid from, and the provider's own buckets as its headers show them.

Amounts are requests or tokens, times are seconds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio
from aiolimiter import AsyncLimiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrun.records import Allowance

# aiolimiter lets its burst through at once: with one second of the rate, as is usual, twice the
# rate passes in the first second and earns refusals.
BURST_S = 0.1
# Kept back from what a provider says is left, for what its headers did not know of yet.
MARGIN_SHARE = 0.015
# Longer periods than a minute (a day, mostly) are no rate to keep to.
LONGEST_RESET_S = 61.5
# A header that allows less than one request a minute is not believed: providers send such values
# by mistake, and obeying one would stop the run without anybody noticing.
FEWEST_REQUESTS_PER_MINUTE = 1.0
_EPSILON = 1e-9


class ConfiguredRequests:
    """The configured requests per minute, rated by aiolimiter; for one waiter at a time.

    aiolimiter has no refund, cannot change its rate and serves the smallest first, so whatever is
    counted in tokens or changes while a run goes on is a `TokenBucket`.
    """

    def __init__(self, per_minute: float) -> None:
        per_second = per_minute / 60
        # With half a burst at a time the bucket never runs dry, so that the time by which the
        # loop wakes late is not lost; a request is at most half of the burst, or all of it.
        burst = max(1.0, per_second * BURST_S)
        self._part = min(1.0, burst / 2)
        self._limiter = AsyncLimiter(burst, burst / per_second)

    async def take_one(self) -> None:
        """Wait for one request's turn."""
        left = 1.0
        while left > 0:
            await self._limiter.acquire(part := min(left, self._part))
            left -= part


class TokenBucket:
    """Lets amounts through evenly: each is saved up for before it leaves, and may be refunded.

    Args:
        per_minute: the rate; infinite lets everything through.
        clock: monotonic, in seconds.
    """

    def __init__(
        self, per_minute: float = math.inf, clock: Callable[[], float] = anyio.current_time
    ) -> None:
        self._clock = clock
        self._per_s = per_minute / 60
        self._level = self._burst = self._most = self._burst_of(self._per_s)
        self._filled_at: float | None = None
        self._since = -math.inf

    @property
    def per_minute(self) -> float:
        """The rate."""
        return self._per_s * 60

    def set(self, per_minute: float) -> None:
        """Go on at another rate; what has been saved or is owed stays."""
        self._fill()
        was_open, self._per_s = math.isinf(self._per_s), per_minute / 60
        if was_open:
            self._since = self._clock()
        self._burst = self._most = self._burst_of(self._per_s)
        self._level = self._burst if was_open else min(self._level, max(self._burst, per_minute))

    def wait_for(self, amount: float) -> float:
        """Return the seconds until so much is saved up, if nobody else takes from it."""
        if math.isinf(self._per_s):
            return 0.0
        # Who wakes late finds what came in meanwhile: the time is not lost.
        self._most = amount + self._burst
        self._fill()
        missing = amount - self._level
        return missing / self._per_s if missing > _EPSILON * amount else 0.0

    def take(self, amount: float) -> None:
        """Take an amount that has been saved up."""
        if not math.isinf(self._per_s):
            self._fill()
            self._level -= amount
            self._most = self._burst

    def refund(self, amount: float, taken_at: float) -> None:
        """Put back what was not used (negative: take what was used beyond it).

        At most a minute's worth is kept, and nothing of what was taken before there was a rate.
        """
        if not math.isinf(self._per_s) and taken_at >= self._since:
            self._fill()
            self._level = min(self._level + amount, max(self._burst, self.per_minute))

    def _fill(self) -> None:
        now = self._clock()
        if self._filled_at is not None and self._level < self._most:
            earned = (now - self._filled_at) * self._per_s
            self._level = min(self._most, self._level + earned)
        self._filled_at = now

    @staticmethod
    def _burst_of(per_s: float) -> float:
        return 0.0 if math.isinf(per_s) else max(1.0, per_s * BURST_S)


class ReportedLimit:
    """A provider's own bucket, as its headers showed it last.

    It refills evenly, or at once at its reset: whichever the headers fit.

    Args:
        clock: monotonic, in seconds.
        least: a limit below this is not believed.
    """

    def __init__(self, clock: Callable[[], float] = anyio.current_time, least: float = 0.0) -> None:
        self._clock = clock
        self._least = least
        self._at = 0.0
        self._level = math.inf
        self._reset_at: float | None = None
        self.limit: float | None = None

    def update(self, allowance: Allowance) -> None:
        """Take over what an answer said."""
        reset = allowance.reset_s
        is_no_rate = reset is not None and reset > LONGEST_RESET_S
        if is_no_rate or allowance.limit < self._least:
            self.limit = None
            return
        self.limit, self._level, self._at = allowance.limit, allowance.remaining, self._clock()
        used_share = 1 - allowance.remaining / allowance.limit
        # An even refill takes a minute for all of it. Resets may be rounded to whole seconds.
        by_window = reset is not None and reset + 1.5 < 0.75 * used_share * 60
        self._reset_at = self._at + (reset or 0.0) if by_window else None

    def disprove(self, amount: float) -> bool:
        """Stop believing a limit that a single accepted request exceeded; say whether it did.

        It would allow less than one such request a minute.
        """
        if self.limit is None or amount <= self.limit:
            return False
        self._least = max(self._least, amount)
        self.limit = None
        return True

    def wait_for(self, amount: float) -> float:
        """Return the seconds until the provider can be expected to have so much."""
        if self.limit is None:
            return 0.0
        self._fill()
        margin = self.limit * MARGIN_SHARE
        missing = min(amount, self.limit - margin) + margin - self._level
        if missing <= _EPSILON * self.limit:
            return 0.0
        if self._reset_at is not None:
            return self._reset_at - self._clock()
        return missing * 60 / self.limit

    def take(self, amount: float) -> None:
        """Count what was admitted since; a negative amount is a refund."""
        if self.limit is not None:
            self._fill()
            self._level = min(self._level - amount, self.limit)

    def _fill(self) -> None:
        now, limit = self._clock(), self.limit or 0.0
        if self._reset_at is None:
            self._level = min(limit, self._level + (now - self._at) * limit / 60)
        elif now >= self._reset_at:
            self._level, self._reset_at = limit, None
        self._at = now
