"""Conversations in either format's shape become those of the wanted format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from batchrun.errors import JobError
from batchrun.job import Job
from batchrun.records import Item
from batchrun.render import Renderer

if TYPE_CHECKING:
    from batchrun.records import RenderedItem

BASE: dict[str, dict[str, Any]] = {
    "messages": {"format": "messages", "max_tokens": 100},
    "chat": {"format": "chat"},
}
PNG = "iVBORw0KGgo="
TOOLS = [{"name": "f", "input_schema": {"type": "object"}}]
USER = {"role": "user", "content": "What is the weather?"}

# The same conversation, as either format has it.
MESSAGES: list[dict[str, Any]] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Where is this, and what is the weather there?"},
            {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}},
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": PNG},
            },
        ],
    },
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Paris"}},
            {"type": "tool_use", "id": "b", "name": "time", "input": {}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": "sunny"},
            {"type": "tool_result", "tool_use_id": "b", "content": "noon"},
        ],
    },
    {"role": "assistant", "content": "Sunny, at noon."},
    {"role": "user", "content": "And tomorrow?"},
]
CHAT: list[dict[str, Any]] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Where is this, and what is the weather there?"},
            {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        ],
    },
    {
        "role": "assistant",
        "content": [{"type": "text", "text": "I look."}],
        "tool_calls": [
            {
                "id": "a",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city":"Paris"}'},
            },
            {"id": "b", "type": "function", "function": {"name": "time", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "tool_call_id": "a", "content": "sunny"},
    {"role": "tool", "tool_call_id": "b", "content": "noon"},
    {"role": "assistant", "content": "Sunny, at noon."},
    {"role": "user", "content": "And tomorrow?"},
]


def rendered(wire_format: str, turns: object, **request: Any) -> RenderedItem:
    document = {
        "input": {"path": "x.csv"},
        "request": {"model": "m", "messages_column": "m", **BASE[wire_format], **request},
    }
    renderer = Renderer(Job.from_document(document, Path("/jobs")), ["m"])
    [item] = renderer.render([Item(0, "1", {"m": json.dumps(turns)})])
    return item


PARAMS: dict[str, TypeAdapter[Any]] = {
    "messages": TypeAdapter(MessageCreateParamsNonStreaming),
    "chat": TypeAdapter(CompletionCreateParamsNonStreaming),
}


def sent(wire_format: str, turns: object, **request: Any) -> list[dict[str, Any]]:
    item = rendered(wire_format, turns, **request)
    assert item.wire is not None, item.error_message
    return json.loads(item.wire.body)["messages"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("given", [MESSAGES, CHAT], ids=["from-messages", "from-chat"])
@pytest.mark.parametrize(
    ("wire_format", "expected"), [("messages", MESSAGES), ("chat", CHAT)], ids=["messages", "chat"]
)
def test_a_conversation_of_either_shape_fits_both_formats(
    given: list[dict[str, Any]], wire_format: str, expected: list[dict[str, Any]]
) -> None:
    assert sent(wire_format, given) == expected
    item = rendered(wire_format, given, tools=TOOLS, parallel_tool_calls=False, system=["a", "b"])
    assert item.wire is not None
    PARAMS[wire_format].validate_json(item.wire.body)


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_blocks_of_the_format_itself_pass_as_they_are(wire_format: str) -> None:
    blocks = {
        "messages": [
            {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
            {"type": "document", "source": {"type": "url", "url": "https://x.example/a.pdf"}},
            {"type": "of_next_year", "x": [1, {"y": None}]},
        ],
        "chat": [
            {"type": "image_url", "image_url": {"url": "https://x.example/a", "detail": "low"}},
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            {"type": "of_next_year", "x": [1, {"y": 2}]},
        ],
    }[wire_format]
    turns = [{"role": "user", "content": blocks}]
    assert sent(wire_format, turns) == turns


def test_thinking_goes_back_to_the_format_that_has_it() -> None:
    said = [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
        {"type": "text", "text": "Yes."},
    ]
    turns = [USER, {"role": "assistant", "content": said}, USER]
    assert sent("messages", turns) == turns
    item = rendered("chat", turns)
    assert item.error_type == "invalid_messages"
    assert item.error_message == (
        "message 2: the chat format has no thinking content; leave it out, or use "
        'format = "messages"'
    )


def test_calls_without_a_word_have_no_content_in_chat_and_no_text_in_messages() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    use = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    contents: tuple[object, ...] = (None, "", [])
    for content in contents:
        chat = [USER, {"role": "assistant", "content": content, "tool_calls": [call]}]
        assert sent("messages", chat)[1] == {"role": "assistant", "content": [use]}
    messages = [USER, {"role": "assistant", "content": [use]}]
    [_, said] = sent("chat", messages)
    assert said["content"] is None
    assert json.loads(said["tool_calls"][0]["function"]["arguments"]) == {}


def test_results_that_are_errors_say_so_in_chat() -> None:
    result = {"type": "tool_result", "tool_use_id": "a", "is_error": True}
    texts = [{"type": "text", "text": "not "}, {"type": "text", "text": "found"}]
    for content in ("not found", texts):
        turns = [USER, {"role": "user", "content": [{**result, "content": content}]}]
        assert sent("chat", turns)[1] == {
            "role": "tool",
            "tool_call_id": "a",
            "content": "Error: not found",
        }


def test_what_the_user_says_after_results_comes_after_them() -> None:
    result = {"type": "tool_result", "tool_use_id": "a", "content": "sunny"}
    said = {"type": "text", "text": "And now?"}
    turns = [USER, {"role": "user", "content": [result, said]}]
    assert sent("chat", turns)[1:] == [
        {"role": "tool", "tool_call_id": "a", "content": "sunny"},
        {"role": "user", "content": [said]},
    ]


def test_images_of_the_job_go_to_what_the_user_said_not_to_results() -> None:
    turns = [USER, MESSAGES[1], MESSAGES[2]]
    for wire_format in ("messages", "chat"):
        [first, *_, last] = sent(wire_format, turns, images="https://x.example/i.png")
        assert len(first["content"]) == 2
        assert "image" not in json.dumps(last)


def test_names_of_speakers_are_for_chat() -> None:
    turns = [{**USER, "name": "Ann"}]
    assert sent("chat", turns) == turns
    item = rendered("messages", turns)
    assert item.error_message == (
        'message 1: name: the messages format has none; remove it, or use format = "chat"'
    )


@pytest.mark.parametrize(
    ("wire_format", "turn", "reason"),
    [
        ("messages", {"role": "tool", "content": "x"}, "a tool message needs the tool_call_id"),
        ("chat", {"role": "tool", "content": "x"}, "a tool message needs the tool_call_id"),
        (
            "messages",
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
            'the messages format has no input_audio content; use format = "chat"',
        ),
        (
            "messages",
            {"role": "user", "content": [{"type": "image_url"}]},
            "image_url: must hold a url, not None",
        ),
        (
            "messages",
            {"role": "assistant", "tool_calls": [{"id": "a"}]},
            "tool_calls: a call must have a function with a name",
        ),
        (
            "messages",
            {"role": "assistant", "tool_calls": "f"},
            "tool_calls: must be a list of objects, not 'f'",
        ),
        (
            "messages",
            {
                "role": "assistant",
                "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "[1"}}],
            },
            "tool_calls: the arguments of f must be a JSON object for the messages format",
        ),
        (
            "messages",
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]},
            "image_url: must be base64 of image/gif",
        ),
        (
            "messages",
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "http://x", "detail": "low"}}
                ],
            },
            "image_url: the messages format has no detail",
        ),
        (
            "chat",
            {"role": "user", "content": "x", "tool_calls": [{}]},
            "tool_calls: only the assis",
        ),
        (
            "chat",
            {"role": "user", "content": "x", "tool_call_id": "a"},
            "tool_call_id: only a tool",
        ),
        (
            "chat",
            {"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "f"}]},
            "tool_use: only the assistant calls tools",
        ),
        (
            "chat",
            {"role": "assistant", "content": [{"type": "tool_use", "name": "f"}]},
            "tool_use: a call needs an id and a name",
        ),
        (
            "chat",
            {"role": "user", "content": [{"type": "tool_result", "content": "x"}]},
            "a tool_result needs the tool_use_id",
        ),
        (
            "chat",
            {"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]},
            "image: the chat format takes a url or base64 source",
        ),
        (
            "chat",
            {"role": "user", "content": [{"type": "document", "source": {}}]},
            "document: the chat format takes a base64 or text source",
        ),
        (
            "chat",
            {"role": "assistant", "content": [{"type": "server_tool_use", "id": "a"}]},
            "the chat format has no server_tool_use content",
        ),
        (
            "chat",
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]}
                ],
            },
            "a tool_result of the chat format is text",
        ),
    ],
    ids=str,
)
def test_what_a_format_cannot_express_makes_the_row_errored(
    wire_format: str, turn: dict[str, Any], reason: str
) -> None:
    item = rendered(wire_format, [USER, turn])
    assert item.error_type == "invalid_messages"
    assert str(item.error_message).startswith(f"message 2: {reason}")


def test_results_alone_are_no_question() -> None:
    result = {"type": "tool_result", "tool_use_id": "a", "content": "x"}
    for wire_format in ("messages", "chat"):
        item = rendered(wire_format, [{"role": "user", "content": [result]}])
        assert item.error_type == "empty_prompt"


def test_data_urls_are_read_whatever_their_case_and_parameters() -> None:
    url = f"DATA:image/PNG;charset=utf-8;base64,{PNG}"
    part = {"type": "image_url", "image_url": {"url": url}}
    [turn] = sent("messages", [{"role": "user", "content": [part]}])
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    assert turn["content"] == [{"type": "image", "source": source}]


# The system prompt in blocks


MARK = {"cache_control": {"type": "ephemeral"}}


def body(wire_format: str, **request: Any) -> dict[str, Any]:
    item = rendered(wire_format, request.pop("turns", [USER]), **request)
    assert item.wire is not None, item.error_message
    return json.loads(item.wire.body)  # type: ignore[no-any-return]


def test_a_system_prompt_may_be_blocks_with_marks() -> None:
    system = ["Be brief.", {"type": "text", "text": "Facts about {{ m[:1] }}", **MARK}]
    written = [
        {"type": "text", "text": "Be brief."},
        {"type": "text", "text": "Facts about [", **MARK},
    ]
    assert body("messages", system=system)["system"] == written
    assert body("chat", system=system)["messages"][0] == {"role": "system", "content": written}


def test_cache_system_marks_the_last_block() -> None:
    found = body("messages", system=["One.", "Two."], cache_system="1h")["system"]
    mark = {"type": "ephemeral", "ttl": "1h"}
    assert found == [
        {"type": "text", "text": "One."},
        {"type": "text", "text": "Two.", "cache_control": mark},
    ]


def test_system_turns_of_a_cell_keep_their_marks_behind_the_job_s_own() -> None:
    told = {"role": "developer", "content": [{"type": "text", "text": "Two.", **MARK}]}
    found = body("messages", system="One.", turns=[told, USER])
    assert found["system"] == [
        {"type": "text", "text": "One."},
        {"type": "text", "text": "Two.", **MARK},
    ]
    assert found["messages"] == [USER]


@pytest.mark.parametrize(
    ("system", "message"),
    [
        (5, "must be text or an array of text blocks, not 5"),
        ([], "must be text or an array of text blocks, not []"),
        ([{"type": "image"}], 'a block must be text or { type = "text", text = … }'),
        (["x", " "], "a block is empty; remove it"),
    ],
    ids=["number", "none", "image", "empty"],
)
def test_a_wrong_system_prompt_is_named(system: object, message: str) -> None:
    with pytest.raises(JobError) as error:
        rendered("messages", [USER], system=system)
    assert f"[request] system: {message}" in str(error.value)


# Calls side by side


@pytest.mark.parametrize("parallel", [True, False])
def test_whether_calls_may_be_several(*, parallel: bool) -> None:
    asked = {"tools": TOOLS, "parallel_tool_calls": parallel}
    choice = body("messages", **asked)["tool_choice"]
    assert choice == {"type": "auto", "disable_parallel_tool_use": not parallel}
    choice = body("messages", **asked, tool_choice="f")["tool_choice"]
    assert choice == {"type": "tool", "name": "f", "disable_parallel_tool_use": not parallel}
    found = body("chat", **asked)
    assert found["parallel_tool_calls"] is parallel
    assert "tool_choice" not in found


def test_nothing_is_said_about_several_calls_unless_asked() -> None:
    assert "tool_choice" not in body("messages", tools=TOOLS)
    assert "parallel_tool_calls" not in body("chat", tools=TOOLS)


@pytest.mark.parametrize(
    ("request_keys", "message"),
    [
        ({"parallel_tool_calls": False}, "needs tools"),
        (
            {"parallel_tool_calls": False, "tools": TOOLS, "tool_choice": "none"},
            'has no effect with tool_choice = "none"',
        ),
        ({"parallel_tool_calls": "no", "tools": TOOLS}, "must be true or false"),
    ],
    ids=["no-tools", "no-calls", "type"],
)
def test_a_senseless_wish_about_several_calls_is_named(
    request_keys: dict[str, Any], message: str
) -> None:
    for wire_format in ("messages", "chat"):
        with pytest.raises(JobError) as error:
            rendered(wire_format, [USER], **request_keys)
        assert f"[request] parallel_tool_calls: {message}" in str(error.value)


PDF_SOURCE = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}


@pytest.mark.parametrize(
    ("block", "part"),
    [
        (
            {"type": "document", "source": PDF_SOURCE, "title": "a.pdf"},
            {
                "type": "file",
                "file": {
                    "filename": "a.pdf",
                    "file_data": "data:application/pdf;base64,JVBERi0=",
                },
            },
        ),
        (
            {"type": "document", "source": PDF_SOURCE},
            {
                "type": "file",
                "file": {
                    "filename": "document.pdf",
                    "file_data": "data:application/pdf;base64,JVBERi0=",
                },
            },
        ),
    ],
    ids=["with-title", "without-title"],
)
def test_documents_are_converted_both_ways(block: dict[str, Any], part: dict[str, Any]) -> None:
    for given in (block, part):
        for wire_format, expected in (("messages", block), ("chat", part)):
            [turn] = sent(wire_format, [{"role": "user", "content": [given]}])
            assert turn["content"] == [expected]


def test_texts_of_documents_are_converted() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "a & b"}
    block = {"type": "document", "source": source, "title": 'a "1"'}
    [turn] = sent("chat", [{"role": "user", "content": [block]}])
    text = "<document name='a \"1\"'>\na & b\n</document>\n"
    assert turn["content"] == [{"type": "text", "text": text}]
    file = {"filename": 'a "1"', "file_data": "data:text/plain;base64,YSAmIGI="}
    [turn] = sent("messages", [{"role": "user", "content": [{"type": "file", "file": file}]}])
    assert turn["content"] == [block]


@pytest.mark.parametrize(
    ("wire_format", "block", "reason"),
    [
        ("messages", {"type": "file", "file": {"file_id": "f"}}, "file: must hold file_data"),
        (
            "messages",
            {"type": "file", "file": {"file_data": "data:image/png;base64,AA=="}},
            "file: must be base64 of application/pdf or text/plain",
        ),
        (
            "messages",
            {"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}},
            "file: is not base64 of UTF-8 text",
        ),
        (
            "chat",
            {"type": "document", "source": PDF_SOURCE, "citations": {"enabled": True}},
            "document: the chat format has no context or citations",
        ),
        (
            "chat",
            {"type": "document", "source": {"type": "url", "url": "https://x.example/a.pdf"}},
            "document: the chat format takes a base64 or text source",
        ),
    ],
    ids=str,
)
def test_documents_that_a_format_cannot_express(
    wire_format: str, block: dict[str, Any], reason: str
) -> None:
    item = rendered(wire_format, [{"role": "user", "content": [block]}])
    assert item.error_type == "invalid_messages"
    assert reason in str(item.error_message)
