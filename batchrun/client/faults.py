"""Faults of one exchange: what a response with an error, or a broken connection, means."""

from __future__ import annotations

import email.utils
import math
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from batchrun import formats
from batchrun.errors import ProviderFault
from batchrun.formats.credentials import MASK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.formats import WireFormat

MAX_RETRY_AFTER_S = 24 * 3600.0

# Connections that will not come about however often they are tried, in the words of rustls, glibc, musl
# and macOS. A name server that does not answer is something else: "Temporary failure in name resolution".
_NO_WAY = {
    "certificate_error": re.compile("invalid peer certificate"),
    "tls_error": re.compile(
        "received corrupt message|peer is incompatible"
        "|received fatal alert: (?!InternalError|CloseNotify|UserCanceled)"
    ),
    "unknown_host": re.compile(
        "dns error.*(?:name or service not known|name does not resolve|nodename nor servname"
        "|no address associated)",
        re.IGNORECASE,
    ),
}


def status_fault(
    wire_format: WireFormat,
    status: int,
    headers: Mapping[str, str],
    content: bytes,
    request_id: str | None,
) -> ProviderFault:
    """Return the fault of a response whose status is not a success."""
    body = wire_format.describe_error(content)
    error_type, message = body.error_type, body.message
    if 300 <= status < 400:
        target = _without_secrets(headers.get("location", "nowhere"))
        error_type = "redirect"
        message = f"the server redirects to {target}; redirects are not followed"
    return ProviderFault(
        error_type=error_type or f"http_{status}",
        message=message,
        http_status=status,
        request_id=request_id or body.request_id,
        retry_after_s=_wait_s(status, headers, body.retry_after_s),
        should_retry={"true": True, "false": False}.get(headers.get("x-should-retry", "")),
        maybe_billed=status in formats.BILLED_STATUSES,
    )


def unusable(
    fault: ProviderFault, status: int, headers: Mapping[str, str], request_id: str | None
) -> ProviderFault:
    """Complete the fault of an unusable answer; a status in its body replaces the HTTP status."""
    status = fault.http_status or status
    return replace(
        fault,
        http_status=status,
        request_id=request_id or fault.request_id,
        retry_after_s=_wait_s(status, headers, fault.retry_after_s),
    )


def transport_fault(error: httpx.TransportError) -> ProviderFault:
    """Return the fault of a connection that could not be made, or broke."""
    kind = "timeout" if isinstance(error, httpx.TimeoutException) else "connection_error"
    # Without a connection nothing was sent, so nothing can have been billed.
    before = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
    if before:
        kind = next((name for name, said in _NO_WAY.items() if said.match(str(error))), kind)
    return broken(kind, str(error), maybe_billed=not before)


def broken(error_type: str, message: str, *, maybe_billed: bool = True) -> ProviderFault:
    """Return the fault of a broken exchange: after its first byte, it may have been billed."""
    return ProviderFault(error_type, message or error_type, maybe_billed=maybe_billed)


def _without_secrets(target: str) -> str:
    """Return the target of a redirect without user, query and fragment, which may be secret."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return "an address that is not valid"
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query=parts.query and MASK, fragment="").geturl()


def _wait_s(status: int, headers: Mapping[str, str], body_s: float | None) -> float | None:
    """Return the wait that an error asks for: in `retry-after`, in its body, or until a reset.

    None without one, and for a day or more: such values are sent by mistake.
    """
    waits = [retry_after(headers), body_s]
    if status == 429:
        waits.append(formats.seconds_until_reset(headers))
    found = next((wait for wait in waits if wait is not None), None)
    return None if found is None or found >= MAX_RETRY_AFTER_S else found


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Return how many seconds the server asks to wait.

    In order of precedence: `retry-after-ms`, `retry-after` in seconds, `retry-after` as an HTTP date,
    relative to the response's `date` if there is one. Negative, infinite and unreadable values are
    ignored; the maximum is one day.
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, MAX_RETRY_AFTER_S)
    text = headers.get("retry-after")
    seconds = _seconds(text)
    if seconds is None and text is not None:
        until, since = _http_date(text), _http_date(headers.get("date", ""))
        if until is not None:
            start = since if since is not None else (time.time() if now is None else now)
            seconds = max(0.0, until - start)
    return None if seconds is None else min(seconds, MAX_RETRY_AFTER_S)


def _seconds(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _http_date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
