"""Converts conversations of a table, in the shape of either format, to the format of the request.

Content that the format supports is unchanged. Tool calls, their results, images and documents of the other
format are converted; anything else raises ValueError, which suggests the other format. Turns are mappings
with `role`, `content` and the other keys of their format.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, cast

import orjson

from batchrun.errors import quoted, short
from batchrun.formats.content_blocks import chat_part, messages_part
from batchrun.records import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from batchrun.records import Attachment, Request

    Block = Mapping[str, Any]

# Keys of a turn besides role and content. All of them are the chat format's.
EXTRA_KEYS = ("name", "tool_calls", "tool_call_id")


def turns_for_chat(turns: Sequence[Block]) -> tuple[Message, ...]:
    """Return the turns (without system turns) as messages of the chat format.

    Raises:
        ValueError: if a turn is malformed, or the format cannot express it.
    """
    for turn in turns:
        _check_place(turn)
    return tuple(message for turn in turns for message in _chat_messages(turn))


def turns_for_messages(turns: Sequence[Block]) -> tuple[Message, ...]:
    """Return the turns (without system turns) as messages of the messages format.

    Raises:
        ValueError: if a turn is malformed, or the format cannot express it.
    """
    for turn in turns:
        _check_place(turn)
    # Results of parallel calls belong in one turn of the user.
    groups = itertools.groupby(turns, key=lambda turn: turn["role"] == "tool")
    return tuple(
        message
        for are_results, group in groups
        for message in (
            [Message("user", [_result_block(turn) for turn in group])]
            if are_results
            else [_messages_message(turn) for turn in group]
        )
    )


def _check_place(turn: Block) -> None:
    """Raise ValueError if a turn has content that only another role can have."""
    role, content = turn["role"], turn.get("content")
    if turn.get("tool_calls") and role != "assistant":
        raise ValueError(f"tool_calls: only the assistant calls tools, not {role}")
    if turn.get("tool_call_id") is not None and role != "tool":
        raise ValueError(f"tool_call_id: only a tool answers a call, not {role}")
    kinds = {str(block.get("type")) for block in content} if isinstance(content, list) else set()
    if "tool_use" in kinds and role != "assistant":
        raise ValueError(f"tool_use: only the assistant calls tools, not {role}")
    if "tool_result" in kinds and role != "user":
        raise ValueError(f"tool_result: results stand in a user message, not in one of {role}")


# Chat → messages


def _messages_message(turn: Block) -> Message:
    _check_name(turn)
    content, calls = turn.get("content"), turn.get("tool_calls") or []
    if not calls:
        return Message(turn["role"], _messages_content(content))
    said = _messages_content(content or [])
    blocks = [{"type": "text", "text": said}] if isinstance(said, str) else said
    return Message(turn["role"], [*blocks, *map(_use_block, _listed("tool_calls", calls))])


def _check_name(turn: Block) -> None:
    if turn.get("name") is not None:
        raise ValueError('name: the messages format has none; remove it, or use format = "chat"')


def _messages_content(content: object) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [messages_part(part) for part in _listed("content", content)]


def _use_block(call: Block) -> dict[str, Any]:
    function = call.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        message = f"tool_calls: a call must have a function with a name: {quoted(dict(call))}"
        raise ValueError(message)  # noqa: TRY004 - one type
    try:
        given = orjson.loads(function.get("arguments") or "{}")
    except (orjson.JSONDecodeError, TypeError):
        given = None
    if not isinstance(given, dict):
        raise ValueError(  # noqa: TRY004 - one type
            f"tool_calls: the arguments of {short(str(name))} must be a JSON object for the messages format, "
            f"not {quoted(function.get('arguments'))}"
        )
    return {"type": "tool_use", "id": call.get("id"), "name": name, "input": given}


def _result_block(turn: Block) -> dict[str, Any]:
    _check_name(turn)
    return {
        "type": "tool_result",
        "tool_use_id": _call_id(turn),
        "content": _messages_content(turn.get("content") or ""),
    }


# Messages → chat


def _chat_messages(turn: Block) -> Iterator[Message]:
    """Yield a message for each tool result of a turn, then one for the rest of it."""
    role, content = turn["role"], turn.get("content")
    extra = {key: turn[key] for key in EXTRA_KEYS if turn.get(key) is not None}
    if role == "tool":
        _call_id(turn)
    if not isinstance(content, list):
        yield Message(role, content, extra)
        return
    blocks = _listed("content", content)
    for block in blocks:
        if block.get("type") == "tool_result":
            yield _tool_message(block)
    calls = [_chat_call(block) for block in blocks if block.get("type") == "tool_use"]
    if calls:
        extra["tool_calls"] = [*extra.get("tool_calls", ()), *calls]
    rest = [block for block in blocks if block.get("type") not in {"tool_use", "tool_result"}]
    if rest or calls:
        yield Message(role, [chat_part(block) for block in rest] or None, extra)


def _chat_call(block: Block) -> dict[str, Any]:
    if not isinstance(block.get("id"), str) or not isinstance(block.get("name"), str):
        message = f"tool_use: a call needs an id and a name: {quoted(dict(block))}"
        raise ValueError(message)  # noqa: TRY004 - one type
    if "cache_control" in block:
        raise ValueError('tool_use: the chat format has no cache_control; use format = "messages"')
    function = {
        "name": block.get("name"),
        "arguments": orjson.dumps(block.get("input") or {}).decode(),
    }
    return {"id": block.get("id"), "type": "function", "function": function}


def _tool_message(block: Block) -> Message:
    """Convert a tool result; in the chat format, an error is marked in its text."""
    if not isinstance(block.get("tool_use_id"), str):
        message = "a tool_result needs the tool_use_id of the call that it answers"
        raise ValueError(message)  # noqa: TRY004 - one type
    content = block.get("content") or ""
    if not isinstance(content, str):
        parts = _listed("tool_result", content)
        if any(part.get("type") != "text" for part in parts):
            raise ValueError('a tool_result of the chat format is text; use format = "messages"')
        content = "".join(str(part.get("text")) for part in parts)
    text = ("Error: " if block.get("is_error") else "") + content
    return Message("tool", text, {"tool_call_id": block.get("tool_use_id")})


def _call_id(turn: Block) -> str:
    found = turn.get("tool_call_id")
    if not isinstance(found, str) or not found:
        raise ValueError("a tool message needs the tool_call_id of the call that it answers")
    return found


def _listed(key: str, value: object) -> list[Block]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"{key}: must be a list of objects, not {quoted(value)}")
    return cast("list[Block]", value)


def turns(request: Request, block: Callable[[Attachment], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the conversation in the common shape of both formats, with its attachments.

    Args:
        request: has the messages and attachments.
        block: writes one attachment as a content block of the format.
    """
    written: list[dict[str, Any]] = [
        {"role": message.role, "content": message.content, **message.extra}
        for message in request.messages
    ]
    if request.attachments:
        asked = next(
            turn
            for turn, message in zip(reversed(written), reversed(request.messages), strict=True)
            if message.role == "user" and not message.is_tool_result
        )
        content = asked["content"]
        rest = content if isinstance(content, list) else [{"type": "text", "text": content}]
        asked["content"] = [*map(block, request.attachments), *rest]
    return written
