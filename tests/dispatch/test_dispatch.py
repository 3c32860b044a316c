"""The workers: what they send, how long they insist, when they stop, what they record."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from batchrun.client import Exchange
from batchrun.dispatch import Accounts, LiveDispatcher, Rules
from batchrun.errors import CheckpointError, ProviderError, ProviderFault, RunEnd
from batchrun.job import LimitsConfig, RetryConfig
from batchrun.limits import CostBudget, ErrorBudget, Limits, Waits
from batchrun.pricing import PriceBook
from batchrun.records import (
    Attempt,
    AttemptStart,
    Completion,
    Parameters,
    PlannedRequest,
    Request,
    Result,
    Status,
    Turn,
    Usage,
    WireRequest,
)
from tests.support.clock import OwnedClockLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

pytestmark = pytest.mark.anyio

MODEL = "claude-haiku-4-5-20251001"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": OwnedClockLoop}


def planned(key: int = 1, *, attempts_made: int = 0, max_tokens: int = 10) -> PlannedRequest:
    request = Request("messages", "http://x", MODEL, (), parameters=Parameters(max_tokens))
    wire = WireRequest("http://x/v1/messages", (), b"%d" % key)
    return PlannedRequest(key, str(key), request, wire, attempts_made)


def answer(text: str = "yes", model: str | None = "answered-by") -> Exchange:
    usage = Usage(input_tokens=1_000_000, output_tokens=0)
    return Exchange(Completion((text,), "end_turn", model, "msg", usage), 200, "req_1", {})


def refusal(status: int | None, error_type: str = "api_error", **facts: Any) -> ProviderError:
    return ProviderError(ProviderFault(error_type, "said so", status, **facts))


BROKEN = refusal(None, "connection_error", maybe_billed=True)
SLOW_DOWN = refusal(429, "rate_limit_error")

Outcome = Exchange | ProviderError


@dataclass
class Sender:
    """Plays the provider: the outcomes of each request in turn, the last one for ever."""

    outcomes: Sequence[Outcome] = ()
    by_key: Mapping[int, Sequence[Outcome]] = field(default_factory=dict)
    before: Callable[[int], Awaitable[None]] | None = None
    sent: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def send(self, wire: WireRequest) -> Exchange:
        key = int(wire.body)
        outcomes = self.by_key.get(key, self.outcomes) or [answer()]
        self.sent.append(key)
        self.times.append(anyio.current_time())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.before is not None:
                await self.before(key)
        finally:
            self.at_once -= 1
        outcome = outcomes[min(self.sent.count(key), len(outcomes)) - 1]
        if isinstance(outcome, ProviderError):
            raise outcome
        return outcome


@dataclass
class Journal:
    """Keeps what happens in memory; every call takes a moment, and may be told to fail."""

    starts: list[AttemptStart] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    takes_s: float = 0.0
    fails: bool = False

    async def begin(self, start: AttemptStart) -> None:
        await self._write(self.starts.append, start)

    async def fail(self, attempt: Attempt) -> None:
        await self._write(self.attempts.append, attempt)

    async def turn(self, turn: Turn, attempt: Attempt | None = None) -> None:
        if attempt is not None:
            self.attempts.append(attempt)
        await self._write(self.turns.append, turn)

    async def finish(self, result: Result) -> None:
        self.attempts.append(result.last)
        await self._write(self.results.append, result)

    async def keep(self, *events: Any) -> None:
        raise NotImplementedError

    async def _write(self, keep: Callable[[Any], None], event: Any) -> None:
        if self.fails:
            raise CheckpointError("disk full")
        # What was handed over gets written, whether or not anybody still waits for it.
        try:
            await anyio.sleep(self.takes_s)
        finally:
            keep(event)

    @property
    def statuses(self) -> dict[int, str]:
        return {result.key: result.status.value for result in self.results}


class Bench:
    """A dispatcher with fakes at all its ports."""

    def __init__(
        self,
        sender: Sender,
        *,
        workers: int = 1,
        jitter: float = 0.0,
        max_errors: float = 1_000,
        limits: LimitsConfig | None = None,
        money: CostBudget | None = None,
        **retry: float,
    ) -> None:
        self.sender = sender
        self.journal = Journal()
        self.waits = Waits(anyio.current_time)
        config = RetryConfig(**retry)  # type: ignore[arg-type]
        self.dispatcher = LiveDispatcher(
            sender,
            self.journal,
            Limits(
                limits or LimitsConfig(concurrency=workers),
                self.waits,
                money=money,
                jitter=lambda: jitter,
            ),
            accounts=Accounts(self.waits, ErrorBudget(max_errors), PriceBook("anthropic")),
            rules=Rules(config, jitter=lambda: jitter),
        )

    async def run(self, *requests: PlannedRequest) -> None:
        """Dispatch these requests to the end; nothing may take for ever."""
        send, receive = anyio.create_memory_object_stream["Sequence[PlannedRequest]"](1)
        with send:
            send.send_nowait(requests)
        with anyio.fail_after(100_000), receive:
            await self.dispatcher.run(receive)

    async def run_many(self, count: int) -> None:
        await self.run(*(planned(key) for key in range(1, count + 1)))

    @property
    def only(self) -> Result:
        (result,) = self.journal.results
        return result


async def test_an_answer_becomes_a_result_with_its_facts() -> None:
    bench = Bench(Sender([answer("hello", MODEL)]))
    await bench.run(planned(7))
    result = bench.only
    assert (result.key, result.status, result.retryable) == (7, Status.SUCCEEDED, False)
    assert result.completion is not None
    assert result.completion.texts == ("hello",)
    last = result.last
    assert (last.key, last.number, last.http_status, last.request_id) == (7, 1, 200, "req_1")
    assert (last.model, last.error_type, last.cause) == (MODEL, None, None)
    assert last.cost is not None
    assert last.cost.total == 10**12
    assert last.latency_s >= 0
    assert result.finished_at >= bench.journal.starts[0].started_at


async def test_the_price_is_looked_up_by_what_was_asked_for_when_the_answer_is_unknown() -> None:
    bench = Bench(Sender([answer(model="gateway/alias")]))
    await bench.run(planned())
    assert bench.only.last.model == "gateway/alias"
    assert bench.only.last.cost is not None
    bench = Bench(Sender([answer(model=None)]))
    await bench.run(planned())
    assert bench.only.last.model == MODEL


async def test_every_request_is_sent_once_by_at_most_so_many_at_a_time() -> None:
    async def take_a_second(_key: int) -> None:
        await anyio.sleep(1)

    bench = Bench(Sender(before=take_a_second), workers=8)
    await bench.run_many(40)
    assert sorted(bench.sender.sent) == list(range(1, 41))
    assert bench.sender.most_at_once == 8
    assert bench.dispatcher.tally.in_flight == 0
    assert set(bench.journal.statuses.values()) == {"succeeded"}


async def test_an_attempt_is_on_record_before_it_is_sent() -> None:
    known: list[list[int]] = []

    async def look(_key: int) -> None:
        known.append([start.number for start in bench.journal.starts])

    bench = Bench(Sender([BROKEN, answer()], before=look))
    bench.journal.takes_s = 5
    await bench.run(planned(attempts_made=3))
    assert known == [[4], [4, 5]]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (refusal(400, "invalid_request_error"), 400),
        (refusal(413, "request_too_large"), 413),
        (refusal(422, "context_length_exceeded"), 422),
        (refusal(500, should_retry=False), 500),
    ],
)
async def test_a_wrong_request_is_errored_at_once_and_for_good(
    error: ProviderError, status: int
) -> None:
    bench = Bench(Sender([error]))
    await bench.run(planned())
    assert bench.sender.sent == [1]
    result = bench.only
    assert (result.status, result.retryable) == (Status.ERRORED, False)
    assert (result.last.http_status, result.last.cause) == (status, "no")
    assert (result.last.error_type, result.last.error_message) == (
        error.fault.error_type,
        "said so",
    )
    assert result.last.model == MODEL


@pytest.mark.parametrize(
    "error",
    [
        BROKEN,
        refusal(None, "timeout"),
        refusal(200, "invalid_response"),
        refusal(408),
        refusal(409),
        refusal(500),
        refusal(502),
        refusal(400, should_retry=True),
    ],
)
async def test_trouble_that_may_pass_is_tried_again_until_it_has_passed(
    error: ProviderError,
) -> None:
    bench = Bench(Sender([error, error, answer()]), max_attempts=3)
    await bench.run(planned())
    assert bench.only.status is Status.SUCCEEDED
    assert [attempt.number for attempt in bench.journal.attempts] == [1, 2, 3]
    assert [attempt.cause for attempt in bench.journal.attempts] == ["transient"] * 2 + [None]


async def test_trouble_that_stays_uses_up_the_attempts_and_may_be_tried_another_day() -> None:
    bench = Bench(Sender([BROKEN]), max_attempts=4)
    await bench.run(planned(attempts_made=2))
    assert len(bench.sender.sent) == 4
    result = bench.only
    assert (result.status, result.retryable) == (Status.ERRORED, True)
    assert (result.last.number, result.last.maybe_billed) == (6, True)
    assert all(attempt.maybe_billed for attempt in bench.journal.attempts)


async def test_the_pause_grows_with_every_failure() -> None:
    bench = Bench(Sender([BROKEN] * 4 + [answer()]), jitter=1.0)
    await bench.run(planned())
    times = bench.sender.times
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses == pytest.approx([0.5, 1, 2, 4], abs=0.01)
    assert bench.waits.seconds["retry"] == pytest.approx(7.5, abs=0.01)


async def test_the_provider_is_given_the_time_that_it_asks_for() -> None:
    bench = Bench(Sender([refusal(503, retry_after_s=7.0), answer()]))
    await bench.run(planned())
    assert bench.sender.times == pytest.approx([0, 7], abs=0.01)


async def test_others_go_on_while_one_request_pauses() -> None:
    patient: list[Outcome] = [refusal(503, retry_after_s=60.0), answer()]
    bench = Bench(Sender(by_key={1: patient}), workers=2)
    await bench.run_many(10)
    assert bench.sender.sent[-1] == 1
    assert bench.sender.times[-2] < 1


async def test_being_told_to_slow_down_uses_up_no_attempts() -> None:
    told = refusal(429, "rate_limit_error", retry_after_s=5.0)
    bench = Bench(Sender([told] * 20 + [answer()]), max_attempts=2)
    await bench.run(planned())
    assert bench.only.status is Status.SUCCEEDED
    assert bench.only.last.number == 21
    waited = bench.waits.seconds
    assert waited["retry"] + waited["rate-limit pause"] == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize("status", [200, 201, 202])
async def test_any_status_of_success_shows_that_the_server_keeps_to_max_tokens(status: int) -> None:
    async def take_a_second(_key: int) -> None:
        await anyio.sleep(1)

    small = Completion(("yes",), "end_turn", MODEL, "msg", Usage(input_tokens=1, output_tokens=1))
    answered = answer()._replace(completion=small, http_status=status)
    bench = Bench(Sender([answered], before=take_a_second), workers=4, money=CostBudget(10**15))
    await bench.run_many(9)
    # The first goes alone, since its cost shows whether the bound of a request holds.
    assert anyio.current_time() == pytest.approx(3, abs=0.1)
    assert bench.sender.most_at_once == 4


async def test_a_request_that_is_refused_holds_up_no_other() -> None:
    refused: list[Outcome] = [refusal(429, retry_after_s=1.0)] * 7 + [answer()]
    bench = Bench(Sender(by_key={1: refused}), workers=1)
    await bench.run_many(12)
    # While it rests, the others are sent, one at a time.
    assert bench.sender.sent == [*range(1, 13), *[1] * 7]
    assert set(bench.journal.statuses.values()) == {"succeeded"}


def assert_unavailable(bench: Bench) -> None:
    """The run stopped, and nothing is errored: all rows are pending."""
    assert bench.journal.results == []
    assert bench.dispatcher.tally.stop is not None
    assert bench.dispatcher.tally.stop.end is RunEnd.UNAVAILABLE
    assert bench.journal.attempts


DOWN = refusal(503)


@pytest.mark.parametrize("error", [SLOW_DOWN, refusal(529, "overloaded_error"), DOWN])
async def test_when_nothing_succeeds_the_run_stops_after_max_wait(error: ProviderError) -> None:
    bench = Bench(Sender([error]), max_wait_s=100, jitter=0.5, max_attempts=2)
    await bench.run(planned())
    assert_unavailable(bench)
    assert 60 < anyio.current_time() <= 101
    assert len(bench.sender.sent) < 60


@pytest.mark.parametrize("error", [SLOW_DOWN, DOWN])
async def test_a_row_that_fails_for_max_wait_while_others_succeed_is_errored(
    error: ProviderError,
) -> None:
    async def take_a_second(_key: int) -> None:
        await anyio.sleep(1)

    sender = Sender(by_key={3: [error]}, before=take_a_second)
    bench = Bench(sender, workers=2, max_wait_s=20, jitter=0.5, max_attempts=1_000)
    await bench.run_many(100)
    assert bench.journal.statuses[3] == "errored"
    assert list(bench.journal.statuses.values()).count("succeeded") == 99
    (failed,) = (result for result in bench.journal.results if result.key == 3)
    assert failed.retryable
    assert bench.dispatcher.tally.stop is None
    assert bench.sender.times[len(bench.sender.sent) - 1] < 60


@pytest.mark.parametrize("status", [429, 503])
async def test_a_wait_that_would_be_too_long_is_not_begun(status: int) -> None:
    bench = Bench(Sender([refusal(status, retry_after_s=3_600.0)]), max_wait_s=600)
    await bench.run(planned())
    assert bench.sender.sent == [1]
    assert_unavailable(bench)
    assert anyio.current_time() < 1


async def test_one_row_that_is_asked_to_wait_for_too_long_stops_nothing() -> None:
    async def take_a_second(key: int) -> None:
        await anyio.sleep(0.01 if key == 1 else 1)

    sender = Sender(by_key={1: [refusal(429, retry_after_s=3_600.0)]}, before=take_a_second)
    bench = Bench(sender, workers=4, max_wait_s=600)
    await bench.run_many(20)
    assert bench.journal.statuses[1] == "errored"
    assert list(bench.journal.statuses.values()).count("succeeded") == 19


async def test_waits_for_trouble_add_up_to_the_longest_wait() -> None:
    bench = Bench(Sender([BROKEN]), jitter=1.0, max_wait_s=10, max_attempts=100)
    await bench.run(planned())
    assert_unavailable(bench)
    # 0.5 + 1 + 2 + 4 s; the next pause of 8 s would be more than is left.
    assert len(bench.sender.sent) == 5
    assert anyio.current_time() == pytest.approx(7.5, abs=0.1)


async def test_a_row_that_fails_while_others_succeed_uses_up_its_attempts() -> None:
    async def take_a_second(_key: int) -> None:
        await anyio.sleep(1)

    bench = Bench(Sender(by_key={5: [DOWN]}, before=take_a_second), workers=4, max_attempts=3)
    await bench.run_many(40)
    assert bench.journal.statuses[5] == "errored"
    assert bench.sender.sent.count(5) == 3
    assert list(bench.journal.statuses.values()).count("succeeded") == 39


async def test_one_attempt_is_one_attempt_while_others_succeed() -> None:
    async def take_a_second(_key: int) -> None:
        await anyio.sleep(1)

    bench = Bench(Sender(by_key={5: [DOWN]}, before=take_a_second), workers=4, max_attempts=1)
    await bench.run_many(40)
    assert bench.journal.statuses[5] == "errored"
    assert bench.sender.sent.count(5) == 1


async def test_two_rows_that_always_fail_at_the_end_are_errored_and_not_waited_for() -> None:
    by_key = {29: [DOWN], 30: [DOWN]}
    bench = Bench(Sender(by_key=by_key, before=lambda _key: anyio.sleep(1)), workers=8)
    await bench.run_many(30)
    assert [bench.journal.statuses[key] for key in (29, 30)] == ["errored", "errored"]
    assert anyio.current_time() < 60


async def test_an_outage_uses_up_no_attempts() -> None:
    async def answer_unless_down(_key: int) -> None:
        await anyio.sleep(0.1)
        if 5 < anyio.current_time() < 65:
            raise DOWN

    bench = Bench(Sender(before=answer_unless_down), workers=16, jitter=0.5, max_attempts=2)
    await bench.run_many(2_000)
    assert set(bench.journal.statuses.values()) == {"succeeded"}
    assert len(bench.journal.statuses) == 2_000
    # All pause together: probes, not every row for itself.
    assert len(bench.sender.sent) < 2_000 + 120
    assert anyio.current_time() < 90


async def test_what_may_have_been_billed_uses_up_attempts_in_an_outage_too() -> None:
    bench = Bench(Sender([BROKEN]), max_attempts=4)
    await bench.run_many(1)
    assert len(bench.sender.sent) == 4
    assert bench.only.status is Status.ERRORED


async def test_a_request_that_was_refused_three_times_goes_behind_the_others() -> None:
    """It may be one that is too large: two of them, as the only probes, would hold up all others."""

    async def storm_that_stays_for_some(key: int) -> None:
        if anyio.current_time() < 5 or (key <= 3 and anyio.current_time() < 300):
            raise SLOW_DOWN

    bench = Bench(Sender(before=storm_that_stays_for_some), workers=4, jitter=0.5)
    await bench.run_many(40)
    assert set(bench.journal.statuses.values()) == {"succeeded"}
    times = zip(bench.sender.sent, bench.sender.times, strict=True)
    assert max(at for key, at in times if key > 3) < 30


async def test_a_stream_that_broke_off_has_used_all_that_was_reserved() -> None:
    cut = refusal(200, "stream_cut", maybe_billed=True, usage=Usage(5, 5))
    limits = LimitsConfig(concurrency=1, tokens_per_minute=600)
    bench = Bench(Sender([cut, answer()]), limits=limits)
    await bench.run(planned(max_tokens=300))
    first, second = bench.sender.times
    # 300 tokens at 10 a second: nobody knows how many of them were generated.
    assert second - first > 25


async def test_a_server_that_says_zero_for_ever_is_not_asked_in_a_busy_loop() -> None:
    bench = Bench(Sender([refusal(429, retry_after_s=0.0)]), max_wait_s=60, jitter=0.5)
    await bench.run(planned())
    assert_unavailable(bench)
    assert len(bench.sender.sent) < 50


@pytest.mark.parametrize(
    "error",
    [
        refusal(401, "authentication_error"),
        refusal(402, "billing_error"),
        refusal(429, "insufficient_quota"),
        refusal(200, "authentication_error"),
    ],
)
async def test_a_fatal_answer_stops_everything_and_leaves_the_rows_pending(
    error: ProviderError,
) -> None:
    async def take_a_second(_key: int) -> None:
        await anyio.sleep(1)

    bench = Bench(Sender([error], before=take_a_second), workers=4)
    await bench.run_many(50)
    assert len(bench.sender.sent) == 4
    assert bench.journal.results == []
    assert [attempt.cause for attempt in bench.journal.attempts] == ["fatal"] * 4
    assert bench.dispatcher.tally.stop is not None
    assert error.fault.error_type in bench.dispatcher.tally.stop.reason
    assert bench.dispatcher.is_draining


@pytest.mark.parametrize(
    "error", [refusal(403, "permission_error"), refusal(404, "not_found_error"), refusal(400)]
)
async def test_a_first_row_that_is_refused_waits_for_the_second(error: ProviderError) -> None:
    bench = Bench(Sender(by_key={1: [error]}))
    await bench.run_many(3)
    assert bench.journal.statuses == {1: "errored", 2: "succeeded", 3: "succeeded"}
    refused = (
        bench.journal.results[0] if bench.journal.results[0].key == 1 else bench.journal.results[1]
    )
    assert (refused.retryable, refused.last.cause) == (False, "no")
    assert bench.dispatcher.tally.stop is None


async def test_what_is_in_flight_at_a_fatal_answer_is_still_recorded() -> None:
    async def first_is_fast(key: int) -> None:
        await anyio.sleep(0 if key == 1 else 5)

    by_key = {1: [refusal(401, "authentication_error")]}
    bench = Bench(Sender(by_key=by_key, before=first_is_fast), workers=3)
    await bench.run_many(9)
    assert bench.journal.statuses == {2: "succeeded", 3: "succeeded"}


async def test_a_fatal_answer_ends_the_pauses_of_others() -> None:
    slow = [refusal(429, retry_after_s=500.0)]

    async def second_takes_a_second(key: int) -> None:
        await anyio.sleep(1 if key == 2 else 0)

    by_key = {1: slow, 2: [refusal(401)]}
    bench = Bench(Sender(by_key=by_key, before=second_takes_a_second), workers=2)
    await bench.run(planned(1), planned(2))
    assert anyio.current_time() < 2
    assert bench.journal.results == []
    assert bench.waits.current is None


async def test_draining_lets_what_is_in_flight_finish_and_sends_nothing_more() -> None:
    async def take_ten_seconds(_key: int) -> None:
        await anyio.sleep(10)

    bench = Bench(Sender(before=take_ten_seconds), workers=3)
    async with anyio.create_task_group() as group:
        group.start_soon(bench.run_many, 20)
        await anyio.sleep(1)
        assert bench.dispatcher.tally.in_flight == 3
        bench.dispatcher.drain()
    assert bench.sender.sent == [1, 2, 3]
    assert bench.journal.statuses == dict.fromkeys([1, 2, 3], "succeeded")
    assert anyio.current_time() == pytest.approx(10, abs=0.1)


async def test_draining_ends_waits_for_rates_and_retries_at_once() -> None:
    by_key = {1: [refusal(503, retry_after_s=500.0)]}
    bench = Bench(Sender(by_key=by_key), workers=4, limits=LimitsConfig(requests_per_minute=0.1))
    async with anyio.create_task_group() as group:
        group.start_soon(bench.run_many, 20)
        await anyio.sleep(1)
        bench.dispatcher.drain()
    assert anyio.current_time() < 2
    assert bench.sender.sent == [1]
    assert bench.journal.results == []


async def test_a_request_that_fails_while_draining_is_not_tried_again() -> None:
    async def take_ten_seconds(_key: int) -> None:
        await anyio.sleep(10)

    bench = Bench(Sender([BROKEN], before=take_ten_seconds))
    async with anyio.create_task_group() as group:
        group.start_soon(bench.run, planned())
        await anyio.sleep(1)
        bench.dispatcher.drain()
    assert len(bench.journal.attempts) == 1
    assert bench.journal.results == []


async def test_once_draining_has_begun_no_request_is_judged_any_more() -> None:
    bench = Bench(Sender(), limits=LimitsConfig(tokens_per_minute=100))
    bench.dispatcher.drain()
    await bench.run(planned(1, max_tokens=1_000), planned(2))
    assert (bench.sender.sent, bench.journal.starts) == ([], [])


async def test_the_stream_of_requests_is_closed_when_draining_begins() -> None:
    async def take_a_second(_key: int) -> None:
        await anyio.sleep(1)

    bench = Bench(Sender(before=take_a_second))
    send, receive = anyio.create_memory_object_stream["Sequence[PlannedRequest]"](1)
    with anyio.fail_after(100), send, receive:
        async with anyio.create_task_group() as group:
            group.start_soon(bench.dispatcher.run, receive)
            for key in range(1, 4):
                await send.send([planned(key)])
            bench.dispatcher.drain()
            await anyio.sleep(0.1)
            with pytest.raises(anyio.BrokenResourceError):
                await send.send([planned(9)])
            # What is in flight is not cut short by that.
            assert bench.dispatcher.tally.in_flight == 1
    assert bench.journal.statuses == {1: "succeeded"}


async def test_waiting_for_requests_ends_when_draining_begins() -> None:
    bench = Bench(Sender())
    send, receive = anyio.create_memory_object_stream["Sequence[PlannedRequest]"](1)
    with anyio.fail_after(100), send, receive:
        async with anyio.create_task_group() as group:
            group.start_soon(bench.dispatcher.run, receive)
            await anyio.sleep(1)
            bench.dispatcher.drain()
    assert bench.journal.results == []


async def test_cancelling_a_request_on_its_way_records_that_it_may_be_billed() -> None:
    bench = Bench(Sender(before=lambda _key: anyio.sleep(1_000)), workers=2)
    bench.journal.takes_s = 0.5
    with anyio.move_on_after(10):
        await bench.run_many(5)
    assert sorted(attempt.key for attempt in bench.journal.attempts) == [1, 2]
    for attempt in bench.journal.attempts:
        assert (attempt.error_type, attempt.maybe_billed) == ("cancelled", True)
        assert attempt.http_status is None
    assert bench.journal.results == []
    assert bench.dispatcher.tally.in_flight == 0


async def test_cancelling_before_a_request_has_left_records_that_it_was_not_sent() -> None:
    bench = Bench(Sender())
    bench.journal.takes_s = 5
    with anyio.move_on_after(1):
        await bench.run(planned())
    assert bench.sender.sent == []
    assert [start.number for start in bench.journal.starts] == [1]
    assert [attempt.maybe_billed for attempt in bench.journal.attempts] == [False]


async def test_an_answer_that_arrives_as_everything_is_cancelled_is_saved() -> None:
    scope = anyio.CancelScope()

    async def cancel_as_the_answer_arrives(_key: int) -> None:
        scope.cancel()

    bench = Bench(Sender(before=cancel_as_the_answer_arrives))
    bench.journal.takes_s = 2
    with scope:
        # The attempt was begun before the cancellation, and its answer is recorded after it.
        await bench.run(planned(1), planned(2))
    assert scope.cancelled_caught
    assert bench.journal.statuses == {1: "succeeded"}
    assert bench.sender.sent == [1]


async def test_a_failure_that_arrives_as_everything_is_cancelled_is_saved() -> None:
    scope = anyio.CancelScope()

    async def cancel(_key: int) -> None:
        scope.cancel()

    bench = Bench(Sender([BROKEN], before=cancel))
    bench.journal.takes_s = 2
    with scope:
        await bench.run(planned())
    assert [attempt.error_type for attempt in bench.journal.attempts] == ["connection_error"]


async def test_nothing_is_sent_when_the_journal_fails() -> None:
    bench = Bench(Sender(), workers=3)
    bench.journal.fails = True
    with pytest.raises(ExceptionGroup) as caught:
        await bench.run_many(9)
    assert caught.group_contains(CheckpointError, match="disk full")
    assert bench.sender.sent == []


async def test_too_many_errors_by_count_stop_the_run() -> None:
    bench = Bench(Sender([refusal(500, should_retry=False)]), workers=2, max_errors=5)
    await bench.run_many(50)
    assert 5 <= len(bench.sender.sent) <= 6
    stop = bench.dispatcher.tally.stop
    assert stop is not None
    assert stop.end is RunEnd.MAX_ERRORS
    assert stop.reason.startswith("5 of 5 rows failed")
    assert set(bench.journal.statuses.values()) == {"errored"}


async def test_refusals_whose_fault_is_open_count_as_errors() -> None:
    bench = Bench(Sender([refusal(403, "permission_error")]), max_errors=5)
    await bench.run_many(50)
    assert len(bench.sender.sent) == 5
    assert bench.dispatcher.tally.stop is not None
    assert bench.dispatcher.tally.stop.end is RunEnd.MAX_ERRORS
    assert bench.journal.results == []


async def test_too_many_errors_by_share_stop_the_run_once_enough_have_finished() -> None:
    bench = Bench(Sender([refusal(500, should_retry=False)]), workers=2, max_errors=0.3)
    await bench.run_many(400)
    assert 200 <= len(bench.sender.sent) <= 201


async def test_a_tolerated_share_of_errors_lets_the_run_go_on() -> None:
    bad = {key: [refusal(400)] for key in range(0, 301, 4)}
    bench = Bench(Sender(by_key=bad), workers=2, max_errors=0.3)
    await bench.run_many(300)
    assert len(bench.journal.results) == 300
    assert bench.dispatcher.tally.stop is None


async def test_a_request_above_the_whole_rate_is_errored_without_being_sent() -> None:
    bench = Bench(Sender(), limits=LimitsConfig(tokens_per_minute=100))
    await bench.run(planned(1, max_tokens=1_000), planned(2))
    assert bench.sender.sent == [2]
    assert bench.journal.statuses == {1: "errored", 2: "succeeded"}
    last = bench.journal.results[0].last
    assert (last.error_type, last.maybe_billed) == ("over_token_limit", False)
    assert last.error_message is not None
    assert "100 per minute" in last.error_message


async def test_every_attempt_waits_for_the_limits_again() -> None:
    limits = LimitsConfig(requests_per_minute=6)
    bench = Bench(Sender([BROKEN, BROKEN, answer()]), limits=limits)
    await bench.run(planned())
    assert bench.sender.times == pytest.approx([0, 10, 20], abs=0.1)


async def test_requests_are_taken_as_they_come_and_the_run_ends_with_the_stream() -> None:
    bench = Bench(Sender(), workers=2)
    send, receive = anyio.create_memory_object_stream["Sequence[PlannedRequest]"]()
    async with receive, anyio.create_task_group() as group:
        group.start_soon(bench.dispatcher.run, receive)
        async with send:
            for key in (1, 2, 3):
                await anyio.sleep(10)
                await send.send([planned(key)])
    assert bench.sender.times == pytest.approx([10, 20, 30], abs=0.1)


async def test_a_run_that_is_refused_throughout_stops_and_leaves_all_rows_pending() -> None:
    told = refusal(429, "rate_limit_error", retry_after_s=10.0)
    bench = Bench(Sender([told]), workers=8, max_wait_s=35, jitter=0.5)
    await bench.run_many(100)
    assert_unavailable(bench)
    assert anyio.current_time() < 120


async def test_a_pause_longer_than_any_item_may_wait_stops_the_run() -> None:
    bench = Bench(Sender([refusal(429, retry_after_s=3_600.0)]), workers=4, max_wait_s=600)
    await bench.run_many(50)
    assert bench.dispatcher.tally.stop is not None
    assert bench.dispatcher.tally.stop.end is RunEnd.UNAVAILABLE
    assert "3600 s" in bench.dispatcher.tally.stop.reason
    assert anyio.current_time() < 5
    assert bench.journal.results == []
