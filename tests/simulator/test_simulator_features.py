"""The simulator's features: thinking, images, caching, versions."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import anthropic
import pytest

from batchrun.simulator import SimulatorConfig
from tests.support.simulated import (
    BOTH,
    CHAT,
    CHAT_TOOLS,
    MESSAGES,
    MODEL,
    TOOLS,
    Clock,
    body,
    serving,
    text_of,
)

if TYPE_CHECKING:
    import httpx

    from tests.support.simulated import Peer

pytestmark = pytest.mark.anyio

THINKER = f"{MODEL}-thinking"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n not quite").decode()


# --- Thinking


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


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("thinking.budget_tokens", {"thinking": {"type": "enabled"}}),
        ("thinking.budget_tokens", {"thinking": {"type": "enabled", "budget_tokens": 0}}),
        ("max_tokens", {"thinking": {"type": "enabled", "budget_tokens": 100}}),
        ("thinking.type", {"thinking": {"type": "hard"}}),
        (
            "temperature",
            {"thinking": {"type": "enabled", "budget_tokens": 50}, "temperature": 0.5},
        ),
        ("top_k", {"thinking": {"type": "enabled", "budget_tokens": 50}, "top_k": 5}),
        (
            "thinking",
            {
                "thinking": {"type": "enabled", "budget_tokens": 50},
                "tools": TOOLS,
                "tool_choice": {"type": "any"},
            },
        ),
        ("tool_choice", {"tool_choice": {"type": "any"}}),
        ("tool_choice", {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "x"}}),
        ("tools.0.input_schema", {"tools": [{"name": "a"}]}),
        ("tools.0.name", {"tools": [{"name": "a b", "input_schema": {"type": "object"}}]}),
        ("tools.0.input_schema.type", {"tools": [{"name": "a", "input_schema": {}}]}),
        ("output_config.format.schema", {"output_config": {"format": {"type": "json_schema"}}}),
        ("mcp_servers", {"mcp_servers": [{}]}),
    ],
)
async def test_what_the_messages_format_refuses(param: str, fields: dict[str, Any]) -> None:
    async with serving() as peer:
        answer = await peer.post(MESSAGES, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(f"{param}: ")


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("tool_choice", {"tool_choice": "required"}),
        ("tool_choice", {"tools": CHAT_TOOLS, "tool_choice": "any"}),
        ("tools[0].type", {"tools": TOOLS}),
        ("response_format.type", {"response_format": {"type": "xml"}}),
        ("response_format.json_schema", {"response_format": {"type": "json_schema"}}),
        (
            "response_format.json_schema.schema.type",
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "strin"}},
                }
            },
        ),
        ("messages[0].tool_call_id", {"messages": [{"role": "tool", "content": "1"}]}),
        ("logprobs", {"logprobs": "yes"}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
        ("top_logprobs", {"top_logprobs": 1}),
        ("functions", {"functions": [{}]}),
    ],
)
async def test_what_the_chat_format_refuses(param: str, fields: dict[str, Any]) -> None:
    async with serving() as peer:
        answer = await peer.post(CHAT, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


# --- Images


def images(path: str, *sources: Any) -> list[dict[str, Any]]:
    """Return a message that shows images: for chat URLs, else `source` objects."""
    blocks: list[dict[str, Any]] = [{"type": "text", "text": "What is on these invoices?"}]
    for source in sources:
        if path == CHAT:
            blocks.append({"type": "image_url", "image_url": {"url": source}})
        else:
            blocks.append({"type": "image", "source": source})
    return [{"role": "user", "content": blocks}]


def base64_source(data: str, media_type: str = "image/png") -> dict[str, str]:
    return {"type": "base64", "media_type": media_type, "data": data}


@pytest.mark.parametrize(
    ("path", "sources"),
    [
        (MESSAGES, [base64_source(PNG), {"type": "url", "url": "https://example.com/a.png"}]),
        (CHAT, [f"data:image/webp;base64,{PNG}", "http://example.com/a.jpg"]),
    ],
)
async def test_images_are_counted(path: str, sources: list[Any]) -> None:
    async with serving() as peer:
        both = await peer.post(path, messages=images(path, *sources))
        one = await peer.post(path, messages=images(path, sources[0]))
        none = await peer.post(path, messages=images(path))
    assert "I was shown 2 images." in text_of(both)
    assert "I was shown 1 image." in text_of(one)
    assert "shown" not in text_of(none)
    field = "input_tokens" if path == MESSAGES else "prompt_tokens"
    tokens = [answer.json()["usage"][field] for answer in (both, one, none)]
    assert tokens[0] - tokens[1] == tokens[1] - tokens[2] == 1500


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (MESSAGES, base64_source(PNG, "image/tiff")),
        (MESSAGES, base64_source("not base64!")),
        (MESSAGES, base64_source(PNG[:-3])),
        (MESSAGES, base64_source(f"{PNG}!!")),
        (MESSAGES, base64_source("")),
        (MESSAGES, {"type": "url", "url": "file:///etc/passwd"}),
        (MESSAGES, {"type": "path", "path": "a.png"}),
        (MESSAGES, None),
        (CHAT, f"data:image/tiff;base64,{PNG}"),
        (CHAT, "data:image/png;base64,%%%"),
        (CHAT, f"data:image/png,{PNG}"),
        (CHAT, "a.png"),
        (CHAT, None),
    ],
)
async def test_images_that_cannot_be_shown_are_refused(path: str, source: object) -> None:
    async with serving() as peer:
        answer = await peer.post(path, messages=images(path, source))
    assert answer.status_code == 400
    assert "content" in answer.text


async def test_each_format_knows_its_own_image_blocks_only() -> None:
    async with serving() as peer:
        chat = await peer.post(CHAT, messages=images(MESSAGES, base64_source(PNG)))
        message = await peer.post(MESSAGES, messages=images(CHAT, "https://example.com/a.png"))
    assert (chat.status_code, message.status_code) == (400, 400)


# --- Caching, tiers and versions


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


@pytest.mark.parametrize("mark", [{"type": "forever"}, {"type": "ephemeral", "ttl": "1d"}, "yes"])
async def test_marks_are_checked(mark: object) -> None:
    block = {"type": "text", "text": "Hello", "cache_control": mark}
    many = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}] * 5
    async with serving() as peer:
        for content in ([block], many):
            messages = [{"role": "user", "content": content}]
            answer = await peer.post(MESSAGES, messages=messages)
            assert answer.status_code == 400
            assert "cache_control" in answer.json()["error"]["message"]


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


async def test_the_cache_spares_the_limits() -> None:
    config = SimulatorConfig(tokens_per_minute=10_000)
    system = marked("Be brief. " * 1000)
    async with serving(config, Clock()) as peer:
        first = await peer.post(MESSAGES, system=system)
        second = await peer.post(MESSAGES, system=system)
    left = [int(a.headers["anthropic-ratelimit-tokens-remaining"]) for a in (first, second)]
    assert left[0] < 7500
    assert left[0] - left[1] < 200


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k"])
async def test_the_newest_version_takes_no_sampling(name: str) -> None:
    value = 5 if name == "top_k" else 0.5
    async with serving() as peer:
        for version, status in [("2023-06-01", 200), ("2026-10-21", 400)]:
            headers = {"anthropic-version": version}
            asked = body() | {name: value}
            answer = await peer.http.post(MESSAGES, json=asked, headers=headers)
            assert answer.status_code == status
            if status == 400:
                assert answer.json()["error"]["message"].startswith(f"{name}: ")
            plain = await peer.http.post(MESSAGES, json=body(), headers=headers)
            assert plain.status_code == 200


@pytest.mark.parametrize(
    ("asked", "told"), [(None, "standard"), ("auto", "standard"), ("priority", "priority")]
)
async def test_the_service_tier_is_told(asked: str | None, told: str) -> None:
    async with serving() as peer:
        message = (await peer.post(MESSAGES, service_tier=asked)).json()
        chat = (await peer.post(CHAT, service_tier=asked)).json()
    assert message["usage"]["service_tier"] == told
    assert chat["service_tier"] == ("default" if told == "standard" else told)


# --- Evaluations


@BOTH
async def test_a_result_is_guessed_where_the_prompt_says_how_to_give_it(path: str) -> None:
    guesses = {}
    async with serving() as peer:
        for number in range(2, 40):
            asked = f"What are {number} and 3 together? End with #### and the result."
            reply = text_of(await peer.post(path, asked))
            guesses[number] = float(reply.rpartition("\n#### ")[2])
        plain = text_of(await peer.post(path, "What are 4 and 3 together?"))
    right = sum(guess == number + 3 for number, guess in guesses.items())
    assert 0 < right < len(guesses)
    assert "####" not in plain


@BOTH
async def test_only_with_a_temperature_do_answers_differ(path: str) -> None:
    async with serving() as peer, serving() as other:
        for temperature in (None, 0, 0.7):
            asked = [await peer.post(path, temperature=temperature) for _ in range(8)]
            again = [await other.post(path, temperature=temperature) for _ in range(8)]
            texts = [text_of(reply) for reply in asked]
            assert [text_of(reply) for reply in again] == texts
            assert (len(set(texts)) > 1) is bool(temperature)
