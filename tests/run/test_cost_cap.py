"""`max_cost_usd` is never passed: not with 64 in flight, not by retries, not over restarts."""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING, Any

import anyio
import polars as pl
import pytest

from batchrun.client import Exchange
from batchrun.errors import ProviderError, ProviderFault, RunEnd
from batchrun.job import LimitsConfig
from batchrun.limits import CapReached, CostBudget, most_tokens
from batchrun.pricing import PriceBook
from batchrun.records import Completion, Parameters, PlannedRequest, Request, Usage, WireRequest
from tests.conftest import batchrun, finish, start_batchrun
from tests.support.clock import OwnedClockLoop
from tests.support.metered import MODEL, Memory, Metered, Row, dispatch
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CAP = 10**10  # 0.01 USD


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": OwnedClockLoop}


class Till(Metered):
    """Answers, fails and breaks off at random, and knows what it has charged."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.dice = random.Random(seed)
        self.charged = 0

    async def send(self, wire: WireRequest) -> Exchange:
        await anyio.sleep(self.dice.uniform(0.1, 3))
        fate = self.dice.random()
        if fate < 0.1:
            raise ProviderError(ProviderFault("api_error", "no", 500))
        row = self.rows[int(wire.body.split(b"|")[0])]
        usage = Usage(row.prompt_tokens * self.dice.randint(1, 4), self.dice.randint(1, 100))
        cost = PriceBook("anthropic").cost(usage, MODEL)
        assert cost is not None
        if fate < 0.3:  # nobody can tell from outside whether this was charged
            self.charged += cost.total if fate < 0.2 else 0
            raise ProviderError(ProviderFault("timeout", "no answer", maybe_billed=True))
        self.charged += cost.total
        return Exchange(Completion(("yes",), "end_turn", MODEL, "id", usage), 200, None, {})


def spent_according_to(journal: Memory) -> int:
    """What the checkpoint would add up: known costs, and reservations where nothing is known."""
    reserved = {(start.key, start.number): start.reserved or 0 for start in journal.starts}
    spent = 0
    for attempt in journal.attempts:
        if attempt.cost is not None:
            spent += attempt.cost.total
        elif attempt.maybe_billed:
            spent += reserved[attempt.key, attempt.number]
    return spent


@pytest.mark.anyio
@pytest.mark.parametrize("seed", range(50))
async def test_the_cap_holds_with_64_in_flight_and_when_the_run_goes_on(seed: int) -> None:
    till = Till(seed)
    spent = 0
    for seconds in (4.0, 1_000.0, 1_000.0):  # cut off in the middle, to its end, once more
        money = CostBudget(CAP, spent)
        dispatcher, journal = await dispatch(
            till,
            lambda _key: Row(50, 100),
            seconds=seconds,
            limits=LimitsConfig(concurrency=64),
            money=money,
        )
        spent += spent_according_to(journal)
        assert till.charged <= spent <= CAP
    assert dispatcher.tally.stop is not None
    assert dispatcher.tally.stop.end is RunEnd.MAX_COST
    assert "max_cost_usd = 0.01 is reached" in dispatcher.tally.stop.reason
    assert till.charged > 0, "the rest may have been charged"
    assert money.reserved == 0


def planned(body: bytes, *, max_tokens: int | None = 10, **facts: Any) -> PlannedRequest:
    parameters = Parameters(max_tokens=max_tokens, **facts.pop("parameters", {}))
    request = Request("chat", "http://x", MODEL, (), parameters=parameters, **facts)
    return PlannedRequest(1, "1", request, WireRequest("http://x", (), body))


def test_the_highest_number_of_tokens_counts_what_is_not_in_the_body() -> None:
    assert most_tokens(planned(b"x" * 800)) == (1_000, 10)
    assert most_tokens(planned(b"x" * 800, parameters={"n": 3, "thinking_tokens": 90})) == (
        1_000,
        300,
    )
    assert most_tokens(planned(b"x", max_tokens=None)) is None
    by_address = most_tokens(planned(b'{"type":"image_url","image_url":{"url":"https://x"}}'))
    assert by_address is not None
    assert by_address[0] > 50_000
    quoted = most_tokens(planned(rb'{"text":"\"type\":\"image\""}'))
    assert quoted is not None
    assert quoted[0] < 1_000


def test_the_highest_price_is_that_of_writing_to_the_cache() -> None:
    prices = PriceBook("anthropic")
    highest = prices.highest(1_000_000, 1_000_000, MODEL)
    for usage in (
        Usage(1_000_000, 1_000_000),
        Usage(1_000_000, 1_000_000, cache_write_tokens=1_000_000),
        Usage(1_000_000, 1_000_000, cache_read_tokens=1_000_000),
    ):
        cost = prices.cost(usage, MODEL)
        assert cost is not None
        assert highest is not None
        assert cost.total <= highest
    assert prices.highest(1, 1, "no-such-model") is None


def test_money_that_is_set_aside_is_waited_for_and_money_that_is_gone_is_not() -> None:
    budget = CostBudget(100, spent=40)
    assert budget.fits(60)
    budget.reserve(50)
    assert not budget.fits(20)
    budget.settle(50, 10)
    assert budget.fits(50)
    with pytest.raises(CapReached):
        budget.fits(51)


# As a user runs it

EACH_USD = 46e-6  # 11 tokens in, 7 out


def limits(cap: float) -> str:
    return f"[limits]\nconcurrency = 64\nmax_cost_usd = {cap}"


def test_a_run_stops_at_its_cap_also_after_being_killed(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame]
) -> None:
    victim = [0]

    def decide(call: Call) -> Reply:
        if call.number == 40 and victim[0]:
            os.kill(victim[0], signal.SIGKILL)
        if call.number % 7 == 0:
            return refusal(500, "api_error", retry_after="0.01")
        return answer(call, delay_s=0.01)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=400, extra=limits(0.012))
        process = start_batchrun("run", job, "--quiet")
        victim[0] = process.pid
        assert finish(process)[0] == -signal.SIGKILL
        victim[0] = 0
        for _ in range(2):
            code, _, stderr = batchrun("run", job)
            assert code == 4, stderr
            assert "max_cost_usd = 0.012 is reached" in stderr
            assert sum(provider.billed.values()) * EACH_USD <= 0.012
        found = results()
        assert set(found["status"]) == {"succeeded", "pending"}
        code, _, stderr = batchrun("run", job, "--set", "limits.max_cost_usd=1")
        assert code == 0, stderr
    assert set(results()["status"]) == {"succeeded"}


def test_an_unknown_price_is_an_error_before_anything_is_sent(
    write_job: Callable[..., Path],
) -> None:
    with serving() as provider:
        job = write_job(provider.url, extra=limits(5))
        code, _, stderr = batchrun("run", job, "--model", "no-such-model")
        assert code == 2
        assert "[limits] max_cost_usd: the price of no-such-model is not known" in stderr
        assert provider.calls == []


def test_a_row_whose_model_has_no_known_price_is_never_sent(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame]
) -> None:
    with serving() as provider:
        model = "{% if text == 'text 3' %}no-such-model{% else %}claude-haiku-4-5{% endif %}"
        job = write_job(provider.url, rows=10, extra=limits(5))
        code, _, stderr = batchrun("run", job, "--model", model)
        assert code == 3, stderr
        assert {call.json["model"] for call in provider.calls} == {"claude-haiku-4-5"}
    bad = results().filter(pl.col("status") == "errored")
    assert bad["custom_id"].to_list() == ["r00003"]
    assert bad["error_type"].to_list() == ["unknown_price"]
    assert "no-such-model" in bad["error_message"][0]


def test_a_price_in_the_job_file_makes_a_cap_on_an_unknown_model_possible(
    write_job: Callable[..., Path],
) -> None:
    given = ("--model", "house-model", "--set", "limits.max_cost_usd=0.001")
    with serving() as provider:
        job = write_job(provider.url)
        assert batchrun("run", job, *given)[0] == 2
        prices = ("--set", "price.input=1.0", "--set", "price.output=10.0")
        code, _, error = batchrun("run", job, *given, *prices)
        assert code == 4, error
        assert "max_cost_usd" in error
        assert 0 < len(provider.calls) < 20
