"""What the simulator refuses, and with which words; what it accepts."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.simulator import SimulatorConfig
from batchrun.simulator.calls import RefusedError, SimulatedFormat
from batchrun.simulator.chat_api import SimulatedChat
from batchrun.simulator.composition import compose
from batchrun.simulator.messages_api import SimulatedMessages
from batchrun.simulator.provider import decode
from tests.support.simulated import (
    CHAT,
    CHAT_TOOLS,
    MESSAGES,
    TOOLS,
    body,
    serving,
    text_of,
)

pytestmark = pytest.mark.anyio

DEEP_BLOCK = {"type": "odd", "deep": json.loads("[" * 300 + "]" * 300)}


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n not quite").decode()


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


IN_BOTH: list[tuple[str, dict[str, Any]]] = [
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
]
IN_MESSAGES: list[tuple[str, dict[str, Any]]] = [
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
]
IN_CHAT: list[tuple[str, dict[str, Any]]] = [
    ("tool_choice", {"tool_choice": "required"}),
    ("tool_choice", {"tools": CHAT_TOOLS, "tool_choice": "any"}),
    ("tools.0.type", {"tools": TOOLS}),
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
    ("messages.0.tool_call_id", {"messages": [{"role": "tool", "content": "1"}]}),
    ("logprobs", {"logprobs": "yes"}),
    ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
    ("top_logprobs", {"top_logprobs": 1}),
    ("functions", {"functions": [{}]}),
]


@pytest.mark.parametrize(
    ("path", "param", "fields"),
    [
        *((path, *case) for case in IN_BOTH for path in (MESSAGES, CHAT)),
        *((MESSAGES, *case) for case in IN_MESSAGES),
        *((CHAT, *case) for case in IN_CHAT),
    ],
)
async def test_a_refused_field_is_named(path: str, param: str, fields: dict[str, Any]) -> None:
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
        indexed = re.sub(r"\.(\d+)", r"[\1]", param)
        assert error["param"] == indexed
        assert error["message"].startswith(f"Invalid '{indexed}': ")


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


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": NaN}', b"\xff", b"[" * 5000])
async def test_bodies_that_are_no_json_object_are_refused(content: bytes) -> None:
    async with serving() as peer:
        answer = await peer.http.post(MESSAGES, content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


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
