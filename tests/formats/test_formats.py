"""The two wire formats: requests to the byte, answers and errors of every known server."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.formats import (
    InvalidResponse,
    describe_error,
    of,
)
from batchrun.formats.parameters import PARAMETERS, coerce
from batchrun.formats.usage import chat_usage, messages_usage
from batchrun.job.addresses import provider_of
from batchrun.records import FormatName, Message, Parameters, Request, Usage, WireRequest, changed
from tests.support.examples import GREETING, SECOND_TURN, SMALL, THINKING, VISION

FULL = Request(
    format="messages",
    base_url="https://api.example.com",
    provider="api.example.com",
    model="claude-haiku-4-5-20251001",
    messages=(Message("user", "Grüße 👋"), Message("assistant", "Sure:")),
    system="Be brief.",
    parameters=Parameters(
        max_tokens=200, temperature=0.5, top_p=0.9, stop=("\n\n", "END"), user="u-1"
    ),
)
PLAIN = Request(
    format="chat",
    base_url="https://api.example.com",
    provider="api.example.com",
    model="claude-haiku-4-5-20251001",
    messages=(Message("user", "Hi"),),
    parameters=Parameters(max_tokens=5),
)


def encode(request: Request) -> WireRequest:
    return of(request.format).encode(request)


def fingerprint_of(request: Request) -> str:
    return of(request.format).fingerprint(request, encode(request)).hex()


# requests


def test_the_body_of_the_messages_format_to_the_byte() -> None:
    request = changed(
        FULL,
        parameters=replace(FULL.parameters, top_k=40, service_tier="auto"),
        extra_body={"thinking": {"type": "disabled"}},
    )
    assert encode(request).body.decode() == (
        '{"model":"claude-haiku-4-5-20251001","max_tokens":200,"system":"Be brief.",'
        '"messages":[{"role":"user","content":"Grüße 👋"},{"role":"assistant","content":"Sure:"}],'
        '"temperature":0.5,"top_p":0.9,"top_k":40,"stop_sequences":["\\n\\n","END"],'
        '"metadata":{"user_id":"u-1"},"service_tier":"auto","thinking":{"type":"disabled"}}'
    )


def test_the_body_of_the_chat_format_to_the_byte() -> None:
    parameters = replace(
        FULL.parameters,
        n=2,
        seed=7,
        presence_penalty=-1.0,
        frequency_penalty=1.5,
        service_tier="flex",
    )
    request = changed(FULL, format="chat", parameters=parameters, extra_body={"logprobs": True})
    assert encode(request).body.decode() == (
        '{"model":"claude-haiku-4-5-20251001","messages":[{"role":"system","content":"Be brief."},'
        '{"role":"user","content":"Grüße 👋"},{"role":"assistant","content":"Sure:"}],'
        '"max_tokens":200,"temperature":0.5,"top_p":0.9,"stop":["\\n\\n","END"],"n":2,"seed":7,'
        '"presence_penalty":-1.0,"frequency_penalty":1.5,"user":"u-1","service_tier":"flex",'
        '"logprobs":true}'
    )


@pytest.mark.parametrize(
    ("wire_format", "body"),
    [
        ("messages", '{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"Hi"}]}'),
        ("chat", '{"model":"m","messages":[{"role":"user","content":"Hi"}],"max_tokens":5}'),
    ],
)
def test_what_is_not_set_is_not_sent(wire_format: FormatName, body: str) -> None:
    assert encode(changed(PLAIN, format=wire_format, model="m")).body.decode() == body


def test_zero_is_not_the_same_as_unset() -> None:
    zeros = Parameters(max_tokens=5, temperature=0.0, seed=0, presence_penalty=0.0)
    body = orjson.loads(encode(changed(PLAIN, parameters=zeros)).body)
    assert (body["temperature"], body["seed"], body["presence_penalty"]) == (0.0, 0, 0.0)


def test_content_blocks_and_the_extra_body_pass_untouched() -> None:
    blocks: list[dict[str, Any]] = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "data:"}},
    ]
    request = changed(PLAIN, messages=(Message("user", blocks),), extra_body={"model": "other"})
    body = orjson.loads(encode(request).body)
    assert body["messages"][0]["content"] == blocks
    assert body["model"] == "other"


@pytest.mark.parametrize(
    ("wire_format", "url"),
    [
        ("messages", "https://api.example.com/v1/messages"),
        ("chat", "https://api.example.com/v1/chat/completions"),
    ],
)
def test_urls(wire_format: FormatName, url: str) -> None:
    assert encode(changed(PLAIN, format=wire_format)).url == url


def test_headers_of_the_messages_format() -> None:
    assert encode(FULL).headers == (
        ("content-type", "application/json"),
        ("accept", "application/json"),
        ("anthropic-version", "2023-06-01"),
    )
    assert ("anthropic-version", "2026-10-21") in encode(
        changed(FULL, api_version="2026-10-21")
    ).headers


def test_headers_of_the_chat_format() -> None:
    assert encode(PLAIN).headers == (
        ("content-type", "application/json"),
        ("accept", "application/json"),
    )


def test_an_extra_header_takes_the_place_of_ours() -> None:
    extra = (("x-team", "night"), ("anthropic-version", "2026-10-21"), ("accept", "*/*"))
    headers = encode(changed(FULL, extra_headers=extra)).headers
    assert sorted(headers) == [
        ("accept", "*/*"),
        ("anthropic-version", "2026-10-21"),
        ("content-type", "application/json"),
        ("x-team", "night"),
    ]


def test_the_key_travels_as_each_format_wants() -> None:
    assert of("messages").key_header("k") == ("x-api-key", "k")
    assert of("chat").key_header("k") == ("authorization", "Bearer k")


def test_no_request_holds_a_key() -> None:
    names = {name for request in (FULL, PLAIN) for name, _ in encode(request).headers}
    assert not names & {"x-api-key", "authorization"}


# fingerprints


@pytest.mark.parametrize(
    ("request_", "digest"),
    [
        (FULL, "1ab76ceb20804769ed5ad9e27ca4e8ec"),
        (PLAIN, "155389eda616b7cd0ce45e52292fd220"),
    ],
    ids=["messages", "chat"],
)
def test_fingerprints_never_change(request_: Request, digest: str) -> None:
    # Whoever changes these bytes has every unfinished run send, and pay, all its rows again.
    assert fingerprint_of(request_) == digest


@pytest.mark.parametrize(
    "changed",
    [
        changed(PLAIN, format="messages"),
        changed(PLAIN, provider="other.example.com"),
        changed(PLAIN, model="claude-opus-4-5-20251101"),
        changed(PLAIN, system=""),
        changed(PLAIN, messages=(Message("user", "Hi "),)),
        changed(PLAIN, parameters=Parameters(max_tokens=6)),
        changed(PLAIN, extra_body={"logprobs": True}),
    ],
    ids=["format", "provider", "model", "system", "text", "parameter", "extra-body"],
)
def test_what_can_change_the_answer_changes_the_fingerprint(changed: Request) -> None:
    assert fingerprint_of(changed) != fingerprint_of(PLAIN)


@pytest.mark.parametrize(
    "changed",
    [
        changed(FULL, extra_headers=(("x-team", "night"),)),
        changed(FULL, api_version="2023-06-01"),
        changed(FULL, base_url="http://127.0.0.1:8001"),
        changed(FULL, parameters=replace(FULL.parameters)),
    ],
    ids=["extra-headers", "default-version", "base-url", "equal"],
)
def test_what_cannot_change_the_answer_does_not_change_the_fingerprint(changed: Request) -> None:
    assert fingerprint_of(changed) == fingerprint_of(FULL)


def test_format_and_provider_cannot_run_into_each_other() -> None:
    wire = encode(PLAIN)
    one = of("chat").fingerprint(changed(PLAIN, provider="a"), wire)
    other = of("chat").fingerprint(changed(PLAIN, provider="a/b"), wire)
    assert one != other
    assert len(one) == 16


@pytest.mark.parametrize(
    ("base_url", "provider"),
    [
        ("https://api.anthropic.com", "api.anthropic.com"),
        ("https://API.OpenAI.com:443/v1", "api.openai.com"),
        ("https://gateway.example:8443", "gateway.example:8443"),
        ("http://gateway.example:80", "gateway.example"),
        ("https://router.example/groq", "router.example"),
        ("http://127.0.0.1:8001", "localhost"),
        ("http://127.8.8.8", "localhost"),
        ("http://localhost:9/v1", "localhost"),
        ("https://[::1]:8443", "localhost"),
    ],
)
def test_the_provider_is_the_host_and_a_loopback_address_has_no_port(
    base_url: str, provider: str
) -> None:
    assert provider_of(base_url) == provider


# answers

NO_CACHE = {"cache_read_tokens": 0, "cache_write_tokens": 0, "cache_write_1h_tokens": 0}


@pytest.mark.parametrize(
    ("body", "text", "model", "usage"),
    [
        (
            GREETING,
            "Hello! How can I help you today?",
            "claude-opus-4-20250514",
            Usage(8, 12, **NO_CACHE, reasoning_tokens=0),
        ),
        (
            SECOND_TURN,
            'You said "Hello" - that was your first message to me in our conversation.',
            "claude-opus-4-20250514",
            Usage(29, 20, **NO_CACHE, reasoning_tokens=0),
        ),
        (
            THINKING,
            "The sine of 30 degrees is **1/2** or **0.5**.",
            "claude-sonnet-4-20250514-thinking",
            Usage(60, 239),
        ),
        (
            VISION,
            "This image shows an API request configuration interface.\n\n1. **model**",
            "claude-sonnet-4-20250514",
            Usage(1570, 252, **NO_CACHE, reasoning_tokens=0),
        ),
        (
            SMALL,
            "Hello! How can I help you today?",
            "claude-sonnet-4-20250514",
            Usage(20, 10),
        ),
    ],
    ids=["greeting", "second-turn", "thinking", "vision", "small"],
)
def test_chat_answers(body: str, text: str, model: str, usage: Usage) -> None:
    completion = of("chat").parse(body.encode())
    assert completion.texts == (text,)
    assert completion.stop_reason == "stop"
    assert completion.model == model
    assert completion.response_id == json.loads(body)["id"]
    audio = {"audio_input_tokens": None, "audio_output_tokens": None}
    assert changed(completion.usage, **audio) == usage


def test_the_reasoning_of_a_thinking_model() -> None:
    reasoning = of("chat").parse(THINKING.encode()).reasoning
    assert reasoning is not None
    assert reasoning.startswith("The user is asking for the sine of 30 degrees.")
    assert of("chat").parse(GREETING.encode()).reasoning is None


def messages_answer(**changes: Any) -> bytes:
    return orjson.dumps(
        {
            "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5-20250929",
            "content": [{"type": "text", "text": "Hello!"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 12, "output_tokens": 6},
        }
        | changes
    )


def chat_answer(*choices: object, **changes: Any) -> bytes:
    return orjson.dumps({"id": "c", "model": "m", "choices": list(choices)} | changes)


def choice(message: object, index: object = 0, reason: object = "stop") -> dict[str, Any]:
    return {"index": index, "message": message, "finish_reason": reason}


def test_a_messages_answer() -> None:
    completion = of("messages").parse(messages_answer())
    assert completion.texts == ("Hello!",)
    assert (completion.stop_reason, completion.model, completion.response_id) == (
        "end_turn",
        "claude-sonnet-4-5-20250929",
        "msg_013Zva2CMHLNnXjNJJKqJ2EF",
    )
    assert completion.usage == Usage(12, 6)
    assert completion.reasoning is None


@pytest.mark.parametrize(
    "reason",
    [
        "end_turn",
        "max_tokens",
        "stop_sequence",
        "tool_use",
        "pause_turn",
        "refusal",
        "model_context_window_exceeded",
    ],
)
def test_the_stop_reason_is_the_providers(reason: str) -> None:
    assert of("messages").parse(messages_answer(stop_reason=reason)).stop_reason == reason


@pytest.mark.parametrize(
    ("blocks", "text", "reasoning"),
    [
        ([], "", None),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab", None),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}], "a", "hm"),
        (
            [{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "a"}],
            "a",
            "[redacted]",
        ),
        ([{"type": "text", "text": "a"}, {"type": "tool_use", "id": "t", "input": {}}], "a", None),
        ([{"type": "from_the_future", "text": "no"}, {"type": "text", "text": "a"}], "a", None),
        ([{"type": "text"}, {"type": "text", "text": None}, "x", None, 5], "", None),
    ],
    ids=["refusal", "two", "thinking", "redacted", "tool-use", "unknown", "broken"],
)
def test_content_blocks(blocks: list[Any], text: str, reasoning: str | None) -> None:
    completion = of("messages").parse(messages_answer(content=blocks))
    assert (completion.texts, completion.reasoning) == ((text,), reasoning)


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": "a"}, "a", None),
        ({"content": None}, "", None),
        ({}, "", None),
        ({"content": 5}, "5", None),
        ({"content": "a", "reasoning_content": "r"}, "a", "r"),
        ({"content": "a", "reasoning": "r"}, "a", "r"),
        ({"content": "a", "reasoning_content": None, "reasoning": ""}, "a", None),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", None),
        ({"content": [{"type": "thinking", "thinking": []}, "x", {"text": "a"}]}, "xa", None),
    ],
    ids=["text", "null", "absent", "number", "reasoning", "router", "empty", "parts", "mixed"],
)
def test_chat_messages(message: object, text: str, reasoning: str | None) -> None:
    completion = of("chat").parse(chat_answer(choice(message)))
    assert (completion.texts, completion.reasoning) == ((text,), reasoning)


def test_choices_are_put_in_the_order_of_their_index() -> None:
    body = chat_answer(
        choice({"content": "c"}, 2, "stop"),
        choice({"content": "a"}, 0, "length"),
        choice({"content": "b"}, 1, "stop"),
    )
    completion = of("chat").parse(body)
    assert completion.texts == ("a", "b", "c")
    assert completion.stop_reason == "length"


def test_choices_without_an_index_keep_their_order() -> None:
    body = chat_answer(choice({"content": "a"}, None), choice({"content": "b"}, None))
    assert of("chat").parse(body).texts == ("a", "b")


@pytest.mark.parametrize(
    ("wire_format", "body", "message"),
    [
        ("chat", b"", "the body is not JSON: an empty body"),
        ("messages", b"<html>\n <b>Bad</b></html>", "the body is not JSON: <html> <b>Bad</b>"),
        ("chat", b'{"id": "trunc', "the body is not JSON"),
        ("chat", b"[]", "the body is not a JSON object"),
        ("messages", b"null", "the body is not a JSON object"),
        ("chat", b"{}", "no choice with a message"),
        ("chat", b'{"choices": []}', "no choice with a message"),
        ("chat", b'{"choices": {"message": {}}}', "no choice with a message"),
        ("chat", b'{"choices": 5}', "no choice with a message"),
        ("chat", b'{"choices": [5, null]}', "no choice with a message"),
        ("chat", b'{"choices": [{"text": "old"}]}', "no choice with a message"),
        ("messages", b"{}", "the answer has no content blocks"),
        ("messages", b'{"content": "text"}', "the answer has no content blocks"),
        ("messages", SMALL.encode(), "the answer has no content blocks"),
        ("chat", messages_answer(), "no choice with a message"),
        (
            "messages",
            b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
            "an error in place of an answer: overloaded_error: Overloaded",
        ),
        ("chat", b'{"error":"no"}', "an error in place of an answer: error: no"),
        ("chat", b"[" * 100_000, "the body is not JSON"),
        ("chat", b'{"choices": ' + b"1" * 5_000 + b"}", "no choice"),
    ],
    ids=[
        "empty",
        "html",
        "cut-off",
        "list",
        "null",
        "no-choices",
        "empty-choices",
        "object-choices",
        "number-choices",
        "broken-choices",
        "text-completion",
        "no-content",
        "text-content",
        "chat-in-messages",
        "messages-in-chat",
        "claude-error",
        "text-error",
        "deep",
        "digits",
    ],
)
def test_bodies_that_are_no_completion(wire_format: FormatName, body: bytes, message: str) -> None:
    with pytest.raises(InvalidResponse) as caught:
        of(wire_format).parse(body)
    assert message in str(caught.value)


def test_a_null_error_is_no_error() -> None:
    assert of("chat").parse(chat_answer(choice({"content": "a"}), error=None)).texts == ("a",)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'"half \\ud83d pair"', "half ? pair"),
        (b'"bad \xff byte"', "bad \ufffd byte"),
        (b'"a", "logprob": NaN', "a"),
        (b'"a", "logprob": -Infinity', "a"),
    ],
    ids=["surrogate", "utf-8", "nan", "infinity"],
)
def test_an_answer_is_not_thrown_away_over_a_slip_in_its_json(content: bytes, text: str) -> None:
    body = b'\xef\xbb\xbf{"choices": [{"message": {"content": ' + content + b"}}]}"
    assert of("chat").parse(body).texts == (text,)


# usage


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input_tokens": 10, "output_tokens": 2}, Usage(10, 2)),
        (
            {
                "input_tokens": 10,
                "cache_creation_input_tokens": 300,
                "cache_read_input_tokens": 4000,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 100,
                    "ephemeral_1h_input_tokens": 200,
                },
                "output_tokens": 50,
                "output_tokens_details": {"thinking_tokens": 30},
                "service_tier": "standard",
            },
            Usage(4310, 50, 4000, 300, 200, 30),
        ),
        (
            {
                "input_tokens": 10,
                "output_tokens": 2,
                "cache_creation_input_tokens": None,
                "cache_read_input_tokens": None,
                "cache_creation": None,
                "output_tokens_details": None,
            },
            Usage(10, 2),
        ),
        (
            {
                "input_tokens": 10,
                "output_tokens": 2,
                "cache_creation": {},
                "output_tokens_details": {},
            },
            Usage(10, 2),
        ),
        (
            {
                "input_tokens": 1,
                "output_tokens": 2,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 3,
                    "ephemeral_1h_input_tokens": 4,
                },
            },
            Usage(8, 2, None, 7, 4),
        ),
        ({"cache_read_input_tokens": 5, "output_tokens": 2}, Usage(None, 2, 5)),
        ({"input_tokens": 0, "output_tokens": 0}, Usage(0, 0)),
        ({}, Usage()),
        (None, Usage()),
        ([], Usage()),
        ("12", Usage()),
    ],
    ids=[
        "plain",
        "cached",
        "null-details",
        "empty-details",
        "only-the-parts",
        "no-input",
        "zero",
        "empty",
        "null",
        "list",
        "text",
    ],
)
def test_usage_of_the_messages_format_counts_the_cache_in(usage: object, expected: Usage) -> None:
    assert messages_usage(usage) == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 2}, Usage(10, 2)),
        (
            {
                "prompt_tokens": 4310,
                "completion_tokens": 50,
                "prompt_tokens_details": {"cached_tokens": 4000, "cache_write_tokens": 300},
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            Usage(4310, 50, 4000, 300, None, 30),
        ),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "claude_cache_creation_5_m_tokens": 60,
                "claude_cache_creation_1_h_tokens": 20,
            },
            Usage(100, 5, None, 80, 20),
        ),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cache_write_tokens": 90},
                "claude_cache_creation_1_h_tokens": 20,
            },
            Usage(100, 5, None, 90, 20),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 2,
                "prompt_tokens_details": None,
                "completion_tokens_details": None,
            },
            Usage(10, 2),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 2,
                "prompt_tokens_details": {},
                "completion_tokens_details": {},
            },
            Usage(10, 2),
        ),
        ({}, Usage()),
        (None, Usage()),
        (7, Usage()),
    ],
    ids=[
        "plain",
        "cached",
        "gateway-writes",
        "both-writes",
        "null-details",
        "empty-details",
        "empty",
        "null",
        "number",
    ],
)
def test_usage_of_the_chat_format_has_the_cache_in_it(usage: object, expected: Usage) -> None:
    assert chat_usage(usage) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, 0),
        (12, 12),
        (12.0, 12),
        (12.5, None),
        (-1, None),
        (10**12 - 1, 10**12 - 1),
        (10**12, None),
        (10**30, None),
        (1e30, None),
        (float("inf"), None),
        (float("nan"), None),
        (True, None),
        ("12", None),
        (None, None),
        ([1], None),
    ],
    ids=str,
)
def test_a_count_that_is_none_is_unknown(count: object, expected: int | None) -> None:
    assert chat_usage({"prompt_tokens": count}).input_tokens == expected
    assert messages_usage({"output_tokens": count}).output_tokens == expected


# errors


@pytest.mark.parametrize(
    ("body", "described"),
    [
        (
            (
                b'{"success": false, "error": {"code": "api_error", "message": "fetch failed"},'
                b' "trace_id": "2cf86e86-22a4-46e1-ac2f-032c0f2a4e89"}'
            ),
            ("api_error", "fetch failed", "2cf86e86-22a4-46e1-ac2f-032c0f2a4e89"),
        ),
        (
            (
                b'{"type":"error","error":{"type":"rate_limit_error","message":"Slow down"},'
                b'"request_id":"req_1"}'
            ),
            ("rate_limit_error", "Slow down", "req_1"),
        ),
        (
            (
                b'{"error":{"message":"No credit","type":"insufficient_quota","param":null,'
                b'"code":"insufficient_quota"}}'
            ),
            ("insufficient_quota", "No credit", None),
        ),
        (
            b'{"error":{"message":"Too fast","type":"requests","code":"rate_limit_exceeded"}}',
            ("rate_limit_exceeded", "Too fast", None),
        ),
        (
            b'{"error":{"message":"Bad key","type":"invalid_request_error","code":401}}',
            ("invalid_request_error", "Bad key", None),
        ),
        (
            b'{"error":{"message":"Bad key","type":"invalid_request_error","code":"401"}}',
            ("invalid_request_error", "Bad key", None),
        ),
        (b'{"error":{"message":"x","type":"t","code":null}}', ("t", "x", None)),
        (b'{"error":{"message":"x","type":"t","code":""}}', ("t", "x", None)),
        (b'{"error":"model not loaded"}', (None, "model not loaded", None)),
        (
            b'{"object":"error","message":"too long","type":"BadRequestError","code":400}',
            ("BadRequestError", "too long", None),
        ),
        (b'{"detail":"Not Found"}', (None, "Not Found", None)),
        (
            b'[{"error":{"code":404,"message":"no model","status":"NOT_FOUND"}}]',
            ("NOT_FOUND", "no model", None),
        ),
        (b'{"error":{}}', (None, '{"error":{}}', None)),
        (b'{"error":{"message":{"x":1}}}', (None, '{"error":{"message":{"x":1}}}', None)),
        (b'{"detail":[{"msg":"x"}]}', (None, '{"detail":[{"msg":"x"}]}', None)),
        (b"null", (None, "null", None)),
        (b"5", (None, "5", None)),
        (b"[]", (None, "[]", None)),
        (b"", (None, "an empty body", None)),
        (b" \r\n", (None, "an empty body", None)),
        (
            b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n</html>",
            (None, "<html> <head><title>502 Bad Gateway</title></head> </html>", None),
        ),
        (b"\xff\xfe", (None, "\ufffd\ufffd", None)),
    ],
    ids=[
        "gateway",
        "claude",
        "openai-quota",
        "code-wins",
        "number-code",
        "digits-code",
        "null-code",
        "empty-code",
        "text",
        "vllm",
        "detail",
        "list",
        "empty-error",
        "message-object",
        "detail-list",
        "null",
        "number",
        "empty-list",
        "empty",
        "white-space",
        "html",
        "bytes",
    ],
)
def test_error_bodies(body: bytes, described: tuple[str | None, str, str | None]) -> None:
    found = describe_error(body)
    assert (found.error_type, found.message, found.request_id) == described


def test_error_texts_are_bounded() -> None:
    body = orjson.dumps(
        {"error": {"message": "m" * 9_999, "code": "c" * 9_999}, "trace_id": "t" * 999}
    )
    found = describe_error(body)
    lengths = (len(found.error_type or ""), len(found.message), len(found.request_id or ""))
    assert lengths == (200, 2_000, 200)
    assert len(describe_error(b"x" * 9_999).message) == 300
    assert len(describe_error(orjson.dumps({"error": "e" * 9_999})).message) == 2_000


@pytest.mark.parametrize(
    ("wire_format", "headers", "expected"),
    [
        ("messages", {"request-id": "a", "x-request-id": "b"}, "a"),
        ("messages", {"x-request-id": "b"}, "b"),
        ("chat", {"request-id": "a", "x-request-id": "b"}, "b"),
        ("chat", {"request-id": "a"}, "a"),
        ("chat", {"date": "x"}, None),
    ],
    ids=["messages", "messages-gateway", "chat", "chat-gateway", "none"],
)
def test_request_ids(
    wire_format: FormatName, headers: dict[str, str], expected: str | None
) -> None:
    assert of(wire_format).request_id(headers) == expected


# any JSON

_NAMES = st.sampled_from(
    ["choices", "message", "content", "usage", "error", "type", "text", "code", "index", "model"]
    + ["prompt_tokens", "prompt_tokens_details", "cache_creation", "request_id", "reasoning"]
    + ["output_tokens", "input_tokens", "thinking", "detail", "stop_reason", "id"]
)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["text", "thinking", "error"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=5),
    max_leaves=15,
)
_OBJECTS = st.dictionaries(_NAMES, _JSON, max_size=6)


@settings(max_examples=50, deadline=None)
@given(_OBJECTS | _JSON, st.sampled_from(["messages", "chat"]))
def test_any_json_is_a_completion_or_an_invalid_response(
    payload: object, wire_format: FormatName
) -> None:
    body = json.dumps(payload).encode()
    try:
        completion = of(wire_format).parse(body)
    except InvalidResponse:
        return
    assert all(isinstance(text, str) for text in completion.texts)
    "".join(completion.texts).encode()


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=40) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_any_error_body_is_described(body: bytes) -> None:
    found = describe_error(body)
    assert found.message
    for text in (found.error_type, found.message, found.request_id):
        (text or "").encode()


# parameters


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_tokens", "200", 200),
        ("max_tokens", " 200 ", 200),
        ("max_tokens", 200.0, 200),
        ("max_tokens", "2e2", 200),
        ("temperature", "0.5", 0.5),
        ("temperature", 1, 1.0),
        ("seed", str(2**62 + 1), 2**62 + 1),
        ("stop", ["a"], ("a",)),
        ("stop", "a", ("a",)),
        ("user", 5, "5"),
    ],
    ids=str,
)
def test_cells_are_read_as_what_they_spell(name: str, value: object, expected: object) -> None:
    found = coerce(name, value, of("chat"))
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", "20.5"),
        ("max_tokens", "many"),
        ("max_tokens", "1_000"),
        ("max_tokens", ""),
        ("max_tokens", True),
        ("max_tokens", [5]),
        ("max_tokens", "inf"),
        ("max_tokens", "9" * 30),
        ("temperature", "nan"),
        ("temperature", "inf"),
        ("temperature", "hot"),
        ("temperature", {"a": 1}),
        ("stop", 5),
        ("stop", ["a", None]),
        ("user", ["a"]),
        ("user", 1.5),
    ],
    ids=str,
)
def test_cells_that_spell_nothing_fitting(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"must be|too large"):
        coerce(name, value, of("chat"))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(PARAMETERS)), _JSON | st.text(), st.sampled_from(["messages", "chat"])
)
def test_any_cell_is_a_parameter_or_a_value_error(
    name: str, value: object, wire_format: FormatName
) -> None:
    try:
        found = coerce(name, value, of(wire_format))
    except ValueError as error:
        message = str(error)
    else:
        message = ""
        assert orjson.dumps(found) != b"null"
    assert len(message) < 200
