"""Defensive reading of JSON that a server sent: every server is its own dialect.

Integers stay exact whatever their size, here and in `dumps`: orjson alone rounds those of more than
64 bits to floating point.
"""

from __future__ import annotations

import json
import math
from typing import Any

import orjson

from batchrun.errors import BatchrunError, ProviderFault

# A larger number is no count of tokens, and a column of them would overflow its 64-bit sum.
MAX_COUNT = 10**12
# The smallest integer above 64 bits has 20 digits; Python reads up to 4,300 digits as an integer.
_LONG_NUMBER = b"0" * 19
_MOST_DIGITS = 4_300
_DIGITS_AS_ZEROS = bytes(0x30 if chr(byte).isdigit() else byte for byte in range(128)) + bytes(
    range(128, 256)
)


class InvalidResponse(BatchrunError):
    """A body of a successful status that is no completion, or an answer that failed.

    `fault` is what is known about it, without the HTTP exchange: its `http_status` is the one that
    the body itself gives.
    """

    def __init__(
        self,
        message: str,
        error_type: str = "invalid_response",
        *,
        fault: ProviderFault | None = None,
    ) -> None:
        super().__init__(message)
        self.fault = fault or ProviderFault(error_type, message, maybe_billed=True)

    @property
    def error_type(self) -> str:
        """The provider's word where the body reports an error, otherwise ours."""
        return self.fault.error_type


def too_large(what: str, most_bytes: int) -> InvalidResponse:
    """Return what ends an answer that is too large: the next one would be, too, and paid for."""
    message = f"{what} is larger than {most_bytes // 2**20} MiB"
    fault = ProviderFault("response_too_large", message, should_retry=False, maybe_billed=True)
    return InvalidResponse(message, fault=fault)


def read_json(content: bytes) -> Any:  # noqa: ANN401 - JSON
    """Read a body as JSON.

    An answer that was paid for is not thrown away over what a laxer reader takes: NaN becomes
    null, half a surrogate pair and bytes that are no UTF-8 become a replacement character.

    Raises:
        InvalidResponse: when it is not JSON.
    """
    try:
        return loads(content)
    except ValueError:
        pass
    try:
        value = _lax_loads(content.decode("utf-8-sig", "replace"))
        # Encoded once more, because half a surrogate pair shows only then.
        return _lax_loads(dumps(value).decode())
    except (ValueError, RecursionError):
        raise InvalidResponse(f"the body is not JSON: {glimpse(content)}") from None


def loads(content: bytes | str) -> Any:  # noqa: ANN401 - JSON
    """Read strict JSON.

    Raises:
        ValueError: when it is not JSON.
    """
    encoded = content.encode("utf-8", "replace") if isinstance(content, str) else content
    value = orjson.loads(encoded)
    if _LONG_NUMBER not in encoded.translate(_DIGITS_AS_ZEROS):
        return value
    try:
        return _lax_loads(encoded.decode())
    except RecursionError:
        return value


def dumps(value: object) -> bytes:
    """Write compact JSON."""
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer of more than 64 bits, or half a surrogate pair
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


def _lax_loads(text: str) -> Any:  # noqa: ANN401 - JSON
    return json.loads(
        text, parse_constant=lambda _name: None, parse_int=_integer, parse_float=_finite
    )


def _integer(text: str) -> int | str:
    """Return an integer; one that Python does not read stays text."""
    return int(text) if len(text) < _MOST_DIGITS else text


def _finite(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def glimpse(content: bytes) -> str:
    """Return the beginning of a body, readable on one line."""
    text = content[:300].decode("utf-8", "replace")
    return " ".join(text.split()) or "an empty body"


def as_dict(value: object) -> dict[str, Any]:
    """Return a mapping; anything else (null, a string) counts as empty."""
    return value if isinstance(value, dict) else {}


def as_dicts(value: object) -> list[dict[str, Any]]:
    """Return the mappings in a list; anything else counts as empty."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def as_count(value: object) -> int | None:
    """Return a token count; null, a negative number or another type is unknown."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # A boolean is an int, too, and is no count.
    return value if type(value) is int and 0 <= value < MAX_COUNT else None


def as_text(value: object) -> str:
    """Return text; null or another type counts as empty."""
    return value if isinstance(value, str) else ""


def text_or_none(value: object) -> str | None:
    """Return text, or None for anything else."""
    return value if isinstance(value, str) else None


def first_text(*values: object) -> str | None:
    """Return the first text that is not empty."""
    return next((value for value in values if isinstance(value, str) and value), None)


def json_or_none(value: object) -> str | None:
    """Return a value as JSON; None for null and for what is empty."""
    return dumps(value).decode() if value else None
