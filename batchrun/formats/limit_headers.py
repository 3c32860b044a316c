"""The limit headers of both vendors: what a provider allows, and what is left of it."""

from __future__ import annotations

import email.utils
import math
import re
import time
from datetime import datetime
from typing import TYPE_CHECKING

from batchrun.records import Allowance, LimitState

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9.]+)(ms|s|m|h|d)")
_MESSAGES = {
    "requests": "anthropic-ratelimit-requests",
    "tokens": "anthropic-ratelimit-tokens",
    "input_tokens": "anthropic-ratelimit-input-tokens",
    "output_tokens": "anthropic-ratelimit-output-tokens",
}
_CHAT = ("requests", "tokens")


def limit_state(headers: Mapping[str, str], now: float | None = None) -> LimitState | None:
    """Read the limit headers of a response, whichever vendor's they are; None without any.

    A limit of -1 or 0, as some servers send it, and what cannot be read count as not said.

    Args:
        headers: with lower-case names.
        now: Unix time in seconds, for resets that are told as a time; a `date` header goes first,
            because the clocks of both sides may differ.
    """
    found: dict[str, Allowance | None] = {}
    for name, prefix in _MESSAGES.items():
        if (limit := headers.get(f"{prefix}-limit")) is not None:
            reset_s = _until(headers.get(f"{prefix}-reset"), headers, now)
            found[name] = _allowance(limit, headers.get(f"{prefix}-remaining"), reset_s)
    for name in _CHAT:
        if name not in found and (limit := headers.get(f"x-ratelimit-limit-{name}")) is not None:
            reset_s = _duration(headers.get(f"x-ratelimit-reset-{name}"))
            left = headers.get(f"x-ratelimit-remaining-{name}")
            found[name] = _allowance(limit, left, reset_s)
    return LimitState(**found) if any(found.values()) else None


def _allowance(
    limit_text: str, remaining_text: str | None, reset_s: float | None
) -> Allowance | None:
    limit, remaining = _number(limit_text), _number(remaining_text)
    if limit is None or limit <= 0 or remaining is None or remaining < 0:
        return None
    return Allowance(limit, min(remaining, limit), reset_s)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _duration(text: str | None) -> float | None:
    """Read a duration: "12ms", "1m30s", "6m0s", or plain seconds."""
    parts = _DURATION.findall(text or "")
    if not parts or "".join(number + unit for number, unit in parts) != text:
        seconds = _number(text)
        return seconds if seconds is not None and seconds >= 0 else None
    numbers = [(_number(number), unit) for number, unit in parts]
    if any(number is None for number, _ in numbers):
        return None
    return sum((number or 0.0) * _UNIT_S[unit] for number, unit in numbers)


def _until(text: str | None, headers: Mapping[str, str], now: float | None) -> float | None:
    """Seconds from the response's own date, or from now, to an RFC 3339 time."""
    try:
        moment = datetime.fromisoformat(text or "")
        since = _date(headers.get("date")) or (time.time() if now is None else now)
        return max(0.0, moment.timestamp() - since) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _date(text: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, OverflowError):
        return None
