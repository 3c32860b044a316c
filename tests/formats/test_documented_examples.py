"""Every example of the API documents that batchrun was made from, by document and section.

The documents are a gateway's guide and reference to the chat format, and its guide and reference to
the messages format. Requests are rendered from a job's keys and must come out as the document has
them; answers, streams and errors are read. Hosts and long texts stand shortened.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from batchrun.client import Client, ClientOptions, Credentials
from batchrun.dispatch.judgement import TrackRecord, judge
from batchrun.errors import JobError, ProviderError
from batchrun.formats import of
from batchrun.job import Job
from batchrun.limits.retry_delays import Cause
from batchrun.records import Completion, Ending, Item, Usage, WireRequest
from batchrun.render import Renderer
from tests.support.examples import GREETING, SECOND_TURN, SMALL, THINKING, VISION

if TYPE_CHECKING:
    from batchrun.records import FormatName

HOST = "https://gateway.example.com"
OPUS, SONNET = "claude-opus-4-20250514", "claude-sonnet-4-20250514"
USER = {"role": "user", "content": "Hello"}
SAID = {"role": "assistant", "content": "Hello! How can I help you today?"}
AGAIN = {"role": "user", "content": "What I say just now?"}
SEEN = [
    {"type": "text", "text": "What's in this image?"},
    {"type": "image_url", "image_url": {"url": "https://example.com/image.jpg"}},
]
PNG = "iVBORw0KGgo="
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a place.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def from_turns(*turns: dict[str, Any]) -> dict[str, Any]:
    return {"messages_column": "m", "cell": json.dumps(turns)}


def rendered(keys: dict[str, Any]) -> WireRequest:
    """Render one row by the keys of `[request]`; `cell` is what its column m holds."""
    keys = {"base_url": HOST, **keys}
    cell = keys.pop("cell", "")
    job = Job.from_document({"input": {"path": "x.csv"}, "request": keys}, Path("/jobs"))
    [item] = Renderer(job, ["m"]).render([Item(0, "1", {"m": cell})])
    assert item.wire is not None, item.error_message
    return item.wire


CHAT = {"format": "chat", "model": OPUS}
MESSAGES = {"format": "messages", "model": "claude-sonnet-4-5-20250929", "max_tokens": 1024}
MESSAGES_BODY: dict[str, Any] = {"model": "claude-sonnet-4-5-20250929", "max_tokens": 1024}

REQUESTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "chat-guide/Basic Usage/1": (
        {**CHAT, "prompt": "Hello"},
        {"model": OPUS, "messages": [USER]},
    ),
    "chat-guide/Basic Usage/optional parameters": (
        {**CHAT, "prompt": "Hello", "max_tokens": 9, "temperature": 2, "n": 3, "json_schema": True},
        {
            "model": OPUS,
            "messages": [USER],
            "max_tokens": 9,
            "temperature": 2,
            "n": 3,
            "response_format": {"type": "json_object"},
        },
    ),
    "chat-guide/Streaming Response/1": (
        {**CHAT, "prompt": "Hello", "stream": True},
        {
            "model": OPUS,
            "messages": [USER],
            "stream": True,
            "stream_options": {"include_usage": True},  # ours: without it there is no usage
        },
    ),
    "chat-guide/Multi-turn Dialogue/1": (
        {**CHAT, **from_turns(USER, SAID, AGAIN)},
        {"model": OPUS, "messages": [USER, SAID, AGAIN]},
    ),
    "chat-guide/Deep Thinking Model/1": (
        {**CHAT, "model": SONNET, "prompt": "Hello", "thinking_tokens": 2000},
        {"model": f"{SONNET}-thinking", "messages": [USER]},
    ),
    "chat-guide/Visual Model/1": (
        {**CHAT, "model": SONNET, **from_turns({"role": "user", "content": SEEN})},
        {"model": SONNET, "messages": [{"role": "user", "content": SEEN}]},
    ),
    "chat-guide/Visual Model/by images": (
        {
            **CHAT,
            "model": SONNET,
            "prompt": "What's in this image?",
            "images": "https://example.com/image.jpg",
        },
        {"model": SONNET, "messages": [{"role": "user", "content": SEEN[::-1]}]},
    ),
    "chat-reference/Create/1": (
        {
            **CHAT,
            "model": SONNET,
            "system": "You are a helpful AI assistant.",
            "prompt": "Hello, Claude!",
            "max_tokens": 1024,
            "temperature": 0.7,
        },
        {
            "model": SONNET,
            "messages": [
                {"role": "system", "content": "You are a helpful AI assistant."},
                {"role": "user", "content": "Hello, Claude!"},
            ],
            "max_tokens": 1024,
            "temperature": 0.7,
        },
    ),
    "chat-reference/Request Parameters/all": (
        {
            **CHAT,
            "prompt": "Hello",
            "top_p": 0.5,
            "stop": ["a", "b", "c", "d"],
            "presence_penalty": -2.0,
            "frequency_penalty": 2.0,
        },
        {
            "model": OPUS,
            "messages": [USER],
            "top_p": 0.5,
            "stop": ["a", "b", "c", "d"],
            "presence_penalty": -2.0,
            "frequency_penalty": 2.0,
        },
    ),
    "chat-reference/Vision Support/1": (
        {**CHAT, **from_turns({"role": "user", "content": SEEN})},
        {"model": OPUS, "messages": [{"role": "user", "content": SEEN}]},
    ),
    "messages-guide/Basic Usage/1": (
        {**MESSAGES, "prompt": "Hello"},
        {**MESSAGES_BODY, "messages": [USER]},
    ),
    "messages-guide/System Prompt/1": (
        {**MESSAGES, "system": "Be brief.", "prompt": "Hello"},
        {**MESSAGES_BODY, "system": "Be brief.", "messages": [USER]},
    ),
    "messages-guide/Streaming Response/1": (
        {**MESSAGES, "prompt": "Hello", "stream": True},
        {**MESSAGES_BODY, "messages": [USER], "stream": True},
    ),
    "messages-guide/Multi-turn Conversation/1": (
        {**MESSAGES, **from_turns(USER, SAID, AGAIN)},
        {**MESSAGES_BODY, "messages": [USER, SAID, AGAIN]},
    ),
    "messages-guide/Deep Thinking Model/1": (
        {**MESSAGES, "max_tokens": 16000, "thinking_tokens": 10000, "prompt": "Hello"},
        {
            **MESSAGES_BODY,
            "max_tokens": 16000,
            "messages": [USER],
            "thinking": {"type": "enabled", "budget_tokens": 10000},
        },
    ),
    "messages-guide/Visual Model/Using Base64 Encoded Images": (
        {**MESSAGES, "prompt": "Hello", "images": f"data:image/png;base64,{PNG}"},
        {
            **MESSAGES_BODY,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": PNG},
                        },
                        {"type": "text", "text": "Hello"},
                    ],
                }
            ],
        },
    ),
    "messages-guide/Visual Model/Using URL Images": (
        {**MESSAGES, "prompt": "Hello", "images": "https://example.com/image.jpg"},
        {
            **MESSAGES_BODY,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image",
                            "source": {"type": "url", "url": "https://example.com/image.jpg"},
                        },
                        {"type": "text", "text": "Hello"},
                    ],
                }
            ],
        },
    ),
    "messages-guide/Tool Use/1": (
        {**MESSAGES, "prompt": "Hello", "tools": [WEATHER], "tool_choice": "auto"},
        {
            **MESSAGES_BODY,
            "messages": [USER],
            "tools": [WEATHER],
            "tool_choice": {"type": "auto"},
        },
    ),
    "messages-guide/Tool Use/result": (
        {
            **MESSAGES,
            **from_turns(
                USER,
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}],
                },
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "t", "content": "22"}],
                },
            ),
        },
        {
            **MESSAGES_BODY,
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}],
                },
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "t", "content": "22"}],
                },
            ],
        },
    ),
    "messages-guide/Differences/tools in chat": (
        {**CHAT, "prompt": "Hello", "tools": [WEATHER]},
        {
            "model": OPUS,
            "messages": [USER],
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "get_weather",
                        "description": "The weather of a place.",
                        "parameters": WEATHER["input_schema"],
                    },
                }
            ],
        },
    ),
    "messages-reference/Body/thinking model": (
        {**MESSAGES, "model": "claude-opus-4-1-20250805-thinking", "prompt": "Hello"},
        {**MESSAGES_BODY, "model": "claude-opus-4-1-20250805-thinking", "messages": [USER]},
    ),
    "messages-reference/Body/prefilled response": (
        {**MESSAGES, "messages": [USER, {"role": "assistant", "content": "The answer is ("}]},
        {**MESSAGES_BODY, "messages": [USER, {"role": "assistant", "content": "The answer is ("}]},
    ),
    "messages-reference/Body/structured system": (
        {
            **MESSAGES,
            "prompt": "Hello",
            "system": [{"type": "text", "text": "Be brief."}, "Be kind."],
        },
        {
            **MESSAGES_BODY,
            "messages": [USER],
            "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}],
        },
    ),
    "messages-reference/Body/sampling, stops and metadata": (
        {
            **MESSAGES,
            "prompt": "Hello",
            "temperature": 1.0,
            "top_k": 5,
            "stop": ["\n\nHuman:", "\n\nAssistant:"],
            "user": "u-1",
        },
        {
            **MESSAGES_BODY,
            "messages": [USER],
            "temperature": 1.0,
            "top_k": 5,
            "stop_sequences": ["\n\nHuman:", "\n\nAssistant:"],
            "metadata": {"user_id": "u-1"},
        },
    ),
    **{
        f"messages-reference/Body/tool type {kind}": (
            {**MESSAGES, "prompt": "Hello", "tools": [{"type": kind, "name": name}]},
            {**MESSAGES_BODY, "messages": [USER], "tools": [{"type": kind, "name": name}]},
        )
        for kind, name in (
            ("computer_20241022", "computer"),
            ("text_editor_20241022", "str_replace_editor"),
            ("bash_20241022", "bash"),
        )
    },
    **{
        f"messages-reference/Body/tool choice {written['type']}": (
            {**MESSAGES, "prompt": "Hello", "tools": [WEATHER], "tool_choice": choice},
            {**MESSAGES_BODY, "messages": [USER], "tools": [WEATHER], "tool_choice": written},
        )
        for choice, written in (
            ("auto", {"type": "auto"}),
            ("any", {"type": "any"}),
            ("get_weather", {"type": "tool", "name": "get_weather"}),
        )
    },
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_requests(name: str) -> None:
    keys, expected = REQUESTS[name]
    wire = rendered(keys)
    assert json.loads(wire.body) == expected
    path = "/v1/messages" if keys["format"] == "messages" else "/v1/chat/completions"
    assert wire.url == HOST + path
    assert dict(wire.headers)["content-type"] == "application/json"


def test_messages_reference_authorizations() -> None:
    headers = dict(rendered({**MESSAGES, "prompt": "Hello"}).headers)
    assert headers["anthropic-version"] == "2023-06-01"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({**MESSAGES, "temperature": 1.5}, "temperature"),
        ({**MESSAGES, "top_p": 1.5}, "top_p"),
        ({**MESSAGES, "max_tokens": 0}, "max_tokens"),
        ({**MESSAGES, "stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({**MESSAGES, "thinking_tokens": 1024}, "thinking_tokens"),
        ({"format": "messages", "model": "m"}, "max_tokens"),
        ({**CHAT, "temperature": 2.5}, "temperature"),
        ({**CHAT, "stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({**CHAT, "presence_penalty": 2.5}, "presence_penalty"),
        ({**CHAT, "frequency_penalty": -2.5}, "frequency_penalty"),
    ],
    ids=[
        "messages-reference/Body/temperature",
        "messages-reference/Body/top_p",
        "messages-reference/Body/max_tokens",
        "messages-reference/Body/stop_sequences",
        "messages-guide/Deep Thinking Model/budget",
        "messages-guide/Basic Usage/required",
        "chat-reference/Request Parameters/temperature",
        "chat-reference/Request Parameters/stop",
        "chat-reference/Request Parameters/presence_penalty",
        "chat-reference/Request Parameters/frequency_penalty",
    ],
)
def test_the_bounds(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as error:
        rendered({**keys, "prompt": "Hello"})
    assert f"[request] {message}: " in str(error.value)


NOTHING_CACHED = {
    "audio_input_tokens": 0,
    "audio_output_tokens": 0,
    "cache_read_tokens": 0,
    "cache_write_tokens": 0,
    "cache_write_1h_tokens": 0,
    "reasoning_tokens": 0,
}
MESSAGE: dict[str, Any] = {
    "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "stop_sequence": None,
    "usage": {"input_tokens": 12, "output_tokens": 6},
}


def message(stop_reason: str, *blocks: dict[str, Any], **facts: Any) -> str:
    return json.dumps({**MESSAGE, "content": blocks, "stop_reason": stop_reason, **facts})


TEXT = {"type": "text", "text": "Hello!"}
USE = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}
PLAIN = Completion(
    ("Hello!",),
    "end_turn",
    MESSAGES_BODY["model"],
    MESSAGE["id"],
    Usage(12, 6),
    ending=Ending.STOP,
)

ANSWERS: dict[str, tuple[FormatName, str, dict[str, Any]]] = {
    "chat-guide/Basic Usage/2": (
        "chat",
        GREETING,
        {"texts": (SAID["content"],), "usage": Usage(8, 12, **NOTHING_CACHED)},
    ),
    "chat-guide/Multi-turn Dialogue/2": (
        "chat",
        SECOND_TURN,
        {"response_id": "msg_bdrk_01Y1wfQmd89g968TVbFu57Yc", "model": OPUS},
    ),
    "chat-guide/Deep Thinking Model/2": (
        "chat",
        THINKING,
        {"model": f"{SONNET}-thinking", "usage": Usage(60, 239)},
    ),
    "chat-guide/Visual Model/2": (
        "chat",
        VISION,
        {"usage": Usage(1570, 252, **NOTHING_CACHED), "stop_reason": "stop"},
    ),
    "chat-reference/Create/2": (
        "chat",
        SMALL,
        {"texts": (SAID["content"],), "usage": Usage(20, 10), "response_id": "chatcmpl-123"},
    ),
    "messages-guide/Basic Usage/2": (
        "messages",
        message("end_turn", TEXT),
        {"texts": ("Hello!",), "stop_reason": "end_turn", "usage": Usage(12, 6)},
    ),
    "messages-guide/Deep Thinking Model/2": (
        "messages",
        message("end_turn", {"type": "thinking", "thinking": "hm", "signature": "c2ln"}, TEXT),
        {"texts": ("Hello!",), "reasoning": "hm"},
    ),
    "messages-guide/Visual Model/result": (
        "messages",
        message("end_turn", TEXT, usage={"input_tokens": 1551, "output_tokens": 81}),
        {"usage": Usage(1551, 81)},
    ),
    "messages-guide/Tool Use/2": (
        "messages",
        message("tool_use", TEXT, USE),
        {
            "texts": ("Hello!",),
            "stop_reason": "tool_use",
            "tool_calls": '[{"id":"toolu_1","name":"get_weather","input":{"city":"Paris"}}]',
        },
    ),
    **{
        f"messages-reference/Response/stop reason {reason}": (
            "messages",
            message(reason, TEXT, stop_sequence=sequence),
            {"stop_reason": reason, "response_id": "msg_013Zva2CMHLNnXjNJJKqJ2EF"},
        )
        for reason, sequence in (
            ("end_turn", None),
            ("max_tokens", None),
            ("stop_sequence", "\n\nHuman:"),
            ("tool_use", None),
        )
    },
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_answers(name: str) -> None:
    wire_format, body, expected = ANSWERS[name]
    completion = of(wire_format).parse(body.encode())
    assert {key: getattr(completion, key) for key in expected} == expected


# Streams

HEAD = {
    "id": "msg_bdrk_01LPPqDjLKMgfSwTRMRty9VT",
    "object": "chat.completion.chunk",
    "created": 1768619445,
    "model": OPUS,
}
CHAT_STREAM = [
    {
        **HEAD,
        "system_fingerprint": None,
        "choices": [{"delta": delta, "logprobs": None, "finish_reason": reason, "index": 0}],
        "usage": None,
    }
    for delta, reason in (
        ({"content": "", "role": "assistant"}, None),
        ({"content": ""}, None),
        ({"content": "Hello!"}, None),
        ({"content": " How can I help you"}, None),
        ({"content": " today?"}, None),
        ({}, "stop"),
    )
] + [{**HEAD, "choices": [], "usage": json.loads(GREETING)["usage"]}]


def test_chat_guide_streaming_response_2() -> None:
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in CHAT_STREAM] + ["data: [DONE]\n\n"]
    reader = of("chat").stream_reader()
    reader.feed("".join(lines).encode())
    assert reader.finish() == Completion(
        ("Hello! How can I help you today?",),
        "stop",
        OPUS,
        "msg_bdrk_01LPPqDjLKMgfSwTRMRty9VT",
        Usage(8, 12, **NOTHING_CACHED),
        ending=Ending.STOP,
    )


def test_messages_guide_streaming_response_2() -> None:
    start: dict[str, Any] = {**MESSAGE, "content": [], "stop_reason": None}
    start["usage"] = {"input_tokens": 12, "output_tokens": 1}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": piece},
            }
            for piece in ("Hel", "lo!")
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 6},
        },
        {"type": "message_stop"},
    ]
    reader = of("messages").stream_reader()
    for event in events:
        reader.feed(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
    assert reader.finish() == PLAIN


# Errors

ERRORS = (
    (400, "token_mismatched", Cause.NO),
    (400, "api_not_implemented", Cause.NO),
    (401, "invalid_token", Cause.FATAL),
    (429, "too_many_requests", Cause.RATE_LIMIT),
    (500, "api_error", Cause.TRANSIENT),
)
TRACE = "2cf86e86-22a4-46e1-ac2f-032c0f2a4e89"


@pytest.mark.anyio
@pytest.mark.parametrize("guide", ["chat-guide", "messages-guide"])
@pytest.mark.parametrize(
    ("status", "code", "cause"), ERRORS, ids=[f"Error Handling/{s} {code}" for s, code, _ in ERRORS]
)
async def test_the_errors(guide: str, status: int, code: str, cause: Cause) -> None:
    wire_format: FormatName = "chat" if guide == "chat-guide" else "messages"
    body = {"success": False, "error": {"code": code, "message": "fetch failed"}, "trace_id": TRACE}
    transport = httpx.MockTransport(lambda _: httpx.Response(status, json=body))
    client = Client(of(wire_format), Credentials("key"), transport, ClientOptions(5))
    with pytest.raises(ProviderError) as error:
        await client.send(WireRequest(f"{HOST}/v1/x", (), b"{}"))
    fault = error.value.fault
    assert (fault.error_type, fault.message, fault.http_status) == (code, "fetch failed", status)
    assert fault.request_id == TRACE
    assert judge(fault, TrackRecord(answered=True)).cause is cause
