"""Following a provider's limits with none configured: throughput, refusals, fairness, pauses.

The provider enforces them on the clock of the event loop, which the tests own.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from batchrun.errors import ProviderError, ProviderFault
from batchrun.job import LimitsConfig
from batchrun.records import Status
from tests.support.clock import OwnedClockLoop
from tests.support.metered import Metered, Row, dispatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchrun.client import Exchange
    from batchrun.records import FormatName, WireRequest

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": OwnedClockLoop}


def about(seconds: float) -> Callable[[int], float]:
    """Latencies of half to one and a half times as much."""
    dice = random.Random(1)
    return lambda _number: seconds * (0.5 + dice.random())


def short(_key: int) -> Row:
    return Row()


def mixed(key: int) -> Row:
    """Every tenth prompt is eighty times as long as the others."""
    return Row(8_000, 500, 300) if key % 10 == 0 else Row(100, 100, 50)


def greedy(_key: int) -> Row:
    """Asks for twenty times the output that it gets."""
    return Row(300, 4_000, 200)


@pytest.mark.parametrize(
    ("wire_format", "rpm", "latency_s"),
    [
        ("messages", 60, 1.0),
        ("chat", 60, 1.0),
        ("messages", 600, 0.05),
        ("chat", 600, 10.0),
        ("messages", 1_800, 2.0),
    ],
)
async def test_request_limits_in_headers_are_used_up_and_not_exceeded(
    wire_format: FormatName, rpm: int, latency_s: float
) -> None:
    provider = Metered(rpm=rpm, wire_format=wire_format, latency_s=about(latency_s))
    await dispatch(provider, short, seconds=180)
    assert provider.per_minute(60, 180) >= 0.95 * rpm
    assert provider.refused_share <= 0.01


@pytest.mark.parametrize(
    ("wire_format", "tpm", "row"),
    [("messages", 100_000, short), ("chat", 300_000, mixed), ("messages", 300_000, greedy)],
)
async def test_token_limits_in_headers_are_used_up_and_not_exceeded(
    wire_format: FormatName, tpm: int, row: Callable[[int], Row]
) -> None:
    provider = Metered(tpm=tpm, wire_format=wire_format, latency_s=about(2.0))
    await dispatch(provider, row, seconds=240)
    assert provider.tokens_per_minute(60, 240) >= 0.95 * tpm
    assert provider.refused_share <= 0.01


@pytest.mark.parametrize(
    ("rpm", "latency_s"), [(60, 1.0), (600, 0.05), (600, 1.0), (600, 10.0), (1_800, 1.0)]
)
async def test_request_limits_without_headers_are_learned_from_refusals(
    rpm: int, latency_s: float
) -> None:
    provider = Metered(rpm=rpm, headers=False, latency_s=about(latency_s))
    await dispatch(provider, short, seconds=180)
    assert provider.per_minute(60, 180) >= 0.95 * rpm
    assert provider.refused_share_since(60) <= 0.02


@pytest.mark.parametrize("row", [short, mixed, greedy])
async def test_token_limits_without_headers_are_learned_from_refusals(
    row: Callable[[int], Row],
) -> None:
    provider = Metered(tpm=200_000, headers=False, latency_s=about(2.0))
    await dispatch(provider, row, seconds=240)
    assert provider.tokens_per_minute(60, 240) >= 0.95 * 200_000
    assert provider.refused_share_since(60) <= 0.02


async def test_answers_that_come_in_step_do_not_become_bursts() -> None:
    provider = Metered(rpm=600, headers=False, latency_s=lambda _number: 1.0)
    await dispatch(provider, short, seconds=180)
    assert provider.per_minute(60, 180) >= 0.95 * 600
    assert provider.refused_share_since(60) <= 0.02


async def test_a_configured_rate_below_the_providers_is_kept() -> None:
    provider = Metered(rpm=6_000, latency_s=about(0.5))
    limits = LimitsConfig(requests_per_minute=600)
    await dispatch(provider, short, seconds=120, limits=limits)
    assert provider.per_minute(0, 60) <= 620
    assert provider.per_minute(60, 120) == pytest.approx(600, rel=0.02)


async def test_short_and_very_long_prompts_finish_in_the_order_of_the_table() -> None:
    provider = Metered(tpm=200_000, latency_s=about(1.0))
    await dispatch(provider, mixed, seconds=240)
    order = [key for _, key in provider.accepted]
    lag = [abs(key - place) for place, key in enumerate(order, 1)]
    assert max(lag) <= 32
    assert provider.tokens_per_minute(60, 240) >= 0.95 * 200_000


async def test_a_request_that_was_refused_goes_before_those_that_came_later() -> None:
    provider = Metered(rpm=120, headers=False, latency_s=about(1.0))
    await dispatch(provider, short, seconds=120)
    order = [key for _, key in provider.accepted]
    assert provider.refused
    assert max(abs(key - place) for place, key in enumerate(order, 1)) <= 192


async def test_a_prompt_above_the_providers_whole_budget_is_errored_and_the_others_go_on() -> None:
    provider = Metered(tpm=10_000, latency_s=about(0.5))
    _, journal = await dispatch(
        provider, lambda key: Row(20_000) if key == 3 else Row(50, 50, 20), count=40, seconds=900
    )
    found = {result.key: result for result in journal.results}
    assert [key for key, result in found.items() if result.status is Status.ERRORED] == [3]
    assert found[3].last.error_type == "over_token_limit"
    assert "10,000 per minute" in (found[3].last.error_message or "")
    assert found[3].retryable
    assert len(found) == 40


async def test_concurrency_starts_low_and_doubles_while_all_goes_well() -> None:
    provider = Metered(latency_s=about(1.0))
    await dispatch(provider, short, seconds=1.2)
    assert provider.most_at_once <= 48
    await dispatch(provider, short, seconds=8)
    assert provider.most_at_once >= 200


async def test_a_number_is_a_hard_cap() -> None:
    provider = Metered(latency_s=about(1.0))
    await dispatch(provider, short, seconds=10, concurrency=7)
    assert provider.most_at_once == 7


class Narrow(Metered):
    """A server of its own kind: it works on four requests at a time and queues the others."""

    async def send(self, wire: WireRequest) -> Exchange:
        if not hasattr(self, "slots"):
            self.slots = anyio.Semaphore(4)
        self.waiting = getattr(self, "waiting", 0) + 1
        self.most_waiting = max(getattr(self, "most_waiting", 0), self.waiting)
        async with self.slots:
            answer = await super().send(wire)
        self.waiting -= 1
        return answer


async def test_concurrency_does_not_grow_when_only_the_servers_queue_does() -> None:
    provider = Narrow(latency_s=about(1.0))
    await dispatch(provider, short, seconds=300)
    assert provider.most_waiting <= 4 * 16
    assert len(provider.answered) >= 300 * 4 * 0.9


class Moody(Metered):
    """Refuses one request in so many, at whatever rate they come."""

    one_in = 20

    async def send(self, wire: WireRequest) -> Exchange:
        if not hasattr(self, "dice"):
            self.dice = random.Random(3)
        if self.dice.randrange(self.one_in) == 0:
            now = anyio.current_time()
            self.refused.append((now, int(wire.body.split(b"|")[0])))
            fault = ProviderFault("rate_limit_error", "busy", 429, retry_after_s=0.5)
            raise ProviderError(fault)
        return await super().send(wire)


async def test_refusals_that_come_at_any_rate_do_not_slow_the_run_to_a_crawl() -> None:
    provider = Moody(latency_s=about(0.2))
    await dispatch(provider, short, count=1_000, seconds=600)
    assert len(provider.answered) == 1_000
    assert anyio.current_time() < 150


class Once(Metered):
    async def send(self, wire: WireRequest) -> Exchange:
        key = int(wire.body.split(b"|")[0])
        if key == 20 and not self.refused:
            self.refused.append((anyio.current_time(), key))
            raise ProviderError(ProviderFault("rate_limit_error", "busy", 429, retry_after_s=30.0))
        return await super().send(wire)


async def test_a_lone_refusal_holds_back_its_own_row_for_what_it_says_and_no_other() -> None:
    provider = Once(latency_s=about(1.0))
    await dispatch(provider, short, count=300, seconds=120)
    (start, _), *_ = provider.refused
    times = {key: at for at, key in provider.accepted}
    assert times.pop(20) >= start + 30
    assert max(times.values()) < start + 20


class Shut(Metered):
    async def send(self, wire: WireRequest) -> Exchange:
        if 3 <= anyio.current_time() < 33:
            self.refused.append((anyio.current_time(), int(wire.body.split(b"|")[0])))
            raise ProviderError(ProviderFault("rate_limit_error", "busy", 429, retry_after_s=30.0))
        return await super().send(wire)


async def test_when_nearly_all_are_refused_everybody_pauses_for_what_it_says() -> None:
    provider = Shut(latency_s=about(1.0))
    await dispatch(provider, short, seconds=60, concurrency=64)
    assert max(at for at, _ in provider.refused) < 5
    after = [at for at, _ in provider.accepted if at >= 33]
    assert sum(at < min(after) + 0.1 for at in after) <= 4, "a slow start, not all at once"
    assert len(after) > 200


async def test_models_have_limits_of_their_own() -> None:
    class TwoModels(Metered):
        async def send(self, wire: WireRequest) -> Exchange:
            if self.rows[int(wire.body.split(b"|")[0])].model == "busy":
                fault = ProviderFault("rate_limit_error", "busy", 429, retry_after_s=60.0)
                raise ProviderError(fault)
            return await super().send(wire)

    provider = TwoModels(latency_s=about(1.0))
    await dispatch(
        provider, lambda key: Row(model="busy" if key <= 20 else "free"), count=300, seconds=50
    )
    assert len(provider.answered) == 280
