"""Admission to one endpoint: a model at an address with a key. Its rates, concurrency and pauses."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from batchrun import retry
from batchrun.limits.breaker import CircuitBreaker, State
from batchrun.limits.buckets import (
    FEWEST_REQUESTS_PER_MINUTE,
    ConfiguredRequests,
    ReportedLimit,
    TokenBucket,
)
from batchrun.limits.concurrency import MOST, START, Concurrency
from batchrun.limits.load import Kind, LoadControl, Refused
from batchrun.retry import Cause

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchrun.errors import ProviderFault
    from batchrun.job import LimitsConfig
    from batchrun.limits.demand import Demand
    from batchrun.limits.stops import CostBudget
    from batchrun.limits.waits import Waits
    from batchrun.records import Attempt, LimitState

REQUESTS, TOKENS = "request rate", "token rate"
INPUT, OUTPUT = "input token rate", "output token rate"
RATES = (REQUESTS, TOKENS, INPUT, OUTPUT)
KINDS = {REQUESTS: Kind.REQUESTS, TOKENS: Kind.TOKENS}  # rates that refusals teach
PAUSE, CONCURRENCY, MONEY = "rate-limit pause", "concurrency", "max_cost_usd"
OUTAGE = "outage"

# A pause at a limit that is known: what was sent beyond it is little.
LIMIT_PAUSE_S = 0.25
# A learned rate is brought up to date this often.
UPDATE_S = 0.25
# Headers explain a refusal when less than this share of what they allow was left.
EXHAUSTED_SHARE = 0.05
# Refusals that headers explain are left to them, until they come so often within so long all the same.
DISTRUST_REFUSALS = 3
DISTRUST_S = 60.0
# How much the learned size of prompts weighs against a new one.
MEMORY_SHARE = 0.98
PRIOR_TOKENS = 200.0

_ABOUT_TOKENS = re.compile(r"token", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Backoff:
    """What a request that failed has to wait for.

    Attributes:
        is_shared: all requests to this endpoint pause, and admission sees to it; otherwise this
            request rests by itself.
        pause_s: how long the shared pause lasts from now.
    """

    is_shared: bool
    pause_s: float


@dataclass(slots=True)
class Permit:
    """Leave to send one request. It must be settled, once, whatever comes of the request.

    `number` counts the requests to this endpoint;
    `was_full` when as many were in flight as may be; `is_probe` when it left while others paused;
    `cost` is what was reserved for it, in pico-dollars.
    """

    endpoint: EndpointLimiter
    asked: Demand
    amounts: Mapping[str, float]
    sent_at: float
    number: int
    was_full: bool
    is_probe: bool
    cost: int | None

    def settle(self, attempt: Attempt, reported: LimitState | None = None) -> None:
        """Replace what was reserved by what was used, and learn from the outcome."""
        self.endpoint.settle(self, attempt, reported)

    def withdraw(self) -> None:
        """Give everything back: the request was not sent."""
        self.endpoint.withdraw(self)

    def failed(
        self, fault: ProviderFault, decision: retry.RetryDecision, *, is_suspect: bool = False
    ) -> Backoff:
        """Learn from a failure that may pass; return what the request has to wait for.

        Args:
            fault: how it failed.
            decision: what that means.
            is_suspect: it has failed before while others succeeded, so it may be its own fault.
        """
        return self.endpoint.note_failure(self, fault, decision, is_suspect=is_suspect)

    def is_own_fault(self, *, is_suspect: bool, is_last: bool) -> bool | None:
        """Say whether this attempt failed while others succeeded; None when it is too early.

        Args:
            is_suspect: as for `failed`.
            is_last: the request has no further attempt, so be sure.
        """
        return self.endpoint.is_own_fault(self, is_suspect=is_suspect, is_last=is_last)


class EndpointLimiter:
    """Lets requests to one endpoint through, one after another.

    Args:
        config: upper bounds.
        money: what may be spent, over all endpoints.
        cap: the most that its concurrency may grow to.
        jitter: returns a number in [0, 1).
        changed: is called when something was settled, which others may be waiting for.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        config: LimitsConfig,
        *,
        money: CostBudget,
        cap: int,
        jitter: Callable[[], float],
        changed: Callable[[], None],
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._money = money
        self._changed = changed
        self._clock = clock
        self._jitter = jitter
        rate = config.requests_per_minute
        self._requests = None if rate is None else ConfiguredRequests(rate)
        self._configured = {
            TOKENS: config.tokens_per_minute or math.inf,
            INPUT: config.input_tokens_per_minute or math.inf,
            OUTPUT: config.output_tokens_per_minute or math.inf,
        }
        self._buckets = {
            name: TokenBucket(self._configured.get(name, math.inf), clock) for name in RATES
        }
        self._reported = {
            name: ReportedLimit(clock, FEWEST_REQUESTS_PER_MINUTE if name == REQUESTS else 0.0)
            for name in RATES
        }
        self._load = LoadControl(clock)
        self.breaker = CircuitBreaker(clock, jitter)
        start = START if config.concurrency is None else cap
        self.concurrency = Concurrency(min(cap, config.concurrency or MOST), start, clock)
        self._estimated = self._counted = PRIOR_TOKENS
        self._paced_at = 0.0
        self._succeeded_number = 0
        self.succeeded_at = -math.inf
        self._unsuspected = 0  # failures since the last success
        self._refusals: list[float] = []  # that headers explain
        self.last_fault: ProviderFault | None = None
        self._keeps_bound = False
        self._binding = self._binding_rates()

    @property
    def pause_s(self) -> float:
        """Seconds until requests may be sent again."""
        return self.breaker.pause_s

    @property
    def _knows_limit(self) -> bool:
        """Whether a rate is kept to that was reported or learned."""
        is_reported = any(reported.limit is not None for reported in self._reported.values())
        return is_reported or self._load.is_rate_known

    @property
    def pause_cause(self) -> str:
        """What a pause is for."""
        fault = self.last_fault
        is_refusal = fault is not None and fault.http_status in {429, 529, 200}
        return PAUSE if is_refusal else OUTAGE

    @property
    def limit(self) -> int:
        """The most that may be in flight now."""
        return int(min(self.concurrency.limit, self._load.in_flight.most))

    def too_large(self, asked: Demand) -> str | None:
        """Return why a request could never be admitted, None when it can."""
        amounts = self._amounts(asked, factor=1.0)
        for name, limit in self._configured.items():
            if amounts[name] > limit:
                return _too_large(
                    name, amounts[name], limit, "raise the limit if the provider's is higher"
                )
        return None

    def above_reported(self, asked: Demand) -> str | None:
        """Return why a provider that refused a request always will, by what its headers say."""
        for name, amount in self._amounts(asked).items():
            limit = self._reported[name].limit
            if name != REQUESTS and limit is not None and amount > limit:
                return _too_large(name, amount, limit, "ask the provider for a higher limit")
        return None

    @property
    def is_paced(self) -> bool:
        """Whether every request has to wait for the configured rate of requests."""
        return self._requests is not None

    async def take_request_turn(self, waits: Waits) -> None:
        """Wait for the configured rate of requests."""
        if self._requests is not None:
            with waits.waiting_for(REQUESTS):
                await self._requests.take_one()

    def obstacle(self, asked: Demand) -> tuple[str, float] | None:
        """Return what a request has to wait for, and for how long at most; None when for nothing.

        Raises:
            CapReached: when it could only be sent beyond the cost cap.
        """
        if asked.most_cost is not None and not self._fits(asked.most_cost):
            return MONEY, math.inf
        # Asked first, so that a large request is saved up for whatever else it waits for.
        rates = self._waits_for_rates(asked) if self._binding else None
        if self.breaker.state is not State.CLOSED:
            seconds = self.breaker.wait_s(self._load.number + 1, self.limit)
            self._note_recovered()
            if seconds > 0:
                return self.pause_cause, seconds
        if self.concurrency.in_flight >= self.limit:
            return CONCURRENCY, math.inf
        if rates is None:
            return None
        seconds, cause = max(rates)
        return (cause, seconds) if seconds > 0 else None

    def _fits(self, most_cost: int) -> bool:
        """Say whether a request can be paid for, whatever it costs.

        The first goes alone: its answer shows whether this server keeps to `max_tokens`.
        """
        alone = self._keeps_bound or not self.concurrency.in_flight
        return self._money.fits(most_cost) and alone

    def _waits_for_rates(self, asked: Demand) -> list[tuple[float, str]]:
        amounts = self._amounts(asked)
        return [
            (
                max(
                    self._buckets[name].wait_for(amounts[name]),
                    self._reported[name].wait_for(amounts[name]),
                ),
                name,
            )
            for name in self._binding
        ]

    def grant(self, asked: Demand) -> Permit:
        """Let a request through that nothing stands in the way of."""
        amounts = self._amounts(asked)
        for name in self._binding:
            self._buckets[name].take(amounts[name])
            self._reported[name].take(amounts[name])
        self._load.note_sent(amounts[TOKENS])
        is_probe = self.breaker.state is not State.CLOSED and self.breaker.note_sent()
        if asked.most_cost is not None:
            self._money.reserve(asked.most_cost)
        self.concurrency.take()
        return Permit(
            self,
            asked,
            amounts,
            self._clock(),
            self._load.number,
            self.concurrency.in_flight >= self.limit,
            is_probe,
            asked.most_cost,
        )

    def settle(self, permit: Permit, attempt: Attempt, reported: LimitState | None) -> None:
        """See `Permit.settle`."""
        answered = attempt.http_status == 200 and not attempt.maybe_billed
        succeeded = answered and attempt.usage.output_tokens is not None
        succeeded = succeeded or (attempt.error_type is None and attempt.http_status == 200)
        self.concurrency.leave(succeeded=succeeded)
        used = self._used(permit, attempt)
        self._refund(permit, used)
        if used is not _REFUSED:
            self._load.tokens -= permit.amounts[TOKENS] - used[TOKENS]
        if succeeded:
            self._note_success(permit, used)
        elif attempt.cause == Cause.NO.value:
            self._note_alive(permit)
        self._update(reported)
        if permit.cost is not None:
            self._money.settle(permit.cost, _spent(attempt, permit.cost))
            self._keeps_bound = self._keeps_bound or succeeded
        self._changed()

    def withdraw(self, permit: Permit) -> None:
        """See `Permit.withdraw`."""
        self.concurrency.leave(succeeded=False)
        self._refund(permit, _NOTHING)
        self._load.tokens -= permit.amounts[TOKENS]
        self._money.settle(permit.cost or 0, 0)
        self._changed()

    def note_failure(
        self,
        permit: Permit,
        fault: ProviderFault,
        decision: retry.RetryDecision,
        *,
        is_suspect: bool,
    ) -> Backoff:
        """See `Permit.failed`."""
        breaker = self.breaker
        self.last_fault = fault
        if not is_suspect:
            self._unsuspected += 1
            breaker.note_failure(permit.number, self._clock() - permit.sent_at)
        told_s = decision.delay_s
        if told_s is not None:
            told_s = retry.told_delay(told_s, self._jitter)
        if self._is_limit(permit, fault, decision):
            # A limit that is only supposed yet is no reason to hold others back for as long.
            breaker.open(LIMIT_PAUSE_S, told_s if self._knows_limit else None, strict=True)
        elif breaker.should_open(permit.number):
            if decision.cause is Cause.RATE_LIMIT:
                self._load.note_exhausted(_kind_of(fault))
            breaker.open(decision.base_delay_s, told_s)
        elif told_s is not None:
            breaker.extend(told_s)
        return Backoff(not breaker.is_closed, breaker.pause_s)

    def is_own_fault(self, permit: Permit, *, is_suspect: bool, is_last: bool) -> bool | None:
        """See `Permit.is_own_fault`."""
        if self.breaker.all_fail or not self.breaker.is_closed:
            return False
        if self._succeeded_number > permit.number or (is_suspect and not self._unsuspected):
            return True
        # An answer to what left earlier shows less: it may have been under way as trouble began.
        is_likely = self.succeeded_at >= permit.sent_at
        is_open = self.concurrency.in_flight > 0 and (is_last or not is_likely)
        return None if is_open else is_likely

    def _is_limit(
        self, permit: Permit, fault: ProviderFault, decision: retry.RetryDecision
    ) -> bool:
        """Say whether a refusal means that a limit, reported or learned, is used up for now."""
        if decision.cause is not Cause.RATE_LIMIT and fault.http_status != 503:
            return False
        counts = self.breaker.state is not State.OPEN and not permit.is_probe
        if counts and self._is_explained(permit):
            now = self._clock()
            self._refusals = [at for at in self._refusals if now - at < DISTRUST_S] + [now]
            if len(self._refusals) < DISTRUST_REFUSALS:
                return True
        refused = Refused(
            _kind_of(fault),
            permit.number,
            permit.sent_at,
            permit.amounts[TOKENS],
            permit.was_full,
        )
        is_limit = self._load.note_refusal(refused, counts=counts)
        self._pace()
        return is_limit

    def _is_explained(self, permit: Permit) -> bool:
        """Say whether the headers show that what was asked for was not there."""
        return any(
            reported.limit is not None
            and reported.wait_for(permit.amounts[name] + EXHAUSTED_SHARE * reported.limit) > 0
            for name, reported in self._reported.items()
        )

    def _amounts(self, asked: Demand, factor: float | None = None) -> dict[str, float]:
        """What a request takes of each rate, with the size of prompts as it was learned."""
        if factor is None:
            factor = self._counted / self._estimated
        input_tokens = max(1.0, asked.input_tokens * factor)
        return {
            REQUESTS: 1.0,
            TOKENS: input_tokens + asked.output_tokens,
            INPUT: input_tokens,
            OUTPUT: float(asked.output_tokens),
        }

    def _refund(self, permit: Permit, used: Mapping[str, float]) -> None:
        for name in self._binding:
            if unused := permit.amounts[name] - used[name]:
                self._buckets[name].refund(unused, permit.sent_at)
                self._reported[name].take(-unused)

    def _used(self, permit: Permit, attempt: Attempt) -> Mapping[str, float]:
        """What an attempt took of the rates in the end: all, when nobody knows."""
        usage, asked = attempt.usage, permit.asked
        if attempt.maybe_billed:
            return permit.amounts  # an answer that broke off used more than it told
        if usage.input_tokens is None or usage.output_tokens is None:
            is_refused = attempt.http_status not in {None, 200}
            return _REFUSED if is_refused else permit.amounts
        counted = usage.input_tokens
        if not asked.counts_cache_reads:
            counted = max(0, counted - (usage.cache_read_tokens or 0))
        self._estimated = self._estimated * MEMORY_SHARE + asked.input_tokens
        self._counted = self._counted * MEMORY_SHARE + counted
        output = usage.output_tokens
        return {REQUESTS: 1.0, TOKENS: counted + output, INPUT: counted, OUTPUT: output}

    def _note_success(self, permit: Permit, used: Mapping[str, float]) -> None:
        now = self._clock()
        self._note_alive(permit)
        self._load.note_success(now - permit.sent_at, was_full=permit.was_full)
        for name in self._binding:
            if self._reported[name].disprove(used[name]):
                self._set_bucket(name)
        if self._load.is_active and now - self._paced_at >= UPDATE_S:
            self._pace()

    def _note_alive(self, permit: Permit) -> None:
        """The endpoint answered, be it only that the request is wrong."""
        self.succeeded_at = self._clock()
        self._unsuspected = 0
        self._succeeded_number = max(self._succeeded_number, permit.number)
        if self.breaker.failing_share or self.breaker.state is not State.CLOSED:
            self.breaker.note_success(permit.number, self._load.number + 1, self.limit)
            self._note_recovered()

    def _note_recovered(self) -> None:
        if self.breaker.has_recovered:
            self.breaker.has_recovered = False
            self._load.note_recovered()
            self._pace()

    def _update(self, state: LimitState | None) -> None:
        """Follow what the provider's headers say."""
        if state is None:
            return
        said = (state.requests, state.tokens, state.input_tokens, state.output_tokens)
        for name, allowance in zip(RATES, said, strict=True):
            if allowance is not None:
                before = self._reported[name].limit
                self._reported[name].update(allowance)
                if self._reported[name].limit != before:
                    self._set_bucket(name)

    def _pace(self) -> None:
        """Go at the rates that were learned."""
        self._paced_at = self._clock()
        self._load.look_at_trial(self.breaker.delay_s)
        for name in KINDS:
            self._set_bucket(name)

    def _set_bucket(self, name: str) -> None:
        """Go as fast as the tightest of what was configured, reported and learned allows."""
        rates = [self._configured.get(name, math.inf), self._reported[name].limit or math.inf]
        if name in KINDS:
            rates.append(60 * self._load.pace_per_s(KINDS[name]))
        self._buckets[name].set(min(rates))
        self._binding = self._binding_rates()

    def _binding_rates(self) -> tuple[str, ...]:
        """Return the rates that hold requests back: the others need no account."""
        return tuple(
            name
            for name in RATES
            if not math.isinf(self._buckets[name].per_minute)
            or self._reported[name].limit is not None
        )


_REFUSED = {REQUESTS: 1.0, TOKENS: 0.0, INPUT: 0.0, OUTPUT: 0.0}
_NOTHING = {REQUESTS: 0.0, TOKENS: 0.0, INPUT: 0.0, OUTPUT: 0.0}


def _kind_of(fault: ProviderFault) -> Kind:
    """Return the rate that a refusal is about, as far as it says so."""
    says_tokens = _ABOUT_TOKENS.search(f"{fault.error_type} {fault.message}")
    return Kind.TOKENS if says_tokens else Kind.REQUESTS


def _spent(attempt: Attempt, reserved: int) -> int:
    """What counts as spent: what it cost, or as much as it can have cost when nobody knows."""
    if attempt.cost is not None:
        least = reserved if attempt.maybe_billed else 0
        return max(least, attempt.cost.total)
    is_used = attempt.error_type is None or attempt.usage.output_tokens is not None
    return reserved if attempt.maybe_billed or is_used else 0


def _too_large(name: str, amount: float, limit: float, way_out: str) -> str:
    return (
        f"the request needs about {amount:,.0f} tokens, more than the whole {name} of "
        f"{limit:,.10g} per minute; shorten the prompt, lower max_tokens, or {way_out}"
    )
