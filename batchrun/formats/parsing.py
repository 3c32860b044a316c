"""Defensive reading of JSON that a server sent: every server is its own dialect."""

from __future__ import annotations

import json
from typing import Any

import orjson

from batchrun.errors import BatchrunError

# A larger number is no count of tokens, and a column of them would overflow its 64-bit sum.
MAX_COUNT = 10**12


class InvalidResponse(BatchrunError):
    """A body under status 200 that is no completion.

    `error_type` is the provider's word where the body reports an error, otherwise ours.
    """

    def __init__(self, message: str, error_type: str = "invalid_response") -> None:
        super().__init__(message)
        self.error_type = error_type


def read_json(content: bytes) -> Any:  # noqa: ANN401 - JSON
    """Read a body as JSON.

    An answer that was paid for is not thrown away over what a laxer reader takes: NaN becomes
    null, half a surrogate pair and bytes that are no UTF-8 become a replacement character.

    Raises:
        InvalidResponse: when it is not JSON.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass
    try:
        text = content.decode("utf-8-sig", "replace")
        value = json.loads(text, parse_constant=lambda _name: None)
        return orjson.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise InvalidResponse(f"the body is not JSON: {glimpse(content)}") from None


def glimpse(content: bytes) -> str:
    """Return the beginning of a body, readable on one line."""
    text = content[:300].decode("utf-8", "replace")
    return " ".join(text.split()) or "an empty body"


def as_dict(value: object) -> dict[str, Any]:
    """Return a mapping; anything else (null, a string) counts as empty."""
    return value if isinstance(value, dict) else {}


def as_count(value: object) -> int | None:
    """Return a token count; null, a negative number or another type is unknown."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_COUNT:
        return value
    return None


def as_text(value: object) -> str:
    """Return text; null or another type counts as empty."""
    return value if isinstance(value, str) else ""


def text_or_none(value: object) -> str | None:
    """Return text, or None for anything else."""
    return value if isinstance(value, str) else None
