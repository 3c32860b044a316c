"""Thinking, tools and caching: one neutral name, either wire format, the same columns.

The official SDKs' request types accept the bodies.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from batchrun import formats
from batchrun.records import Item
from batchrun.render import Renderer
from tests.conftest import KEY, batchrun
from tests.support.answering import body, job, refusal
from tests.support.provider import Call, Reply, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import polars as pl

    from batchrun.records import FormatName

WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


# Thinking


def test_thinking_has_a_budget_in_messages_and_a_model_name_in_chat() -> None:
    assert body("messages", thinking_tokens=2000)["thinking"] == {
        "type": "enabled",
        "budget_tokens": 2000,
    }
    assert body("chat", thinking_tokens=2000)["model"] == "m-thinking"
    assert body("chat", thinking_tokens=2000, model="m-thinking")["model"] == "m-thinking"
    assert "thinking" not in body("chat", thinking_tokens=2000)


def test_the_thinking_budget_is_below_max_tokens() -> None:
    message = "[request] thinking_tokens: must be below max_tokens, which is 4000, not 4000"
    assert message in refusal("messages", thinking_tokens=4000)
    renderer = Renderer(job("messages", thinking_tokens="{{ budget }}"), ["text", "budget"])
    good, bad = renderer.render(
        [Item(n, str(n), {"text": "hi", "budget": budget}) for n, budget in enumerate((1024, 5000))]
    )
    assert good.wire is not None
    assert bad.error_type == "invalid_parameter"
    assert "below max_tokens" in str(bad.error_message)


# Tools


def test_a_tool_is_described_once_for_both_formats() -> None:
    assert body("messages", tools=[WEATHER])["tools"] == [WEATHER]
    assert body("chat", tools=[WEATHER])["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "The weather in a city.",
                "parameters": WEATHER["input_schema"],
            },
        }
    ]


def test_a_vendors_tool_passes_as_it_is_where_it_can() -> None:
    bash = {"type": "bash_20250124", "name": "bash"}
    assert body("messages", tools=[bash])["tools"] == [bash]
    assert 'format = "messages"' in refusal("chat", tools=[bash])


@pytest.mark.parametrize(
    ("choice", "in_messages", "in_chat"),
    [
        ("auto", {"type": "auto"}, "auto"),
        ("any", {"type": "any"}, "required"),
        ("none", {"type": "none"}, "none"),
        (
            "get_weather",
            {"type": "tool", "name": "get_weather"},
            {"type": "function", "function": {"name": "get_weather"}},
        ),
    ],
)
def test_the_choice_among_tools(choice: str, in_messages: object, in_chat: object) -> None:
    assert body("messages", tools=[WEATHER], tool_choice=choice)["tool_choice"] == in_messages
    assert body("chat", tools=[WEATHER], tool_choice=choice)["tool_choice"] == in_chat


@pytest.mark.parametrize(
    ("request_keys", "message"),
    [
        ({"tools": [WEATHER], "tool_choice": "get_wether"}, "one of get_weather"),
        ({"tool_choice": "auto"}, "there are no tools"),
        ({"tools": [WEATHER, WEATHER]}, "two tools have the name get_weather"),
        ({"tools": ["x"]}, "must be a table"),
        ({"tools": [{"name": "x"}]}, "input_schema must be a JSON schema"),
        ({"tools": [{**WEATHER, "parameters": {}}]}, "unknown key parameters"),
        ({"tools": [{"description": "x"}]}, "needs a name"),
    ],
)
def test_tools_that_are_wrong(request_keys: dict[str, Any], message: str) -> None:
    assert message in refusal("messages", **request_keys)


CALLS: list[dict[str, Any]] = [
    {"id": "c1", "name": "get_weather", "input": {"city": "Łódź"}},
    {"id": "c2", "name": "get_weather", "input": {"city": "Bern"}},
]


def test_calls_are_the_same_from_either_format() -> None:
    blocks: list[dict[str, Any]] = [{"type": "tool_use", **call} for call in CALLS]
    whole = {"content": [{"type": "text", "text": "Let me look."}, *blocks]}
    found = formats.of("messages").parse(json.dumps(whole).encode())
    assert found.texts == ("Let me look.",)
    assert json.loads(found.tool_calls or "") == CALLS
    functions = [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["input"])},
        }
        for call in CALLS
    ]
    message = {"content": None, "tool_calls": functions}
    found = formats.of("chat").parse(json.dumps({"choices": [{"message": message}]}).encode())
    assert found.texts == ("",)
    assert json.loads(found.tool_calls or "") == CALLS


@pytest.mark.parametrize("arguments", ['{"city": "Ber', "", None, {"city": "Bern"}])
def test_arguments_that_are_cut_missing_or_no_text_are_kept(arguments: object) -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": arguments}}
    answer = {"choices": [{"message": {"content": None, "tool_calls": [call, 3]}}]}
    found = formats.of("chat").parse(json.dumps(answer).encode())
    expected = {} if arguments == "" else arguments
    assert json.loads(found.tool_calls or "") == [{"id": "c", "name": "f", "input": expected}]


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_streamed_calls_arrive_in_pieces(wire_format: FormatName) -> None:
    reader = formats.of(wire_format).stream_reader()
    for payload in _streamed_calls(wire_format):
        reader.feed(f"data: {json.dumps(payload)}\n\n".encode())
    reader.feed(b"data: [DONE]\n\n")
    assert json.loads(reader.finish().tool_calls or "") == CALLS


def _streamed_calls(wire_format: str) -> list[dict[str, Any]]:
    payloads: list[dict[str, Any]] = []
    for index, call in enumerate(CALLS):
        text = json.dumps(call["input"])
        pieces = [text[:4], text[4:]]
        if wire_format == "messages":
            block = {"type": "tool_use", "id": call["id"], "name": call["name"], "input": {}}
            payloads.append({"type": "content_block_start", "index": index, "content_block": block})
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
            payloads += [
                {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
            ]
        else:
            head = {"id": call["id"], "function": {"name": call["name"], "arguments": ""}}
            tails = [{"function": {"arguments": piece}} for piece in pieces]
            payloads += [
                {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": index, **part}]}}]}
                for part in (head, *tails)
            ]
    if wire_format == "messages":
        return [*payloads, {"type": "message_delta", "delta": {"stop_reason": "tool_use"}}]
    return [*payloads, {"choices": [{"index": 0, "finish_reason": "tool_calls"}]}]


# Caching


def test_the_system_prompt_is_marked_for_caching() -> None:
    marked = body("messages", system="Be kind.", cache_system=True)["system"]
    mark = {"type": "ephemeral"}
    assert marked == [{"type": "text", "text": "Be kind.", "cache_control": mark}]
    marked = body("messages", system="Be kind.", cache_system="1h")["system"]
    assert marked[0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert body("messages", system="Be kind.", cache_system=False)["system"] == "Be kind."


def test_caching_that_cannot_be_asked_for() -> None:
    assert 'format = "messages"' in refusal("chat", system="x", cache_system=True)
    assert "set system" in refusal("messages", cache_system=True)
    assert '"5m" or "1h"' in refusal("messages", system="x", cache_system="2h")


# All the way through


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_calls_and_reasoning_come_back_as_columns(
    write_job: Callable[..., Path], results: Callable[[], pl.DataFrame], wire_format: str
) -> None:
    with serving(lambda call: _thoughtful(call, wire_format)) as provider:
        tool = json.dumps(WEATHER).replace('": ', '" = ')
        path = write_job(
            provider.url,
            rows=2,
            wire_format=wire_format,
            request=f"thinking_tokens = 1024\ntools = [{tool}]",
        )
        code, _, stderr = batchrun("run", path, "--set", "request.max_tokens=2000")
    assert code == 0, stderr
    row = results().row(0, named=True)
    assert row["reasoning"].startswith("Hm.")
    assert ("[redacted]" in row["reasoning"]) == (wire_format == "messages")
    assert json.loads(row["tool_calls"]) == CALLS[:1]
    assert row["reasoning_tokens"] == 3


def _thoughtful(call: Call, wire_format: str) -> Reply:
    if wire_format == "messages":
        payload: dict[str, Any] = {
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "redacted_thinking", "data": "xyz"},
                {"type": "tool_use", **CALLS[0]},
            ],
            "usage": {
                "input_tokens": 5,
                "output_tokens": 9,
                "output_tokens_details": {"thinking_tokens": 3},
            },
        }
        assert call.json["thinking"]["budget_tokens"] == 1024
    else:
        function = {"name": "get_weather", "arguments": json.dumps(CALLS[0]["input"])}
        message = {
            "content": None,
            "reasoning_content": "Hm.",
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        }
        details = {"reasoning_tokens": 3}
        usage = {
            "prompt_tokens": 5,
            "completion_tokens": 9,
            "completion_tokens_details": details,
        }
        payload = {"choices": [{"message": message}], "usage": usage}
    return Reply(body=json.dumps(payload).encode())


# How the key travels, and what a number is called


@pytest.mark.parametrize(
    ("wire_format", "auth", "header", "value"),
    [
        ("messages", None, "x-api-key", KEY),
        ("messages", "bearer", "authorization", f"Bearer {KEY}"),
        ("chat", None, "authorization", f"Bearer {KEY}"),
        ("chat", "x-api-key", "x-api-key", KEY),
    ],
)
def test_the_key_travels_as_the_server_wants_it(
    write_job: Callable[..., Path], wire_format: str, auth: str | None, header: str, value: str
) -> None:
    chosen = f'auth = "{auth}"' if auth else ""
    with serving() as provider:
        path = write_job(provider.url, rows=1, wire_format=wire_format, request=chosen)
        assert batchrun("run", path)[0] == 0
        _, shown, _ = batchrun("preview", path)
    (call,) = provider.calls
    assert call.headers[header] == value
    assert len({"authorization", "x-api-key"} & set(call.headers)) == 1
    assert json.loads(shown)["headers"][header] == value.replace(KEY, "***")


def test_max_tokens_has_another_name_at_some_servers() -> None:
    found = body("chat", max_tokens_key="max_completion_tokens")
    assert found["max_completion_tokens"] == 4000
    assert "max_tokens" not in found
    assert 'format = "chat"' in refusal("messages", max_tokens_key="max_completion_tokens")
    assert "must be" in refusal("chat", max_tokens_key="tokens")
