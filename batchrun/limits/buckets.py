"""Token buckets for requests and tokens, and the provider's own buckets as its headers show them.

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

# aiolimiter sends its burst at once: with the usual burst of one second, twice the rate is sent in the
# first second and some of it is refused.
BURST_S = 0.1
# Share of a reported limit that is not used: its headers do not count the latest requests.
MARGIN_SHARE = 0.015
# Limits with a longer period than a minute (mostly a day) are not used as a rate.
LONGEST_RESET_S = 61.5
# A header that allows less than one request a minute is ignored: providers send such values by mistake,
# and the run would stop without a message.
FEWEST_REQUESTS_PER_MINUTE = 1.0
_EPSILON = 1e-9


class ConfiguredRequests:
    """The configured requests per minute, by aiolimiter; for one waiter at a time.

    aiolimiter has no refund, cannot change its rate and serves the smallest request first. So token rates and
    rates that change during a run use `TokenBucket`.
    """

    def __init__(self, per_minute: float) -> None:
        per_second = per_minute / 60
        # Taking half a burst at a time never empties the bucket, so no time is lost when the event loop
        # wakes late. A request is at most half of the burst, or all of it.
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
    """Spreads amounts evenly: an amount accumulates before it is taken, and may be refunded.

    Args:
        per_minute: the rate; infinite means no limit.
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
        """Change the rate; the present balance stays."""
        self._fill()
        was_open, self._per_s = math.isinf(self._per_s), per_minute / 60
        if was_open:
            self._since = self._clock()
        self._burst = self._most = self._burst_of(self._per_s)
        self._level = self._burst if was_open else min(self._level, max(self._burst, per_minute))

    def wait_for(self, amount: float) -> float:
        """Return the seconds until this amount has accumulated, if nothing else is taken."""
        if math.isinf(self._per_s):
            return 0.0
        # A waiter that wakes late still gets what was saved meanwhile.
        self._most = amount + self._burst
        self._fill()
        missing = amount - self._level
        return missing / self._per_s if missing > _EPSILON * amount else 0.0

    def take(self, amount: float) -> None:
        """Take an amount that has accumulated."""
        if not math.isinf(self._per_s):
            self._fill()
            self._level -= amount
            self._most = self._burst

    def refund(self, amount: float, taken_at: float) -> None:
        """Return an unused amount; a negative amount was used in addition.

        The balance is at most the amount of one minute. Amounts taken before there was a rate are ignored.
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
    """A provider's own bucket, as its latest headers showed it.

    It refills evenly, or at once at its reset, depending on the headers.

    Args:
        clock: monotonic, in seconds.
        least: lower reported limits are ignored.
    """

    def __init__(self, clock: Callable[[], float] = anyio.current_time, least: float = 0.0) -> None:
        self._clock = clock
        self._least = least
        self._at = 0.0
        self._level = math.inf
        self._reset_at: float | None = None
        self.limit: float | None = None

    def update(self, allowance: Allowance) -> None:
        """Use the headers of an answer."""
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
        """Ignore a limit that a single accepted request exceeded; return whether it did.

        It would allow less than one such request per minute.
        """
        if self.limit is None or amount <= self.limit:
            return False
        self._least = max(self._least, amount)
        self.limit = None
        return True

    def wait_for(self, amount: float) -> float:
        """Return the seconds until the provider should have this amount."""
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
        """Count what was admitted since the headers; a negative amount is a refund."""
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
