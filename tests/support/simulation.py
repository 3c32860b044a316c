"""Providers that limit, refuse and fail in many ways, on a clock that jumps: hours take seconds.

The real dispatcher and the real limits run against them, on an event loop whose time passes only by
waiting for it. `python -m benchmarks.limits --simulated` prints what comes out.
"""

from __future__ import annotations

import asyncio
import bisect
import random
import selectors
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from batchrun.client import Exchange
from batchrun.errors import ProviderError, ProviderFault
from batchrun.records import Allowance, Completion, LimitState, Usage
from tests.support.metered import MODEL, Row, dispatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batchrun.dispatch import LiveDispatcher
    from batchrun.records import FormatName, WireRequest
    from tests.support.metered import Memory

# The time of one turn of the event loop, so that time always passes.
A_MOMENT_S = 1e-6
ROW = Row(prompt_tokens=10, max_tokens=10, answer_tokens=6)
_ANSWER = Completion(("yes",), "stop", MODEL, "id", Usage(input_tokens=10, output_tokens=6))


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only by waiting for it. It watches no file and no socket."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(_NeverWaits(self))

    def time(self) -> float:
        return self.now_s


class _NeverWaits(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        self._loop.now_s += max(timeout, A_MOMENT_S)
        return []


@dataclass(frozen=True)
class Refusal:
    """How a request is refused. `retry_after_s` and `limits` are what the headers say."""

    status: int | None = 429
    error_type: str = "rate_limit_error"
    retry_after_s: float | None = None


class Rule(Protocol):
    """Decides which requests a provider refuses."""

    def refuses(self, now: float, in_flight: int) -> Refusal | None:
        """Return how a request that arrives now is refused, None when it is not."""


@dataclass
class Bucket:
    """A token bucket: `per_s` flow in, at most `burst` are held; full at first.

    `changes` are factors of the rate, by the second from which they hold.
    """

    per_s: float
    burst: float
    changes: Mapping[float, float] = field(default_factory=dict)
    tells_wait: bool = False
    tells_limits: bool = False

    def __post_init__(self) -> None:
        self.level, self.at = self.burst, 0.0

    def rate_at(self, now: float) -> float:
        factors = [factor for since, factor in sorted(self.changes.items()) if now >= since]
        return self.per_s * (factors[-1] if factors else 1.0)

    def refuses(self, now: float, in_flight: int) -> Refusal | None:
        del in_flight
        rate = self.rate_at(now)
        self.level = min(self.burst, self.level + (now - self.at) * rate)
        self.at = now
        if self.level >= 1:
            self.level -= 1
            return None
        wait_s = (1 - self.level) / rate
        return Refusal(retry_after_s=wait_s if self.tells_wait else None)

    def limits(self) -> LimitState | None:
        """What the headers of any answer say."""
        if not self.tells_limits:
            return None
        rate = self.rate_at(self.at)
        reset_s = (self.burst - self.level) / rate
        return LimitState(Allowance(rate * 60, max(0.0, float(int(self.level))), reset_s))


@dataclass
class FixedWindow:
    """So many requests in each minute of the clock, and none beyond."""

    per_minute: int
    offset_s: float = 0.0
    tells_wait: bool = False

    def __post_init__(self) -> None:
        self.window, self.used = -1.0, 0

    def refuses(self, now: float, in_flight: int) -> Refusal | None:
        del in_flight
        window, into = divmod(now + self.offset_s, 60)
        if window != self.window:
            self.window, self.used = window, 0
        self.used += 1
        if self.used <= self.per_minute:
            return None
        return Refusal(retry_after_s=60 - into if self.tells_wait else None)


@dataclass
class ConcurrencyCap:
    """A limit on concurrent requests."""

    most: int

    def refuses(self, now: float, in_flight: int) -> Refusal | None:
        del now
        return Refusal() if in_flight >= self.most else None


@dataclass
class RandomRefusals:
    """Refuses a share of the requests, at whatever rate they come."""

    share: float
    refusal: Refusal = field(default_factory=Refusal)
    seed: int = 7

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    def refuses(self, now: float, in_flight: int) -> Refusal | None:
        del now, in_flight
        return self.refusal if self.dice.random() < self.share else None


@dataclass
class Storms:
    """Refuses everything (or a share) between some times."""

    spans: Sequence[tuple[float, float]]
    refusal: Refusal = field(default_factory=Refusal)
    share: float = 1.0

    def __post_init__(self) -> None:
        self.dice = random.Random(3)

    def refuses(self, now: float, in_flight: int) -> Refusal | None:
        del in_flight
        inside = any(start <= now < end for start, end in self.spans)
        return self.refusal if inside and self.dice.random() < self.share else None


class SimulatedProvider:
    """Answers after a latency, refuses by its rules, and keeps the books.

    Args:
        rules: any of them may refuse a request.
        latency_s: of an answer, by how many requests are being worked on.
        spread: latencies vary by so much of themselves, up and down.
        refusal_s: seconds until a refusal.
    """

    wire_format: FormatName = "chat"

    def __init__(
        self,
        *rules: Rule,
        latency_s: float | Callable[[int], float] = 1.0,
        spread: float = 0.5,
        refusal_s: float = 0.05,
        seed: int = 1,
    ) -> None:
        self.rules = rules
        self.rows: Mapping[int, Row] = {}
        self.accepted: list[float] = []
        self.refused: list[float] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._latency_s = latency_s
        self._spread = spread
        self._refusal_s = refusal_s
        self._dice = random.Random(seed)

    async def send(self, wire: WireRequest) -> Exchange:
        del wire
        now = anyio.current_time()
        for rule in self.rules:
            if (refusal := rule.refuses(now, self.in_flight)) is not None:
                self.refused.append(now)
                await anyio.sleep(self._refusal_s)
                raise ProviderError(self._fault(refusal))
        self.accepted.append(now)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        latency = self._latency_s
        seconds = latency if isinstance(latency, float | int) else latency(self.in_flight)
        await anyio.sleep(seconds * (1 + self._spread * (2 * self._dice.random() - 1)))
        self.in_flight -= 1
        return Exchange(_ANSWER, 200, None, {}, self._limits())

    def _fault(self, refusal: Refusal) -> ProviderFault:
        return ProviderFault(
            refusal.error_type,
            "refused",
            refusal.status,
            retry_after_s=refusal.retry_after_s,
            limits=self._limits(),
        )

    def _limits(self) -> LimitState | None:
        buckets = [rule for rule in self.rules if isinstance(rule, Bucket)]
        return buckets[0].limits() if buckets else None

    def accepted_per_s(self, since: float, until: float) -> float:
        return count(self.accepted, since, until) / (until - since)

    def refused_share(self, since: float = 0.0, until: float = float("inf")) -> float:
        refused = count(self.refused, since, until)
        return refused / max(1, refused + count(self.accepted, since, until))

    def recovery_s(self, storm_end: float, rate: float, window_s: float = 2.0) -> float:
        """Seconds from the end of a storm until requests are accepted at a rate for a while."""
        for step in range(600):
            since = storm_end + step / 10
            if self.accepted_per_s(since, since + window_s) >= rate:
                return step / 10
        return float("inf")


def count(times: Sequence[float], since: float, until: float) -> int:
    """How many of some times, in order, lie in a span."""
    return bisect.bisect_left(times, until) - bisect.bisect_left(times, since)


def simulate(
    provider: SimulatedProvider,
    *,
    seconds: float,
    concurrency: int | None = None,
    rows: int = 10**9,
    **parts: Any,
) -> tuple[LiveDispatcher, Memory]:
    """Send rows for a number of virtual seconds, or until all have an answer."""

    async def main() -> tuple[LiveDispatcher, Memory]:
        return await dispatch(
            provider,  # type: ignore[arg-type]
            lambda _key: ROW,
            count=rows,
            seconds=seconds,
            concurrency=concurrency,
            **parts,
        )

    return anyio.run(main, backend_options={"loop_factory": VirtualTimeLoop})
