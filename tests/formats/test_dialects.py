"""The dialects of both formats: what providers, gateways and servers send, whole and in pieces."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from batchrun import formats
from batchrun.client import Credentials
from batchrun.formats import InvalidResponse
from batchrun.formats.limit_headers import seconds_until_reset
from batchrun.formats.usage import billing, chat_usage, messages_usage
from batchrun.records import Billing, Ending, Usage

if TYPE_CHECKING:
    from batchrun.errors import ProviderFault
    from batchrun.records import Completion, FormatName

NOW = 1_800_000_000.0
USED: dict[str, Any] = {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18}


def chat(message: object = None, reason: object = "stop", **fields: Any) -> Completion:
    choice = {"index": 0, "message": message, "finish_reason": reason, **fields}
    return formats.of("chat").parse(json.dumps({"choices": [choice]}).encode())


def message(*blocks: dict[str, Any], **fields: Any) -> Completion:
    body = {"content": blocks, "stop_reason": "end_turn", **fields}
    return formats.of("messages").parse(json.dumps(body).encode())


def streamed(
    wire_format: FormatName, *events: dict[str, Any], keep_raw: bool = False
) -> Completion:
    reader = formats.of(wire_format).stream_reader(keep_raw=keep_raw)
    for event in events:
        reader.feed(f"data: {json.dumps(event)}\n\n".encode())
    return reader.finish()


def chunk(delta: object = None, reason: object = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason, **fields}]}


def in_chunks(*deltas: dict[str, Any], reason: str = "stop") -> Completion:
    return streamed("chat", *map(chunk, deltas), chunk({}, reason))


def fault_of(wire_format: FormatName, body: object) -> ProviderFault:
    with pytest.raises(InvalidResponse) as caught:
        formats.of(wire_format).parse(json.dumps(body).encode())
    return caught.value.fault


@pytest.mark.parametrize(
    "counts",
    [
        {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18},
        {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 30},
        {"prompt_tokens": 12, "completion_tokens": 6, "prompt_tokens_details": None},
        {"prompt_tokens": 12, "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 1}},
        {"prompt_tokens": 12, "prompt_tokens_details": {"cached_tokens": 80}},
        {"prompt_tokens": True, "completion_tokens": -1},
        {},
    ],
)
def test_usual_counts_are_read_as_they_are_among_rare_ones(counts: dict[str, Any]) -> None:
    assert chat_usage(counts) == chat_usage({**counts, "cache_creation": None})
    assert billing({}, counts) == billing({}, {**counts, "cost": None})
    assert billing({"service_tier": "flex"}, counts).service_tier == "flex"


@pytest.mark.parametrize("content", ["text", "", None, [], 7, [{"type": "text", "text": "a"}]])
def test_a_plain_message_is_read_as_one_with_an_unknown_field(content: object) -> None:
    plain = {"role": "assistant", "content": content, "refusal": None, "tool_calls": []}
    assert chat(plain) == chat({**plain, "unknown": "field"})


def test_a_message_of_text_alone_is_an_answer() -> None:
    body = {"content": "plain", "stop_reason": "end_turn", "usage": {"output_tokens": 2}}
    answer = formats.of("messages").parse(json.dumps(body).encode())
    assert (answer.texts, answer.ending, answer.usage.output_tokens) == (("plain",), "stop", 2)


def test_null_among_the_parts_of_a_content_is_no_text() -> None:
    assert chat({"content": ["a", None, {"type": "text", "text": "b"}]}).texts == ("ab",)


# Endings


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        ("stop", Ending.STOP),
        ("end_turn", Ending.STOP),
        ("stop_sequence", Ending.STOP),
        ("STOP", Ending.STOP),
        ("length", Ending.LENGTH),
        ("max_tokens", Ending.LENGTH),
        ("MAX_TOKENS", Ending.LENGTH),
        ("model_context_window_exceeded", Ending.LENGTH),
        ("model_length", Ending.LENGTH),
        ("tool_calls", Ending.TOOL_CALLS),
        ("tool_use", Ending.TOOL_CALLS),
        ("function_call", Ending.TOOL_CALLS),
        ("refusal", Ending.REFUSAL),
        ("content_filter", Ending.FILTERED),
        ("SAFETY", Ending.FILTERED),
        ("guardrail_intervened", Ending.FILTERED),
        ("sensitive", Ending.FILTERED),
        ("pause_turn", Ending.PAUSED),
        ("something_new", Ending.UNKNOWN),
        ("null", Ending.UNKNOWN),
        ("", Ending.UNKNOWN),
        (None, Ending.UNKNOWN),
        (7, Ending.UNKNOWN),
        ({"type": "stop"}, Ending.STOP),
    ],
)
def test_reasons_of_both_formats_have_one_ending(reason: object, ending: Ending) -> None:
    assert chat({"content": "x"}, reason).ending is ending
    assert message({"type": "text", "text": "x"}, stop_reason=reason).ending is ending


CALL = {"id": "a", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("said", "reason", "ending"),
    [
        ({"refusal": "No."}, "stop", Ending.REFUSAL),
        ({"refusal": "No."}, "length", Ending.REFUSAL),
        ({"refusal": "No."}, "content_filter", Ending.FILTERED),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "stop", Ending.REFUSAL),
        ({"refusal": ""}, "stop", Ending.STOP),
        ({"tool_calls": [CALL]}, "stop", Ending.TOOL_CALLS),
        ({"tool_calls": [CALL]}, None, Ending.TOOL_CALLS),
        ({"tool_calls": [CALL]}, "length", Ending.LENGTH),
        ({"tool_calls": []}, "stop", Ending.STOP),
    ],
)
def test_what_an_answer_holds_says_more_than_stop(
    said: dict[str, Any], reason: object, ending: Ending
) -> None:
    assert chat(said, reason).ending is ending


def test_the_words_of_a_refusal_in_the_messages_format() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "I can't help."}
    found = message(stop_reason="refusal", stop_details=details)
    assert (found.ending, found.refusal, found.texts) == (Ending.REFUSAL, "I can't help.", ("",))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stop_reason": "END"}, "END"),
        ({"matched_stop": "##"}, "##"),
        ({"stop_reason": 128_001}, None),
        ({}, None),
    ],
)
def test_which_stop_sequence_a_chat_server_reached(
    fields: dict[str, Any], expected: str | None
) -> None:
    assert chat({"content": "x"}, **fields).stop_sequence == expected
    end = streamed("chat", chunk({"content": "x"}), chunk({}, "stop", **fields))
    assert end.stop_sequence == expected


def test_which_stop_sequence_a_message_reached() -> None:
    text = {"type": "text", "text": "x"}
    assert message(text, stop_reason="stop_sequence", stop_sequence="--").stop_sequence == "--"
    delta = {"stop_reason": "stop_sequence", "stop_sequence": "--"}
    found = streamed("messages", {"type": "message_delta", "delta": delta})
    assert (found.stop_sequence, found.ending) == ("--", Ending.STOP)


# Content


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
SUMMARY = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}


@pytest.mark.parametrize(
    ("content", "text", "reasoning"),
    [
        ("a", "a", None),
        (None, "", None),
        ([], "", None),
        (42, "42", None),
        (4.5, "4.5", None),
        (True, "true", None),
        ({"label": "x"}, '{"label":"x"}', None),
        ({"type": "invoice", "total": 3}, '{"type":"invoice","total":3}', None),
        ({"n": 12345678901234567890123}, '{"n":12345678901234567890123}', None),
        (["a", "b"], '["a","b"]', None),
        ([{"label": "x"}], '[{"label":"x"}]', None),
        ({"type": "text", "text": "a"}, "a", None),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab", None),
        ([THINKING, {"type": "text", "text": "a"}], "a", "hm"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}], "a", "hm"),
        ([SUMMARY, {"type": "text", "text": "a"}], "a", "hm"),
        (
            [{"type": "text", "text": "a"}, {"type": "chart", "x": 1}],
            'a{"type":"chart","x":1}',
            None,
        ),
        ([{"type": "text", "text": "a"}, "b"], "ab", None),
    ],
)
def test_content_in_every_shape(content: object, text: str, reasoning: str | None) -> None:
    whole = chat({"content": content})
    assert (whole.texts, whole.reasoning) == ((text,), reasoning)
    for deltas in ([{"content": content}], [{"content": ""}, {"content": content}]):
        found = in_chunks(*deltas)
        assert (found.texts, found.reasoning) == ((text,), reasoning)


def test_content_whose_shape_changes_from_delta_to_delta() -> None:
    found = in_chunks(
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "six "}]}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "times"}]}]},
        {"content": [{"type": "text", "text": "4"}]},
        {"content": 2},
        {"content": "!"},
    )
    assert (found.texts, found.reasoning) == (("42!",), "six times")


@pytest.mark.parametrize(
    "said",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"thinking": "hm"},
        {"reasoning": "", "reasoning_content": "hm"},
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm", "index": 0}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]},
        {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
    ],
)
def test_reasoning_under_every_name(said: dict[str, Any]) -> None:
    assert chat({"content": "a", **said}).reasoning == "hm"
    assert (
        in_chunks({"content": "a"}, *({name: value} for name, value in said.items())).reasoning
        == "hm"
    )


def test_pieces_of_reasoning_belong_together_by_index_and_up_to_the_signature() -> None:
    details: list[dict[str, Any]] = [
        {"type": "reasoning.text", "text": "a", "index": 0},
        {"type": "reasoning.text", "text": "b", "index": 0},
        {"type": "reasoning.text", "text": "c", "index": 1},
        {"type": "reasoning.summary", "summary": "d", "index": 1},
        {"type": "reasoning.encrypted", "data": "e", "index": 2},
        {"type": "reasoning.encrypted", "data": "f", "index": 2},
    ]
    blocks: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "a", "signature": None},
        {"type": "thinking", "thinking": "", "signature": "s"},
        {"type": "thinking", "thinking": "b"},
    ]
    found = in_chunks(
        *({"reasoning_details": [each]} for each in details),
        *({"thinking_blocks": [each]} for each in blocks),
        {"tool_calls": [{"index": 0, **CALL}]},
    )
    assert found.turn is not None
    merged = [{"type": "reasoning.text", "text": "ab", "index": 0}, *details[2:]]
    assert found.turn["reasoning_details"] == merged
    assert found.turn["thinking_blocks"] == [
        {"type": "thinking", "thinking": "a", "signature": "s"},
        {"type": "thinking", "thinking": "b"},
    ]


def test_spoken_answers_have_their_transcript() -> None:
    assert chat({"content": None, "audio": {"id": "a", "transcript": "hello"}}).texts == ("hello",)
    pieces = [
        {"audio": {"id": "a"}},
        {"audio": {"transcript": "hel"}},
        {"audio": {"transcript": "lo"}},
    ]
    assert in_chunks(*pieces).texts == ("hello",)


def test_a_choice_without_a_message_is_an_answer_when_it_has_a_reason() -> None:
    body = {"choices": [{"index": 0, "finish_reason": "content_filter"}], "usage": USED}
    found = formats.of("chat").parse(json.dumps(body).encode())
    assert (found.texts, found.ending, found.usage.input_tokens) == (("",), Ending.FILTERED, 12)
    with pytest.raises(InvalidResponse, match="no choice"):
        formats.of("chat").parse(json.dumps({"choices": [{"index": 0}]}).encode())


# Calls in pieces


def pieces(*calls: dict[str, Any]) -> list[Any]:
    found = in_chunks(*({"tool_calls": [call]} for call in calls), reason="tool_calls")
    return [
        (call["id"], call["name"], call["input"]) for call in json.loads(found.tool_calls or "")
    ]


def piece(arguments: object, name: str | None = None, **fields: Any) -> dict[str, Any]:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    return {**fields, "function": function}


A, B = ("a", "f", {"x": 1}), ("b", "f", {"x": 2})


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (
            [piece('{"x"', "f", index=0, id="a"), piece(":1}", index=0)]
            + [piece('{"x"', "f", index=1, id="b"), piece(":2}", index=1)],
            [A, B],
        ),
        (
            [piece("", "f", index=0, id="a"), piece("", "f", index=1, id="b")]
            + [piece('{"x":2', index=1), piece('{"x":1', index=0), piece("}", index=1)]
            + [piece("}", index=0)],
            [A, B],
        ),
        ([piece('{"x":1}', "f", index=0, id="a"), piece('{"x":2}', "f", index=0, id="b")], [A, B]),
        (
            [piece('{"x":', "f", index=0, id="a"), piece("1}", index=0)]
            + [piece('{"x":', "f", index=0, id="b"), piece("2}", index=0)],
            [A, B],
        ),
        (
            [piece('{"x":', "f", id="a"), piece("1}"), piece('{"x":', "f", id="b"), piece("2}")],
            [A, B],
        ),
        (
            [piece('{"x":1}', "f", index=0, id="a"), piece("", "f", index=0, id="b")]
            + [piece('{"x":2}', index=0)],
            [A, B],
        ),
        ([piece('{"x":', "f", id="a"), piece("1}", id="")], [A]),
        ([piece('{"x":', "f", id="a", index=0), piece("1}", "f", id="a", index=0)], [A]),
        ([piece('{"x":', "f", id="a"), piece("1}", "f", id="a")], [A]),
        ([piece('{"x":', "f", id="a", index=0), piece("1}", "f", id="a", index=1)], [A]),
        ([piece('{"x":', "f", index=0, id="a"), piece("1}", "f", index=0)], [A]),
        ([piece("", "f", index=0, id="a"), piece('{"x":1}', "", index=0, id=None)], [A]),
        ([piece({"x": 1}, "f", index=0, id="a")], [A]),
        ([{"index": 0, "id": "a", "name": "f", "arguments": '{"x":1}'}], [A]),
        (
            [piece('{"x":1}', "f"), piece('{"x":2}', "f")],
            [(None, "f", {"x": 1}), (None, "f", {"x": 2})],
        ),
        (
            [piece('{"x":1}', "f", index=0, id=""), piece('{"x":2}', "g", index=0, id="")],
            [(None, "f", {"x": 1}), (None, "g", {"x": 2})],
        ),
        ([piece("", "look", index=0, id="a"), piece("{}", "_up", index=0)], [("a", "look_up", {})]),
        (
            [piece('{"x":2}', "f", index=1, id="b"), piece('{"x":1}', "f", index=0, id="a")],
            [A, B],
        ),
    ],
    ids=[
        "openai",
        "interleaved",
        "index-0-whole",
        "index-0-in-pieces",
        "no-index",
        "index-0-id-first",
        "empty-id-continues",
        "id-repeated",
        "id-repeated-no-index",
        "id-before-index",
        "name-repeated",
        "empty-name",
        "object-arguments",
        "flat",
        "no-id-no-index",
        "empty-ids-index-0",
        "name-in-pieces",
        "late-first-index",
    ],
)
def test_tool_calls_in_pieces(sent: list[dict[str, Any]], expected: list[Any]) -> None:
    assert pieces(*sent) == expected


def test_legacy_and_custom_calls_whole_and_in_pieces() -> None:
    legacy = {"name": "f", "arguments": '{"x": 1}'}
    expected = [{"id": None, "name": "f", "input": {"x": 1}}]
    assert json.loads(chat({"function_call": legacy}).tool_calls or "") == expected
    parts = [{"name": "f", "arguments": ""}, {"arguments": '{"x"'}, {"arguments": ": 1}"}]
    found = in_chunks(*({"function_call": part} for part in parts), reason="function_call")
    assert (json.loads(found.tool_calls or ""), found.ending) == (expected, Ending.TOOL_CALLS)

    custom = {"id": "c", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}
    expected = [{"id": "c", "name": "sql", "input": "SELECT 1"}]
    assert json.loads(chat({"tool_calls": [custom]}).tool_calls or "") == expected
    head = {"index": 0, **custom, "custom": {"name": "sql", "input": "SELECT"}}
    tail = {"index": 0, "custom": {"input": " 1"}}
    found = in_chunks({"tool_calls": [head]}, {"tool_calls": [tail]}, reason="tool_calls")
    assert json.loads(found.tool_calls or "") == expected


HUGE = 10**40 + 1


def test_integers_of_any_size_stay_exact() -> None:
    block: dict[str, Any] = {
        "type": "tool_use",
        "id": "a",
        "name": "f",
        "input": {"n": HUGE, "m": [-HUGE, 1.5]},
    }
    whole = message(block, stop_reason="tool_use")
    start = {"type": "content_block_start", "index": 0, "content_block": {**block, "input": {}}}
    text = json.dumps(block["input"])
    delta = {"type": "input_json_delta", "partial_json": text}
    end = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}}
    in_pieces = streamed(
        "messages", start, {"type": "content_block_delta", "index": 0, "delta": delta}, end
    )
    call = {"id": "a", "function": {"name": "f", "arguments": text}}
    for found in (whole, in_pieces, chat({"tool_calls": [call]})):
        assert json.loads(found.tool_calls or "")[0]["input"] == block["input"]
        assert str(HUGE) in (found.tool_calls or "")


# What else an answer holds


def test_citations_whole_and_streamed() -> None:
    cited = [{"type": "web", "url": "u1"}, {"type": "web", "url": "u2"}]
    block = {"type": "text", "text": "a", "citations": cited}
    assert json.loads(message(block).citations or "") == cited
    start = {"type": "content_block_start", "index": 0}
    deltas = [
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "citations_delta", "citation": each},
        }
        for each in cited
    ]
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    begun = {**start, "content_block": {"type": "text", "text": "", "citations": []}}
    assert json.loads(streamed("messages", begun, *deltas, end).citations or "") == cited

    assert json.loads(chat({"content": "a", "annotations": cited}).citations or "") == cited
    found = in_chunks({"content": "a"}, *({"annotations": [each]} for each in cited))
    assert json.loads(found.citations or "") == cited
    reference = {"type": "reference", "reference_ids": [1]}
    found = chat({"content": [{"type": "text", "text": "a"}, reference]})
    assert (found.texts, json.loads(found.citations or "")) == (("a",), [reference])
    found = streamed("chat", chunk({"content": "a"}), {**chunk({}, "stop"), "citations": ["u"]})
    assert json.loads(found.citations or "") == ["u"]
    assert chat({"content": "a", "annotations": []}).citations is None


def test_log_probabilities_whole_and_streamed() -> None:
    tokens = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -0.1}]
    expected = {"content": tokens, "refusal": None}
    assert json.loads(chat({"content": "ab"}, logprobs=expected).logprobs or "") == expected
    parts = [chunk({"content": each["token"]}, logprobs={"content": [each]}) for each in tokens]
    found = streamed("chat", *parts, chunk({}, "stop"))
    assert json.loads(found.logprobs or "") == {"content": tokens}
    assert chat({"content": "a"}, logprobs=None).logprobs is None


def test_every_choice_keeps_all_that_it_has() -> None:
    first = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}
    second = {
        "index": 1,
        "message": {"content": "b", "reasoning": "hm", "refusal": "No.", "tool_calls": [CALL]},
        "finish_reason": "length",
        "logprobs": {"content": []},
    }
    body = {"choices": [second, first]}
    found = formats.of("chat").parse(json.dumps(body).encode())
    assert (found.texts, found.ending, found.tool_calls) == (("a", "b"), Ending.STOP, None)
    assert json.loads(found.choices or "") == [
        {
            "response": "a",
            "reasoning": None,
            "tool_calls": None,
            "ending": "stop",
            "stop_reason": "stop",
            "refusal": None,
        },
        {
            "response": "b",
            "reasoning": "hm",
            "tool_calls": [{"id": "a", "name": "f", "input": {}}],
            "ending": "refusal",
            "stop_reason": "length",
            "refusal": "No.",
            "logprobs": {"content": []},
        },
    ]
    assert formats.of("chat").parse(json.dumps({"choices": [first]}).encode()).choices is None


def test_blocks_of_the_providers_own_tools_are_kept_whole_and_streamed() -> None:
    use = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}}
    result = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "u"}]}
    new = {"type": "from_the_future", "note": "kept"}
    text = {"type": "text", "text": "a"}
    found = message(use, result, new, text)
    assert found.texts == ("a",)
    assert json.loads(found.server_tools or "") == [use, result, new]
    assert found.tool_calls is None
    delta = {"type": "input_json_delta", "partial_json": '{"query":"x"}'}
    note = {"type": "note_delta", "note": "kept"}
    events: list[dict[str, Any]] = [
        {"type": "content_block_start", "index": 0, "content_block": {**use, "input": {}}},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_start", "index": 1, "content_block": result},
        {"type": "content_block_start", "index": 2, "content_block": {"type": "from_the_future"}},
        {"type": "content_block_delta", "index": 2, "delta": note},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    ]
    found = streamed("messages", *events)
    assert json.loads(found.server_tools or "") == [use, result, new]


def test_the_body_is_kept_on_request_only() -> None:
    body = b'{ "choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "x": [1] }'
    assert formats.of("chat").parse(body).raw is None
    assert formats.of("chat").parse(body, keep_raw=True).raw == body
    events = [{**chunk({"content": "a", "odd": 1}), "x": 2}, chunk({"content": "b"}, "stop")]
    assert streamed("chat", *events).raw is None
    raw = json.loads(streamed("chat", *events, keep_raw=True).raw or b"")
    assert raw["x"] == 2
    said = {"role": "assistant", "content": "ab", "odd": 1}
    assert raw["choices"] == [{"index": 0, "message": said, "finish_reason": "stop"}]


def test_a_key_that_is_quoted_anywhere_is_struck_out() -> None:
    key = "sk-secret-0123456789"
    said = {
        "content": key,
        "refusal": key,
        "reasoning": key,
        "annotations": [{"url": key}],
        "executed_tools": [{"output": key}],
        "tool_calls": [{"id": key, "function": {"name": key, "arguments": key}}],
    }
    choice = {"message": said, "finish_reason": key, "stop_reason": key, "logprobs": {"x": key}}
    body = {"id": key, "model": key, "service_tier": key, "choices": [choice, choice]}
    found = formats.of("chat").parse(json.dumps(body).encode(), keep_raw=True)
    assert key in repr(found)
    assert key not in repr(Credentials(key).redaction.completion(found))


# Usage and price


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({**USED}, Usage(12, 6)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 2015}, Usage(10, 2005)),
        ({"prompt_tokens": 10, "total_tokens": 15}, Usage(10, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 0}, Usage(10, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 12}, Usage(10, 5)),
        ({"prompt_tokens": 10}, Usage(10)),
        ({"prompt_tokens": 10, "total_tokens": 0}, Usage(10)),
        ({"total_tokens": 10}, Usage()),
        ({**USED, "prompt_cache_hit_tokens": 9}, Usage(12, 6, 9)),
        ({**USED, "cached_tokens": 8}, Usage(12, 6, 8)),
        (
            {**USED, "prompt_tokens_details": {"cached_tokens": 0}, "cached_tokens": 8},
            Usage(12, 6, 8),
        ),
        ({**USED, "cache_read_input_tokens": 3}, Usage(12, 6, 3)),
        ({**USED, "cache_creation_input_tokens": 4}, Usage(12, 6, None, 4)),
        ({**USED, "prompt_tokens_details": {"cache_creation_tokens": 4}}, Usage(12, 6, None, 4)),
        ({**USED, "prompt_tokens_details": {"cache_write_tokens": 4}}, Usage(12, 6, None, 4)),
        (
            {
                **USED,
                "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 2},
            },
            Usage(12, 6, None, 3, 2),
        ),
        (
            {
                "prompt_tokens": 3,
                "completion_tokens": 6,
                "total_tokens": 9,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 20,
            },
            Usage(123, 6, 100, 20),
        ),
        (
            {"input_tokens": 3, "output_tokens": 6, "cache_read_input_tokens": 100},
            Usage(103, 6, 100),
        ),
        (
            {
                "input_tokens": 30,
                "output_tokens": 6,
                "input_tokens_details": {"cached_tokens": 20},
                "output_tokens_details": {"reasoning_tokens": 2},
            },
            Usage(30, 6, 20, reasoning_tokens=2),
        ),
        ({**USED, "reasoning_tokens": 4}, Usage(12, 6, reasoning_tokens=4)),
        (
            {
                **USED,
                "prompt_tokens_details": {
                    "audio_tokens": 5,
                    "cached_tokens": 4,
                    "cached_tokens_details": {"audio_tokens": 3},
                },
                "completion_tokens_details": {"audio_tokens": 2},
            },
            Usage(
                12,
                6,
                4,
                audio_input_tokens=5,
                audio_cache_read_tokens=3,
                audio_output_tokens=2,
            ),
        ),
    ],
)
def test_usage_of_the_chat_format_in_every_dialect(counts: dict[str, Any], expected: Usage) -> None:
    assert chat_usage(counts) == expected


def test_usage_of_the_messages_format_under_the_names_of_the_other() -> None:
    assert messages_usage(USED) == Usage(12, 6)


@pytest.mark.parametrize(
    "last",
    [
        {"choices": [], "usage": USED},
        chunk({}, "stop", usage=USED),
        {**chunk({}, "stop"), "x_groq": {"id": "r", "usage": USED}},
        {**chunk({}, "stop"), "usage": USED},
    ],
    ids=["openai", "kimi", "groq", "last-chunk"],
)
def test_where_the_usage_of_a_stream_stands(last: dict[str, Any]) -> None:
    found = streamed("chat", chunk({"content": "ok"}), chunk({}, "stop"), last)
    assert found.usage == Usage(12, 6)


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({**USED, "cost": 0.00123}, 1_230_000_000),
        ({**USED, "cost": 0.1}, 100_000_000_000),
        ({**USED, "cost": 98_765.4321}, 98_765_432_100_000_000),
        ({**USED, "cost": 0}, 0),
        (
            {
                **USED,
                "cost": 0.001,
                "is_byok": True,
                "cost_details": {"upstream_inference_cost": 0.02},
            },
            21_000_000_000,
        ),
        ({**USED, "cost": {"input_tokens_cost": 0.1, "total_cost": 0.3}}, 300_000_000_000),
        ({**USED, "cost_in_usd_ticks": 37_756_000}, 3_775_600_000),
        ({**USED, "cost": -1}, None),
        ({**USED, "cost": "0.0012"}, 1_200_000_000),
        ({**USED, "cost": " .5 "}, 500_000_000_000),
        ({**USED, "cost": "1.2e-05"}, 12_000_000),
        ({**USED, "cost": 1e-05}, 10_000_000),
        ({**USED, "cost": {"total_cost": "0.3"}}, 300_000_000_000),
        ({**USED, "cost": "-0.1"}, None),
        ({**USED, "cost": "nan"}, None),
        ({**USED, "cost": "Infinity"}, None),
        ({**USED, "cost": "1_000"}, None),
        ({**USED, "cost": "1e999999999"}, None),
        ({**USED, "cost": "$0.1"}, None),
        ({**USED, "cost": ""}, None),
        ({**USED, "cost": True}, None),
        ({**USED, "cost": 1e300}, None),
        (USED, None),
    ],
)
def test_the_cost_that_a_provider_states(usage: dict[str, Any], cost: int | None) -> None:
    body = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": usage}
    assert formats.of("chat").parse(json.dumps(body).encode()).billing.stated_cost == cost


def test_what_decides_the_price_beside_the_tokens() -> None:
    usage = {
        "input_tokens": 1,
        "output_tokens": 1,
        "service_tier": "priority",
        "speed": "fast",
        "inference_geo": "us",
        "server_tool_use": {"web_search_requests": 3},
    }
    expected = Billing("priority", "fast", "us", 3)
    assert message({"type": "text", "text": "a"}, usage=usage).billing == expected
    start = {"type": "message_start", "message": {"usage": usage}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    assert streamed("messages", start, end).billing == expected
    last = {**chunk({}, "stop"), "service_tier": "flex"}
    assert streamed("chat", chunk({"content": "a"}), last).billing == Billing("flex")


# Errors with a code of their own


@pytest.mark.parametrize(
    ("body", "error_type", "status", "maybe_billed"),
    [
        ({"error": {"message": "m", "code": 402}}, "http_402", 402, False),
        ({"error": {"message": "m", "code": "429"}}, "http_429", 429, False),
        ({"error": {"message": "m", "code": 504}}, "http_504", 504, True),
        ({"error": {"message": "m", "code": 502, "type": "bad"}}, "bad", 502, False),
        (
            {"error": {"message": "m", "code": "insufficient_quota"}},
            "insufficient_quota",
            None,
            True,
        ),
        ({"error": "no"}, "invalid_response", None, True),
        ({"error": "no", "status": 503}, "http_503", 503, False),
        ({"object": "error", "message": "m", "type": "Bad", "code": 400}, "Bad", 400, False),
        ({"object": "error", "message": "m", "code": 50001}, "invalid_response", None, True),
        ({"message": "m", "code": 401}, "http_401", 401, False),
        ({"code": "Throttling", "message": "m", "request_id": "r"}, "Throttling", None, True),
        ({"error": {"type": "overloaded_error", "message": "m"}}, "overloaded_error", None, True),
        (
            [{"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}}],
            "RESOURCE_EXHAUSTED",
            429,
            False,
        ),
        ({"error": {"message": "m", "code": 200}}, "invalid_response", None, True),
        ({"error": {"message": "m", "code": True}}, "invalid_response", None, True),
    ],
)
@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_errors_under_a_status_of_success_have_their_own(
    wire_format: FormatName,
    body: object,
    error_type: str,
    status: int | None,
    *,
    maybe_billed: bool,
) -> None:
    fault = fault_of(wire_format, body)
    assert (fault.error_type, fault.http_status) == (error_type, status)
    assert fault.maybe_billed is maybe_billed
    with pytest.raises(InvalidResponse) as caught:
        streamed(wire_format, *(body if isinstance(body, list) else [body]))
    assert caught.value.fault.http_status == status


@pytest.mark.parametrize("place", ["request_id", "trace_id"])
def test_the_id_in_an_error_body_is_kept(place: str) -> None:
    assert fault_of("chat", {"error": {"message": "m"}, place: "req_7"}).request_id == "req_7"


@pytest.mark.parametrize(
    ("choice", "error_type", "status"),
    [
        ({"finish_reason": "error", "error": {"code": 502, "message": "gone"}}, "http_502", 502),
        ({"finish_reason": "error", "error": {"code": 429, "message": "gone"}}, "http_429", 429),
        ({"finish_reason": "stop", "error": {"code": "gone", "message": "x"}}, "gone", None),
        ({"finish_reason": "error", "error": "gone"}, "stream_error", None),
        ({"finish_reason": "error"}, "error", None),
        ({"finish_reason": "abort"}, "abort", None),
        ({"finish_reason": "insufficient_system_resource"}, "insufficient_system_resource", None),
    ],
)
@pytest.mark.parametrize("is_second", [False, True])
def test_a_choice_that_failed_is_a_failed_attempt_that_is_paid_for(
    choice: dict[str, Any], error_type: str, status: int | None, *, is_second: bool
) -> None:
    fine = {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}
    failed = {"index": int(is_second), "message": {"content": "half"}, **choice}
    choices = [fine, failed] if is_second else [failed]
    usage: dict[str, Any] = {**USED, "cost": 0.5}
    fault = fault_of("chat", {"model": "m", "choices": choices, "usage": usage})
    expected = (error_type, status, Usage(12, 6), "m", True)
    found = (fault.error_type, fault.http_status, fault.usage, fault.model, fault.maybe_billed)
    assert found == expected
    assert fault.billing is not None
    assert fault.billing.stated_cost == 500_000_000_000

    reader = formats.of("chat").stream_reader()
    events: list[dict[str, Any]] = [
        {"model": "m", "choices": [{"index": int(is_second), "delta": {"content": "half"}}]},
        {"choices": [{"index": int(is_second), "delta": {}, **choice}]},
        {"choices": [], "usage": USED},
    ]
    if is_second:
        events.insert(0, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    for event in events:
        reader.feed(f"data: {json.dumps(event)}\n\n".encode())
    with pytest.raises(InvalidResponse) as caught:
        reader.finish()
    fault = reader.with_facts(caught.value.fault)
    found = (fault.error_type, fault.http_status, fault.usage, fault.model, fault.maybe_billed)
    assert found == expected


@pytest.mark.parametrize(
    ("event", "error_type", "status"),
    [
        ({"object": "error", "message": "EngineDeadError", "code": 500}, "http_500", 500),
        ({"error": {"message": "gone", "code": 502}}, "http_502", 502),
        ({"code": 503, "message": "gone"}, "http_503", 503),
        ({**chunk({}, "error"), "error": {"code": 502, "message": "gone"}}, "http_502", 502),
    ],
)
def test_an_error_in_the_middle_of_a_stream_keeps_what_was_used(
    event: dict[str, Any], error_type: str, status: int
) -> None:
    reader = formats.of("chat").stream_reader()
    first = {**chunk({"content": "half"}), "model": "m", "usage": USED}
    reader.feed(f"data: {json.dumps(first)}\n\n".encode())
    with pytest.raises(InvalidResponse) as caught:
        reader.feed(f"data: {json.dumps(event)}\n\n".encode())
    fault = reader.with_facts(caught.value.fault)
    assert (fault.error_type, fault.http_status, fault.maybe_billed) == (error_type, status, True)
    assert (fault.model, fault.usage) == ("m", Usage(12, 6))


def test_what_a_router_reports_is_what_its_provider_said() -> None:
    metadata = {"raw": "upstream is out of memory", "provider_name": "X"}
    fault = fault_of(
        "chat", {"error": {"message": "Provider returned error", "metadata": metadata}}
    )
    assert "Provider returned error: upstream is out of memory" in fault.message


def test_a_body_without_an_answer_keeps_what_was_used() -> None:
    fault = fault_of("chat", {"model": "m", "choices": [], "usage": USED})
    assert (fault.usage, fault.model, fault.maybe_billed) == (Usage(12, 6), "m", True)


# Waits


def retry_info(delay: str) -> list[dict[str, Any]]:
    return [{"@type": "x.ErrorInfo"}, {"@type": "x.RetryInfo", "retryDelay": delay}]


def reset_at(moment: float) -> dict[str, Any]:
    return {"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(moment * 1000))}}


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        ({"details": retry_info("1.5s")}, 1.5),
        ({"details": retry_info("1m30s")}, 90.0),
        ({"details": retry_info("900ms")}, 0.9),
        ({"details": retry_info("-3s")}, None),
        ({"details": retry_info("soon")}, None),
        ({"details": "none"}, None),
        ({"metadata": reset_at(NOW + 30)}, 30.0),
        ({"metadata": reset_at(NOW - 30)}, 0.0),
        ({"metadata": {"headers": {"Retry-After": "7"}}}, 7.0),
        ({"metadata": {"retry_after_seconds": 4}}, 4.0),
        ({"retry_after": 3.5}, 3.5),
        ({"retry_after": 1e12}, 86_400.0),
        ({"retry_after": "nan"}, None),
        ({"retry_after": None}, None),
        ({}, None),
    ],
)
def test_waits_that_stand_in_error_bodies(error: dict[str, Any], seconds: float | None) -> None:
    body = json.dumps({"error": {"message": "slow down", "code": 429, **error}}).encode()
    assert formats.describe_error(body, NOW).retry_after_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2s"}, 2.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "2s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "5s",
            },
            5.0,
        ),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "2s"}, None),
        ({"x-ratelimit-reset-requests": "2s"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "-1"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW) + 9)}, 9.0),
        ({}, None),
    ],
)
def test_nothing_remains_until_the_reset(headers: dict[str, str], seconds: float | None) -> None:
    assert seconds_until_reset(headers, NOW) == seconds
