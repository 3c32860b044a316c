"""The simulator's streams: the same answers in pieces, read by the vendors' clients; and broken ones."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import anthropic
import anyio
import httpx
import httpx2
import openai
import pytest

from batchrun.simulator import SimulatorConfig
from batchrun.simulator.draws import RandomDraws
from batchrun.simulator.service import break_off, spread
from tests.support.simulated import BOTH, CHAT, MESSAGES, MODEL, Clock, body, raw_request, serving

if TYPE_CHECKING:
    from tests.support.simulated import Peer

pytestmark = pytest.mark.anyio

PROMPT = "Why was my invoice charged twice? Déjà vu: 請求書 again."
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
TOOL = {"name": "get_weather", "input_schema": WEATHER}


def events_of(content: bytes) -> list[dict[str, Any]]:
    """Return the JSON data of each event, but for the `[DONE]` of the chat format."""
    lines = [line for line in content.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


async def read_stream(peer: Peer, path: str, **fields: Any) -> tuple[bytes, str | None]:
    """Return what a stream said, and how the connection failed if it did."""
    received = b""
    try:
        async with peer.http.stream("POST", path, json=body(stream=True, **fields)) as answer:
            assert answer.status_code == 200
            async for chunk in answer.aiter_raw():
                received += chunk
    except httpx.RemoteProtocolError as error:
        return received, str(error)
    return received, None


# --- Whole and in pieces


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 7},
        {"stop_sequences": ["'"]},
        {"system": "One of these labels: billing, bug."},
        {"thinking": {"type": "enabled", "budget_tokens": 60}},
        {"tools": [TOOL], "tool_choice": {"type": "any"}},
        {"service_tier": "priority"},
        {"output_config": {"format": {"type": "json_schema", "schema": WEATHER}}},
    ],
)
async def test_the_anthropic_client_puts_a_stream_together(fields: dict[str, Any]) -> None:
    async with (
        serving() as peer,
        anthropic.AsyncAnthropic(base_url=peer.url, api_key="any", max_retries=0) as client,
    ):
        for number in range(12):
            asked = body(f"{PROMPT} {number}", **fields)
            whole = await client.messages.create(**asked)
            async with client.messages.stream(**asked) as stream:
                kinds = [event.type async for event in stream]
                streamed = await stream.get_final_message()
            assert kinds[0] == "message_start"
            assert kinds[-1] == "message_stop"
            ours: dict[str, Any] = whole.to_dict()
            theirs: dict[str, Any] = streamed.to_dict()
            for told in (ours, theirs):
                del told["id"]
                told.pop("stop_details", None)  # set by the client
                for block in told["content"]:
                    block.pop("parsed_output", None)
            assert theirs == ours


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 3},
        {"max_tokens": 7, "n": 2},
        {"model": f"{MODEL}-thinking"},
        {"tools": [CHAT_TOOL], "tool_choice": "required", "n": 2},
        {"response_format": {"type": "json_object"}},
    ],
)
async def test_the_openai_client_puts_a_stream_together(fields: dict[str, Any]) -> None:
    async with (
        serving() as peer,
        openai.AsyncOpenAI(base_url=f"{peer.url}/v1", api_key="any", max_retries=0) as client,
    ):
        for number in range(12):
            asked = body(f"{PROMPT} {number}", **fields)
            whole = (await client.chat.completions.create(**asked)).to_dict()
            streamed = asked | {"stream": True, "stream_options": {"include_usage": True}}
            stream = await client.chat.completions.create(**streamed)
            chunks = [chunk.to_dict() async for chunk in stream]
            assert gather(chunks) == {name: whole[name] for name in ("choices", "usage")}


def gather(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """Put chunks together as the vendor's documents say."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks[:-1]:
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["usage"] is None
        (choice,) = chunk["choices"]
        delta = choice["delta"]
        whole = choices.setdefault(choice["index"], {"index": choice["index"], "message": {}})
        message = whole["message"]
        if not message:
            assert delta["role"] == "assistant"
        for call in delta.pop("tool_calls", []):
            calls = message.setdefault("tool_calls", [])
            if call["index"] == len(calls):
                calls.append({name: call[name] for name in ("id", "type", "function")})
            else:
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        for name, value in delta.items():
            message[name] = message.get(name, "") + value if value is not None else None
        if choice["finish_reason"]:
            whole["finish_reason"] = choice["finish_reason"]
    assert chunks[-1]["choices"] == []
    return {"choices": [choices[place] for place in sorted(choices)], "usage": chunks[-1]["usage"]}


async def test_the_events_of_a_message_have_their_shapes() -> None:
    thinking = {"type": "enabled", "budget_tokens": 50}
    async with serving() as peer:
        content, _ = await read_stream(peer, MESSAGES, thinking=thinking, max_tokens=400)
        answer = await peer.post(MESSAGES, thinking=thinking, stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["transfer-encoding"] == "chunked"
    events = events_of(content)
    lines = content.decode().split("\n\n")
    assert all(line.startswith("event: ") and "\ndata: " in line for line in lines[:-1])
    assert [line.split("\n")[0][7:] for line in lines[:-1]] == [event["type"] for event in events]
    assert [event["type"] for event in events[:3]] == [
        "message_start",
        "ping",
        "content_block_start",
    ]
    started = events[0]["message"]
    assert (started["content"], started["stop_reason"]) == ([], None)
    assert started["usage"]["input_tokens"] == 5
    ended = events[-2]
    assert ended["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    details = ended["usage"]["output_tokens_details"]
    assert 0 < details["thinking_tokens"] < ended["usage"]["output_tokens"]
    deltas = Counter(e["delta"]["type"] for e in events if e["type"] == "content_block_delta")
    assert set(deltas) == {"thinking_delta", "signature_delta", "text_delta"}
    assert deltas["signature_delta"] == 1


async def test_a_chat_stream_tells_its_usage_only_when_asked() -> None:
    async with serving() as peer:
        content, _ = await read_stream(peer, CHAT)
        refused = await peer.post(CHAT, stream_options={"include_usage": True})
    events = events_of(content)
    assert content.endswith(b"data: [DONE]\n\n")
    assert all(event["choices"] and event["usage"] is None for event in events)
    assert events[0]["choices"][0] == {
        "delta": {"content": "", "role": "assistant"},
        "logprobs": None,
        "finish_reason": None,
        "index": 0,
    }
    assert events[-1]["choices"][0]["delta"] == {}
    assert refused.json()["error"]["param"] == "stream_options"


async def test_choices_interleave() -> None:
    async with serving() as peer:
        content, _ = await read_stream(peer, CHAT, n=3)
    order = [event["choices"][0]["index"] for event in events_of(content)]
    assert set(order) == {0, 1, 2}
    assert order != sorted(order)


def test_pieces_vary_and_split_words() -> None:
    text = "Whoever wrote this cares about invoices and refunds. " * 20
    pieces = list(RandomDraws(1).pieces(text))
    assert "".join(pieces) == text
    assert pieces == list(RandomDraws(1).pieces(text))
    assert len(set(map(len, pieces))) > 10
    assert any(piece[-1].isalpha() and after[0].isalpha() for piece, after in pairs(pieces))
    assert list(RandomDraws(1).pieces("")) == []


def pairs(pieces: list[str]) -> list[tuple[str, str]]:
    return list(itertools.pairwise(pieces))


def test_bursts_end_anywhere_and_take_the_latency() -> None:
    events = [f"data: {number} 請求書\n\n".encode() for number in range(200)]
    bursts = spread(events, 2.0, RandomDraws(3))
    assert b"".join(burst.data for burst in bursts) == b"".join(events)
    assert sum(burst.wait_s for burst in bursts) == pytest.approx(2.0, rel=0.2)
    assert len(bursts) > 5
    assert not all(burst.data.endswith(b"\n\n") for burst in bursts)


async def test_latency_is_spread_over_a_stream() -> None:
    async with serving(SimulatorConfig(latency_ms=400)) as peer:
        arrivals: list[float] = []
        started = time.perf_counter()
        async with peer.http.stream("POST", MESSAGES, json=body(stream=True)) as answer:
            head = time.perf_counter() - started
            async for _ in answer.aiter_raw():
                arrivals.append(time.perf_counter() - started)
    assert arrivals[-1] >= 0.18
    assert head < arrivals[0] < arrivals[-1]
    assert len(arrivals) > 2


async def test_a_stream_stays_in_hand_and_reserves_its_tokens_until_it_ends() -> None:
    config = SimulatorConfig(latency_ms=1_000, tokens_per_minute=1000)
    async with serving(config, Clock()) as peer:
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(read_stream_of, peer, f"Prompt {number}")
        during = await peer.post(MESSAGES, "Last", stream=True)
        after = await peer.post(MESSAGES, model=None)
        used = 1000 - int(after.headers["anthropic-ratelimit-tokens-remaining"])
    assert peer.simulator.usage.max_in_flight == 4
    remaining = int(during.headers["anthropic-ratelimit-tokens-remaining"])
    assert 1000 - remaining > used
    assert used < 5 * 100


async def read_stream_of(peer: Peer, prompt: str) -> None:
    await peer.post(MESSAGES, prompt, stream=True)


async def test_a_client_that_leaves_a_stream_is_billed_and_let_go() -> None:
    config = SimulatorConfig(latency_ms=300, tokens_per_minute=1000)
    async with serving(config, Clock()) as peer:
        async with await peer.connect() as stream:
            await stream.send(raw_request(json.dumps(body(stream=True)).encode()))
            await stream.receive()
        with anyio.fail_after(60):
            # Its 100 are reserved until it is missed.
            while await tokens_left(peer) <= 900:  # noqa: ASYNC110 - only an answer tells
                await anyio.sleep(0.02)
    assert peer.simulator.usage.billed == 1


async def tokens_left(peer: Peer) -> int:
    refused = await peer.post(MESSAGES, model=None)
    return int(refused.headers["anthropic-ratelimit-tokens-remaining"])


@BOTH
async def test_a_connection_goes_on_after_a_stream(path: str) -> None:
    async with serving() as peer, await peer.connect() as stream:
        content = json.dumps(body(stream=True)).encode()
        for _ in range(2):
            await stream.send(raw_request(content, path=path))
            received = b""
            while not received.endswith(b"\r\n0\r\n\r\n"):
                received += await stream.receive()
            assert received.startswith(b"HTTP/1.1 200 OK\r\n")


# --- Streams that break off


@BOTH
async def test_streams_break_off_in_all_ways_and_are_billed(path: str) -> None:
    ends: Counter[str] = Counter()
    marker = b"message_stop" if path == MESSAGES else b"[DONE]"
    async with serving(SimulatorConfig(stream_error_rate=1.0)) as peer:
        for number in range(60):
            messages = [{"role": "user", "content": f"Prompt {number} about invoices"}]
            content, failure = await read_stream(peer, path, messages=messages)
            assert marker not in content
            assert b"delta" in content
            events = events_of(content)
            failed = "error" in events[-1]
            ends["error" if failed else "torn" if failure else "quiet"] += 1
            if failed and path == MESSAGES:
                assert events[-1]["type"] == "error"
                assert events[-1]["error"]["type"] in {"api_error", "overloaded_error"}
            elif failed:
                assert events[-1]["error"]["type"] == "server_error"
        assert (await peer.post(path)).status_code == 200
    assert 18 < ends["error"] < 42
    assert ends["torn"] > 5
    assert ends["quiet"] > 5
    assert peer.simulator.usage.billed == 61
    assert peer.simulator.usage.statuses == {200: 61}


async def test_broken_streams_follow_from_seed_body_and_try() -> None:
    async def endings() -> list[list[bool]]:
        async with serving(SimulatorConfig(stream_error_rate=0.3, seed=2)) as peer:
            found = []
            for number in range(40):
                messages = [{"role": "user", "content": f"Prompt {number}"}]
                tries = [await read_stream(peer, MESSAGES, messages=messages) for _ in range(3)]
                found.append([b"message_stop" in content for content, _ in tries])
            return found

    first = await endings()
    assert await endings() == first
    whole = [ended for tries in first for ended in tries]
    assert 0.55 < sum(whole) / len(whole) < 0.85
    assert any(not tries[0] and tries[1] for tries in first)


async def test_the_vendors_clients_tell_of_an_error_midway() -> None:
    async with (
        serving(SimulatorConfig(stream_error_rate=1.0)) as peer,
        anthropic.AsyncAnthropic(base_url=peer.url, api_key="any", max_retries=0) as claude,
        openai.AsyncOpenAI(base_url=f"{peer.url}/v1", api_key="any", max_retries=0) as gpt,
    ):
        raised: Counter[str] = Counter()
        for number in range(12):
            asked = body(f"Prompt {number}")
            try:
                async for _ in await claude.messages.create(**asked, stream=True):
                    pass
            except anthropic.APIStatusError:
                raised["claude"] += 1
            except httpx2.RemoteProtocolError:
                pass
            try:
                async for _ in await gpt.chat.completions.create(**asked, stream=True):
                    pass
            except openai.APIConnectionError:
                pass
            except openai.APIError:
                raised["gpt"] += 1
    assert raised["claude"] > 1
    assert raised["gpt"] > 1


def test_breaking_off_never_leaves_the_end_marker() -> None:
    events = [b"%d" % number for number in range(12)]
    for number in range(300):
        begun, torn = break_off(events, b"error", RandomDraws(number))
        assert begun[-1] == b"error" or begun == events[: len(begun)]
        assert b"11" not in begun
        assert len(begun) >= 4
        assert not (torn and begun[-1] == b"error")
    assert break_off([b"only", b"end"], b"e", RandomDraws(1))[0][0] == b"only"
