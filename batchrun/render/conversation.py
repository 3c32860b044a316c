"""Conversations: turns from a cell or from templates, with system text moved to its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import orjson

from batchrun.errors import RenderError
from batchrun.records import Message

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def read_messages(column: str, values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Read a conversation from a cell: JSON text, or a list of structs from Parquet.

    Raises:
        RenderError: when it is no list of turns with role and content.
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
            "invalid_messages", f"{column}: must be a list of messages, not {cell!r:.80}"
        )
    return [_read_turn(column, number, turn) for number, turn in enumerate(cell, 1)]


def _read_turn(column: str, number: int, turn: object) -> tuple[str, Any]:
    where = f"{column}, message {number}"
    if not isinstance(turn, dict):
        raise RenderError("invalid_messages", f"{where}: must be an object, not {turn!r:.80}")
    others = [key for key in turn if key not in {"role", "content"} and turn[key] is not None]
    if others:
        raise RenderError(
            "invalid_messages",
            f"{where}: can have role and content only, not {', '.join(map(str, others))}",
        )
    role, content = turn.get("role"), turn.get("content")
    if role not in ("system", "user", "assistant"):
        raise RenderError(
            "invalid_messages", f"{where}: role must be system, user or assistant, not {role!r:.80}"
        )
    blocks = isinstance(content, list) and all(isinstance(block, dict) for block in content)
    if not isinstance(content, str) and not (blocks and content):
        raise RenderError(
            "invalid_messages", f"{where}: content must be text or blocks, not {content!r:.80}"
        )
    return str(role), content


def _without_nulls(value: object) -> object:
    """Leave out what typed columns put in place of keys that a row did not have."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def split_system(
    system: str | None, turns: Sequence[tuple[str, Any]]
) -> tuple[str | None, tuple[Message, ...]]:
    """Move system turns out of the conversation; both formats then put them where they belong.

    Raises:
        RenderError: when a message is empty or the user says nothing.
    """
    parts = [] if system is None else [system]
    messages: list[Message] = []
    for role, content in turns:
        if role == "system":
            parts.append(_plain_text(content))
            continue
        if isinstance(content, str) and not content.strip():
            raise RenderError("empty_prompt", f"the {role} message is empty")
        messages.append(Message(cast("Any", role), content))
    if "user" not in {message.role for message in messages}:
        raise RenderError("empty_prompt", "the conversation has no user message")
    return "\n\n".join(parts) if parts else None, tuple(messages)


def _plain_text(content: object) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    texts = [block.get("text") for block in blocks]
    if not all(isinstance(text, str) for text in texts):
        raise RenderError("invalid_messages", "a system message can hold text only")
    return "".join(cast("list[str]", texts))
