"""What a message of the chat format holds: its text and its reasoning, in every shape they come in.

Content is text, a list of parts (Mistral), or, from some servers, an object or a number. Reasoning
stands under several names, or among the parts. What a part holds that is neither goes into the text as
JSON: it was paid for.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from batchrun.formats.parsing import as_dict, as_dicts, as_text, dumps, first_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_TEXT, _THINKING, _REFUSAL = "text", "thinking", "refusal"
_REASONING = "reasoning"  # Databricks: thinking as a list of summaries
_REFERENCE = "reference"  # Mistral: where the text beside it was found
_PART_TYPES = (_TEXT, "output_text", _THINKING, _REASONING, _REFUSAL, _REFERENCE)


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message; "" when there is none."""
    content = message.get("content")
    if isinstance(content, str) and content:
        return content
    if content is None or content == "":
        return as_text(as_dict(message.get("audio")).get("transcript"))
    parts = _parts(content)
    if parts is None:
        return "" if content == [] else _as_text(content)
    return "".join(_part_text(part) for part in parts)


def reasoning_of(message: Mapping[str, Any]) -> str | None:
    """Return the reasoning of a message, from the first of its places that holds some."""
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
    """Return the parts that say where something was found."""
    return _of_type(message, _REFERENCE)


def _of_type(message: Mapping[str, Any], *kinds: str) -> list[dict[str, Any]]:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return []
    return [part for part in as_dicts(_parts(content)) if part.get("type") in kinds]


def merged_parts(pieces: Iterable[Any]) -> Any:  # noqa: ANN401 - any content
    """Put the contents of deltas together: text where all are text, else a list of parts.

    Pieces of text and of thinking become one part each, as in a whole answer.
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
    """Return parts of one type that follow each other as one part, where they are pieces."""
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
    """Return the parts of a content, None when it is a value: text, or what a model wrote as JSON."""
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
    """Return text as it is, and anything else as JSON."""
    return value if isinstance(value, str) else dumps(value).decode()


def _thought(part: Mapping[str, Any]) -> str:
    """Return what a part of thinking says, as text or as a list of text parts."""
    said = part.get("thinking") or part.get("summary")
    if isinstance(said, str):
        return said
    return "".join(as_text(item.get("text")) for item in as_dicts(said))


def _joined(blocks: object, names: tuple[str, ...]) -> str:
    """Return the texts of a list of blocks, each under the first of these names that it has."""
    if blocks is None:
        return ""
    texts = (first_text(*(block.get(name) for name in names)) for block in as_dicts(blocks))
    return "".join(text for text in texts if text)
