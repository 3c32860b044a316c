"""Defensive reading of JSON that a server sent: every server is its own dialect."""

from __future__ import annotations

from typing import Any

from batchrun.errors import BatchrunError


class InvalidResponse(BatchrunError):
    """A body under status 200 that is no completion."""


def as_dict(value: object) -> dict[str, Any]:
    """Return a mapping; anything else (null, a string) counts as empty."""
    return value if isinstance(value, dict) else {}


def as_count(value: object) -> int | None:
    """Return a token count; null, a negative number or another type is unknown."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # Beyond 2**53 it is no count of tokens, and it would not fit the 64-bit columns.
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53:
        return value
    return None


def as_text(value: object) -> str:
    """Return text; null or another type counts as empty."""
    return value if isinstance(value, str) else ""


def text_or_none(value: object) -> str | None:
    """Return text, or None for anything else."""
    return value if isinstance(value, str) else None
