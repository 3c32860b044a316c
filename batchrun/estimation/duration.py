"""How long a run takes under the limits of its job, and which of them binds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.estimation.ranges import Duration
from batchrun.limits import MOST, START

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrun.estimation.ranges import Range
    from batchrun.job import LimitsConfig

# Without answers to go by: what an answer takes before its first token, and how fast they come.
FIRST_TOKEN_S = 1.0
TOKENS_PER_S = 60.0
CONCURRENCY = "concurrency"


@dataclass(frozen=True, slots=True)
class Load:
    """What goes to one model: requests, and their tokens. `most_output`: all that is allowed."""

    model: str
    requests: int
    input: Range
    output: Range
    most_output: int | None


def duration(limits: LimitsConfig, loads: Sequence[Load], latency_s: float | None) -> Duration:
    """Return the minutes that requests take.

    Rates hold for each model, which are asked side by side; the concurrency is that of all.

    Args:
        limits: what the job sets.
        loads: what goes to each model.
        latency_s: how long an answer takes; None assumes it.
    """
    loads = [load for load in loads if load.requests]
    if not loads:
        return Duration(0.0, 0.0, 0.0, None)
    low = _longest(limits, loads, "low", latency_s)
    expected = _longest(limits, loads, "expected", latency_s)
    is_unbounded = any(load.output.high is None for load in loads)
    high = None if is_unbounded else _longest(limits, loads, "high", latency_s)[0]
    if expected[1] is not None:
        return Duration(low[0], expected[0], high, expected[1])
    # Nothing is set: as many at a time as the provider allows, from where a run starts up.
    most = min(MOST, sum(load.requests for load in loads))
    start = min(START, most)
    return Duration(low[0] / most, expected[0] / start, high and high / start, None)


def _longest(
    limits: LimitsConfig, loads: Sequence[Load], bound: str, latency_s: float | None
) -> tuple[float, str | None]:
    """Return the minutes by what takes longest, and its name; those of one at a time without."""
    busy = sum(_busy_minutes(load, bound, latency_s) for load in loads)
    found = [each for load in loads for each in _by_rates(limits, load, bound, latency_s)]
    if limits.concurrency is not None:
        found.append((busy / limits.concurrency, CONCURRENCY))
    return max(found, default=(busy, None))


def _by_rates(
    limits: LimitsConfig, load: Load, bound: str, latency_s: float | None
) -> Iterator[tuple[float, str | None]]:
    taken_in, given_out = _tokens(load.input, bound), _tokens(load.output, bound)
    if limits.requests_per_minute is not None:
        yield load.requests / limits.requests_per_minute, "requests"
    most = load.most_output or given_out
    for rate, used, reserved, name in (
        (limits.tokens_per_minute, taken_in + given_out, taken_in + most, "tokens"),
        (limits.input_tokens_per_minute, taken_in, taken_in, "input tokens"),
        (limits.output_tokens_per_minute, given_out, most, "output tokens"),
    ):
        if rate is not None:
            # What may come back is set aside until it has come: that bounds what is in flight.
            in_flight = max(1.0, rate * load.requests / max(1, reserved))
            waiting = _busy_minutes(load, bound, latency_s) / in_flight
            yield max(used / rate, waiting), name


def _busy_minutes(load: Load, bound: str, latency_s: float | None) -> float:
    """Return the minutes that all requests take one after another."""
    if latency_s is None:
        each = _tokens(load.output, bound) / load.requests
        latency_s = FIRST_TOKEN_S + each / TOKENS_PER_S
    return load.requests * latency_s / 60


def _tokens(range_: Range, bound: str) -> int:
    tokens: int = getattr(range_, bound) or 0
    return tokens
