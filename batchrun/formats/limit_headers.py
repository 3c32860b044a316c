"""The limit headers of both vendors: the limits of a provider, and the amounts that are left."""

from __future__ import annotations

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
# Longer waits are cut to this.
MAX_WAIT_S = 24 * 3600.0
# Larger numbers are times, not durations (30 years).
_UNIX_S, _UNIX_MS = 1e9, 1e11


def limit_state(headers: Mapping[str, str], now: float | None = None) -> LimitState | None:
    """Read the limit headers of a response, of any vendor; None without any.

    A limit below 1, such as -1 or 0 of some servers, is ignored: it would allow nothing. Unreadable
    values are ignored, too.

    Args:
        headers: with lower-case names.
        now: Unix time in seconds, for resets given as a time; the `date` header is preferred, because
            the clocks of both sides may differ.
    """
    found: dict[str, Allowance | None] = {}
    for name, prefix in _MESSAGES.items():
        if (limit := headers.get(f"{prefix}-limit")) is not None:
            reset_s = _until(headers.get(f"{prefix}-reset"), headers, now)
            found[name] = _allowance(limit, headers.get(f"{prefix}-remaining"), reset_s)
    for name in _CHAT:
        if name not in found and (limit := headers.get(f"x-ratelimit-limit-{name}")) is not None:
            reset = duration(headers.get(f"x-ratelimit-reset-{name}"))
            reset_s = _until_unix(reset, headers, now)
            left = headers.get(f"x-ratelimit-remaining-{name}")
            found[name] = _allowance(limit, left, reset_s)
    return LimitState(**found) if any(found.values()) else None


def _allowance(
    limit_text: str, remaining_text: str | None, reset_s: float | None
) -> Allowance | None:
    limit, remaining = _number(limit_text), _number(remaining_text)
    if limit is None or limit < 1 or remaining is None or remaining < 0:
        return None
    return Allowance(limit, min(remaining, limit), reset_s)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def seconds_until_reset(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return the seconds to wait if a limit is exhausted: the longest of the resets.

    Args:
        headers: headers of a refused request, with lower-case names.
        now: Unix time in seconds, for resets given as a time (OpenRouter: milliseconds).
    """
    waits = []
    for suffix, unsaid in (("", "0"), ("-requests", ""), ("-tokens", "")):
        if _number(headers.get(f"x-ratelimit-remaining{suffix}", unsaid)) == 0:
            reset = headers.get(f"x-ratelimit-reset{suffix}")
            waits.append(_until_unix(duration(reset), headers, now))
    return max((wait for wait in waits if wait is not None), default=None)


def duration(value: object) -> float | None:
    """Read a duration: "12ms", "1m30s", "6m0s", or plain seconds, as text or as a number."""
    text = str(value) if isinstance(value, str | int | float) else ""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        seconds = _number(text)
        return seconds if seconds is not None and seconds >= 0 else None
    numbers = [(_number(number), unit) for number, unit in parts]
    if any(number is None for number, _ in numbers):
        return None
    return sum((number or 0.0) * _UNIT_S[unit] for number, unit in numbers)


def _until_unix(
    moment: float | None, headers: Mapping[str, str], now: float | None
) -> float | None:
    """Return the seconds until a Unix time in seconds or milliseconds; a small number is a duration."""
    if moment is None or moment < _UNIX_S:
        return moment
    seconds = moment / 1000 if moment >= _UNIX_MS else moment
    return max(0.0, seconds - _now(headers, now))


def _until(text: str | None, headers: Mapping[str, str], now: float | None) -> float | None:
    """Return the seconds from the response's own date, or from now, to an RFC 3339 time."""
    try:
        moment = datetime.fromisoformat(text or "")
        if moment.tzinfo is None:
            return None
        return max(0.0, moment.timestamp() - _now(headers, now))
    except (ValueError, OverflowError):
        return None


def _now(headers: Mapping[str, str], now: float | None) -> float:
    return _date(headers.get("date")) or (time.time() if now is None else now)


def _date(text: str | None) -> float | None:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - it loads much, and few read dates

    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, OverflowError):
        return None
