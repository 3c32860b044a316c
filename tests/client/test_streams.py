"""Streamed answers give what whole ones give, whatever the line ends and wherever chunks break.

The official SDKs are the oracle: from the same bytes they read the same answer.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun import formats
from batchrun.formats import InvalidResponse
from batchrun.formats.streaming import Decoder
from batchrun.records import Ending, Message, Parameters, Request, Usage, changed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrun.records import Completion, FormatName

TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\r"), max_size=12
) | st.sampled_from(["é", "🙂", "\u2028", "data: x", "\n\n", "東京", ""])
COUNT = st.integers(0, 10**6)


def calls_of(completion: Completion) -> list[tuple[str, str, object]]:
    calls = json.loads(completion.tool_calls or "[]")
    return [(call["id"], call["name"], call["input"]) for call in calls]


def read(wire_format: FormatName, chunks: list[bytes]) -> Completion:
    reader = formats.of(wire_format).stream_reader()
    for chunk in chunks:
        reader.feed(chunk)
    return reader.finish()


# The Claude Messages format


@st.composite
def messages_events(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The events of one answer: thinking now and then, texts and a tool call, pings anywhere."""
    usage = {
        "input_tokens": draw(COUNT),
        "output_tokens": 1,
        "cache_read_input_tokens": draw(COUNT),
    }
    message: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant"}
    message |= {"model": "claude-x", "content": [], "stop_reason": None, "usage": usage}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    kinds = draw(st.lists(st.sampled_from(["text", "thinking", "tool_use"]), max_size=4))
    for index, kind in enumerate(kinds):
        events += draw(_block(index, kind))
    delta = {
        "stop_reason": draw(st.sampled_from(["end_turn", "max_tokens"])),
        "stop_sequence": None,
    }
    events.append(
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": draw(COUNT)}}
    )
    events.append({"type": "message_stop"})
    for place in draw(st.lists(st.integers(1, len(events) - 1), max_size=2)):
        events.insert(place, {"type": "ping"})
    return events


def _block(index: int, kind: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    start: dict[str, dict[str, Any]] = {
        "text": {"type": "text", "text": ""},
        "thinking": {"type": "thinking", "thinking": "", "signature": ""},
        "tool_use": {"type": "tool_use", "id": f"toolu_{index}", "name": "f", "input": {}},
    }

    def events(pieces: list[str]) -> list[dict[str, Any]]:
        if kind == "text":
            deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
        elif kind == "thinking":
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
            deltas.append({"type": "signature_delta", "signature": "c2ln"})
        else:
            whole = json.dumps({"a": "".join(pieces)})
            parts = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
        return [
            {"type": "content_block_start", "index": index, "content_block": start[kind]},
            *({"type": "content_block_delta", "index": index, "delta": d} for d in deltas),
            {"type": "content_block_stop", "index": index},
        ]

    return st.lists(TEXT, max_size=4).map(events)


@st.composite
def wire(
    draw: st.DrawFn, frames: list[tuple[str, str]], ends: tuple[str, ...]
) -> tuple[bytes, list[bytes]]:
    """The bytes of a stream with mixed line ends and comments, and a way to split them."""
    lines = []
    for name, data in frames:
        if draw(st.integers(0, 5)) == 0:
            lines.append(": a comment")
        if name:
            lines.append(f"event: {name}")
        lines += [draw(st.sampled_from(["data: ", "data:"])) + data, ""]
    content = _ended(draw, lines, ends).encode()
    cuts = sorted(draw(st.lists(st.integers(0, len(content)), max_size=12)))
    places = [0, *cuts, len(content)]
    chunks = [content[a:b] for a, b in itertools.pairwise(places)]
    return content, chunks


def _ended(draw: st.DrawFn, lines: list[str], ends: tuple[str, ...]) -> str:
    text = ""
    for line in lines:
        # An empty line that ends in \n right after a \r would be one line end, not two.
        one = text.endswith("\r") and not line
        text += line + draw(st.sampled_from([end for end in ends if not (one and end == "\n")]))
    return text


class _Bytes(httpx2.SyncByteStream):
    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks


def sdk_transport(chunks: list[bytes]) -> httpx2.Client:
    def respond(_: httpx2.Request) -> httpx2.Response:
        head = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=head, stream=_Bytes(chunks))

    return httpx2.Client(transport=httpx2.MockTransport(respond))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_messages_streams_read_as_the_official_sdk_reads_them(data: st.DataObject) -> None:
    events = data.draw(messages_events())
    frames = [(event["type"], json.dumps(event, ensure_ascii=False)) for event in events]
    _, chunks = data.draw(wire(frames, ("\n", "\r\n", "\r")))
    ours = read("messages", chunks)
    client = anthropic.Anthropic(api_key="k", http_client=sdk_transport(chunks), max_retries=0)
    with client.messages.stream(
        model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]
    ) as stream:
        theirs = stream.get_final_message()
    assert ours.texts == ("".join(b.text for b in theirs.content if b.type == "text"),)
    thinking = "\n\n".join(b.thinking for b in theirs.content if b.type == "thinking")
    assert (ours.reasoning or "") == thinking
    called = [(b.id, b.name, b.input) for b in theirs.content if b.type == "tool_use"]
    assert calls_of(ours) == called
    assert ours.stop_reason == theirs.stop_reason
    assert ours.response_id == theirs.id
    assert ours.model == theirs.model
    read_from_cache = theirs.usage.cache_read_input_tokens or 0
    assert ours.usage.input_tokens == theirs.usage.input_tokens + read_from_cache
    assert ours.usage.output_tokens == theirs.usage.output_tokens


# The chat format


_CALL = st.dictionaries(TEXT, TEXT, max_size=3)


def _woven(
    draw: st.DrawFn, deltas: list[tuple[int, dict[str, Any]]], calls: list[dict[str, str]]
) -> list[tuple[int, dict[str, Any]]]:
    """Put the pieces of the first choice's tool calls between the other deltas, in their order."""
    pieces: list[tuple[int, dict[str, Any]]] = []
    for number, arguments in enumerate(calls):
        text = json.dumps(arguments)
        start: dict[str, Any] = {"id": f"call_{number}", "type": "function"}
        start["function"] = {"name": "f", "arguments": ""}
        parts = [text[: len(text) // 2], text[len(text) // 2 :]]
        told = [start, *({"function": {"arguments": part}} for part in parts)]
        pieces += [(0, {"tool_calls": [{"index": number, **part}]}) for part in told]
    places = sorted(
        draw(st.lists(st.integers(0, len(deltas)), min_size=len(pieces), max_size=len(pieces)))
    )
    for offset, (place, piece) in enumerate(zip(places, pieces, strict=True)):
        deltas = [*deltas[: place + offset], piece, *deltas[place + offset :]]
    return deltas


@st.composite
def chat_chunks(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The chunks of an answer with one or more interleaved choices and a last one with usage."""
    choices = draw(st.integers(1, 3))
    deltas = [
        (index, {"content": piece})
        for index in range(choices)
        for piece in draw(st.lists(TEXT, max_size=4))
    ]
    deltas = draw(st.permutations(deltas))
    deltas = _woven(draw, deltas, draw(st.lists(_CALL, max_size=3)))
    ends: list[tuple[int, dict[str, Any], str]] = [
        (index, {}, draw(st.sampled_from(["stop", "tool_calls"]))) for index in range(choices)
    ]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [
        {**head, "choices": [{"index": i, "delta": {"role": "assistant", "content": ""}}]}
        for i in range(choices)
    ]
    chunks += [{**head, "choices": [{"index": i, "delta": d}]} for i, d in deltas]
    chunks += [
        {**head, "choices": [{"index": i, "delta": d, "finish_reason": r}]} for i, d, r in ends
    ]
    usage = {"prompt_tokens": draw(COUNT), "completion_tokens": draw(COUNT), "total_tokens": 0}
    return [*chunks, {**head, "choices": [], "usage": usage}]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_chat_streams_read_as_the_official_sdk_reads_them(data: st.DataObject) -> None:
    payloads = data.draw(chat_chunks())
    frames = [("", json.dumps(payload, ensure_ascii=False)) for payload in payloads]
    frames.append(("", "[DONE]"))
    _, chunks = data.draw(wire(frames, ("\n", "\r\n", "\r")))
    ours = read("chat", chunks)
    client = openai.OpenAI(api_key="k", http_client=sdk_transport(chunks), max_retries=0)
    asked: Any = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    with client.chat.completions.stream(**asked) as stream:
        theirs = stream.get_final_completion()
    assert ours.texts == tuple(choice.message.content or "" for choice in theirs.choices)
    called = theirs.choices[0].message.tool_calls or []
    assert calls_of(ours) == [
        (call.id, call.function.name, json.loads(call.function.arguments)) for call in called
    ]
    assert ours.stop_reason == theirs.choices[0].finish_reason
    usage = theirs.usage
    assert usage is not None
    assert ours.usage == Usage(usage.prompt_tokens, usage.completion_tokens)


# What goes wrong


CUT: dict[FormatName, bytes] = {
    "messages": b'event: message_start\ndata: {"type":"message_start","message":{"id":"m"}}\n\n'
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"half"}}\n\n',
    "chat": b'data: {"choices":[{"index":0,"delta":{"content":"half"}}]}\n\n',
}
REASON: dict[FormatName, bytes] = {
    "messages": b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n',
    "chat": b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
}
MARKERS = {"messages": b'data: {"type":"message_stop"}\n\n', "chat": b"data: [DONE]\n\n"}


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
@pytest.mark.parametrize("is_marked", [False, True])
def test_a_stream_without_a_reason_for_its_end_is_no_answer(
    wire_format: FormatName, *, is_marked: bool
) -> None:
    """Both official SDKs return the partial text as if it were whole."""
    chunks = [CUT[wire_format], MARKERS[wire_format] if is_marked else b""]
    with pytest.raises(InvalidResponse, match="without a reason for its end") as caught:
        read(wire_format, chunks)
    assert caught.value.error_type == "stream_cut"


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
@pytest.mark.parametrize("is_marked", [False, True])
@pytest.mark.parametrize("end", [b"\n\n", b"\n", b""])
def test_the_reason_makes_it_whole_with_or_without_a_marker(
    wire_format: FormatName, end: bytes, *, is_marked: bool
) -> None:
    chunks = [CUT[wire_format], REASON[wire_format]]
    if is_marked:
        chunks.append(MARKERS[wire_format])
    chunks[-1] = chunks[-1].rstrip(b"\n") + end
    whole = read(wire_format, chunks)
    assert whole.texts == ("half",)
    assert whole.ending is Ending.STOP


def test_every_choice_needs_its_reason() -> None:
    other = b'data: {"choices":[{"index":1,"delta":{"content":"b"}}]}\n\n'
    with pytest.raises(InvalidResponse, match="without a reason for its end"):
        read("chat", [CUT["chat"], other, REASON["chat"], MARKERS["chat"]])
    both = REASON["chat"].replace(b'"index":0', b'"index":1')
    found = read("chat", [CUT["chat"], other, REASON["chat"], both])
    assert found.texts == ("half", "b")


@pytest.mark.parametrize(
    ("wire_format", "event", "error_type"),
    [
        (
            "messages",
            b'data: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n',
            "overloaded_error",
        ),
        ("chat", b'data: {"error":{"message":"gone","code":"server_error"}}\n\n', "server_error"),
        ("chat", b'event: error\ndata: {"message":"gone"}\n\n', "stream_error"),
        ("messages", b"data: {nonsense\n\n", "invalid_response"),
        ("chat", b"data: 17\n\n", "invalid_response"),
        ("chat", b"<html>Bad gateway</html>\n\n", "stream_cut"),
    ],
)
def test_what_a_stream_reports_in_the_middle_is_its_error(
    wire_format: FormatName, event: bytes, error_type: str
) -> None:
    with pytest.raises(InvalidResponse) as caught:
        read(wire_format, [CUT[wire_format], event] if b"<html>" not in event else [event])
    assert caught.value.error_type == error_type


def test_zeros_at_the_start_are_overridden_field_by_field() -> None:
    start = b'data: {"type":"message_start","message":{"usage":{"input_tokens":0,"output_tokens":0}}}\n\n'
    delta = b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":25,"output_tokens":7}}\n\n'
    found = read("messages", [start, delta, b'data: {"type":"message_stop"}\n\n'])
    assert found.usage == Usage(input_tokens=25, output_tokens=7)


def test_a_last_zero_does_not_take_the_input_away() -> None:
    start = b'data: {"type":"message_start","message":{"usage":{"input_tokens":25}}}\n\n'
    end = REASON["messages"].replace(
        b'"delta"', b'"usage":{"input_tokens":0,"output_tokens":0},"delta"'
    )
    assert read("messages", [start, end]).usage == Usage(input_tokens=25, output_tokens=0)


def test_2000_events_in_one_chunk() -> None:
    piece = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
    assert read("chat", [piece * 2_000 + REASON["chat"]]).texts == ("x" * 2_000,)


def test_an_event_that_never_ends_is_bounded() -> None:
    decoder = Decoder(limit=1_000_000)
    assert list(decoder.feed(b"data: " + b"x" * 999_000)) == []
    with pytest.raises(InvalidResponse, match="larger than"):
        list(decoder.feed(b"x" * 2_000))
    decoder = Decoder(limit=1_000_000)
    assert list(decoder.feed((b"data: " + b"x" * 1_000 + b"\n") * 990)) == []
    with pytest.raises(InvalidResponse, match="larger than"):
        list(decoder.feed((b"data: " + b"x" * 1_000 + b"\n") * 20))


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_streaming_does_not_change_the_fingerprint(wire_format: FormatName) -> None:
    turn = (Message("user", "hi"),)
    whole = Request(
        wire_format, "https://x.example", "m", turn, parameters=Parameters(max_tokens=5)
    )
    streamed = changed(whole, stream=True)
    api = formats.of(wire_format)
    body = json.loads(api.encode(streamed).body)
    assert body.pop("stream") is True
    assert body.pop("stream_options", {"include_usage": True}) == {"include_usage": True}
    assert body == json.loads(api.encode(whole).body)
    one, other = (api.fingerprint(each, api.encode(each)) for each in (whole, streamed))
    assert one == other


def test_reasoning_comes_under_either_name() -> None:
    for name in ("reasoning", "reasoning_content"):
        events = [{"choices": [{"index": 0, "delta": {name: piece}}]} for piece in ("h", "m")]
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        found = read("chat", ["".join(lines).encode(), REASON["chat"]])
        assert found.reasoning == "hm"


def test_the_text_of_a_refusal_is_not_the_answer() -> None:
    message = {"role": "assistant", "content": None, "refusal": "I cannot."}
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    found = formats.of("chat").parse(json.dumps(whole).encode())
    assert (found.texts, found.refusal, found.ending) == (("",), "I cannot.", Ending.REFUSAL)
    events = [{"choices": [{"index": 0, "delta": {"refusal": part}}]} for part in ("I ", "cannot.")]
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    found = read("chat", ["".join(lines).encode(), REASON["chat"]])
    assert (found.texts, found.refusal, found.ending) == (("",), "I cannot.", Ending.REFUSAL)
