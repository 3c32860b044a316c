"""Reads the text and reasoning of an answer, in every shape that servers use.

The content of a chat message is text, a list of parts (Mistral), or, from some servers, an object or a
number. Reasoning has several names, or is among the parts. Unknown parts are not dropped but become JSON
in the text, because they were paid for.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, TypedDict

from batchrun.formats.parsing import (
    as_dict,
    as_dicts,
    as_text,
    dumps,
    first_text,
    json_or_none,
    text_or_none,
)
from batchrun.records import Ending

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


_TEXT, _THINKING, _REFUSAL = "text", "thinking", "refusal"
_REASONING = "reasoning"  # Databricks: thinking as a list of summaries
_REFERENCE = "reference"  # Mistral: where the text beside it was found
_SAID = frozenset({"role", "content"})
_PART_TYPES = (_TEXT, "output_text", _THINKING, _REASONING, _REFUSAL, _REFERENCE)


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message; "" if there is none."""
    content = message.get("content")
    if isinstance(content, str) and content:
        return content
    if content is None or content == "":
        return as_text(as_dict(message.get("audio")).get("transcript"))
    parts = _parts(content)
    if parts is None:
        return "" if content == [] else _as_text(content)
    return "".join(_part_text(part) for part in parts)


def plain_text_of(message: Mapping[str, Any]) -> str | None:
    """Return the text of a message that has only text; None if there may be more."""
    content = message.get("content")
    if not isinstance(content, str) or any(message[name] for name in message if name not in _SAID):
        return None
    return content


def reasoning_of(message: Mapping[str, Any]) -> str | None:
    """Return the reasoning of a message, from the first of its known places."""
    for name in ("reasoning_content", "reasoning", "thinking"):
        if found := as_text(message.get(name)):
            return found
    return (
        "".join(_thought(part) for part in _of_type(message, _THINKING, _REASONING))
        or _joined(message.get("thinking_blocks"), ("thinking",))
        or _joined(message.get("reasoning_details"), ("text", "summary"))
        or None
    )


def refusal_of(message: Mapping[str, Any]) -> str | None:
    """Return the text of a refusal, from its own field or from the parts."""
    texts = (as_text(part.get("refusal")) for part in _of_type(message, _REFUSAL))
    return first_text(message.get("refusal"), "".join(texts))


def references(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the parts that are references to sources."""
    return _of_type(message, _REFERENCE)


def _of_type(message: Mapping[str, Any], *kinds: str) -> list[dict[str, Any]]:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return []
    return [part for part in as_dicts(_parts(content)) if part.get("type") in kinds]


def merged_parts(pieces: Iterable[Any]) -> Any:  # noqa: ANN401 - any content
    """Join the contents of deltas: to text if all are text, otherwise to a list of parts.

    Consecutive pieces of text or of thinking become one part, as in a whole answer.
    """
    listed = list(pieces)
    if all(isinstance(piece, str) for piece in listed):
        return "".join(listed) if listed else None
    listed = [piece for piece in listed if piece not in ("", None)]
    if len(listed) == 1:
        return listed[0]
    parts = [part for piece in listed for part in _parts(piece) or [piece]]
    typed = [part if _is_part(part) else {"type": _TEXT, "text": _as_text(part)} for part in parts]
    groups = groupby(typed, key=lambda part: part.get("type"))
    return [part for kind, group in groups for part in _merged(kind, list(group))]


def _merged(kind: str | None, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return consecutive parts of one type as one part, if they are pieces."""
    if len(parts) == 1 or kind == _REFERENCE:
        return parts
    fields = {name: value for part in parts for name, value in part.items()}
    if kind == _THINKING:
        thought = "".join(_thought(part) for part in parts)
        is_text = all(isinstance(part.get("thinking"), str) for part in parts)
        fields["thinking"] = thought if is_text else [{"type": "text", "text": thought}]
    elif kind == _REASONING:
        fields["summary"] = [item for part in parts for item in as_dicts(part.get("summary"))]
    else:
        name = "refusal" if kind == _REFUSAL else "text"
        fields[name] = "".join(as_text(part.get(name)) for part in parts)
    return [fields]


def _parts(content: object) -> list[Any] | None:
    """Return the parts of a content; None if it is text or another JSON value."""
    if isinstance(content, dict):
        return [content] if _is_part(content) else None
    if isinstance(content, list) and any(_is_part(item) for item in content):
        return content
    return None


def _is_part(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    return value["type"] in _PART_TYPES if "type" in value else list(value) == ["text"]


def _part_text(part: object) -> str:
    if not _is_part(part):
        return "" if part is None else _as_text(part)
    return as_text(as_dict(part).get("text"))


def _as_text(value: object) -> str:
    """Return text unchanged, and anything else as JSON."""
    return value if isinstance(value, str) else dumps(value).decode()


def _thought(part: Mapping[str, Any]) -> str:
    """Return the text of a thinking part, whose content is text or a list of text parts."""
    said = part.get("thinking") or part.get("summary")
    if isinstance(said, str):
        return said
    return "".join(as_text(item.get("text")) for item in as_dicts(said))


def _joined(blocks: object, names: tuple[str, ...]) -> str:
    """Return the joined texts of a list of blocks; each is under the first of these names that it has."""
    if blocks is None:
        return ""
    texts = (first_text(*(block.get(name) for name in names)) for block in as_dicts(blocks))
    return "".join(text for text in texts if text)


# Other blocks belong to a tool that the provider ran, or are of an unknown type; they are kept.
_OWN_BLOCKS = ("text", "thinking", "redacted_thinking", "tool_use")


class BlockTexts(TypedDict):
    """Fields of a completion that are read from its content blocks."""

    texts: tuple[str, ...]
    reasoning: str | None
    citations: str | None
    server_tools: str | None


def block_texts(blocks: Sequence[Mapping[str, Any]]) -> BlockTexts:
    """Return the fields of a completion that are read from its content blocks."""
    texts = [as_text(block.get("text")) for block in blocks if block.get("type") == "text"]
    thoughts = [thought for block in blocks if (thought := _thought_of_block(block)) is not None]
    citations = [
        citation
        for block in blocks
        if block.get("type") == "text"
        for citation in as_dicts(block.get("citations"))
    ]
    return {
        "texts": ("".join(texts),),
        "reasoning": "\n\n".join(thoughts) or None,
        "citations": json_or_none(citations),
        "server_tools": json_or_none([b for b in blocks if b.get("type") not in _OWN_BLOCKS]),
    }


def _thought_of_block(block: Mapping[str, Any]) -> str | None:
    """Return the text of a thinking block; a redacted one is encrypted: "[redacted]"."""
    if block.get("type") == "thinking":
        return as_text(block.get("thinking"))
    return "[redacted]" if block.get("type") == "redacted_thinking" else None


_REASONS = {
    Ending.STOP: (
        "stop",
        "end_turn",
        "stop_sequence",
        "complete",
        "completed",
        "eos",
        "eos_token",
        "normal",
    ),
    Ending.LENGTH: (
        "length",
        "max_tokens",
        "max_output_tokens",
        "model_context_window_exceeded",
        "model_length",
        "error_limit",
    ),
    Ending.TOOL_CALLS: ("tool_calls", "tool_use", "tool_call", "function_call"),
    Ending.REFUSAL: ("refusal",),
    Ending.FILTERED: (
        "content_filter",
        "content_filtered",
        "guardrail_intervened",
        "safety",
        "image_safety",
        "recitation",
        "blocklist",
        "prohibited_content",
        "spii",
        "sensitive",
        "error_toxic",
    ),
    Ending.PAUSED: ("pause_turn",),
    Ending.ERROR: (
        "error",
        "abort",
        "aborted",
        "cancelled",
        "insufficient_system_resource",
        "network_error",
    ),
}
_ENDINGS = {reason: ending for ending, reasons in _REASONS.items() for reason in reasons}


def stop_reason(value: object) -> str | None:
    """Return a stop reason. Some servers send an object with a type, or "null" before the end."""
    found = text_or_none(value) or text_or_none(as_dict(value).get("type"))
    return None if found in {"", "null"} else found


def ending(reason: str | None, *, refusal: str | None, calls: Any) -> Ending:  # noqa: ANN401 - there or not
    """Return how an answer ended.

    A refusal or tool calls are more specific than `stop`, which servers send with both.
    """
    found = _ENDINGS.get((reason or "").lower(), Ending.UNKNOWN)
    if refusal and found in {Ending.STOP, Ending.LENGTH, Ending.UNKNOWN}:
        return Ending.REFUSAL
    if calls and found in {Ending.STOP, Ending.UNKNOWN}:
        return Ending.TOOL_CALLS
    return found
