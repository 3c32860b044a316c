"""Estimate how long a run takes under the limits of its job, and which limit decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.estimation.ranges import Duration
from batchrun.limits import MOST, START

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchrun.estimation.ranges import Range
    from batchrun.job import LimitsConfig

# Without answers: the seconds until the first token, and the tokens per second after it, of fast, usual and
# slow models.
SPEEDS = {"low": (0.3, 150.0), "expected": (1.0, 60.0), "high": (3.0, 20.0)}
# The latency of earlier answers changes with the load of the provider.
LATENCY_FACTORS = {"low": 0.75, "expected": 1.0, "high": 1.5}
# A run also reads the table, renders the first rows and writes its files.
OVERHEAD_MINUTES = 3 / 60
CONCURRENCY = "concurrency"


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """The requests to one model and their tokens.

    `most_output` is the sum of `max_tokens`, None when a request has none.
    """

    model: str
    requests: int
    input: Range
    output: Range
    most_output: int | None


def run_duration(
    limits: LimitsConfig, loads: Sequence[ModelLoad], latency_s: float | None
) -> Duration:
    """Return the duration of a run in minutes.

    `low` is for fast answers, `high` for slow ones. `high` includes one whole answer at the end, because the
    last request starts after all others, and three seconds for files. Rates apply to each model separately,
    and models run in parallel; the concurrency is shared.

    Args:
        limits: the limits of the job.
        loads: the requests to each model.
        latency_s: duration of one answer in seconds; None estimates it from its tokens.
    """
    loads = [load for load in loads if load.requests]
    if not loads:
        return Duration(0.0, 0.0, 0.0, None)
    low, _ = _longest(limits, loads, "low", latency_s)
    expected, limit = _longest(limits, loads, "expected", latency_s)
    is_unbounded = any(load.output.high is None for load in loads)
    high = None if is_unbounded else _longest(limits, loads, "high", latency_s)[0]
    last = max(_busy_minutes(load, "high", latency_s) / load.requests for load in loads)
    last += OVERHEAD_MINUTES
    if limit is not None:
        return Duration(low, expected, None if high is None else high + last, limit)
    # No limit is set: between the initial concurrency and the highest one.
    most = min(MOST, sum(load.requests for load in loads))
    start = min(START, most)
    return Duration(
        low / most, expected / start, None if high is None else high / start + last, None
    )


def _longest(
    limits: LimitsConfig, loads: Sequence[ModelLoad], bound: str, latency_s: float | None
) -> tuple[float, str | None]:
    """Return the minutes under the slowest limit, and its name; without one, sequential minutes."""
    busy = sum(_busy_minutes(load, bound, latency_s) for load in loads)
    found = [each for load in loads for each in _by_rates(limits, load, bound, latency_s)]
    if limits.concurrency is not None:
        found.append((busy / limits.concurrency, CONCURRENCY))
    return max(found, default=(busy, None))


def _by_rates(
    limits: LimitsConfig, load: ModelLoad, bound: str, latency_s: float | None
) -> Iterator[tuple[float, str | None]]:
    input_tokens, output_tokens = _tokens(load.input, bound), _tokens(load.output, bound)
    if limits.requests_per_minute is not None:
        yield load.requests / limits.requests_per_minute, "requests"
    most = load.most_output or output_tokens
    for rate, used, reserved, name in (
        (limits.tokens_per_minute, input_tokens + output_tokens, input_tokens + most, "tokens"),
        (limits.input_tokens_per_minute, input_tokens, input_tokens, "input tokens"),
        (limits.output_tokens_per_minute, output_tokens, most, "output tokens"),
    ):
        if rate is not None:
            # `max_tokens` is reserved until the answer arrives, which limits concurrency.
            in_flight = max(1.0, rate * load.requests / max(1, reserved))
            waiting = _busy_minutes(load, bound, latency_s) / in_flight
            yield max(used / rate, waiting), name


def _busy_minutes(load: ModelLoad, bound: str, latency_s: float | None) -> float:
    """Return the minutes that all requests take sequentially."""
    if latency_s is None:
        first_token_s, per_s = SPEEDS[bound]
        each = first_token_s + _tokens(load.output, bound) / load.requests / per_s
    else:
        each = latency_s * LATENCY_FACTORS[bound]
    return load.requests * each / 60


def _tokens(range_: Range, bound: str) -> int:
    tokens: int = getattr(range_, bound) or 0
    return tokens
