"""The conversation of a request: its turns, their texts, images and tool results, and their cost."""

from __future__ import annotations

import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchrun.simulator.fields import encode, invalid, one_of, required, text
from batchrun.simulator.refusals import Fault, RefusedError
from batchrun.simulator.tokens import count_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    ImageCheck = Callable[[dict[str, Any], str], None]

_TURN_TOKENS = 3  # what a role and its delimiters cost
_IMAGE_TOKENS = 1_500  # about one megapixel
_IMAGE_BLOCKS = frozenset({"image", "image_url"})
_MEDIA_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_WEB = ("https://", "http://")


@dataclass(frozen=True, slots=True)
class Turn:
    """One message.

    Attributes:
        role: as sent.
        text: of its text blocks, joined by line ends.
        tokens: what it costs as input.
        images: how many it shows, those in tool results included.
        results: texts of the tool results that it brings.
        block_tokens: tokens of each content block; empty for content that is text.
    """

    role: str
    text: str
    tokens: int
    images: int = 0
    results: tuple[str, ...] = ()
    block_tokens: tuple[int, ...] = ()


@dataclass(slots=True)
class _Tally:
    """What the blocks of one message add up to."""

    texts: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    images: int = 0

    def add(self, block: object, path: str, check_image: ImageCheck) -> int:
        """Count one block and return its tokens."""
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            invalid(path, "expected a content block with a type.")
        if block["type"] == "text":
            if not isinstance(block.get("text"), str):
                invalid(f"{path}.text", "expected a string.")
            self.texts += [block["text"]] if block["text"] else []
            return count_tokens(block["text"])
        if block["type"] in _IMAGE_BLOCKS:
            check_image(block, path)
            self.images += 1
            return _IMAGE_TOKENS
        if block["type"] == "tool_result":
            return self._add_result(block, path, check_image)
        return count_tokens(encode(block, path).decode())

    def _add_result(self, block: dict[str, Any], path: str, check_image: ImageCheck) -> int:
        text(block, "tool_use_id", f"{path}.")
        inner = turn_of("tool", block.get("content"), f"{path}.content", check_image)
        self.results.append(inner.text)
        self.images += inner.images
        return inner.tokens


def conversation(
    fields: dict[str, Any], roles: Collection[str], check_image: ImageCheck
) -> list[Turn]:
    """Return `messages`, at least one, each with one of `roles`."""
    messages = required(fields, "messages")
    if not isinstance(messages, list):
        invalid("messages", "expected a list.")
    if not messages:
        invalid("messages", "at least one message is required.")
    return [
        _turn(message, f"messages.{place}", roles, check_image)
        for place, message in enumerate(messages)
    ]


def turn_of(role: str, content: object, path: str, check_image: ImageCheck) -> Turn:
    """Return the turn for content that is text, a list of blocks, or null."""
    if content is None or isinstance(content, str):
        said = content or ""
        return Turn(role, said, count_tokens(said) + _TURN_TOKENS)
    if not isinstance(content, list):
        invalid(path, "expected a string or a list of content blocks.")
    tally = _Tally()
    tokens = tuple(
        tally.add(block, f"{path}.{place}", check_image) for place, block in enumerate(content)
    )
    return Turn(
        role,
        "\n".join(tally.texts),
        sum(tokens) + _TURN_TOKENS,
        tally.images,
        tuple(tally.results),
        tokens,
    )


def check_image_block(block: dict[str, Any], path: str) -> None:
    """Check an image of the messages format: `source` is base64 data, a URL or an uploaded file."""
    if block["type"] != "image":
        invalid(f"{path}.type", "expected 'image': this format does not know 'image_url'.")
    source = required(block, "source", f"{path}.")
    if not isinstance(source, dict):
        invalid(f"{path}.source", "expected an object.")
    inside = f"{path}.source."
    kind = one_of(source, "type", ("base64", "url", "file"), inside)
    if kind == "url":
        if not text(source, "url", inside).startswith(_WEB):
            invalid(f"{inside}url", "expected an http or https URL.")
    elif kind == "file":
        text(source, "file_id", inside)
    else:
        one_of(source, "media_type", _MEDIA_TYPES, inside)
        _check_base64(text(source, "data", inside), f"{inside}data")


def check_image_url_block(block: dict[str, Any], path: str) -> None:
    """Check an image of the chat format: `image_url.url` is a web address or a data URL."""
    if block["type"] != "image_url":
        invalid(f"{path}.type", "expected 'image_url': this format does not know 'image'.")
    image = required(block, "image_url", f"{path}.")
    if not isinstance(image, dict):
        invalid(f"{path}.image_url", "expected an object with a url.")
    place = f"{path}.image_url.url"
    url = text(image, "url", f"{path}.image_url.")
    if url.startswith(_WEB):
        return
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        invalid(place, "expected an http or https URL, or a base64 data URL.")
    if head.removeprefix("data:").partition(";")[0] not in _MEDIA_TYPES:
        invalid(place, f"expected a media type of {', '.join(sorted(_MEDIA_TYPES))}.")
    _check_base64(data, place)


def _check_base64(data: str, path: str) -> None:
    try:
        decoded = binascii.a2b_base64(data, strict_mode=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded:
        invalid(path, "the image is not valid base64.")


def _turn(message: object, path: str, roles: Collection[str], check_image: ImageCheck) -> Turn:
    if not isinstance(message, dict):
        invalid(path, "expected an object.")
    role = message.get("role")
    if not isinstance(role, str) or role not in roles:
        invalid(f"{path}.role", f"expected one of {', '.join(sorted(roles))}.")
    if "content" not in message and role != "assistant":
        raise RefusedError(Fault.MISSING, "Field required", param=f"{path}.content")
    turn = turn_of(role, message.get("content"), f"{path}.content", check_image)
    if role == "tool":
        return Turn(role, "", turn.tokens, turn.images, (turn.text,), turn.block_tokens)
    if calls := message.get("tool_calls"):
        cost = count_tokens(encode(calls, f"{path}.tool_calls").decode())
        return Turn(role, turn.text, turn.tokens + cost, block_tokens=turn.block_tokens)
    return turn
