"""Admission to one model at one address: its rates, its concurrency and its cooldown."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from batchrun import retry
from batchrun.limits.buckets import Meter, Pace, Requests, Told
from batchrun.limits.concurrency import MOST, START, Concurrency
from batchrun.limits.learning import Learner
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
COOLDOWN, CONCURRENCY, MONEY = "cooldown", "concurrency", "max_cost_usd"

# Without any known rate, requests are sent at most twice as fast as they were answered of late.
RAMP_FLOOR_PER_S = 64.0
RAMP_FACTOR = 2.0
RAMP_MEMORY_S = 0.25
# Headers are believed until a provider refuses so often within so long all the same.
DISTRUST_REFUSALS = 3
DISTRUST_S = 60.0
# How much the learned size of prompts weighs against a new one.
MEMORY_SHARE = 0.98
PRIOR_TOKENS = 200.0

_ABOUT_TOKENS = re.compile(r"token", re.IGNORECASE)


@dataclass(slots=True)
class Permit:
    """Leave to send one request. It must be settled, once, whatever comes of the request.

    `place` is that of the request in the order of all; `cost` is what was reserved for it.
    """

    gate: Gate
    asked: Demand
    amounts: Mapping[str, float]
    sent_at: float
    epoch: int
    cost: int | None

    def settle(self, attempt: Attempt, told: LimitState | None = None) -> None:
        """Replace what was reserved by what was used, and learn from the outcome."""
        self.gate.settle(self, attempt, told)

    def withdraw(self) -> None:
        """Give everything back: the request was not sent."""
        self.gate.withdraw(self)

    def cool_down(self, fault: ProviderFault, decision: retry.RetryDecision) -> float:
        """Pause everything that goes where this request went; return for how many seconds."""
        return self.gate.cool_down(self, fault, decision)


class Gate:
    """Lets requests to one model at one address through, one after another.

    Args:
        config: upper bounds.
        money: what may be spent, over all gates.
        cap: the most that its concurrency may grow to.
        jitter: returns a number in [0, 1).
        changed: is told when something was settled, which others may be waiting for.
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
        self._jitter = jitter
        self._changed = changed
        self._clock = clock
        rate = config.requests_per_minute
        self._requests = None if rate is None else Requests(rate)
        self._configured = {
            TOKENS: config.tokens_per_minute or math.inf,
            INPUT: config.input_tokens_per_minute or math.inf,
            OUTPUT: config.output_tokens_per_minute or math.inf,
        }
        self._pace = {name: Pace(self._configured.get(name, math.inf), clock) for name in RATES}
        self._told = {name: Told(clock) for name in RATES}
        self._learned = {name: Learner(clock) for name in (REQUESTS, TOKENS)}
        self._ramp = Pace(RAMP_FLOOR_PER_S * 60 if config.concurrency is None else math.inf, clock)
        self._answered = Meter(RAMP_MEMORY_S, clock)
        start = START if config.concurrency is None else cap
        self.concurrency = Concurrency(min(cap, config.concurrency or MOST), start, clock)
        self._estimated = self._counted = PRIOR_TOKENS
        self._cooled_at = self._cool_until = -math.inf
        self._strikes = 0
        self._refusals: list[float] = []
        self._keeps_bound = False
        self._binding = self._binding_rates()

    @property
    def cooldown_s(self) -> float:
        """Seconds until requests may be sent again."""
        return max(0.0, self._cool_until - self._clock())

    def too_large(self, asked: Demand) -> str | None:
        """Return why a request could never be admitted, None when it can."""
        amounts = self._amounts(asked, factor=1.0)
        for name, limit in self._configured.items():
            if amounts[name] > limit:
                return _too_large(
                    name, amounts[name], limit, "raise the limit if the provider's is higher"
                )
        return None

    def above_told(self, asked: Demand) -> str | None:
        """Return why a provider that refused a request always will, by what it told of itself."""
        for name, amount in self._amounts(asked).items():
            limit = self._told[name].limit
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
        rates = self._waits_for_rates(asked) if self._binding else []
        if (seconds := self.cooldown_s) > 0:
            return COOLDOWN, seconds
        if self.concurrency.in_flight >= self.concurrency.limit:
            return CONCURRENCY, math.inf
        seconds, cause = max([*rates, (self._ramp.wait_for(1), CONCURRENCY)])
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
                    self._pace[name].wait_for(amounts[name]),
                    self._told[name].wait_for(amounts[name]),
                ),
                name,
            )
            for name in self._binding
        ]

    def grant(self, asked: Demand) -> Permit:
        """Let a request through that nothing stands in the way of."""
        amounts = self._amounts(asked)
        for name in self._binding:
            self._pace[name].take(amounts[name])
            self._told[name].take(amounts[name])
        for name, learner in self._learned.items():
            learner.take(amounts[name])
        self._ramp.take(1)
        if asked.most_cost is not None:
            self._money.reserve(asked.most_cost)
        epoch = self.concurrency.take()
        return Permit(self, asked, amounts, self._clock(), epoch, asked.most_cost)

    def settle(self, permit: Permit, attempt: Attempt, told: LimitState | None) -> None:
        """See `Permit.settle`."""
        answered = attempt.http_status == 200 and not attempt.maybe_billed
        succeeded = answered and attempt.usage.output_tokens is not None
        succeeded = succeeded or (attempt.error_type is None and attempt.http_status == 200)
        self.concurrency.leave(permit.epoch, succeeded=succeeded)
        self._refund(permit, attempt)
        if succeeded:
            self._note_success(permit)
        self._update(told)
        if permit.cost is not None:
            self._money.settle(permit.cost, _spent(attempt, permit.cost))
            self._keeps_bound = self._keeps_bound or succeeded
        self._changed()

    def withdraw(self, permit: Permit) -> None:
        """See `Permit.withdraw`."""
        self.concurrency.leave(permit.epoch, succeeded=False)
        self._give_back(permit, permit.amounts)
        for name, learner in self._learned.items():
            learner.refund(permit.amounts[name])
        self._money.settle(permit.cost or 0, 0)
        self._changed()

    def cool_down(
        self, permit: Permit, fault: ProviderFault, decision: retry.RetryDecision
    ) -> float:
        """See `Permit.cool_down`.

        What was sent before a cooldown began and is refused belongs to it, and does not count anew.
        """
        now = self._clock()
        is_first = permit.sent_at > self._cooled_at
        if is_first:
            self._strikes += 1
            self._cooled_at = now
            self.concurrency.cut(permit.epoch)
            if math.isinf(self._ramp.per_minute):
                self._ramp.set(RAMP_FLOOR_PER_S * 60)
        if is_first or decision.delay_s is not None:
            seconds = self._pause_s(decision)
            self._cool_until = max(self._cool_until, now + seconds)
        if fault.http_status == 429:
            self._learn(permit, fault, is_first=is_first)
        return self._cool_until - now

    def _pause_s(self, decision: retry.RetryDecision) -> float:
        """What the provider said, however short; growing when that turns out to be too short."""
        if decision.delay_s is not None and self._strikes <= 1:
            return retry.told_delay(decision.delay_s, self._jitter)
        return retry.delay(decision, self._strikes, self._jitter)

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

    def _refund(self, permit: Permit, attempt: Attempt) -> None:
        used = self._used(permit, attempt)
        unused = {name: amount - used[name] for name, amount in permit.amounts.items()}
        self._give_back(permit, unused)
        if attempt.cause != Cause.RATE_LIMIT.value and unused[TOKENS]:
            self._learned[TOKENS].refund(unused[TOKENS])

    def _give_back(self, permit: Permit, amounts: Mapping[str, float]) -> None:
        for name in self._binding:
            if amounts[name]:
                self._pace[name].refund(amounts[name], permit.sent_at)
                self._told[name].take(-amounts[name])

    def _used(self, permit: Permit, attempt: Attempt) -> Mapping[str, float]:
        """What an attempt took of the rates in the end: all, when nobody knows."""
        usage, asked = attempt.usage, permit.asked
        if attempt.maybe_billed:
            return permit.amounts  # an answer that broke off used more than it told
        if usage.input_tokens is None or usage.output_tokens is None:
            is_refused = attempt.http_status not in {None, 200}
            return (
                {REQUESTS: 1.0, TOKENS: 0.0, INPUT: 0.0, OUTPUT: 0.0}
                if is_refused
                else permit.amounts
            )
        counted = usage.input_tokens
        if not asked.counts_cache_reads:
            counted = max(0, counted - (usage.cache_read_tokens or 0))
        self._estimated = self._estimated * MEMORY_SHARE + asked.input_tokens
        self._counted = self._counted * MEMORY_SHARE + counted
        output = usage.output_tokens
        return {REQUESTS: 1.0, TOKENS: counted + output, INPUT: counted, OUTPUT: output}

    def _note_success(self, permit: Permit) -> None:
        if permit.sent_at > self._cooled_at:
            self._strikes = 0
        self._answered.add(1)
        if not math.isinf(self._ramp.per_minute):
            per_s = max(RAMP_FLOOR_PER_S, RAMP_FACTOR * self._answered.per_s())
            self._ramp.set(per_s * 60)
        for name, learner in self._learned.items():
            if not math.isinf(learner.per_minute):
                learner.succeeded(permit.sent_at)
                self._set_pace(name)

    def _update(self, state: LimitState | None) -> None:
        """Follow what the provider's headers say."""
        if state is None:
            return
        said = (state.requests, state.tokens, state.input_tokens, state.output_tokens)
        for name, allowance in zip(RATES, said, strict=True):
            if allowance is not None:
                before = self._told[name].limit
                self._told[name].update(allowance)
                if self._told[name].limit != before:
                    self._set_pace(name)

    def _learn(self, permit: Permit, fault: ProviderFault, *, is_first: bool) -> None:
        """Work out the rate of a provider that does not tell it, or does not keep to it."""
        now = self._clock()
        if is_first:
            self._refusals = [at for at in self._refusals if now - at < DISTRUST_S] + [now]
        tells = any(told.limit is not None for told in self._told.values())
        if tells and len(self._refusals) < DISTRUST_REFUSALS:
            return
        name = TOKENS if _ABOUT_TOKENS.search(f"{fault.error_type} {fault.message}") else REQUESTS
        self._learned[name].refused(permit.amounts[name], permit.sent_at, is_first=is_first)
        self._set_pace(name)

    def _set_pace(self, name: str) -> None:
        """Go as fast as the tightest of what was configured, told and learned allows."""
        rates = [self._configured.get(name, math.inf), self._told[name].limit or math.inf]
        if name in self._learned:
            rates.append(self._learned[name].per_minute)
        self._pace[name].set(min(rates))
        self._binding = self._binding_rates()

    def _binding_rates(self) -> tuple[str, ...]:
        """Return the rates that hold requests back: the others need no account."""
        return tuple(
            name
            for name in RATES
            if not math.isinf(self._pace[name].per_minute) or self._told[name].limit is not None
        )


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
