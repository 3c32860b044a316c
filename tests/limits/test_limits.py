"""Rates, turns, waits and the error budget, on a clock that the tests own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from batchrun.errors import RunEnd
from batchrun.job import LimitsConfig
from batchrun.limits import Demand, ErrorBudget, Limits, Waits, demand
from batchrun.limits.buckets import ReportedLimit, TokenBucket
from batchrun.records import Allowance, Parameters, PlannedRequest, Request, WireRequest
from tests.support.clock import OwnedClockLoop

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.anyio

ONE = Demand(input_tokens=1, output_tokens=1)


class _PunctualLoop(OwnedClockLoop):
    pass


class _BusyLoop(OwnedClockLoop):
    def __init__(self) -> None:
        super().__init__(late_s=0.012)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": _PunctualLoop}


def rates(**per_minute: float) -> Limits:
    config = LimitsConfig(concurrency=100_000, **per_minute)
    return Limits(config, Waits())


async def admitted_at(limits: Limits, asked: Demand, count: int, workers: int) -> list[float]:
    """Let workers ask for `count` admissions in all; return when each was given."""
    times: list[float] = []

    async def work() -> None:
        while len(times) < count:
            await limits.admit(asked)
            times.append(anyio.current_time())

    async with anyio.create_task_group() as group:
        for _ in range(workers):
            group.start_soon(work)
    return times[:count]


def average_rate(times: list[float], per_admission: float = 1) -> float:
    """Amount per minute between the first and the last admission."""
    return (len(times) - 1) * per_admission / (times[-1] - times[0]) * 60


@pytest.mark.parametrize(
    ("per_minute", "count"), [(6, 12), (60, 30), (900, 60), (6_000, 500), (60_000, 5_000)]
)
async def test_requests_pass_at_the_configured_rate(per_minute: float, count: int) -> None:
    times = await admitted_at(rates(requests_per_minute=per_minute), ONE, count, workers=16)
    assert average_rate(times) == pytest.approx(per_minute, rel=0.03)


@pytest.mark.parametrize("per_minute", [600, 6_000, 60_000])
async def test_the_first_second_lets_no_more_through_than_any_other(per_minute: int) -> None:
    per_second = per_minute // 60
    times = await admitted_at(
        rates(requests_per_minute=per_minute), ONE, 3 * per_second, workers=16
    )
    first = sum(at < 1.0 for at in times)
    assert first <= per_second * 1.1 + 1


async def test_a_rate_far_below_one_per_minute_still_lets_requests_through() -> None:
    limits = rates(requests_per_minute=0.5)
    assert limits.unsendable(ONE) is None
    times = await admitted_at(limits, ONE, 3, workers=2)
    assert times == pytest.approx([0, 120, 240], abs=0.01)


@pytest.mark.parametrize(("per_request", "count"), [(50, 500), (999, 40), (20_000, 10)])
async def test_tokens_pass_at_the_configured_rate_whatever_their_portion(
    per_request: int, count: int
) -> None:
    asked = Demand(per_request // 2, per_request - per_request // 2)
    times = await admitted_at(rates(tokens_per_minute=60_000), asked, count, workers=4)
    assert average_rate(times, per_request) == pytest.approx(60_000, rel=0.03)


async def test_input_and_output_tokens_have_rates_of_their_own() -> None:
    asked = Demand(input_tokens=100, output_tokens=10)
    by_input = await admitted_at(rates(input_tokens_per_minute=60_000), asked, 30, 4)
    by_output = await admitted_at(rates(output_tokens_per_minute=60_000), asked, 1_000, 4)
    assert average_rate(by_input, 100) == pytest.approx(60_000, rel=0.03)
    assert average_rate(by_output, 10) == pytest.approx(60_000, rel=0.03)


async def test_the_tightest_of_several_rates_decides() -> None:
    limits = rates(requests_per_minute=6_000, tokens_per_minute=12_000, input_tokens_per_minute=1e9)
    times = await admitted_at(limits, Demand(10, 10), 100, workers=8)
    assert average_rate(times) == pytest.approx(600, rel=0.03)


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"loop_factory": _BusyLoop})], ids=["every timer 12 ms late"]
)
async def test_a_busy_machine_does_not_lower_the_rate() -> None:
    requests = await admitted_at(rates(requests_per_minute=600), ONE, 40, workers=4)
    assert average_rate(requests) == pytest.approx(600, rel=0.05)
    tokens = await admitted_at(rates(tokens_per_minute=60_000), Demand(500, 500), 20, workers=4)
    assert average_rate(tokens, 1_000) == pytest.approx(60_000, rel=0.05)


async def test_without_rates_nothing_waits() -> None:
    times = await admitted_at(rates(), Demand(10**9, 10**9), 100, workers=4)
    assert times[-1] == times[0]


async def test_requests_are_admitted_in_the_order_in_which_they_asked() -> None:
    limits = rates(tokens_per_minute=6_000)
    order: list[int] = []

    async def ask(number: int, tokens: int) -> None:
        await limits.admit(Demand(tokens, 0))
        order.append(number)

    async with anyio.create_task_group() as group:
        for number, tokens in enumerate([10, 2_000, 1, 1, 500, 1]):
            group.start_soon(ask, number, tokens)
    assert order == [0, 1, 2, 3, 4, 5]


async def test_a_waiter_that_gives_up_makes_room_for_the_next() -> None:
    limits = rates(tokens_per_minute=60)
    await limits.admit(Demand(1, 0))
    with anyio.move_on_after(1):
        await limits.admit(Demand(50, 0))
    with anyio.fail_after(70):
        await limits.admit(Demand(10, 0))


@pytest.mark.parametrize(
    ("config", "asked", "words"),
    [
        ({"tokens_per_minute": 1_000}, Demand(600, 401), ("1,001 tokens", "token rate", "1,000")),
        (
            {"input_tokens_per_minute": 5_000_000},
            Demand(5_000_001, 1),
            ("5,000,001", "input token rate", "5,000,000 per minute"),
        ),
        ({"output_tokens_per_minute": 10}, Demand(1, 11), ("11 tokens", "output token rate")),
    ],
)
async def test_what_exceeds_a_whole_minute_is_named_with_its_numbers(
    config: Mapping[str, float], asked: Demand, words: tuple[str, ...]
) -> None:
    problem = rates(**config).unsendable(asked)
    assert problem is not None
    error_type, reason = problem
    assert error_type == "over_token_limit"
    assert all(word in reason for word in words), reason


async def test_what_fits_a_whole_minute_exactly_is_admitted() -> None:
    limits = rates(tokens_per_minute=1_000)
    assert limits.unsendable(Demand(600, 400)) is None
    await limits.admit(Demand(600, 400))
    assert anyio.current_time() == pytest.approx(60, abs=6.1)


def test_a_bucket_that_is_filled_at_once_is_waited_for_until_its_reset() -> None:
    now = [0.0]
    reported = ReportedLimit(lambda: now[0])
    reported.update(Allowance(600, 0, 10.0))  # refilled evenly, an empty bucket takes a minute
    assert reported.wait_for(1) == pytest.approx(10)
    now[0] = 10.0
    assert reported.wait_for(500) == 0
    reported.update(Allowance(600, 0, 60.0))
    assert reported.wait_for(1) == pytest.approx(1, abs=0.2)
    reported.update(Allowance(600, 0, 3_600.0))  # of a day, which is no rate
    assert reported.wait_for(1) == 0


def test_a_refund_can_be_spent_and_a_new_rate_holds_from_now_on() -> None:
    now = [0.0]
    bucket = TokenBucket(600, lambda: now[0])
    bucket.take(1)
    assert bucket.wait_for(11) == pytest.approx(1.1)
    bucket.refund(11, taken_at=0.0)
    assert bucket.wait_for(11) == 0
    bucket.take(11)
    bucket.set(60)
    assert bucket.wait_for(1) == pytest.approx(1.0)


def planned(body: bytes, **parameters: int) -> PlannedRequest:
    request = Request("chat", "http://x", "m", (), parameters=Parameters(**parameters))  # type: ignore[arg-type]
    return PlannedRequest(1, "1", request, WireRequest("http://x", (), body))


def test_demand_counts_a_token_for_four_bytes_and_all_output_that_is_allowed() -> None:
    assert demand(planned(b"x" * 400, max_tokens=50)) == Demand(
        100, 50, ("http://x", "m", ""), None, True
    )
    assert demand(planned(b"x" * 400, max_tokens=50, n=3)) == Demand(
        100, 150, ("http://x", "m", ""), None, True
    )
    assert demand(planned(b"{}")) == Demand(1, 256, ("http://x", "m", ""), None, True)


async def test_waits_are_accounted_to_the_rate_that_caused_them() -> None:
    waits = Waits(anyio.current_time)
    config = LimitsConfig(100, requests_per_minute=600, tokens_per_minute=600)
    limits = Limits(config, waits)
    await admitted_at(limits, Demand(10, 10), 4, workers=1)
    assert waits.seconds["token rate"] == pytest.approx(6, rel=0.5)
    assert waits.seconds["request rate"] < 0.5
    assert waits.current is None


def test_waits_add_up_and_name_what_most_are_waiting_for() -> None:
    now = [100.0]
    waits = Waits(lambda: now[0])
    seen = [waits.current]
    with waits.waiting_for("retry"):
        now[0] += 1
        with waits.waiting_for("request rate"), waits.waiting_for("request rate"):
            now[0] += 2
            seen.append(waits.current)
        seen.append(waits.current)
    seen.append(waits.current)
    assert seen == [None, "request rate", "retry", None]
    assert waits.seconds == {"retry": 3, "request rate": 4}


def test_a_wait_that_is_cut_short_by_an_error_counts_too() -> None:
    now = [0.0]
    waits = Waits(lambda: now[0])

    def fail_after_five_seconds() -> None:
        with waits.waiting_for("retry"):
            now[0] += 5
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_five_seconds()
    assert waits.seconds == {"retry": 5}
    assert waits.current is None


def test_waits_are_measured_by_the_real_clock_unless_told_otherwise() -> None:
    waits = Waits()
    start = time.monotonic()
    with waits.waiting_for("retry"):
        time.sleep(0.02)
    assert 0.02 <= waits.seconds["retry"] <= time.monotonic() - start


def outcomes(budget: ErrorBudget, *, errored: int, succeeded: int = 0) -> list[str | None]:
    stops = [budget.count() for _ in range(succeeded)]
    stops += [budget.count("no route") for _ in range(errored)]
    assert {stop.end for stop in stops if stop} <= {RunEnd.MAX_ERRORS}
    return [None if stop is None else stop.reason for stop in stops]


def test_a_count_of_errors_stops_the_run_when_it_is_reached() -> None:
    reasons = outcomes(ErrorBudget(3), succeeded=5, errored=3)
    assert reasons[:-1] == [None] * 7
    assert reasons[-1] == "3 of 8 rows failed (max_errors = 3); the last error: no route"


def test_a_share_of_errors_is_not_judged_before_enough_items_have_finished() -> None:
    reasons = outcomes(ErrorBudget(0.5), errored=200)
    assert reasons[:199] == [None] * 199
    assert reasons[199] == "200 of 200 rows failed (max_errors = 0.5); the last error: no route"


def test_a_share_of_errors_must_be_exceeded() -> None:
    reasons = outcomes(ErrorBudget(0.5), succeeded=150, errored=151)
    assert reasons[:300] == [None] * 300
    assert reasons[300] == "151 of 301 rows failed (max_errors = 0.5); the last error: no route"


def test_a_success_never_stops_the_run() -> None:
    budget = ErrorBudget(0.5)
    assert outcomes(budget, errored=199)[-1] is None
    assert budget.count() is None
