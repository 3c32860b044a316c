"""The rates of one endpoint (configured, reported and learned), and how much of them requests use."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchrun.limits.buckets import FEWEST_REQUESTS_PER_MINUTE, ReportedLimit, TokenBucket
from batchrun.limits.trials import RateUnit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchrun.job import LimitsConfig
    from batchrun.limits.demand import Demand
    from batchrun.records import Attempt, LimitState

REQUESTS, TOKENS = "request rate", "token rate"
INPUT, OUTPUT = "input token rate", "output token rate"
RATES = (REQUESTS, TOKENS, INPUT, OUTPUT)
LEARNED_UNITS = {
    REQUESTS: RateUnit.REQUESTS,
    TOKENS: RateUnit.TOKENS,
}  # rates that are learned from refusals

# Headers explain a refusal when less than this share of what they allow was left.
EXHAUSTED_SHARE = 0.05
# The weight of the learned size of prompts against that of a new one.
MEMORY_SHARE = 0.98
PRIOR_TOKENS = 200.0

REFUSED: Mapping[str, float] = {REQUESTS: 1.0, TOKENS: 0.0, INPUT: 0.0, OUTPUT: 0.0}
NOTHING: Mapping[str, float] = {REQUESTS: 0.0, TOKENS: 0.0, INPUT: 0.0, OUTPUT: 0.0}


def is_answer(http_status: int | None) -> bool:
    """Return whether a status means success: gateways also send 201 and 202."""
    return http_status is not None and 200 <= http_status < 300


class Allowances:
    """The rates of one endpoint, and how much of each a request uses.

    Args:
        config: upper bounds.
        clock: monotonic, in seconds.
    """

    def __init__(self, config: LimitsConfig, clock: Callable[[], float]) -> None:
        self._configured = {
            TOKENS: config.tokens_per_minute or math.inf,
            INPUT: config.input_tokens_per_minute or math.inf,
            OUTPUT: config.output_tokens_per_minute or math.inf,
        }
        self._is_configured = any(map(math.isfinite, self._configured.values()))
        self._buckets = {
            name: TokenBucket(self._configured.get(name, math.inf), clock) for name in RATES
        }
        self._reported = {
            name: ReportedLimit(clock, FEWEST_REQUESTS_PER_MINUTE if name == REQUESTS else 0.0)
            for name in RATES
        }
        self._learned_per_s = dict.fromkeys(LEARNED_UNITS, math.inf)
        self._estimated = self._counted = PRIOR_TOKENS
        self._binding = self._binding_rates()

    @property
    def are_reported(self) -> bool:
        """Whether the provider's headers report a limit that is believed."""
        return any(reported.limit is not None for reported in self._reported.values())

    def amounts(self, asked: Demand, factor: float | None = None) -> dict[str, float]:
        """Return how much of each rate a request uses, by the learned size of prompts."""
        if factor is None:
            factor = self._counted / self._estimated
        input_tokens = max(1.0, asked.input_tokens * factor)
        return {
            REQUESTS: 1.0,
            TOKENS: input_tokens + asked.output_tokens,
            INPUT: input_tokens,
            OUTPUT: float(asked.output_tokens),
        }

    def too_large(self, asked: Demand) -> str | None:
        """Return why a request can never be admitted; None when it can."""
        if not self._is_configured:
            return None
        amounts = self.amounts(asked, factor=1.0)
        for name, limit in self._configured.items():
            if amounts[name] > limit:
                return _too_large(
                    name, amounts[name], limit, "raise the limit if the provider's is higher"
                )
        return None

    def above_reported(self, asked: Demand) -> str | None:
        """Return why the provider will always refuse a request, by the limits in its headers."""
        for name, amount in self.amounts(asked).items():
            limit = self._reported[name].limit
            if name != REQUESTS and limit is not None and amount > limit:
                return _too_large(name, amount, limit, "ask the provider for a higher limit")
        return None

    def waits_for(self, asked: Demand) -> tuple[float, str]:
        """Return how many seconds a request has to wait for a rate, and for which one; 0.0 for none."""
        if not self._binding:
            return 0.0, REQUESTS
        amounts = self.amounts(asked)
        return max(
            (
                max(
                    self._buckets[name].wait_for(amounts[name]),
                    self._reported[name].wait_for(amounts[name]),
                ),
                name,
            )
            for name in self._binding
        )

    def take(self, amounts: Mapping[str, float]) -> None:
        """Take the amounts of a request that is sent."""
        for name in self._binding:
            self._buckets[name].take(amounts[name])
            self._reported[name].take(amounts[name])

    def refund(
        self, amounts: Mapping[str, float], used: Mapping[str, float], taken_at: float
    ) -> None:
        """Return the amounts that were taken and not used."""
        for name in self._binding:
            if unused := amounts[name] - used[name]:
                self._buckets[name].refund(unused, taken_at)
                self._reported[name].take(-unused)

    def used(
        self, asked: Demand, amounts: Mapping[str, float], attempt: Attempt
    ) -> Mapping[str, float]:
        """Return how much of the rates an attempt used; all that was taken if that is unknown."""
        usage = attempt.usage
        if attempt.maybe_billed:
            return amounts  # an incomplete answer used more than it reported
        if usage.input_tokens is None or usage.output_tokens is None:
            is_refused = attempt.http_status is not None and not is_answer(attempt.http_status)
            return REFUSED if is_refused else amounts
        counted = usage.input_tokens
        if not asked.counts_cache_reads:
            counted = max(0, counted - (usage.cache_read_tokens or 0))
        self._estimated = self._estimated * MEMORY_SHARE + asked.input_tokens
        self._counted = self._counted * MEMORY_SHARE + counted
        output = usage.output_tokens
        return {REQUESTS: 1.0, TOKENS: counted + output, INPUT: counted, OUTPUT: output}

    def explain(self, amounts: Mapping[str, float]) -> bool:
        """Return whether the headers explain a refusal: the requested amount was not available."""
        return any(
            reported.limit is not None
            and reported.wait_for(amounts[name] + EXHAUSTED_SHARE * reported.limit) > 0
            for name, reported in self._reported.items()
        )

    def disprove(self, used: Mapping[str, float]) -> None:
        """Ignore reported limits that a single accepted request exceeded."""
        for name in self._binding:
            if self._reported[name].disprove(used[name]):
                self._set_bucket(name)

    def update(self, state: LimitState | None) -> None:
        """Use the limits in the provider's headers."""
        if state is None:
            return
        said = (state.requests, state.tokens, state.input_tokens, state.output_tokens)
        for name, allowance in zip(RATES, said, strict=True):
            if allowance is not None:
                before = self._reported[name].limit
                self._reported[name].update(allowance)
                if self._reported[name].limit != before:
                    self._set_bucket(name)

    def learn(self, name: str, per_s: float) -> None:
        """Use a learned rate; infinite for none."""
        self._learned_per_s[name] = per_s
        self._set_bucket(name)

    def _set_bucket(self, name: str) -> None:
        """Use the lowest of the configured, reported and learned rates."""
        configured, reported = self._configured.get(name, math.inf), self._reported[name].limit
        learned = 60 * self._learned_per_s.get(name, math.inf)
        self._buckets[name].set(min(configured, reported or math.inf, learned))
        self._binding = self._binding_rates()

    def _binding_rates(self) -> tuple[str, ...]:
        """Return the rates that are limited: the others are not counted."""
        return tuple(
            name
            for name in RATES
            if not math.isinf(self._buckets[name].per_minute)
            or self._reported[name].limit is not None
        )


def _too_large(name: str, amount: float, limit: float, way_out: str) -> str:
    return (
        f"the request needs about {amount:,.0f} tokens, more than the whole {name} of "
        f"{limit:,.10g} per minute; shorten the prompt, lower max_tokens, or {way_out}"
    )
