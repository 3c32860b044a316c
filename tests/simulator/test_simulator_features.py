"""The simulator's thinking, prompt caching and service tiers."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import anthropic
import pytest

from batchrun.simulator import SimulatorConfig
from tests.support.simulated import (
    CHAT,
    MESSAGES,
    MODEL,
    Clock,
    Peer,
    serving,
)

if TYPE_CHECKING:
    import httpx

pytestmark = pytest.mark.anyio

THINKER = f"{MODEL}-thinking"


async def test_thoughts_come_before_the_text() -> None:
    async with (
        serving() as peer,
        anthropic.AsyncAnthropic(base_url=peer.url, api_key="any", max_retries=0) as client,
    ):
        for number, budget in enumerate([300, 300, 300, 8, 1]):
            message = await client.messages.create(
                model=MODEL,
                max_tokens=1000,
                thinking={"type": "enabled", "budget_tokens": budget},
                messages=[{"role": "user", "content": f"Invoice {number} was charged twice"}],
            )
            first, last = message.content
            assert first.type == "thinking"
            assert "(simulated) ".startswith(first.thinking[:12])
            assert len(base64.b64decode(first.signature)) == 64
            assert last.type == "text"
            assert message.usage.output_tokens_details
            assert 0 < message.usage.output_tokens_details.thinking_tokens <= budget


async def test_a_thinking_model_thinks_in_both_formats() -> None:
    async with serving() as peer:
        message = (await peer.post(MESSAGES, model=THINKER)).json()
        short = (await peer.post(MESSAGES, model=THINKER, max_tokens=8)).json()
        chat = (await peer.post(CHAT, model=THINKER, n=2)).json()
        plain = (await peer.post(CHAT)).json()
        unasked = (await peer.post(MESSAGES, thinking={"type": "disabled"})).json()
    assert short["usage"]["output_tokens"] == 8
    assert short["usage"]["output_tokens_details"] == {"thinking_tokens": 4}
    assert [block["type"] for block in short["content"]] == ["thinking", "text"]
    assert message["content"][0]["type"] == "thinking"
    for choice in chat["choices"]:
        assert choice["message"]["reasoning_content"].startswith("(simulated) ")
        assert choice["message"]["content"]
    usage = chat["usage"]
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < reasoning < usage["completion_tokens"] <= 200
    assert "reasoning_content" not in plain["choices"][0]["message"]
    assert [block["type"] for block in unasked["content"]] == ["text"]


def cached_usage(answer: httpx.Response) -> tuple[int, int, int, int]:
    """Return the tokens that were uncached, read, and written for 5 minutes and for an hour."""
    usage = answer.json()["usage"]
    written = usage["cache_creation"]
    five, hour = written["ephemeral_5m_input_tokens"], written["ephemeral_1h_input_tokens"]
    assert usage["cache_creation_input_tokens"] == five + hour
    return usage["input_tokens"], usage["cache_read_input_tokens"], five, hour


def marked(text: str, **more: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"} | more}]


async def test_marked_prefixes_are_written_once_and_read_afterwards() -> None:
    clock = Clock()
    system = marked("Be brief. " * 100)
    async with serving(clock=clock) as peer:

        async def ask(prompt: str, **fields: Any) -> tuple[int, int, int, int]:
            return cached_usage(await peer.post(MESSAGES, prompt, **fields))

        assert await ask("One", system=system) == (4, 0, 253, 0)
        assert await ask("Two", system=system) == (4, 253, 0, 0)
        clock.now += 301
        assert await ask("Two", system=system) == (4, 0, 253, 0)
        assert await ask("One", system=marked("Be brief. " * 100, ttl="1h")) == (4, 253, 0, 0)
        assert await ask("One", system=marked("Be kind. " * 100, ttl="1h")) == (4, 0, 0, 228)
        assert await ask("One", system=marked("Be brief.")) == (10, 0, 0, 0)
        longer = [{"role": "user", "content": marked("Apples " * 100)}]
        assert await ask("", system=system, messages=longer) == (0, 253, 178, 0)
        assert await ask("", system=system, messages=longer) == (0, 431, 0, 0)
        assert await ask("", system=system, messages=longer, model="other") == (0, 0, 431, 0)
        hourly = [{"role": "user", "content": marked("Pears " * 100, ttl="1h")}]
        assert await ask("", system=system, messages=hourly) == (0, 253, 0, 153)
        assert await ask("", system=system, messages=hourly) == (0, 406, 0, 0)
        streamed = await peer.post(MESSAGES, "Two", system=system, stream=True)
    assert '"cache_read_input_tokens":253' in streamed.text


async def test_gateways_tell_of_the_cache_in_the_chat_format() -> None:
    async def ask(peer: Peer, prompt: str, content: object) -> tuple[int, int, int, int]:
        turns = [{"role": "system", "content": content}, {"role": "user", "content": prompt}]
        usage = (await peer.post(CHAT, messages=turns)).json()["usage"]
        return (
            usage["prompt_tokens"],
            usage["prompt_tokens_details"]["cached_tokens"],
            usage["claude_cache_creation_5_m_tokens"],
            usage["claude_cache_creation_1_h_tokens"],
        )

    long = "".join(f"Rule {number}: be brief. " for number in range(400))
    async with serving() as peer:
        assert await ask(peer, "One", marked("Be brief. " * 100)) == (257, 0, 253, 0)
        assert await ask(peer, "Two", marked("Be brief. " * 100)) == (257, 253, 0, 0)
        assert (await ask(peer, "Two", marked("Be nice. " * 100, ttl="1h")))[2:] == (0, 228)
        total, cached, *written = await ask(peer, "One", long)
        assert (cached, written) == (0, [0, 0])
        total, cached, *written = await ask(peer, "Two", long)
        assert 1024 <= cached <= total
        assert cached % 1024 == 0
        assert written == [0, 0]
        assert (await ask(peer, "One", "Be brief."))[1] == 0


@pytest.mark.parametrize(
    ("asked", "told"), [(None, "standard"), ("auto", "standard"), ("priority", "priority")]
)
async def test_the_service_tier_is_told(asked: str | None, told: str) -> None:
    async with serving() as peer:
        message = (await peer.post(MESSAGES, service_tier=asked)).json()
        chat = (await peer.post(CHAT, service_tier=asked)).json()
    assert message["usage"]["service_tier"] == told
    assert chat["service_tier"] == ("default" if told == "standard" else told)


async def test_the_cache_spares_the_limits() -> None:
    config = SimulatorConfig(tokens_per_minute=10_000)
    system = marked("Be brief. " * 1000)
    async with serving(config, Clock()) as peer:
        first = await peer.post(MESSAGES, system=system)
        second = await peer.post(MESSAGES, system=system)
    left = [int(a.headers["anthropic-ratelimit-tokens-remaining"]) for a in (first, second)]
    assert left[0] < 7500
    assert left[0] - left[1] < 200
