"""Providers to measure the limits with: what they do, and what would be possible with each.

`tests/limits/test_load.py` holds the aims of docs/limits.md against them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from tests.support.metered import dispatch
from tests.support.simulation import (
    ROW,
    Bucket,
    ConcurrencyCap,
    FixedWindow,
    RandomRefusals,
    Refusal,
    SimulatedProvider,
    Storms,
    VirtualTimeLoop,
    simulate,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOWN = Refusal(503, "api_error")
UNREACHABLE = Refusal(None, "connection_error")


@dataclass(frozen=True)
class Scenario:
    """A provider, and what is expected of a run against it.

    Attributes:
        name: of the provider.
        provider: makes one.
        possible_per_s: answers a second that an oracle gets between `since` and `until`.
        least_share: of those that a run has to get.
        most_refused: share of the requests that may be refused meanwhile.
        concurrency: as the job sets it; None for "auto".
    """

    name: str
    provider: Callable[[], SimulatedProvider] = field(repr=False)
    possible_per_s: float
    since: float = 60.0
    until: float = 300.0
    least_share: float = 0.95
    most_refused: float = 0.02
    concurrency: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run got: shares of what was possible, and of requests that were refused.

    `refused_at_first` is the share of the first minute, in which limits are found out.
    """

    goodput: float
    refused: float
    refused_at_first: float


def play(scenario: Scenario) -> Outcome:
    """Run against a provider."""
    provider = scenario.provider()
    simulate(provider, seconds=scenario.until, concurrency=scenario.concurrency)
    span = scenario.since, scenario.until
    goodput = provider.accepted_per_s(*span) / scenario.possible_per_s
    return Outcome(goodput, provider.refused_share(*span), provider.refused_share(0, 60))


def steady() -> Iterator[Scenario]:
    """Limits that no header tells, and that stay as they are."""
    for burst, latency_s in ((10, 0.2), (10, 1.0), (10, 8.0), (600, 0.2), (600, 1.0), (600, 8.0)):
        yield Scenario(
            f"bucket 10/s, burst {burst}, latency {latency_s:g} s",
            lambda b=burst, s=latency_s: SimulatedProvider(Bucket(10, b), latency_s=s),  # type: ignore[misc]
            10,
        )
    yield Scenario("bucket 1/s, burst 60", lambda: SimulatedProvider(Bucket(1, 60)), 1)
    yield Scenario(
        "bucket 10/s, burst 600, with retry-after",
        lambda: SimulatedProvider(Bucket(10, 600, tells_wait=True)),
        10,
    )
    # Measured over whole minutes of the provider, after the first of them.
    for per_minute, tells in ((60, False), (60, True), (600, False), (600, True)):
        yield Scenario(
            f"window {per_minute}/min{', with retry-after' if tells else ''}",
            lambda n=per_minute, t=tells: SimulatedProvider(FixedWindow(n, 17, t)),  # type: ignore[misc]
            per_minute / 60,
            since=103,
            until=463,
            least_share=0.94,
        )
    for most, latency_s in ((4, 0.2), (4, 1.0), (32, 1.0)):
        yield Scenario(
            f"at most {most} at a time, latency {latency_s:g} s",
            lambda m=most, s=latency_s: SimulatedProvider(ConcurrencyCap(m), latency_s=s),  # type: ignore[misc]
            most / latency_s,
        )


def reported_limits() -> Iterator[Scenario]:
    """A limit that headers report."""
    yield Scenario(
        "bucket 10/s, with headers",
        lambda: SimulatedProvider(Bucket(10, 600, tells_wait=True, tells_limits=True)),
        10,
        least_share=0.988,
        most_refused=0.0,
    )


def random_refusals() -> Iterator[Scenario]:
    """Refusals at any load. The possible rate is the one without them, times 1 - p."""
    for share in (0.005, 0.02, 0.05, 0.1, 0.2):
        for retry_after_s in (None, 0.05):
            refusal = Refusal(retry_after_s=retry_after_s)
            said = "" if retry_after_s is None else f", with retry-after {retry_after_s:g}"
            yield Scenario(
                f"random {share:.1%}{said}",
                lambda p=share, r=refusal: SimulatedProvider(RandomRefusals(p, r), latency_s=0.5),  # type: ignore[misc]
                32 * (1 - share),
                since=20,
                until=200,
                least_share=0.9,
                most_refused=1.2 * share + 0.005,
                concurrency=16,
            )
    for status, error_type in ((529, "overloaded_error"), (503, "api_error")):
        refusal = Refusal(status, error_type)
        yield Scenario(
            f"random 10.0% with status {status}",
            lambda r=refusal: SimulatedProvider(RandomRefusals(0.1, r), latency_s=0.5),  # type: ignore[misc]
            32 * 0.9,
            since=20,
            until=200,
            least_share=0.9,
            most_refused=0.125,
            concurrency=16,
        )


def changing() -> Iterator[Scenario]:
    """Limits that change after 200 seconds, and load that makes answers slow."""
    for factor, since, until in ((0.5, 250, 500), (2.0, 350, 500)):
        yield Scenario(
            f"bucket 10/s, times {factor:g} after 200 s",
            lambda f=factor: SimulatedProvider(Bucket(10, 60, {200: f})),  # type: ignore[misc]
            10 * factor,
            since=since,
            until=until,
        )
    yield Scenario(
        "latency grows beyond 20 at a time",
        lambda: SimulatedProvider(latency_s=lambda n: 0.5 * max(1.0, n / 20)),
        40,
    )
    yield Scenario(
        "bucket 10/s and random 10 %",
        lambda: SimulatedProvider(RandomRefusals(0.1), Bucket(10, 60), latency_s=0.5),
        10,
        until=600,
        least_share=0.85,
        most_refused=0.15,
    )


def all_scenarios() -> Iterator[Scenario]:
    """Every scenario that is measured by a share."""
    yield from steady()
    yield from reported_limits()
    yield from random_refusals()
    yield from changing()


@dataclass(frozen=True)
class Trouble:
    """A stretch in which everything fails.

    Attributes:
        name: of it.
        seconds: that it lasts.
        refusal: how requests fail.
        concurrency: as the job sets it.
        most_recovery_s: until four fifths of the earlier rate are back.
    """

    name: str
    seconds: float
    refusal: Refusal
    concurrency: int = 32
    most_recovery_s: float = 10.0


@dataclass(frozen=True)
class Recovery:
    """What became of a run: seconds until it was back, failed requests, rows that were lost."""

    seconds: float
    failed: int
    lost: int
    has_stopped: bool


TROUBLES = (
    *(Trouble(f"429 for {seconds} s", seconds, Refusal()) for seconds in (5, 10, 30, 60)),
    Trouble("429 for 10 s, with retry-after 0.05", 10, Refusal(retry_after_s=0.05)),
    Trouble("429 for 60 s, with retry-after 10", 60, Refusal(retry_after_s=10)),
    Trouble("529 for 30 s", 30, Refusal(529, "overloaded_error")),
    Trouble("503 for 60 s", 60, DOWN),
    Trouble("connection refused for 60 s", 60, UNREACHABLE),
    Trouble("503 for 300 s", 300, DOWN, most_recovery_s=35.0),
)


def ride_out(trouble: Trouble) -> Recovery:
    """Run through a trouble that begins after 40 seconds."""
    end = 40 + trouble.seconds
    provider = SimulatedProvider(Storms([(40, end)], trouble.refusal))
    dispatcher, journal = simulate(provider, seconds=end + 60, concurrency=trouble.concurrency)
    before = provider.accepted_per_s(20, 40)
    lost = sum(result.status.value == "errored" for result in journal.results)
    return Recovery(
        provider.recovery_s(end, 0.8 * before),
        len(provider.refused),
        lost,
        dispatcher.tally.stop is not None,
    )


def share_a_limit(seconds: float = 450) -> tuple[SimulatedProvider, SimulatedProvider]:
    """Two clients under one limit of 20 a second; the second begins half a minute later."""
    rule = Bucket(20, 60)
    first, second = SimulatedProvider(rule, seed=1), SimulatedProvider(rule, seed=2)

    async def client(provider: SimulatedProvider, begins: float) -> None:
        await anyio.sleep(begins)
        await dispatch(provider, lambda _key: ROW, seconds=seconds - begins)  # type: ignore[arg-type]

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(client, first, 0)
            group.start_soon(client, second, 30)

    anyio.run(main, backend_options={"loop_factory": VirtualTimeLoop})
    return first, second
