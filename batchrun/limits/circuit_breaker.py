"""The circuit breaker of one endpoint: when nearly all requests fail, all pause, then one probes."""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Each request of the order of sending weighs an eighth in the share that fails: twelve failures in a
# row reach ALL_FAIL, which one refusal in five by chance does once in a hundred million requests.
MEMORY = 7 / 8
ALL_FAIL = 0.8
FORGOTTEN = 0.001
# A pause lasts at least a tenth of the outage so far: so probing adds at most a tenth to an outage, and one
# of a minute gets about forty probes.
PAUSE_SHARE = 0.1
LONGEST_PAUSE_S = 60.0
PAUSE_SPREAD = 0.2  # so that clients that paused together do not return together
# While probing, twice as many requests are sent after each step in which none failed. A step lasts as long
# as two failures take to arrive, within bounds.
SHORTEST_STEP_S, LONGEST_STEP_S = 0.1, 5.0
DELAY_MEMORY = 0.75


class BreakerState(Enum):
    """What may be sent."""

    CLOSED = "closed"  # everything
    OPEN = "open"  # nothing: all pause
    HALF_OPEN = "half-open"  # one probe, then twice as many in each step


class CircuitBreaker:
    """Knows the share of the latest requests that failed, and pauses all when nearly all fail.

    Requests are numbered in the order of sending. Failures arrive sooner than answers, so every number
    between two failures counts as not failed.

    Args:
        clock: monotonic, in seconds.
        jitter: returns a number in [0, 1).
    """

    def __init__(self, clock: Callable[[], float], jitter: Callable[[], float]) -> None:
        self._clock = clock
        self._jitter = jitter
        self.state = BreakerState.CLOSED
        self.failing_share = 0.0
        self._latest = 0  # number that the share is reckoned up to
        self._first_failed: int | None = None  # since the last success of a later request
        self._delay_s = SHORTEST_STEP_S / 2  # until a failure arrives
        self._has_recovered = False
        self._until = -math.inf
        self.since = -math.inf  # when the trouble began, or something succeeded in it
        self._is_strict = False
        self._obeys = False
        self._allowed = self._sent = self._passed = 0
        self._step_from = 0
        self._step_until = -math.inf

    @property
    def is_closed(self) -> bool:
        """Whether requests may be sent regardless of earlier failures."""
        return self.state is BreakerState.CLOSED

    @property
    def all_fail(self) -> bool:
        """Whether nearly all of the latest requests failed."""
        return self.failing_share >= ALL_FAIL

    @property
    def pause_s(self) -> float:
        """Seconds until the next probe may be sent."""
        return max(0.0, self._until - self._clock()) if self.state is BreakerState.OPEN else 0.0

    @property
    def delay_s(self) -> float:
        """How long a failure takes to arrive, in seconds."""
        return self._delay_s

    def wait_s(self, next_number: int, most: int) -> float:
        """Return the seconds until one more request may be sent; 0.0 for now.

        Args:
            next_number: the number that it would have.
            most: how many may be in flight without trouble.
        """
        now = self._clock()
        if self.state is BreakerState.OPEN:
            if now < self._until:
                return self._until - now
            self._probe(next_number)
        if self._sent < self._allowed:
            return 0.0
        if now < self._step_until:
            return self._step_until - now
        # A failure would have arrived by now.
        self._note_passed(next_number - 1)
        self._widen(next_number, most)
        return 0.0

    def note_sent(self) -> bool:
        """One more request is sent; return whether it is the single probe."""
        self._sent += 1
        # Counted from the last request: before it nothing could have failed.
        step_s = min(LONGEST_STEP_S, max(SHORTEST_STEP_S, 2 * self._delay_s))
        self._step_until = self._clock() + step_s
        return self._allowed == 1

    def note_success(self, number: int, next_number: int, most: int) -> None:
        """A request was answered. `most` is how many may be in flight."""
        if self._first_failed is not None and number > self._first_failed:
            self._first_failed = None
            if self.state is BreakerState.OPEN and not self._obeys:
                self._probe(next_number)
        self._note_passed(number)
        if self.state is BreakerState.HALF_OPEN and number >= self._step_from:
            self._passed += 1
            self.since = self._clock()
            if self._passed >= self._allowed:
                self._widen(next_number, most)

    def note_failure(self, number: int, delay_s: float) -> None:
        """A request failed `delay_s` seconds after it was sent."""
        self._delay_s = DELAY_MEMORY * self._delay_s + (1 - DELAY_MEMORY) * delay_s
        if self._first_failed is None:
            self._first_failed = number
        if number > self._latest:
            self._note_passed(number - 1)
            self._latest = number
        self.failing_share += (1 - MEMORY) * (1 - self.failing_share)

    def should_open(self, number: int) -> bool:
        """Return whether all requests should pause, or pause longer, after the failure of this one."""
        if self.state is BreakerState.CLOSED:
            return self.all_fail
        is_probe = self.state is BreakerState.HALF_OPEN and number >= self._step_from
        return is_probe and (self._is_strict or self.all_fail)

    def open(self, least_s: float, asked_s: float | None, *, strict: bool = False) -> None:
        """Hold all requests back.

        Args:
            least_s: the shortest pause.
            asked_s: what the provider asked for; the first time exactly that is used.
            strict: one successful probe ends the pause, since a known limit was reached.
        """
        now = self._clock()
        is_first = self.is_closed
        if is_first:
            self.since = now
            self._until = -math.inf
        pause = max(least_s, min(LONGEST_PAUSE_S, PAUSE_SHARE * (now - self.since)))
        pause *= 1 + PAUSE_SPREAD * (self._jitter() - 0.5)
        if asked_s is not None:
            pause = asked_s if is_first else max(asked_s, pause)
        self.state = BreakerState.OPEN
        # If nearly all fail it is more than a limit: then requests return step by step.
        self._is_strict = strict or (self._is_strict and not is_first and not self.all_fail)
        self._obeys = asked_s is not None
        self._until = max(self._until, now + pause)

    def take_recovery(self) -> bool:
        """Return whether requests have succeeded after a pause since this was last asked."""
        has_recovered, self._has_recovered = self._has_recovered, False
        return has_recovered

    def extend(self, asked_s: float) -> None:
        """The provider asked a request that was sent before the pause to wait longer."""
        if self.state is BreakerState.OPEN:
            self._obeys = True
            self._until = max(self._until, self._clock() + asked_s)

    def _probe(self, next_number: int) -> None:
        self.state = BreakerState.HALF_OPEN
        self._begin_step(1, next_number)

    def _widen(self, next_number: int, most: int) -> None:
        if self._is_strict or 2 * self._allowed >= most:
            self.state, self._has_recovered = BreakerState.CLOSED, True
            self.failing_share, self._first_failed = 0.0, None
        else:
            self._begin_step(2 * self._allowed, next_number)

    def _begin_step(self, allowed: int, next_number: int) -> None:
        self._allowed, self._sent, self._passed = allowed, 0, 0
        self._step_from = next_number
        self._has_recovered = self._has_recovered or allowed > 1

    def _note_passed(self, number: int) -> None:
        """All failures up to this number are known."""
        if number > self._latest:
            self.failing_share *= MEMORY ** (number - self._latest)
            self._latest = number
            if self.failing_share < FORGOTTEN:
                self.failing_share, self._first_failed = 0.0, None
