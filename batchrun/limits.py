"""What holds requests back: request and token rates, and the number of errors that is too many.

aiolimiter does the rating. Its burst is a tenth of a second of the rate: with the usual one-second
burst, twice the rate passes in the first second and earns refusals. Its waiters are served smallest
first, so only one request waits at a time and the others stand in line behind it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
from aiolimiter import AsyncLimiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrun.job import LimitsConfig
    from batchrun.records import PlannedRequest

BURST_S = 0.1
BYTES_PER_TOKEN = 4
TOKENS_PER_IMAGE = 1_600
DEFAULT_OUTPUT_TOKENS = 256
JUDGED_AFTER_ITEMS = 200


@dataclass(frozen=True, slots=True)
class Demand:
    """What one request asks of the limits, in tokens; the output is an upper estimate."""

    input_tokens: int
    output_tokens: int


def demand(planned: PlannedRequest) -> Demand:
    """Estimate a request's tokens: its bytes for the input, `max_tokens` for the output.

    Images count by number, not by the bytes that they are written as.
    """
    parameters, images = planned.request.parameters, planned.request.images
    text_bytes = len(planned.wire.body) - sum(len(image.data or "") for image in images)
    tokens = text_bytes // BYTES_PER_TOKEN + len(images) * TOKENS_PER_IMAGE
    output = (parameters.max_tokens or DEFAULT_OUTPUT_TOKENS) * (parameters.n or 1)
    return Demand(max(1, tokens), output)


class Waits:
    """Seconds spent waiting, by cause, and the cause that somebody is waiting for now.

    Args:
        clock: returns seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = defaultdict(float)
        self._waiting: dict[str, int] = defaultdict(int)

    @property
    def current(self) -> str | None:
        """The cause that most are waiting for at this moment, None when nobody waits."""
        waiting = {cause: count for cause, count in self._waiting.items() if count}
        return max(waiting, key=waiting.__getitem__) if waiting else None

    def waiting_for(self, cause: str) -> _Wait:
        """Return a context that accounts the time spent in it to a cause."""
        return _Wait(self, cause)

    def _enter(self, cause: str) -> float:
        self._waiting[cause] += 1
        return self._clock()

    def _leave(self, cause: str, since: float) -> None:
        self._waiting[cause] -= 1
        self.seconds[cause] += self._clock() - since


class _Wait:
    def __init__(self, waits: Waits, cause: str) -> None:
        self._waits = waits
        self._cause = cause
        self._start = 0.0

    def __enter__(self) -> None:
        self._start = self._waits._enter(self._cause)

    def __exit__(self, *_error: object) -> None:
        self._waits._leave(self._cause, self._start)


class _Rate:
    """One rate per minute."""

    def __init__(self, cause: str, per_minute: float) -> None:
        self.cause = cause
        self.per_minute = per_minute
        per_second = per_minute / 60
        self._burst = max(1.0, per_second * BURST_S)
        self._limiter = AsyncLimiter(self._burst, self._burst / per_second)

    async def acquire(self, amount: float) -> None:
        # aiolimiter refuses more than its burst at once, so a long prompt pays in instalments;
        # it holds its turn until it has paid, so nobody overtakes it. With half a burst at a time
        # the bucket never runs dry, so that the time by which the loop wakes late is not lost.
        while amount > 0:
            part = min(amount, self._burst / 2)
            await self._limiter.acquire(part)
            amount -= part


class RateLimits:
    """Admits requests one after another, in the order in which they ask."""

    def __init__(self, config: LimitsConfig, waits: Waits) -> None:
        self._waits = waits
        self._turn = anyio.Lock(fast_acquire=True)
        self._requests = _rate("request rate", config.requests_per_minute)
        self._tokens = _rate("token rate", config.tokens_per_minute)
        self._input = _rate("input token rate", config.input_tokens_per_minute)
        self._output = _rate("output token rate", config.output_tokens_per_minute)
        self._any = any((self._requests, self._tokens, self._input, self._output))

    def too_large(self, asked: Demand) -> str | None:
        """Return why a request could never be admitted, None when it can."""
        for rate, amount in self._amounts(asked):
            if rate is not self._requests and amount > rate.per_minute:
                return (
                    f"the request needs about {amount:,} tokens, more than the whole "
                    f"{rate.cause} of {rate.per_minute:,.10g} per minute; shorten the prompt, lower "
                    "max_tokens, or raise the limit if the provider's is higher"
                )
        return None

    async def admit(self, asked: Demand) -> None:
        """Wait until the rates allow one more request."""
        if not self._any:
            return
        async with self._turn:
            for rate, amount in self._amounts(asked):
                with self._waits.waiting_for(rate.cause):
                    await rate.acquire(amount)

    def _amounts(self, asked: Demand) -> list[tuple[_Rate, int]]:
        pairs = (
            (self._requests, 1),
            (self._tokens, asked.input_tokens + asked.output_tokens),
            (self._input, asked.input_tokens),
            (self._output, asked.output_tokens),
        )
        return [(rate, amount) for rate, amount in pairs if rate is not None]


def _rate(cause: str, per_minute: float | None) -> _Rate | None:
    return None if per_minute is None else _Rate(cause, per_minute)


class ErrorBudget:
    """Decides when too many items have failed to go on.

    Args:
        max_errors: below 1 a share of the finished items, judged once enough have finished;
            otherwise a count, judged at once.
    """

    def __init__(self, max_errors: float) -> None:
        self._max_errors = max_errors
        self.finished = 0
        self.errored = 0

    def count(self, *, errored: bool) -> str | None:
        """Count a finished item; return why to stop, or None."""
        self.finished += 1
        self.errored += errored
        if not errored:
            return None
        if self._max_errors >= 1:
            spent = self.errored >= self._max_errors
        else:
            share = self.errored / self.finished
            spent = self.finished >= JUDGED_AFTER_ITEMS and share > self._max_errors
        if not spent:
            return None
        return f"{self.errored} of {self.finished} items failed (max_errors = {self._max_errors:g})"
