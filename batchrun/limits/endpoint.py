"""Admission to one endpoint: a model at an address with a key. Its rates, concurrency and pauses."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import anyio

from batchrun.limits import retry_delays
from batchrun.limits.allowances import (
    LEARNED_UNITS,
    NOTHING,
    REFUSED,
    REQUESTS,
    TOKENS,
    Allowances,
    is_answer,
)
from batchrun.limits.buckets import ConfiguredRequests
from batchrun.limits.circuit_breaker import BreakerState, CircuitBreaker
from batchrun.limits.concurrency import MOST, START, Concurrency, InFlight
from batchrun.limits.load import LoadControl
from batchrun.limits.retry_delays import Cause
from batchrun.limits.trials import RateUnit, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchrun.errors import ProviderFault
    from batchrun.job import LimitsConfig
    from batchrun.limits.budgets import CostBudget
    from batchrun.limits.demand import Demand
    from batchrun.limits.waiting import Waits
    from batchrun.records import Attempt, LimitState

PAUSE, CONCURRENCY, MONEY = "rate-limit pause", "concurrency", "max_cost_usd"
OUTAGE, RETRY = "outage", "retry"

# A pause at a known limit: little was sent beyond it.
LIMIT_PAUSE_S = 0.25
# At a limit that is not confirmed the pause is no longer than two answers take: refusals may have another
# reason, and a run of a thousand requests per second would lose much time.
SHORTEST_PAUSE_S = 0.05
PAUSE_ANSWERS = 2.0
# A learned rate is updated this often.
UPDATE_S = 0.25
# Refusals that the headers explain do not begin a measure, unless DISTRUST_REFUSALS come within DISTRUST_S.
DISTRUST_REFUSALS = 3
DISTRUST_S = 60.0
LONGEST_TROUBLE = 100  # characters of the line that says why requests wait

# The endpoint answered, even if the request is wrong or the answer was rejected.
_ANSWERED_CAUSES = {
    Cause.NO.value,
    Cause.UNDECIDED.value,
    Cause.INVALID.value,
    Cause.UNSUPPORTED.value,
}
_PASSING_CAUSES = {Cause.TRANSIENT.value, Cause.RATE_LIMIT.value}
_ABOUT_TOKENS = re.compile(r"token", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Backoff:
    """How a failed request has to wait.

    Attributes:
        is_shared: all requests to this endpoint pause, and admission waits for the end of the pause;
            otherwise only this request pauses.
        pause_s: how long the shared pause lasts from now.
    """

    is_shared: bool
    pause_s: float


class SentRequest(NamedTuple):
    """The moment in which a request is sent.

    Attributes:
        number: of the request, counted over this endpoint.
        at: seconds.
        was_full: as many were in flight as allowed.
        is_probe: it was sent while others paused.
    """

    number: int
    at: float
    was_full: bool
    is_probe: bool


@dataclass(slots=True)
class EndpointPermit:
    """Permission to send one request. It must be settled or withdrawn, once.

    Attributes:
        endpoint: to send it to.
        asked: what was asked for.
        amounts: taken from the rates.
        cost: what was reserved for it, in pico-dollars.
        sent: how it is sent.
    """

    endpoint: EndpointLimiter
    asked: Demand
    amounts: Mapping[str, float]
    cost: int | None
    sent: SentRequest

    @property
    def sent_at(self) -> float:
        """When it was admitted, in seconds."""
        return self.sent.at

    def settle(self, attempt: Attempt, reported: LimitState | None = None) -> None:
        """Replace the reserved amounts by the used ones, and learn from the outcome."""
        self.endpoint.settle(self, attempt, reported)

    def withdraw(self) -> None:
        """Return the reserved amounts: the request was not sent."""
        self.endpoint.withdraw(self)

    async def cool_down(
        self,
        fault: ProviderFault,
        decision: retry_delays.RetryDecision,
        *,
        is_suspect: bool = False,
    ) -> Backoff:
        """Learn from a transient failure; return how the request has to wait.

        Args:
            fault: how it failed.
            decision: what follows from the fault.
            is_suspect: it has failed before while others succeeded, so the request may be at fault.
        """
        return self.endpoint.note_failure(self, fault, decision, is_suspect=is_suspect)

    async def is_own_fault(self, *, is_suspect: bool, is_last: bool) -> bool | None:
        """Return whether this attempt failed while others succeeded; None when it is too early.

        Args:
            is_suspect: as for `cool_down`.
            is_last: the request has no further attempt, so the answer must be certain.
        """
        return self.endpoint.is_own_fault(self, is_suspect=is_suspect, is_last=is_last)


class EndpointLimiter:
    """Admits requests to one endpoint, one after another.

    Args:
        config: upper bounds.
        money: what may be spent, over all endpoints.
        cap: the most that its concurrency may grow to.
        jitter: returns a number in [0, 1).
        in_flight: counts the requests to all endpoints.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        config: LimitsConfig,
        *,
        money: CostBudget,
        cap: int,
        jitter: Callable[[], float],
        in_flight: InFlight,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._money = money
        self._all_in_flight = in_flight
        self._clock = clock
        self._jitter = jitter
        rate = config.requests_per_minute
        self._requests = None if rate is None else ConfiguredRequests(rate)
        self.rates = Allowances(config, clock)
        self._load = LoadControl(clock)
        self.breaker = CircuitBreaker(clock, jitter)
        start = START if config.concurrency is None else cap
        self.concurrency = Concurrency(min(cap, config.concurrency or MOST), start, clock)
        self._updated_at = 0.0
        self._succeeded_number = 0
        self.succeeded_at = -math.inf
        self._unsuspected = 0  # failures since the last success
        self._refusals: list[float] = []  # that headers explain
        self._last_cause: str | None = None  # of a failure that may pass
        self._last_error: str | None = None
        self._keeps_bound = False

    @property
    def pause_s(self) -> float:
        """Seconds until requests may be sent again."""
        return self.breaker.pause_s

    @property
    def _knows_limit(self) -> bool:
        """Whether a reported or learned rate is used."""
        return self.rates.are_reported or self._load.is_rate_known

    @property
    def pause_cause(self) -> str:
        """The reason of a pause."""
        return PAUSE if self._last_cause == Cause.RATE_LIMIT.value else OUTAGE

    @property
    def trouble(self) -> str | None:
        """What all requests wait for while most of them fail; None otherwise."""
        if self.breaker.is_closed:
            return None
        said = f"{self.pause_cause}: {self._last_error or 'refused'}"[:LONGEST_TROUBLE]
        return f"{said}, next attempt in {math.ceil(self.pause_s)} s" if self.pause_s else said

    @property
    def last_error(self) -> str | None:
        """The last transient failure."""
        return self._last_error

    @property
    def _short_pause_s(self) -> float:
        latency_s = self._load.latency_s or LIMIT_PAUSE_S  # nothing was answered yet
        return min(LIMIT_PAUSE_S, max(SHORTEST_PAUSE_S, PAUSE_ANSWERS * latency_s))

    @property
    def limit(self) -> int:
        """The most that may be in flight now."""
        return int(min(self.concurrency.limit, self._load.in_flight.most))

    @property
    def limits_requests(self) -> bool:
        """Whether every request has to wait for the configured rate of requests."""
        return self._requests is not None

    async def take_request_turn(self, waits: Waits) -> None:
        """Wait for the configured rate of requests."""
        if self._requests is not None:
            with waits.waiting_for(REQUESTS):
                await self._requests.take_one()

    def obstacle(self, asked: Demand) -> tuple[str, float] | None:
        """Return what a request has to wait for, and for how many seconds at most; None for nothing.

        Raises:
            CapReached: if it could exceed the cost cap.
        """
        if asked.most_cost is not None and not self._fits(asked.most_cost):
            return MONEY, math.inf
        # Asked first: tokens for a large request are saved while it waits for something else.
        rate_s, rate = self.rates.waits_for(asked)
        if self.breaker.state is not BreakerState.CLOSED:
            seconds = self.breaker.wait_s(self._load.number + 1, self.limit)
            self._note_recovered()
            if seconds > 0:
                return self.pause_cause, seconds
        if self.concurrency.in_flight >= self.limit:
            return CONCURRENCY, math.inf
        return (rate, rate_s) if rate_s > 0 else None

    def _fits(self, most_cost: int) -> bool:
        """Return whether the highest cost of a request fits.

        The first request is sent alone: its answer shows whether this server respects `max_tokens`.
        """
        alone = self._keeps_bound or not self.concurrency.in_flight
        return self._money.fits(most_cost) and alone

    def grant(self, asked: Demand) -> EndpointPermit:
        """Admit a request that need not wait."""
        amounts = self.rates.amounts(asked)
        self.rates.take(amounts)
        self._load.note_sent(amounts[TOKENS])
        is_probe = self.breaker.state is not BreakerState.CLOSED and self.breaker.note_sent()
        if asked.most_cost is not None:
            self._money.reserve(asked.most_cost)
        self.concurrency.take()
        was_full = self.concurrency.in_flight >= self.limit
        sent = SentRequest(self._load.number, self._clock(), was_full, is_probe)
        return EndpointPermit(self, asked, amounts, asked.most_cost, sent)

    def settle(self, permit: EndpointPermit, attempt: Attempt, reported: LimitState | None) -> None:
        """See `EndpointPermit.settle`."""
        succeeded = _succeeded(attempt)
        self.concurrency.leave(succeeded=succeeded)
        used = self.rates.used(permit.asked, permit.amounts, attempt)
        self.rates.refund(permit.amounts, used, permit.sent.at)
        if used is not REFUSED:
            self._load.note_unused(permit.amounts[TOKENS] - used[TOKENS])
        if succeeded:
            self._note_success(permit, used)
        elif attempt.cause in _ANSWERED_CAUSES and attempt.http_status is not None:
            self._note_alive(permit)
        elif attempt.cause in _PASSING_CAUSES:
            self._last_cause, self._last_error = attempt.cause, attempt.error
        self.rates.update(reported)
        if permit.cost is not None:
            spent = _spent(attempt, permit.cost)
            known = 0 if attempt.cost is None else attempt.cost.total
            self._money.settle(permit.cost, spent, spent - known)
            self._keeps_bound = self._keeps_bound or succeeded
        self._all_in_flight.leave()

    def withdraw(self, permit: EndpointPermit) -> None:
        """See `EndpointPermit.withdraw`."""
        self.concurrency.leave(succeeded=False)
        self.rates.refund(permit.amounts, NOTHING, permit.sent.at)
        self._load.note_unused(permit.amounts[TOKENS])
        self._money.settle(permit.cost or 0, 0)
        self._all_in_flight.leave()

    def note_failure(
        self,
        permit: EndpointPermit,
        fault: ProviderFault,
        decision: retry_delays.RetryDecision,
        *,
        is_suspect: bool,
    ) -> Backoff:
        """See `EndpointPermit.cool_down`."""
        breaker = self.breaker
        if not is_suspect:
            self._unsuspected += 1
            breaker.note_failure(permit.sent.number, self._clock() - permit.sent.at)
        asked_s = decision.delay_s
        if asked_s is not None:
            asked_s = retry_delays.with_jitter(asked_s, self._jitter)
        if self._is_limit(permit, fault, decision):
            # An unconfirmed limit does not justify a long pause of all requests.
            knows = self._knows_limit
            pause_s = LIMIT_PAUSE_S if knows else self._short_pause_s
            breaker.open(pause_s, asked_s if knows else None, strict=True)
        elif breaker.should_open(permit.sent.number):
            if decision.cause is Cause.RATE_LIMIT:
                self._load.note_exhausted(_unit_of(fault))
            breaker.open(decision.base_delay_s, asked_s)
        elif asked_s is not None:
            breaker.extend(asked_s)
        return Backoff(not breaker.is_closed, breaker.pause_s)

    def is_own_fault(
        self, permit: EndpointPermit, *, is_suspect: bool, is_last: bool
    ) -> bool | None:
        """See `EndpointPermit.is_own_fault`."""
        if self.breaker.all_fail or not self.breaker.is_closed:
            return False
        if self._succeeded_number > permit.sent.number or (is_suspect and not self._unsuspected):
            return True
        # An answer to an earlier request shows less: it may have been in flight when trouble began.
        is_likely = self.succeeded_at >= permit.sent.at
        is_open = self.concurrency.in_flight > 0 and (is_last or not is_likely)
        return None if is_open else is_likely

    def _is_limit(
        self, permit: EndpointPermit, fault: ProviderFault, decision: retry_delays.RetryDecision
    ) -> bool:
        """Return whether a refusal means that a reported or learned limit is used up now."""
        if decision.cause is not Cause.RATE_LIMIT and fault.http_status != 503:
            return False
        counts = self.breaker.state is not BreakerState.OPEN and not permit.sent.is_probe
        if counts and self.rates.explain(permit.amounts):
            now = self._clock()
            self._refusals = [at for at in self._refusals if now - at < DISTRUST_S] + [now]
            if len(self._refusals) < DISTRUST_REFUSALS:
                return True
        refused = Refusal(
            _unit_of(fault),
            permit.sent.number,
            permit.sent.at,
            permit.amounts[TOKENS],
            permit.sent.was_full,
        )
        is_limit = self._load.note_refusal(refused, counts=counts)
        self._apply_learned_rates()
        return is_limit

    def _note_success(self, permit: EndpointPermit, used: Mapping[str, float]) -> None:
        now = self._clock()
        self._note_alive(permit)
        self._load.note_success(now - permit.sent.at, was_full=permit.sent.was_full)
        self.rates.disprove(used)
        if self._load.is_active and now - self._updated_at >= UPDATE_S:
            self._apply_learned_rates()

    def _note_alive(self, permit: EndpointPermit) -> None:
        """The endpoint answered, even if only to say that the request is wrong."""
        self.succeeded_at = self._clock()
        self._unsuspected = 0
        self._succeeded_number = max(self._succeeded_number, permit.sent.number)
        if self.breaker.failing_share or self.breaker.state is not BreakerState.CLOSED:
            self.breaker.note_success(permit.sent.number, self._load.number + 1, self.limit)
            self._note_recovered()

    def _note_recovered(self) -> None:
        if self.breaker.take_recovery():
            self._load.note_recovered()
            self._apply_learned_rates()

    def _apply_learned_rates(self) -> None:
        """Use the learned rates."""
        self._updated_at = self._clock()
        self._load.end_complete_trial(self.breaker.delay_s)
        for name, unit in LEARNED_UNITS.items():
            self.rates.learn(name, self._load.rate_per_s(unit))


def _succeeded(attempt: Attempt) -> bool:
    """Return whether an answer arrived, even if it was rejected."""
    if not is_answer(attempt.http_status):
        return False
    is_whole = not attempt.maybe_billed and attempt.usage.output_tokens is not None
    return is_whole or attempt.error_type is None


def _unit_of(fault: ProviderFault) -> RateUnit:
    """Return what a refusal says exceeds its limit: tokens, or else requests."""
    says_tokens = _ABOUT_TOKENS.search(f"{fault.error_type} {fault.message}")
    return RateUnit.TOKENS if says_tokens else RateUnit.REQUESTS


def _spent(attempt: Attempt, reserved: int) -> int:
    """Return the amount that counts as spent: the cost, or the highest possible cost if it is unknown."""
    if attempt.cost is not None:
        least = reserved if attempt.maybe_billed else 0
        return max(least, attempt.cost.total)
    is_used = attempt.error_type is None or attempt.usage.output_tokens is not None
    return reserved if attempt.maybe_billed or is_used else 0
