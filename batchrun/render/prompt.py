"""Conversations: turns from a cell or from templates, with system text moved to its place."""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any, cast

import orjson

from batchrun.errors import RenderError
from batchrun.formats.conversation import EXTRA_KEYS
from batchrun.job.reader import TooLargeError, read_small_file
from batchrun.records import Image

if TYPE_CHECKING:
    from pathlib import Path


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
            "invalid_messages", f"{column}: must be a list of messages, not {cell!r:.80}"
        )
    return [_read_turn(column, number, turn) for number, turn in enumerate(cell, 1)]


def _read_turn(column: str, number: int, turn: object) -> Turn:
    where = f"{column}, message {number}"
    if not isinstance(turn, dict):
        raise RenderError("invalid_messages", f"{where}: must be an object, not {turn!r:.80}")
    known = {key: value for key, value in turn.items() if value is not None}
    others = [key for key in known if key not in {"role", "content", *EXTRA_KEYS}]
    if others:
        raise RenderError(
            "invalid_messages",
            f"{where}: can have role, content, {', '.join(EXTRA_KEYS)} only, "
            f"not {', '.join(map(str, others))}",
        )
    role, content = known.get("role"), known.get("content")
    if role not in ROLES:
        raise RenderError(
            "invalid_messages", f"{where}: role must be one of {', '.join(ROLES)}, not {role!r:.80}"
        )
    blocks = isinstance(content, list) and all(isinstance(block, dict) for block in content)
    only_calls = content in (None, []) and "tool_calls" in known
    if not isinstance(content, str) and not (blocks and content) and not only_calls:
        raise RenderError(
            "invalid_messages", f"{where}: content must be text or blocks, not {content!r:.80}"
        )
    return known


def _without_nulls(value: object) -> object:
    """Leave out what typed columns put in place of keys that a row did not have."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def arranged(
    wire_format: WireFormat, system: System | None, turns: Sequence[Turn]
) -> tuple[System | None, tuple[Message, ...]]:
    """Return the system prompt, with what system turns at the beginning say, and the other turns.

    Raises:
        RenderError: when a message is empty, the user says nothing, or the format cannot express
            a turn.
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
    """Return what a conversation says as one text; roles are named where there are several turns."""
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
    """Return a conversation as (role, text) turns; None when it has more than text."""
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
    """Return texts as one text; with blocks among them, all as blocks, which may carry marks."""
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


# Providers accept less; this bounds the memory that one row can take.
MAX_IMAGE_BYTES = 20 * 1024 * 1024

_DATA_URL = re.compile(r"data:([a-z/+.-]+);base64,(.*)\Z", re.DOTALL | re.IGNORECASE)
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def read_images(value: object, folder: Path) -> list[Image]:
    """Read what a cell or template gives: one image, a list of them, or none.

    Args:
        value: text, bytes, or a list of these; null and empty text mean no image.
        folder: where file names start, and what they stay below.

    Raises:
        RenderError: if it is not an image that both formats support.
    """
    if value is None or value == "":
        return []
    if isinstance(value, list | tuple):
        return [image for item in value for image in read_images(item, folder)]
    if isinstance(value, bytes):
        return [_from_bytes(value, "the bytes")]
    if not isinstance(value, str):
        raise RenderError("invalid_image", f"images: must be text or bytes, not {value!r:.80}")
    if value.startswith(("http://", "https://")):
        return [Image(url=value)]
    if value.startswith("data:"):
        return [_from_data_url(value)]
    return [_from_file(value, folder)]


def _from_bytes(content: bytes, what: str) -> Image:
    if len(content) > MAX_IMAGE_BYTES:
        most = MAX_IMAGE_BYTES // 2**20
        raise RenderError("image_too_large", f"images: {what}: larger than {most} MiB")
    media_type = next((kind for start, kind in _SIGNATURES if content.startswith(start)), None)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        media_type = "image/webp"
    if media_type is None:
        raise RenderError("invalid_image", f"images: {what}: is not a JPEG, PNG, GIF or WebP image")
    data = base64.b64encode(content).decode("ascii")
    return Image(media_type=media_type, data=data, size=len(data))


def _from_data_url(url: str) -> Image:
    match = _DATA_URL.match(url)
    try:
        content = base64.b64decode("".join(match.group(2).split()), validate=True) if match else b""
    except (binascii.Error, ValueError):
        content = b""
    if not content:
        raise RenderError("invalid_image", f"images: {url[:40]}…: is not a base64 data URL")
    return _from_bytes(content, f"{url[:40]}…")


def _from_file(name: str, folder: Path) -> Image:
    what = f"images: {name!r:.200}"
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise RenderError(
                "invalid_image",
                f"{what} is outside of {folder}; name the folder of the images with "
                "[request] image_dir, or on the command line with --set request.image_dir=…",
            )
        return _from_bytes(read_small_file(path, MAX_IMAGE_BYTES), f"{name!r:.200}")
    except TooLargeError as error:
        raise RenderError("image_too_large", f"{what}: {error}") from None
    except ValueError as error:
        raise RenderError("invalid_image", f"{what}: {error}") from None
    except (OSError, RuntimeError) as error:  # a name too long, or links in a circle
        raise RenderError("invalid_image", f"{what}: cannot be read ({error})") from None
