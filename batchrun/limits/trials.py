"""Trials: send less for a while, to see whether refusals depend on the load."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from batchrun.limits.rate_estimator import PERIOD_REQUESTS, PERIOD_S, Measure

if TYPE_CHECKING:
    from collections.abc import Callable

# A refusal counts one, and each sent request subtracts TOLERATED: refusals of less than 1 % have no effect.
TOLERATED = 0.01
# A trial sends as many requests as would have had TRIAL_REFUSALS at the earlier share. If at most a third of
# these occur, the load matters: by chance that happens once in a hundred trials.
TRIAL_REFUSALS = 8
PASSING_SHARE = 1 / 3
FEWEST_IN_TRIAL, MOST_IN_TRIAL = 20, 400
# It takes at least a second, and then waits for the last refusal to arrive.
SHORTEST_TRIAL_S = 1.0
SHORTEST_DELAY_S = 0.25
HIGHEST_SHARE = 0.8  # of refusals before a trial; a higher share counts as this
# A limit of the number in flight does not explain refusals if it accepts less than this share of what a limit
# of the rate accepts.
EQUAL_RATE = 0.98
# Less than this share of a confirmed rate needs another trial.
NEAR = 0.9
# The limit of the number in flight grows by one after this many answers while it is used: at a limit of
# four that is one refusal per twenty answers, and at a large limit few refusals.
SUCCESSES_PER_STEP = 20


class Lowered(Enum):
    """What a trial lowers."""

    RATE = "rate"
    IN_FLIGHT = "in flight"


class RateUnit(Enum):
    """What rates count."""

    REQUESTS = "requests"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused request.

    Attributes:
        unit: the unit whose limit was exceeded, according to the provider; requests if it does not say.
        number: in the order of sending.
        sent_at: seconds.
        tokens: taken for it.
        was_full: the limit of the number in flight was reached.
    """

    unit: RateUnit
    number: int
    sent_at: float
    tokens: float
    was_full: bool


@dataclass(frozen=True, slots=True)
class Experiment:
    """What a trial lowers, and the load before it.

    Attributes:
        lowers: the limit that it lowers.
        unit: unit of the rate.
        measure: the accepted rate and the share of refusals before.
        rate_before: the limit of the rate to return to; None for none.
        in_flight_before: the limit of the number in flight to return to; infinite for none.
        is_second: a trial of the rate failed before.
    """

    lowers: Lowered
    unit: RateUnit
    measure: Measure
    rate_before: float | None
    in_flight_before: float
    is_second: bool = False

    @property
    def share(self) -> float:
        """Share of requests that were refused before."""
        return min(HIGHEST_SHARE, max(self.measure.share, TOLERATED))

    @property
    def needed(self) -> int:
        """Number of requests to send."""
        return min(MOST_IN_TRIAL, max(FEWEST_IN_TRIAL, math.ceil(TRIAL_REFUSALS / self.share)))

    def explains_less(self, requests_per_s: float) -> bool:
        """Return whether the limit of the number in flight accepts less than the limit of the rate."""
        if self.lowers is Lowered.RATE:
            return False
        if self.rate_before is None or self.is_second:
            return requests_per_s < NEAR * self.measure.requests_per_s
        per_request = self.measure.amount / max(self.measure.requests, 1e-9)
        return requests_per_s * per_request < EQUAL_RATE * self.rate_before


class Trial:
    """An experiment under way: does the share of refusals fall when the load does?

    Args:
        experiment: what is lowered.
        first: number of its first request.
        now: when it begins, in seconds.
        shrinks: how often the number in flight may be lowered further.

    Attributes:
        begun_at: seconds.
    """

    def __init__(self, experiment: Experiment, first: int, now: float, shrinks: int = 0) -> None:
        self.experiment = experiment
        self.begun_at = now
        self._shrinks = shrinks
        self._restart(first, now)

    def _restart(self, first: int, now: float) -> None:
        self._first = first
        self._restarted_at = now
        self._refused = 0
        self._complete_at: float | None = None  # a refusal of its last request would have arrived

    @property
    def may_shrink(self) -> bool:
        """Whether the number in flight may still be lowered."""
        return self._shrinks > 0

    @property
    def has_failed(self) -> bool:
        """Whether the share of refusals is too high to be caused by the load."""
        found = self.experiment
        return self._refused > found.needed * found.share * PASSING_SHARE

    def includes(self, number: int) -> bool:
        """Return whether a request belongs to the trial."""
        return number >= self._first

    def note_refusal(self) -> None:
        """One of its requests was refused."""
        self._refused += 1

    def shrink(self, first: int, now: float) -> None:
        """Start again with fewer requests in flight."""
        self._shrinks -= 1
        self._restart(first, now)

    def is_complete(self, last: int, now: float, delay_s: float) -> bool:
        """Return whether enough requests were sent, and their refusals have arrived.

        Args:
            last: number of the last request that was sent.
            now: seconds.
            delay_s: how long a refusal takes to arrive.
        """
        if last < self._first - 1 + self.experiment.needed:
            return False
        if self._complete_at is None:
            delay_s = max(SHORTEST_DELAY_S, 2 * delay_s)
            self._complete_at = max(now + delay_s, self.begun_at + SHORTEST_TRIAL_S)
            return False
        return now >= self._complete_at

    def sent_per_s(self, last: int, now: float) -> float:
        """Return the rate of its requests."""
        return (last + 1 - self._first) / (now - self._restarted_at)


class InFlightLimit:
    """The number in flight that a provider accepts, if it limits that.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._confirmed = 0.0
        self._held_until = -math.inf
        self.most = math.inf

    @property
    def is_known(self) -> bool:
        """Whether there is a limit."""
        return self.most < math.inf

    def set(self, most: float) -> None:
        """Allow `most` in flight, and more as answers arrive; infinite means no limit."""
        self.most = self._confirmed = most
        self._held_until = -math.inf

    def shrink(self, latency_s: float) -> bool:
        """Allow one fewer for a while; return False if that is far below what was confirmed."""
        most = math.ceil(self.most) - 1
        if most < min(NEAR * self._confirmed, self._confirmed - 2):
            return False
        self.most = max(1.0, most)
        per_s = self.most / max(latency_s, 1e-3)
        self._held_until = self._clock() + max(PERIOD_S, PERIOD_REQUESTS / per_s)
        return True

    def grow(self) -> None:
        """An answer arrived while the limit was reached."""
        if self._clock() >= self._held_until:
            self.most += 1 / SUCCESSES_PER_STEP
            self._confirmed = max(self._confirmed, math.floor(self.most))
