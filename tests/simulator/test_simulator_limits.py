"""The simulator's limits, latency, failures and counts."""

from __future__ import annotations

import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from batchrun.simulator import SimulatorConfig
from batchrun.simulator.accounting import BodyCounts
from batchrun.simulator.provider import draw_outcome
from tests.support.simulated import (
    BOTH,
    CHAT,
    MESSAGES,
    Clock,
    serving,
)

if TYPE_CHECKING:
    import httpx

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "fields",
    [
        {"requests_per_minute": 0},
        {"latency_ms": -1},
        {"error_rate": -0.1},
        {"error_rate": 0.6, "rate_limit_rate": 0.6},
        {"stream_error_rate": 1.1},
        {"invalid_json_rate": -0.1},
    ],
)
def test_impossible_configurations_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="|".join(fields)):
        SimulatorConfig(**fields)


async def test_latency_varies_around_its_mean() -> None:
    config = SimulatorConfig(latency_ms=60)
    drawn = [draw_outcome(config, number).latency_s for number in range(400)]
    assert 0.030 <= min(drawn) < 0.032
    assert 0.088 < max(drawn) <= 0.090
    assert 0.057 < sum(drawn) / len(drawn) < 0.063
    async with serving(config) as peer:
        started = time.perf_counter()
        await peer.post(MESSAGES)
    assert time.perf_counter() - started >= 0.030


async def test_failures_follow_from_seed_body_and_try() -> None:
    prompts = [f"Prompt {number}" for number in range(50)]

    async def failures(asked: list[str]) -> dict[str, list[int]]:
        config = SimulatorConfig(error_rate=0.3, rate_limit_rate=0.2, seed=4)
        async with serving(config) as peer:
            return {
                prompt: [(await peer.post(MESSAGES, prompt)).status_code for _ in range(3)]
                for prompt in asked
            }

    tries = await failures(prompts)
    assert await failures(prompts[::-1]) == tries
    statuses = [status for row in tries.values() for status in row]
    assert 0.4 < sum(status != 200 for status in statuses) / len(statuses) < 0.6
    assert any(row[0] != 200 and row[1] == 200 for row in tries.values())
    assert set(statuses) == {200, 429, 500, 529}


@BOTH
async def test_injected_failures_are_not_billed(path: str) -> None:
    async with serving(SimulatorConfig(error_rate=1.0)) as peer:
        answers = [await peer.post(path, f"Prompt {number}") for number in range(30)]
    expected = {500, 529} if path == MESSAGES else {500, 503}
    assert {answer.status_code for answer in answers} == expected
    assert peer.simulator.usage.billed == 0
    if path == MESSAGES:
        types = {(answer.status_code, answer.json()["error"]["type"]) for answer in answers}
        assert types == {(500, "api_error"), (529, "overloaded_error")}


@BOTH
async def test_injected_rate_limits_tell_when_to_try_again(path: str) -> None:
    async with serving(SimulatorConfig(rate_limit_rate=1.0)) as peer:
        answer = await peer.post(path)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert peer.simulator.usage.billed == 0
    if path == CHAT:
        assert 50 <= int(answer.headers["retry-after-ms"]) <= 1000
    else:
        assert "retry-after-ms" not in answer.headers


async def test_the_flex_tier_has_no_capacity_at_times() -> None:
    async with serving(SimulatorConfig(rate_limit_rate=1.0)) as peer:
        answer = await peer.post(CHAT, service_tier="flex")
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "resource_unavailable"
    assert "retry-after" not in answer.headers


async def test_requests_are_limited_as_the_messages_format_tells() -> None:
    clock = Clock()
    async with serving(SimulatorConfig(requests_per_minute=2), clock) as peer:
        answers = [await peer.post(MESSAGES, f"Prompt {number}") for number in range(3)]
        clock.now += 29.9
        early = await peer.post(MESSAGES)
        clock.now += 0.1
        again = await peer.post(MESSAGES)
        clock.now += 3600
        rested = await peer.post(MESSAGES)
    assert [answer.status_code for answer in (*answers, early, again)] == [200, 200, 429, 429, 200]
    assert rested.headers["anthropic-ratelimit-requests-remaining"] == "1"
    prefix = "anthropic-ratelimit-requests"
    told = [
        [answer.headers[f"{prefix}-{what}"] for what in ("limit", "remaining", "reset")]
        for answer in answers
    ]
    assert told == [
        ["2", "1", "2026-01-01T12:00:31Z"],
        ["2", "0", "2026-01-01T12:01:01Z"],
        ["2", "0", "2026-01-01T12:01:01Z"],
    ]
    assert answers[2].headers["retry-after"] == "30"
    error = answers[2].json()
    assert error["error"]["type"] == "rate_limit_error"
    assert error["request_id"] == answers[2].headers["request-id"]
    assert "anthropic-ratelimit-tokens-limit" not in answers[0].headers


@BOTH
async def test_limits_may_be_kept_from_the_client(path: str) -> None:
    config = SimulatorConfig(requests_per_minute=1, limit_headers=False)
    async with serving(config, Clock()) as peer:
        answers = [await peer.post(path, f"Prompt {number}") for number in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert not [name for answer in answers for name in answer.headers if "ratelimit" in name]
    assert answers[1].headers["retry-after"] == "60"


async def test_tokens_are_reserved_and_then_corrected() -> None:
    clock = Clock()
    config = SimulatorConfig(tokens_per_minute=300, latency_ms=1_000)
    async with serving(config, clock) as peer:
        answers: list[httpx.Response] = []

        async def ask(prompt: str) -> None:
            answers.append(await peer.post(CHAT, prompt, max_tokens=200))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "One")
            tasks.start_soon(ask, "Two")
        refused, answered = answers
        clock.now += 60
        later = await peer.post(CHAT, "Two", max_tokens=100)
    assert (refused.status_code, answered.status_code, later.status_code) == (429, 200, 200)
    assert refused.json()["error"] | {"message": ""} == {
        "message": "",
        "type": "tokens",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    # 4 + 200 are reserved, 96 left, 108 short: 21.6 seconds at 5 tokens a second.
    assert refused.headers["x-ratelimit-remaining-tokens"] == "96"
    assert refused.headers["x-ratelimit-reset-tokens"] == "40.8s"
    assert refused.headers["retry-after"] == "22"
    assert refused.headers["retry-after-ms"] == "21600"
    used = answered.json()["usage"]["total_tokens"]
    assert answered.headers["x-ratelimit-limit-tokens"] == "300"
    assert answered.headers["x-ratelimit-remaining-tokens"] == str(300 - used)
    assert "x-ratelimit-limit-requests" not in answered.headers


async def test_token_limits_stand_in_all_headers_of_the_messages_format() -> None:
    async with serving(SimulatorConfig(tokens_per_minute=300), Clock()) as peer:
        answer = await peer.post(MESSAGES)
        too_big = await peer.post(MESSAGES, max_tokens=1000)
    usage = answer.json()["usage"]
    left = str(300 - usage["input_tokens"] - usage["output_tokens"])
    for kind in ("tokens", "input-tokens", "output-tokens"):
        assert answer.headers[f"anthropic-ratelimit-{kind}-remaining"] == left
    assert too_big.status_code == 429
    assert peer.simulator.usage.billed == 1


@pytest.mark.parametrize(
    ("per_minute", "reset"), [(1_000_000, "1ms"), (120, "500ms"), (40, "1.5s"), (1, "1m0s")]
)
async def test_chat_resets_are_durations(per_minute: int, reset: str) -> None:
    async with serving(SimulatorConfig(requests_per_minute=per_minute), Clock()) as peer:
        answer = await peer.post(CHAT)
    assert answer.headers["x-ratelimit-reset-requests"] == reset


async def test_a_failure_gives_its_tokens_back() -> None:
    config = SimulatorConfig(tokens_per_minute=300, error_rate=1.0)
    async with serving(config, Clock()) as peer:
        answer = await peer.post(CHAT)
    assert answer.headers["x-ratelimit-remaining-tokens"] == "300"


async def test_the_usage_shows_what_was_billed_twice() -> None:
    async with serving(SimulatorConfig(latency_ms=1_000)) as peer:
        async with anyio.create_task_group() as tasks:
            for prompt in ("a", "b", "b", "c", "c", "c"):
                tasks.start_soon(peer.post, MESSAGES, prompt)
        await peer.post(MESSAGES, model=None)
        sent = (await peer.http.get("/usage")).json()
        usage = peer.simulator.usage
    assert sent == {
        "requests": 7,
        "billed": 6,
        "billed_more_than_once": 2,
        "extra_bills": 3,
        "statuses": {"200": 6, "400": 1},
        "max_in_flight": 6,
        "batches": 0,
        "billed_in_batches": 0,
        "batch_tokens": [0, 0],
    }
    assert (usage.requests, usage.extra_bills, usage.statuses) == (7, 3, {200: 6, 400: 1})


async def test_of_millions_of_requests_the_simulator_remembers_the_latest() -> None:
    counts, most = BodyCounts(), 1_000_000
    tracemalloc.start()
    try:
        for number in range(most):
            counts.add(number.to_bytes(12))
        for number in (0, most - 1, most - 1):  # the first one is forgotten
            counts.add(number.to_bytes(12))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (counts.total, counts.of(b"new"), counts.of((most - 1).to_bytes(12))) == (most + 3, 0, 3)
    assert (counts.bodies, counts.repeated) == (most + 1, 1)
    assert held < 70e6
