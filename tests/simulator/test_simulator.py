"""The simulator: over real sockets on loopback, and by the vendors' own clients."""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

import anthropic
import anyio
import openai
import pytest
from anyio.abc import SocketAttribute
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.simulator import SimulatorConfig, http_server
from batchrun.simulator.calls import RefusedError, count_tokens
from batchrun.simulator.chat_api import SimulatedChat
from batchrun.simulator.composition import compose
from batchrun.simulator.http_server import Router
from batchrun.simulator.labels import find_labels
from batchrun.simulator.messages_api import SimulatedMessages
from batchrun.simulator.provider import SimulatedProvider, decode, draw_outcome
from tests.support.simulated import (
    BOTH,
    CHAT,
    MESSAGES,
    MODEL,
    Clock,
    body,
    raw_request,
    serving,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    from anyio.abc import SocketStream

    from batchrun.simulator.calls import SimulatedFormat

pytestmark = pytest.mark.anyio

TRIAGE = "Answer with exactly one of these labels: billing, bug, how_to, account, feature_request, cancellation."
DEEP_BLOCK = {"type": "odd", "deep": json.loads("[" * 300 + "]" * 300)}


async def read_responses(stream: SocketStream, count: int) -> list[tuple[int, dict[str, Any]]]:
    """Read `count` responses, as status and JSON body."""
    received = b""
    responses: list[tuple[int, dict[str, Any]]] = []
    while len(responses) < count:
        head, separator, rest = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if separator and length and len(rest) >= int(length[1]):
            size = int(length[1])
            responses.append((int(head[9:12]), json.loads(rest[:size])))
            received = rest[size:]
        else:
            received += await stream.receive()
    return responses


# --- What is answered


async def test_the_anthropic_client_understands_a_message() -> None:
    async with (
        serving() as peer,
        anthropic.AsyncAnthropic(base_url=peer.url, api_key="any", max_retries=0) as client,
    ):
        message = await client.messages.create(
            model=MODEL,
            max_tokens=100,
            system="Be brief.",
            messages=[{"role": "user", "content": "Why was my invoice charged twice?"}],
        )
    (block,) = message.content
    assert block.type == "text"
    assert block.text.startswith("(simulated) ")
    assert "charged" in block.text
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert (message.model, message.role, message.type) == (MODEL, "assistant", "message")
    assert re.fullmatch(r"msg_sim_[0-9a-f]{24}", message.id)
    assert message._request_id == "req_sim_0000000000000001"
    assert message.usage.input_tokens == (9 + 3) + (3 + 3)  # 33 and 9 characters, and two turns
    assert message.usage.output_tokens == count_tokens(block.text)
    assert message.usage.cache_creation_input_tokens == 0
    assert message.usage.cache_read_input_tokens == 0
    assert message.usage.service_tier == "standard"


async def test_the_openai_client_understands_a_completion() -> None:
    async with (
        serving() as peer,
        openai.AsyncOpenAI(base_url=f"{peer.url}/v1", api_key="any", max_retries=0) as client,
    ):
        raw = await client.chat.completions.with_raw_response.create(
            model=MODEL,
            n=5,
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Why was my invoice charged twice?"},
            ],
        )
    completion = raw.parse()
    texts = [choice.message.content or "" for choice in completion.choices]
    assert len(set(texts)) == 5
    assert all(text.startswith("(simulated) ") for text in texts)
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3, 4]
    assert {choice.finish_reason for choice in completion.choices} == {"stop"}
    assert completion.object == "chat.completion"
    assert re.fullmatch(r"chatcmpl-sim-[0-9a-f]{24}", completion.id)
    assert abs(completion.created - time.time()) < 60
    assert raw.headers["x-request-id"] == "req_sim_0000000000000001"
    assert completion.usage
    assert completion.usage.prompt_tokens == (9 + 3) + (3 + 3)
    assert completion.usage.completion_tokens == sum(map(count_tokens, texts))
    assert completion.usage.total_tokens == 18 + completion.usage.completion_tokens


async def test_chat_usage_has_the_shape_of_the_gateways() -> None:
    async with serving() as peer:
        usage = (await peer.post(CHAT)).json()["usage"]
    assert usage["prompt_tokens_details"] == {
        "cached_tokens": 0,
        "text_tokens": 0,
        "audio_tokens": 0,
        "image_tokens": 0,
    }
    assert usage["completion_tokens_details"] == {
        "text_tokens": 0,
        "audio_tokens": 0,
        "reasoning_tokens": 0,
    }
    assert usage["input_tokens_details"] is None
    assert usage["claude_cache_creation_5_m_tokens"] == 0


async def test_a_label_of_the_system_prompt_is_the_whole_answer() -> None:
    tickets = {
        "I was billed twice.": "billing",
        "There are bugs.": "bug",
        "Please cancel it.": "cancellation",
        "I cannot open my account.": "account",
    }
    async with serving() as peer:
        for ticket, label in tickets.items():
            system = {"role": "system", "content": TRIAGE}
            chat = await peer.post(CHAT, messages=[system, {"role": "user", "content": ticket}])
            message = await peer.post(MESSAGES, ticket, system=[{"type": "text", "text": TRIAGE}])
            assert [text_of(chat), text_of(message)] == [label, label]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Labels: positive, negative", "positive|negative"),
        ("Labels:\n\n- billing: payments\n- bug (crashes)\n- how_to\n\nText", "billing|bug|how_to"),
        ("Choose one of these categories:\n1. Bug report\n2. Other", "Bug report|Other"),
        ("Reply with one of: a, b or c", "a|b|c"),
        ("choose from a, b, or c.", "a|b|c"),
        ("Please choose between yes and no.", "yes|no"),
        ("Is it one of billing, bug or account?", "billing|bug|account"),
        ('One of these labels: "how to", \'bug\' or `other`.\nIt said "no".', "how to|bug|other"),
        ('Reply with one of ["a", "b", "c"]', "a|b|c"),
        ("one of the labels (a/b/c) and nothing else", "a|b|c"),
        ("One of these labels: a, b, c and nothing else", "a|b|c"),
        ("Allowed labels are billing, bug, and other.", "billing|bug|other"),
        ("I went to one of the best, most beautiful places, really", None),
        ("I bought one of each and it broke", None),
        ("I could not choose between the two.", None),
        ("Labels are assigned by humans.", None),
        ("Labels: none", None),
        ("", None),
    ],
)
def test_labels_are_found_where_a_prompt_offers_them(text: str, labels: str | None) -> None:
    offer = find_labels(text)
    assert (offer and "|".join(offer.labels)) == labels


async def test_the_offer_itself_speaks_for_no_label() -> None:
    prompt = "One of these labels: cancellation, billing. Ticket {}: I was billed twice."
    async with serving() as peer:
        answers = {text_of(await peer.post(MESSAGES, prompt.format(n))) for n in range(10)}
    assert answers == {"billing"}


@BOTH
async def test_the_last_user_message_is_answered(path: str) -> None:
    turns = [("user", "Apples"), ("assistant", "Fine"), ("user", "Invoices"), ("user", "Pears")]
    messages = [{"role": role, "content": content} for role, content in turns]
    async with serving() as peer:
        text = text_of(await peer.post(path, messages=messages))
    assert "Pears" in text
    assert "Apples" not in text


def test_all_choices_differ() -> None:
    call = SimulatedChat().parse(body("Hi", n=128), {})
    assert len({answer.text for answer in compose(call, 0)}) == 128


async def test_labels_without_a_hint_differ_from_ticket_to_ticket() -> None:
    async with serving() as peer:
        labels = {text_of(await peer.post(MESSAGES, f"No. {n}", system=TRIAGE)) for n in range(40)}
    assert labels == {"billing", "bug", "how_to", "account", "feature_request", "cancellation"}


@BOTH
async def test_a_prefill_is_continued(path: str) -> None:
    async with serving() as peer:

        async def after(prefill: str, prompt: str) -> str:
            turns = [("user", prompt), ("assistant", prefill)]
            messages = [{"role": role, "content": content} for role, content in turns]
            return text_of(await peer.post(path, messages=messages))

        assert await after("Label: fea", f"{TRIAGE} Hello") in TRIAGE
        assert await after("fea", f"{TRIAGE} Hello") == "ture_request"
        assert (await after("The answer is", "Why invoices?")).startswith(" (simulated) ")


@BOTH
async def test_max_tokens_and_stop_sequences_cut_the_answer(path: str) -> None:
    stop_field = "stop_sequences" if path == MESSAGES else "stop"
    async with serving() as peer:
        clipped = await peer.post(path, "Invoices, please", max_tokens=5)
        stopped = await peer.post(path, "Invoices, please", **{stop_field: ["zz", "'", "ces'"]})
    assert text_of(clipped).startswith("(simulated) ")
    assert len(text_of(clipped)) == 5 * 4
    assert text_of(stopped).startswith("(simulated) ")
    assert "'" not in text_of(stopped)
    if path == MESSAGES:
        assert clipped.json()["stop_reason"] == "max_tokens"
        assert clipped.json()["usage"]["output_tokens"] == 5
        assert stopped.json()["stop_reason"] == "stop_sequence"
        assert stopped.json()["stop_sequence"] == "'"
    else:
        assert clipped.json()["choices"][0]["finish_reason"] == "length"
        assert stopped.json()["choices"][0]["finish_reason"] == "stop"


def test_tokens_are_believable() -> None:
    assert count_tokens("") == 0
    assert count_tokens("a" * 400) == 100
    assert count_tokens("中" * 400) == 300


# --- What follows from the seed


async def test_answers_follow_from_seed_and_body_alone() -> None:
    prompts = [f"Question {number} about invoices and refunds" for number in range(30)]

    async def answers(seed: int, asked: list[str]) -> dict[str, str]:
        async with serving(SimulatorConfig(seed=seed)) as peer:
            return {prompt: text_of(await peer.post(CHAT, prompt)) for prompt in asked}

    first = await answers(1, prompts)
    assert await answers(1, prompts[::-1]) == first
    assert await answers(2, prompts) != first
    assert len(set(first.values())) > 20


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


# --- Limits


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
    config = SimulatorConfig(tokens_per_minute=300, latency_ms=40)
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


# --- What is refused


async def test_only_the_right_key_is_accepted() -> None:
    async with serving(SimulatorConfig(api_key="sesame")) as peer:
        for path in (MESSAGES, CHAT):
            for key in ("sesame", "wrong"):
                for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
                    answer = await peer.http.post(path, json=body(), headers=headers)
                    assert answer.status_code == (200 if key == "sesame" else 401)
                    assert "sesame" not in answer.text
        message, chat = await peer.post(MESSAGES), await peer.post(CHAT)
    assert message.json()["error"]["type"] == "authentication_error"
    assert chat.json()["error"]["code"] == "invalid_api_key"
    assert peer.simulator.usage.statuses == {200: 4, 401: 6}


@BOTH
@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("model", {"model": None}),
        ("model", {"model": 7}),
        ("messages", {"messages": None}),
        ("messages", {"messages": []}),
        ("messages.0", {"messages": ["Hello"]}),
        ("messages.0.role", {"messages": [{"role": "robot", "content": "Hello"}]}),
        ("messages.0.content", {"messages": [{"role": "user"}]}),
        ("messages.0.content", {"messages": [{"role": "user", "content": 7}]}),
        ("messages.0.content.0", {"messages": [{"role": "user", "content": ["Hello"]}]}),
        ("max_tokens", {"max_tokens": 0}),
        ("max_tokens", {"max_tokens": "many"}),
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"temperature": "hot"}),
        ("top_p", {"top_p": 1.5}),
        ("stream", {"stream": "yes"}),
    ],
)
async def test_invalid_fields_are_named(path: str, param: str, fields: dict[str, Any]) -> None:
    async with serving() as peer:
        answer = await peer.post(path, **fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    if path == MESSAGES:
        assert error["message"].startswith(f"{param}: ")
        assert answer.json()["type"] == "error"
        assert answer.json()["request_id"] == answer.headers["request-id"]
    else:
        assert error["param"] == re.sub(r"\.(\d+)", r"[\1]", param)


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        (MESSAGES, {"max_tokens": None}, 400),
        (CHAT, {"max_tokens": None}, 200),
        (MESSAGES, {"temperature": 1.5}, 400),
        (CHAT, {"temperature": 1.5}, 200),
        (CHAT, {"temperature": 2.5}, 400),
        (CHAT, {"n": 0}, 400),
        (CHAT, {"n": 1000}, 400),
        (CHAT, {"stop": ["a", "b", "c", "d", "e"]}, 400),
        (MESSAGES, {"stop_sequences": "a"}, 200),
        (MESSAGES, {"stop_sequences": [""]}, 400),
        (MESSAGES, {"messages": [{"role": "system", "content": "Hello"}]}, 400),
        (MESSAGES, {"messages": [{"role": "user", "content": ""}]}, 400),
        (MESSAGES, {"messages": [{"role": "user", "content": [DEEP_BLOCK]}]}, 400),
        (MESSAGES, {"messages": [{"role": "user", "content": "Hi"}] * 2}, 200),
        (MESSAGES, {"messages": [{"role": "assistant", "content": "Hi "}]}, 400),
    ],
)
async def test_the_formats_differ_in_what_they_accept(
    path: str, fields: dict[str, Any], status: int
) -> None:
    async with serving() as peer:
        assert (await peer.post(path, **fields)).status_code == status


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": NaN}', b"\xff", b"[" * 5000])
async def test_bodies_that_are_no_json_object_are_refused(content: bytes) -> None:
    async with serving() as peer:
        answer = await peer.http.post(MESSAGES, content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_unknown_paths_and_methods_are_refused() -> None:
    async with serving() as peer:
        for path in (MESSAGES, "/messages", "/v1/messages?beta=true", "/chat/completions"):
            assert (await peer.post(path)).status_code == 200
        unknown = await peer.http.post("/v1/other", json={}, headers={"x-api-key": "k"})
        unknown_chat = await peer.http.post("/v1/other", json={})
        wrong = await peer.http.get(MESSAGES)
        head = await peer.http.head(CHAT)
        assert (await peer.post(MESSAGES)).status_code == 200
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
    assert (unknown_chat.status_code, unknown_chat.json()["error"]["code"]) == (404, "unknown_url")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert (head.status_code, head.content) == (405, b"")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 200) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_BLOCKS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "image", "x"])}, optional={"text": _JSON}
    ),
    max_size=3,
)
_TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"])},
    optional={"content": _JSON | _BLOCKS},
)


@pytest.mark.parametrize("wire", [SimulatedMessages(), SimulatedChat()])
@settings(max_examples=40, deadline=None)
@given(
    fields=st.fixed_dictionaries(
        {"model": st.just("m"), "max_tokens": st.integers(1, 9), "messages": st.lists(_TURNS)},
        optional=dict.fromkeys(("system", "stop", "stop_sequences", "temperature", "n"), _JSON),
    )
)
def test_any_json_is_answered_or_refused(wire: SimulatedFormat, fields: dict[str, Any]) -> None:
    try:
        call = wire.parse(decode(json.dumps(fields).encode()), {})
    except RefusedError:
        return
    answers = compose(call, 0)
    assert len(answers) == call.choices
    assert all(1 <= answer.tokens <= (call.max_tokens or 0) for answer in answers)


def test_routes_are_found_by_path_and_by_pattern() -> None:
    router = Router({"/batches": "all", "/batches/new": "new", "/batches/{id}/results": "results"})
    found = {
        "/batches": "all",
        "/batches/new": "new",
        "/batches/b_1/results": "results",
        "/batches//results": None,
        "/batches/b_1/x/results": None,
        "/batches/b_1": None,
        "/": None,
    }
    assert {path: router.find(path) for path in found} == found


@BOTH
async def test_an_answer_without_http_is_the_one_that_is_served(path: str) -> None:
    wire: SimulatedFormat = SimulatedMessages() if path == MESSAGES else SimulatedChat()
    content = json.dumps(body("Invoices?")).encode()
    provider = SimulatedProvider(SimulatorConfig(), time.monotonic, time.time)
    answer = wire.completion(provider.answer(wire, content, {})[0])
    async with serving() as peer:
        served = (await peer.http.post(path, content=content)).json()
    assert served | {"created": 0} == answer | {"created": 0}
    assert provider.counter.snapshot().billed == 1


# --- Clients that behave badly, or unusually


async def test_broken_clients_disturb_nobody() -> None:
    nonsense = (
        b"\x16\x03\x01 TLS?",
        b"HELLO\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\ncontent-length: 9\r\ncontent-length: 8\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    )
    async with serving() as peer:
        for garbage in nonsense:
            async with await peer.connect() as stream:
                await stream.send(garbage)
                ((status, answer),) = await read_responses(stream, 1)
                assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
        for piece in (b"", b"POST /v1", raw_request(json.dumps(body()).encode())[:-5]):
            async with await peer.connect() as stream:
                if piece:
                    await stream.send(piece)
        assert (await peer.post(MESSAGES)).status_code == 200
    assert peer.simulator.usage.statuses == {200: 1}


async def test_a_client_that_leaves_is_billed_all_the_same() -> None:
    async with serving(SimulatorConfig(latency_ms=50)) as peer:
        async with await peer.connect() as stream:
            raw_socket = stream.extra(SocketAttribute.raw_socket)
            reset_on_close = struct.pack("ii", 1, 0)
            raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_on_close)
            await stream.send(raw_request(json.dumps(body("Gone")).encode()))
            while (await peer.http.get("/usage")).json()["billed"] == 0:
                pass
        assert (await peer.post(MESSAGES, "Still here")).status_code == 200
    assert peer.simulator.usage.billed == 2


async def test_large_requests_are_refused_before_they_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "MAX_BODY_BYTES", 1000)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    async with serving() as peer:
        announced = await peer.http.post(MESSAGES, content=b" " * 10_000_000)
        chunked = await peer.http.post(CHAT, content=chunks())
        headers = await peer.http.post(MESSAGES, json=body(), headers={"x": "y" * 200_000})
        async with await peer.connect() as stream:
            await stream.send(raw_request(b" " * 1001)[:-1001])
            with anyio.fail_after(2):
                ((unsent, _),) = await read_responses(stream, 1)
        assert (await peer.post(MESSAGES)).status_code == 200
    assert unsent == 413
    assert (announced.status_code, announced.json()["error"]["type"]) == (413, "request_too_large")
    assert (chunked.status_code, chunked.json()["error"]["code"]) == (413, "request_too_large")
    assert headers.status_code == 431


async def test_one_connection_serves_many_requests_even_sent_at_once() -> None:
    content = [json.dumps(body(f"Prompt {number}")).encode() for number in range(3)]
    async with serving() as peer, await peer.connect() as stream:
        await stream.send(b"".join(map(raw_request, content)))
        together = await read_responses(stream, 3)
        apart = []
        for one in content:
            await stream.send(raw_request(one))
            apart += await read_responses(stream, 1)
    assert [status for status, _ in together] == [200] * 3
    assert [answer["content"] for _, answer in apart] == [
        answer["content"] for _, answer in together
    ]


async def test_a_client_can_ask_to_close_or_to_continue() -> None:
    content = json.dumps(body()).encode()
    head = raw_request(content, "expect: 100-continue", "connection: close")[: -len(content)]
    async with serving() as peer, await peer.connect() as stream:
        await stream.send(head)
        assert await stream.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stream.send(content)
        ((status, _),) = await read_responses(stream, 1)
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
    assert status == 200


async def test_many_connections_at_once() -> None:
    many = 300
    statuses: list[int] = []
    async with serving(SimulatorConfig(latency_ms=500)) as peer:

        async def ask(number: int) -> None:
            async with await peer.connect() as stream:
                await stream.send(raw_request(json.dumps(body(f"Prompt {number}")).encode()))
                statuses.extend(status for status, _ in await read_responses(stream, 1))

        async with anyio.create_task_group() as tasks:
            for number in range(many):
                tasks.start_soon(ask, number)
    assert statuses == [200] * many
    assert peer.simulator.usage.max_in_flight > many / 10


async def test_nobody_answers_after_the_end() -> None:
    async with serving() as peer:
        pass
    with pytest.raises(OSError, match="."):
        await peer.connect()


# --- The ledger


async def test_the_ledger_tells_what_was_billed_twice() -> None:
    async with serving(SimulatorConfig(latency_ms=20)) as peer:
        async with anyio.create_task_group() as tasks:
            for prompt in ("a", "b", "b", "c", "c", "c"):
                tasks.start_soon(peer.post, MESSAGES, prompt)
        await peer.post(MESSAGES, model=None)
        told = (await peer.http.get("/usage")).json()
        ledger = peer.simulator.usage
    assert told == {
        "requests": 7,
        "billed": 6,
        "billed_more_than_once": 2,
        "extra_bills": 3,
        "statuses": {"200": 6, "400": 1},
        "max_in_flight": 6,
    }
    assert (ledger.requests, ledger.extra_bills, ledger.statuses) == (7, 3, {200: 6, 400: 1})


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
