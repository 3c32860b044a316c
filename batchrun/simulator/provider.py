"""The simulated provider: what happens to a request, and the bill for its answer.

Nothing here knows HTTP: the requests of a batch can be answered the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import orjson

from batchrun.simulator.accounting import (
    PrefixCache,
    RateLimits,
    UsageCounter,
    digest_of,
    input_usage,
)
from batchrun.simulator.calls import Fault, RefusedError, SimulatedAnswer
from batchrun.simulator.composition import compose
from batchrun.simulator.draws import RandomDraws
from batchrun.simulator.settings import RATES, SimulatorConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchrun.simulator.accounting import BatchBill, Clock
    from batchrun.simulator.calls import InputUsage, Json, SimulatedCall, SimulatedFormat

_DELIVERY = frozenset({"stream", "stream_options"})  # how an answer comes, not what it says


@dataclass(frozen=True, slots=True)
class SimulatedOutcome:
    """The outcome of one request."""

    latency_s: float = 0.0  # until the answer is complete
    failure: RefusedError | None = None  # the error that it gets instead of an answer
    broken: RefusedError | None = None  # the error at which its stream breaks off
    spoiled: bool = False  # the answer violates the schema, if there is one


def draw_outcome(config: SimulatorConfig, *key: int | bytes) -> SimulatedOutcome:
    """Return the outcome of the request with this key."""
    if not config.latency_ms and not any(getattr(config, name) for name in RATES):
        return SimulatedOutcome()
    draws = RandomDraws(config.seed, *key)
    share = draws.share()
    if share < config.rate_limit_rate:
        message = "Rate limit reached, as simulated. Try again shortly."
        wait_s = 0.05 + 0.95 * draws.share()
        return SimulatedOutcome(failure=RefusedError(Fault.RATE_LIMIT, message, wait_s=wait_s))
    if share < config.rate_limit_rate + config.error_rate:
        return SimulatedOutcome(failure=_failure(draws))
    outcome = SimulatedOutcome(config.latency_ms / 1000 * (0.5 + draws.share()))
    if not config.stream_error_rate and not config.invalid_json_rate:
        return outcome
    # Draws of their own, so that a rate changes nothing else that happens.
    stream, json = (RandomDraws(config.seed, *key, what) for what in ("stream", "json"))
    broken = _failure(stream) if stream.share() < config.stream_error_rate else None
    return replace(outcome, broken=broken, spoiled=json.share() < config.invalid_json_rate)


def _failure(draws: RandomDraws) -> RefusedError:
    fault = draws.pick((Fault.SERVER_ERROR, Fault.OVERLOADED))
    return RefusedError(fault, "The provider failed, as simulated. Try again.")


def _flexible(failure: RefusedError) -> RefusedError:
    """Return the failure of a flex request: some of these are refused because there is no capacity."""
    if failure.fault is not Fault.RATE_LIMIT:
        return failure
    message = "The flex tier has no capacity at the moment, as simulated. Try again later."
    return RefusedError(Fault.NO_CAPACITY, message)


class SimulatedProvider:
    """Answers requests.

    Args:
        config: how it behaves.
        clock: seconds, for rate limits and prompt cache.
        wall_clock: Unix time in seconds, for times in answers.
    """

    def __init__(self, config: SimulatorConfig, clock: Clock, wall_clock: Clock) -> None:
        self.config = config
        self.wall_clock = wall_clock
        self.limits = RateLimits(config.requests_per_minute, config.tokens_per_minute, clock)
        self.counter = UsageCounter()
        self.cache = PrefixCache(clock)

    def answer(
        self, wire: SimulatedFormat, body: bytes, headers: Mapping[bytes, bytes]
    ) -> tuple[SimulatedAnswer, SimulatedOutcome]:
        """Answer a request and charge for it.

        Raises:
            RefusedError: it is wrong, exceeds a limit, or has a simulated failure.
        """
        fields = decode(body)
        call = wire.parse(fields, headers)
        digest = digest_of(body)
        outcome = draw_outcome(self.config, digest, self.counter.tries(digest))
        self.limits.admit(0 if outcome.failure else call.reserved_tokens)
        if outcome.failure:
            self.counter.failures.add(digest)
            raise _flexible(outcome.failure) if call.service_tier == "flex" else outcome.failure
        bills = self.counter.bills.add(digest)
        paid = self.cache.use(call.prompt.prefixes, call.prompt.tokens)
        return self._compose(call, fields, (digest, bills), paid, spoiled=outcome.spoiled), outcome

    def answer_in_batch(
        self,
        wire: SimulatedFormat,
        fields: Json,
        headers: Mapping[bytes, bytes],
        *,
        bill: BatchBill,
        is_known: Callable[[bytes], bool],
        tier: str,
    ) -> SimulatedAnswer:
        """Answer a request of a batch. It may run in another thread: only `bill` is changed.

        Args:
            wire: its format.
            fields: its body.
            headers: headers of the batch.
            bill: bill of the batch.
            is_known: returns whether the prompt cache has a prefix.
            tier: the service tier for the answer.

        Raises:
            RefusedError: it is wrong, or has a simulated failure.
        """
        call = replace(wire.parse(fields, headers), service_tier=tier)
        if call.stream:
            raise RefusedError(Fault.INVALID, "is not supported in batches.", "stream")
        digest = digest_of(orjson.dumps(fields))
        tries = self.counter.tries(digest) + bill.bills[digest] + bill.failures[digest]
        outcome = draw_outcome(self.config, digest, tries)
        if outcome.failure and outcome.failure.fault is not Fault.RATE_LIMIT:
            bill.failures[digest] += 1
            raise outcome.failure
        bill.bills[digest] += 1
        bills = self.counter.bills.of(digest) + bill.bills[digest]
        paid = input_usage(call.prompt.prefixes, call.prompt.tokens, is_known)
        answer = self._compose(call, fields, (digest, bills), paid, spoiled=outcome.spoiled)
        bill.add_answer(answer.input.total, answer.output_tokens)
        return answer

    def _compose(
        self,
        call: SimulatedCall,
        fields: Json,
        billed: tuple[bytes, int],
        paid: InputUsage,
        *,
        spoiled: bool,
    ) -> SimulatedAnswer:
        """Return the answer to a call; `billed` is the digest of its body and its number of bills."""
        asked = {name: value for name, value in fields.items() if name not in _DELIVERY}
        key: list[bytes | int] = [digest_of(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS))]
        if fields.get("temperature") and billed[1] > 1:  # another answer each time, as elsewhere
            key.append(billed[1])
        return SimulatedAnswer(
            call,
            compose(call, self.config.seed, *key, spoiled=spoiled),
            RandomDraws(self.config.seed, *billed).below(1 << 96),
            self.wall_clock(),
            paid,
        )


def decode(body: bytes) -> Json:
    """Return the JSON object in `body`."""
    try:
        fields = orjson.loads(body)
        orjson.dumps(fields)  # what can be written again is not nested too deeply for anything else
    except (orjson.JSONDecodeError, orjson.JSONEncodeError) as error:
        message = f"The request body is not valid JSON: {error}"
        raise RefusedError(Fault.INVALID, message) from error
    if not isinstance(fields, dict):
        raise RefusedError(Fault.INVALID, "The request body must be a JSON object.")
    return fields
