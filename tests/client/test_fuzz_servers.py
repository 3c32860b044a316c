"""Whatever a server answers: the command ends with an exit code of its own.

Exit 1 and a traceback would be bugs. `make fuzz` looks for more, at random.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fuzzing import JSON, fuzzed, run_over
from tests.support.provider import Call, Provider, Reply, serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with serving() as running:
        yield running


# Servers

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        {"type": "thinking", "thinking": "…"},
        {"type": "text", "text": "hello"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
    ],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 1},
}
CHAT = {
    "id": "chatcmpl-1",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {
                "content": "hello",
                "reasoning_content": "…",
                "tool_calls": [{"id": "t", "function": {"name": "f", "arguments": "{}"}}],
            },
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {}},
}
ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "no", "code": None}}
CHUNK = {
    "id": "c",
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}],
}
EVENTS = [
    {"type": "message_start", "message": {**MESSAGE, "content": []}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
    {"type": "message_stop"},
]


def changed(value: Any, path: list[int], new: Any) -> Any:
    """Return JSON in which the value that a path of numbers leads to is another one."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    first, rest = path[0], path[1:]
    if isinstance(value, list):
        place = first % len(value)
        return [changed(v, rest, new) if n == place else v for n, v in enumerate(value)]
    key = list(value)[first % len(value)]
    return {k: changed(v, rest, new) if k == key else v for k, v in value.items()}


PATHS = st.lists(st.integers(0, 6), max_size=5)
BODIES = st.builds(
    lambda base, path, new: json.dumps(changed(base, path, new)).encode(),
    st.sampled_from([MESSAGE, CHAT, ERROR, CHUNK]),
    PATHS,
    JSON,
)


def as_stream(base: list[dict[str, Any]], path: list[int], new: Any, cut: int) -> bytes:
    events = changed(base, path, new)
    written = b"".join(
        b"event: %s\ndata: %s\n\n"
        % (str(e.get("type") if isinstance(e, dict) else e)[:20].encode(), json.dumps(e).encode())
        for e in (events if isinstance(events, list) else [events])
    )
    return (written + b"data: [DONE]\n\n")[: cut or None]


STREAMS = st.builds(
    as_stream,
    st.sampled_from([EVENTS, [CHUNK, CHUNK, {**CHUNK, "usage": CHAT["usage"]}], [ERROR]]),
    PATHS,
    JSON,
    st.integers(-40, 400),
)
SSE_BYTES = st.text(alphabet='data: event\n\r{}[]":,1x\0é', max_size=80).map(str.encode)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *(
                "retry-after",
                "retry-after-ms",
                "x-should-retry",
                "request-id",
                "x-request-id",
                "date",
            ),
            *("anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining"),
            *("anthropic-ratelimit-requests-reset", "anthropic-ratelimit-input-tokens-limit"),
            *("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"),
            *("x-ratelimit-reset-requests", "content-encoding", "location"),
        ]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
    | st.sampled_from(["0", "-1", "1e400", "nan", "99999999999999999999", "0.01", "1s", "gzip"]),
    max_size=3,
)


HEADER_NAMES = [
    *("retry-after", "retry-after-ms", "x-should-retry", "request-id", "x-request-id", "date"),
    *(
        f"anthropic-ratelimit-{what}-{which}"
        for what in ("requests", "tokens", "input-tokens", "output-tokens")
        for which in ("limit", "remaining", "reset")
    ),
    *(
        f"x-ratelimit-{which}-{what}"
        for what in ("requests", "tokens")
        for which in ("limit", "remaining", "reset")
    ),
    *("content-type", "content-encoding", "transfer-encoding", "location", "connection", "x-a"),
]
HEADER_VALUES = (
    st.sampled_from(
        [
            *("0", "-1", "1", "0.001", "1e400", "nan", "inf", "9" * 400, "1s", "1m30s", "6m0s9"),
            *("2025-01-31T00:00:00Z", "0000-00-00T99:99:99Z", "Fri, 01 Jan 2100 00:00:00 GMT"),
            *("Thu, 99 Zzz 0000 00:00:00", "true", "false", "gzip", "chunked", "close", "", " "),
            *("text/event-stream", "text/html; charset=\u0661", "1\r\nx-b: 2", "a" * 9_000, "\0"),
        ]
    )
    | st.integers().map(str)
    | st.floats().map(str)
    | st.datetimes().map(lambda moment: moment.isoformat() + "Z")
    | st.text(st.characters(max_codepoint=0x2FF), max_size=12)
)


def calm(headers: dict[str, str]) -> dict[str, str]:
    """Leave out waits that a provider may well ask for: they are obeyed."""
    left = ("-remaining", "retry-after")
    return {n: v for n, v in headers.items() if not any(word in n for word in left) or v == "nan"}


@fuzzed(80)
@given(
    body=st.binary(max_size=60)
    | BODIES
    | STREAMS
    | SSE_BYTES
    | JSON.map(lambda v: json.dumps(v).encode()),
    status=st.sampled_from([200, 200, 200, 200, 400, 422, 429, 500, 529, 201, 204, 302, 401, 999]),
    content_type=st.sampled_from(["application/json", "text/event-stream", "text/html", ""]),
    headers=HEADERS,
    wire_format=st.sampled_from(["messages", "chat"]),
)
def test_any_answer_of_a_server(  # noqa: PLR0917 - hypothesis passes them by name
    provider: Provider,
    body: bytes,
    status: int,
    content_type: str,
    headers: dict[str, str],
    wire_format: str,
) -> None:
    def decide(_: Call) -> Reply:
        return Reply(status, body, {**calm(headers), "content-type": content_type})

    provider.decide = decide
    # Some of these answers have no end.
    asked: dict[str, Any] = {"format": wire_format, "stream": b"data" in body, "timeout_s": 0.5}
    code = run_over(provider, "t.csv", b"a\n1\n2\n", **asked)
    assert code in {0, 3, 4}


@fuzzed(40)
@given(
    headers=st.dictionaries(st.sampled_from(HEADER_NAMES), HEADER_VALUES, max_size=6),
    status=st.sampled_from([200, 200, 429, 529, 500, 400]),
)
def test_any_headers(provider: Provider, headers: dict[str, str], status: int) -> None:
    """One row is sent once, and so waits for nothing that a header could ask for."""

    def decide(call: Call) -> Reply:
        body = json.dumps(MESSAGE if status == 200 else ERROR).encode()
        return Reply(status, body, headers)

    provider.decide = decide
    assert run_over(provider, "t.csv", b"a\n1\n", timeout_s=0.5) in {0, 3, 4}
