"""Conversations: turns from a cell or from templates, with system turns moved to the system prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import orjson

from batchrun.errors import RenderError, quoted, short
from batchrun.formats.conversation import EXTRA_KEYS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchrun.formats import WireFormat
    from batchrun.records import Message

    Turn = Mapping[str, Any]
    System = str | tuple[Mapping[str, Any], ...]

# `developer` is what newer chat models call the system.
SYSTEM_ROLES = ("system", "developer")
ROLES = (*SYSTEM_ROLES, "user", "assistant", "tool")


def read_messages(column: str, values: Mapping[str, Any]) -> list[Turn]:
    """Read a conversation from a cell: JSON text, or a list of structs from Parquet.

    Raises:
        RenderError: if it is not a list of turns with role and content.
    """
    cell = values[column]
    if isinstance(cell, str | bytes):
        try:
            cell = orjson.loads(cell)
        except orjson.JSONDecodeError as error:
            raise RenderError("invalid_messages", f"{column}: is not JSON: {error}") from None
    else:
        cell = _without_nulls(cell)
    if not isinstance(cell, list) or not cell:
        raise RenderError(
            "invalid_messages", f"{column}: must be a list of messages, not {quoted(cell)}"
        )
    return [_read_turn(column, number, turn) for number, turn in enumerate(cell, 1)]


def _read_turn(column: str, number: int, turn: object) -> Turn:
    where = f"{column}, message {number}"
    if not isinstance(turn, dict):
        raise RenderError("invalid_messages", f"{where}: must be an object, not {quoted(turn)}")
    known = {key: value for key, value in turn.items() if value is not None}
    others = [key for key in known if key not in {"role", "content", *EXTRA_KEYS}]
    if others:
        raise RenderError(
            "invalid_messages",
            f"{where}: can have role, content, {', '.join(EXTRA_KEYS)} only, "
            f"not {short(', '.join(map(str, others)))}",
        )
    role, content = known.get("role"), known.get("content")
    if role not in ROLES:
        raise RenderError(
            "invalid_messages",
            f"{where}: role must be one of {', '.join(ROLES)}, not {quoted(role)}",
        )
    blocks = isinstance(content, list) and all(isinstance(block, dict) for block in content)
    only_calls = content in (None, []) and "tool_calls" in known
    if not isinstance(content, str) and not (blocks and content) and not only_calls:
        raise RenderError(
            "invalid_messages", f"{where}: content must be text or blocks, not {quoted(content)}"
        )
    return known


def _without_nulls(value: object) -> object:
    """Remove the nulls that typed columns have in place of missing keys."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def arranged(
    wire_format: WireFormat, system: System | None, turns: Sequence[Turn]
) -> tuple[System | None, tuple[Message, ...]]:
    """Return the system prompt, including system turns at the beginning, and the other turns.

    Raises:
        RenderError: if a message is empty, there is no user turn, or the format cannot express a turn.
    """
    first = _first_spoken(wire_format, turns)
    parts = [] if system is None else [system]
    parts += [_system_part(turn.get("content")) for turn in turns[:first]]
    spoken = turns[first:]
    for number, turn in enumerate(spoken, first + 1):
        content = turn.get("content")
        if isinstance(content, str) and not content.strip() and _must_speak(turn):
            raise RenderError("empty_prompt", f"the {turn['role']} message is empty")
        if turn["role"] in SYSTEM_ROLES and not wire_format.capabilities.system_turns:
            raise RenderError(
                "invalid_messages",
                f"message {number}: the {wire_format.name} format has the system prompt at the "
                f"beginning only, not a {turn['role']} message between others",
            )
    try:
        messages = wire_format.write_turns(spoken)
    except ValueError as error:
        number = next(n for n, turn in enumerate(turns, 1) if not _can_write(wire_format, turn))
        raise RenderError("invalid_messages", f"message {number}: {error}") from None
    if not any(message.role == "user" and not message.is_tool_result for message in messages):
        raise RenderError("empty_prompt", "the conversation has no user message")
    return _joined(parts), messages


def _first_spoken(wire_format: WireFormat, turns: Sequence[Turn]) -> int:
    """Return the number of turns at the beginning that belong to the system prompt.

    A format with system turns of its own keeps a `developer` as it is written.
    """
    leading = ("system",) if wire_format.capabilities.system_turns else SYSTEM_ROLES
    return next((n for n, turn in enumerate(turns) if turn["role"] not in leading), len(turns))


def conversation_text(system: System | None, messages: Sequence[Message]) -> str:
    """Return a conversation as one text; roles are named if there are several turns."""
    parts = [] if system is None else [_text_of(system)]
    texts = [_text_of(message.content or "") for message in messages]
    if len(messages) == 1:
        parts += texts
    else:
        named = zip(messages, texts, strict=True)
        parts += [f"{message.role}: {text}" for message, text in named if text]
    return "\n\n".join(part for part in parts if part)


def text_turns(
    system: System | None, messages: Sequence[Message]
) -> tuple[tuple[str, str], ...] | None:
    """Return a conversation as (role, text) turns; None if it has more than text."""
    blocks = [
        block
        for message in messages
        if not isinstance(message.content, str)
        for block in message.content or ({},)
    ]
    if any(
        set(block) > {"type", "text", "cache_control"} or "text" not in block for block in blocks
    ):
        return None
    first = () if system is None else (("system", _text_of(system)),)
    return (*first, *((message.role, _text_of(message.content or "")) for message in messages))


def _text_of(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    texts = (block.get("text") for block in content)
    return "\n\n".join(text for text in texts if isinstance(text, str))


def _can_write(wire_format: WireFormat, turn: Turn) -> bool:
    if turn["role"] in SYSTEM_ROLES:
        return True
    try:
        wire_format.write_turns([turn])
    except ValueError:
        return False
    return True


def _must_speak(turn: Turn) -> bool:
    return turn["role"] != "tool" and not turn.get("tool_calls")


def _joined(parts: Sequence[System]) -> System | None:
    """Join texts to one text; if there are blocks among them, return all as blocks, which may have marks."""
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) == len(parts):
        return "\n\n".join(texts) if texts else None
    blocks: list[Mapping[str, Any]] = []
    for part in parts:
        blocks += [{"type": "text", "text": part}] if isinstance(part, str) else part
    return tuple(blocks)


def _system_part(content: object) -> System:
    if isinstance(content, str):
        return content
    blocks = cast("list[dict[str, Any]]", content)
    if not all(isinstance(block.get("text"), str) for block in blocks):
        raise RenderError("invalid_messages", "a system message can hold text only")
    # Blocks with nothing but text are as good as their text.
    if all(set(block) <= {"type", "text"} for block in blocks):
        return "".join(block["text"] for block in blocks)
    return tuple(blocks)
