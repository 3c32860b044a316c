"""The rate that a provider accepts: it is measured between recoveries, and then used.

At a refusal the provider's allowance is used up. So the amount that is accepted from one recovery after
refusals to the next is the amount that was added to the allowance. This gives its rate, whether the allowance
is refilled evenly or all at once with every minute of the clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SHORTEST_MEASURE_S = 1.0
# A measure of fewer requests is off by more than a tenth; with few refusals it takes more of them.
FEWEST_REQUESTS = 10
FEWEST_REFUSALS = 5
# A measure of this length is exact to 1 %; the next refusal begins a new one.
LONG_MEASURE_S = 10.0
MANY_REQUESTS = 100
# After a refusal the rate is DIP below the limit, a period later at the limit, then above it, along a
# cubic curve: flat near the limit, and steeper the longer nothing is refused. So a steady limit is used to
# 98 % with one refusal per period, and a limit that doubles is reached after three and a half periods.
DIP = 0.05
PERIOD_S = 30.0
PERIOD_REQUESTS = 100  # in a period, at least: one refusal for each of them is 1 %
# While a limit may be far above what was accepted so far, the rate doubles with this number of requests, and
# not sooner than in this number of seconds, until something is refused.
DOUBLING_REQUESTS = 10
DOUBLING_S = 3.0
GONE_FACTOR = 4.0  # a limit that was exceeded this far without a refusal is gone


@dataclass(frozen=True, slots=True)
class Measure:
    """What was accepted between two recoveries.

    Attributes:
        seconds: between them.
        amount: accepted requests or tokens.
        requests: accepted requests.
        share: refused requests of all requests.
        shortest_s: a shorter measure says nothing.
    """

    seconds: float
    amount: float
    requests: float
    share: float
    shortest_s: float = SHORTEST_MEASURE_S

    @property
    def per_s(self) -> float:
        """The rate."""
        return self.amount / self.seconds

    @property
    def requests_per_s(self) -> float:
        """The rate in requests."""
        return self.requests / self.seconds

    @property
    def is_rough(self) -> bool:
        """Whether it says anything."""
        is_enough = self.amount > 0 and self.requests >= FEWEST_REQUESTS
        return is_enough and self.seconds >= self.shortest_s

    @property
    def is_sufficient(self) -> bool:
        """Whether it is exact enough for a trial to show that the share of refusals falls."""
        return self.is_rough and self.requests * max(self.share, 0.01) >= FEWEST_REFUSALS

    @property
    def is_long(self) -> bool:
        """Whether it is exact enough to correct a limit that is known."""
        is_enough = self.is_rough and self.requests >= MANY_REQUESTS
        return is_enough and self.seconds >= LONG_MEASURE_S


class RateEstimator:
    """The rate of requests or of tokens that a provider accepts.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._marked_at: float | None = None
        self._sent_before = 0.0
        self._refused = 0.0
        self._frozen: tuple[float, float] | None = None  # a time, and what was sent until then
        self._refused_later = 0.0  # of what was sent after that
        self._dipped_at = 0.0
        self._requests = 0  # since then
        self._period_s = PERIOD_S
        self._is_held = False
        self.is_searching = False
        self.limit_per_s: float | None = None
        self.confirmed_per_s = 0.0

    def note_refused(self, amount: float, sent_at: float) -> None:
        """An amount that was sent at `sent_at` was refused."""
        if self._frozen is not None and sent_at > self._frozen[0]:
            self._refused_later += amount
        elif self._marked_at is not None and sent_at >= self._marked_at:
            self._refused += amount

    def freeze(self, sent: float) -> None:
        """Measure until now, and the next time from now on."""
        self._frozen, self._refused_later = (self._clock(), sent), 0.0

    def thaw(self) -> None:
        """Continue to measure as if nothing had been frozen."""
        self._refused += self._refused_later
        self._frozen, self._refused_later = None, 0.0

    def mark(self, sent: float) -> None:
        """Begin a measure now, or where it was frozen; `sent` is the sum of all that was sent."""
        self._marked_at, self._sent_before = self._frozen or (self._clock(), sent)
        self._refused = self._refused_later
        self._frozen, self._refused_later = None, 0.0

    def measure(
        self, sent: float, requests: float, share: float, shortest_s: float
    ) -> Measure | None:
        """Return what was accepted since the measure began; None before the first one."""
        if self._marked_at is None:
            return None
        now, sent = self._frozen or (self._clock(), sent)
        seconds = max(now - self._marked_at, 1e-9)
        amount = sent - self._sent_before - self._refused
        return Measure(seconds, amount, requests, share, max(SHORTEST_MEASURE_S, shortest_s))

    def hold(self, per_s: float) -> None:
        """Use exactly this rate."""
        self.limit_per_s, self._is_held = per_s, True

    def limit(self, per_s: float, requests_per_s: float, *, search: bool = False) -> None:
        """Stay just below a rate, and try more as time passes.

        Args:
            per_s: the rate.
            requests_per_s: the same in requests.
            search: try more sooner: the limit may be far above.
        """
        self.limit_per_s, self._is_held, self.is_searching = per_s, False, search
        self._period_s = max(PERIOD_S, PERIOD_REQUESTS / max(requests_per_s, 1e-3))
        self.dip()

    def confirm(self, per_s: float) -> None:
        """A trial or a long measure has shown that this rate is accepted, and no more."""
        self.confirmed_per_s = per_s

    def dip(self) -> None:
        """Go just below the limit again."""
        self._dipped_at, self._requests = self._clock(), 0

    def note_sent(self) -> None:
        """A request is sent."""
        self._requests += 1

    def lift(self) -> None:
        """Use no limit."""
        self.limit_per_s, self._is_held = None, False

    @property
    def is_below_limit(self) -> bool:
        """Whether the rate is still below the limit after the last refusal."""
        return self._factor() < 1

    def rate_per_s(self) -> float:
        """Return the rate to send at; infinite without a limit."""
        if self.limit_per_s is None:
            return math.inf
        if self._is_held:
            return self.limit_per_s
        factor = self._factor()
        if factor > GONE_FACTOR:
            self.lift()
            return math.inf
        return self.limit_per_s * factor

    def _factor(self) -> float:
        seconds = self._clock() - self._dipped_at
        if not self.is_searching:
            return 1 + DIP * (seconds / self._period_s - 1) ** 3
        doublings = min(self._requests / DOUBLING_REQUESTS, seconds / DOUBLING_S)
        return (1 - DIP) * 2**doublings
