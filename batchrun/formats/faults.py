"""Errors that a server reports, in every shape that providers and gateways give them.

They come as the body of an error status, under a status of success, in the middle of a stream, or
inside of a choice. Where the body gives a status of its own, that is the one to judge it by.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from batchrun.errors import ProviderFault
from batchrun.formats.limit_headers import MAX_WAIT_S, duration, seconds_until_reset
from batchrun.formats.parsing import (
    InvalidResponse,
    as_dict,
    as_dicts,
    dumps,
    glimpse,
    read_json,
    text_or_none,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.records import Billing, Usage

MAX_ERROR_CHARACTERS = 2_000
MAX_NAME_CHARACTERS = 200
# After these the provider may have gone on, and billed: it or a proxy gave up waiting.
BILLED_STATUSES = frozenset({408, 504, 522, 524})
_STATUS_KEYS = ("code", "status", "status_code", "statusCode", "http_status")


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What an error body says.

    Attributes:
        error_type: the provider's word; None where it has none.
        message: its text, or the beginning of the body.
        request_id: the provider's id of the exchange.
        status: the HTTP status that the body itself gives, from 400 to 599.
        retry_after_s: seconds that the body asks to wait.
    """

    error_type: str | None
    message: str
    request_id: str | None = None
    status: int | None = None
    retry_after_s: float | None = None


def describe_error(content: bytes, now: float | None = None) -> ErrorBody:
    """Read an error body of any known shape.

    Known shapes: Claude's `{"type":"error","error":{…},"request_id"}`, OpenAI's
    `{"error":{"message","type","code"}}`, gateways' `{"success":false,"error":{"code","message"},
    "trace_id"}`, `error` as a string, `detail` instead of it, `{"object":"error","message","code"}`,
    any of them as the only item of a list, and anything that is not JSON. A `code` says more than a
    `type`, so it wins where both are there; a number stands for a status.

    Args:
        content: the body.
        now: Unix time in seconds, for waits that are given as a time.
    """
    try:
        payload = read_json(content)
    except InvalidResponse:
        return ErrorBody(None, glimpse(content))
    return read_error(as_dict(only_item(payload)), content, now)


def read_error(payload: Mapping[str, Any], content: bytes, now: float | None = None) -> ErrorBody:
    """Read an error body that has been parsed; `content` is shown where it has no message."""
    error = payload.get("error")
    trace = _name(payload.get("request_id")) or _name(payload.get("trace_id"))
    if isinstance(error, str) and error:
        return ErrorBody(None, error[:MAX_ERROR_CHARACTERS], trace, _status(payload))
    fields = as_dict(error) or payload
    return ErrorBody(
        _error_type(fields),
        (_message(fields) or glimpse(content))[:MAX_ERROR_CHARACTERS],
        trace or _name(fields.get("request_id")),
        _status(fields) or _status(payload),
        _wait_s(fields, time.time() if now is None else now),
    )


def only_item(payload: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return the item of a list that has just one, as Gemini wraps its errors; else the value."""
    return payload[0] if isinstance(payload, list) and len(payload) == 1 else payload


def reports_error(payload: Mapping[str, Any]) -> bool:
    """Whether a body under a successful status, or an event of a stream, is an error."""
    if payload.get("error"):
        return True
    if isinstance(payload.get("choices") or payload.get("content"), list):
        return False
    if payload.get("type") == "error" or payload.get("object") == "error":
        return True
    return isinstance(payload.get("message"), str) and any(
        payload.get(key) is not None for key in _STATUS_KEYS
    )


def reported(
    body: ErrorBody, *, unnamed: str = "invalid_response", began: bool = False
) -> InvalidResponse:
    """Return the failure of an attempt whose successful status turned out to be an error.

    Args:
        body: the error.
        unnamed: its type where the provider gives neither a name nor a status.
        began: whether parts of an answer had come, so that it may have been billed.
    """
    status = body.status
    name = body.error_type or (f"http_{status}" if status else None)
    where = "" if began else f"an error in place of an answer: {name or 'error'}: "
    fault = ProviderFault(
        name or unnamed,
        where + body.message,
        status,
        request_id=body.request_id,
        retry_after_s=body.retry_after_s,
        maybe_billed=began or status is None or status in BILLED_STATUSES,
    )
    return InvalidResponse(fault.message, fault=fault)


def failed_choice(
    payload: Mapping[str, Any],
    choice: Mapping[str, Any],
    reason: str | None,
    usage: Usage,
    billing: Billing,
) -> InvalidResponse:
    """Return the failure of an answer that the provider broke off: it has an `error` ending."""
    error = choice.get("error")
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, dict) or not error:
        error = {"message": f"the provider broke off the answer: {reason}", "type": reason}
    found = reported(read_error({"error": error}, dumps(error)), unnamed="stream_error", began=True)
    return _with_facts(found, payload, usage, billing)


def unusable(
    payload: Mapping[str, Any], message: str, usage: Usage, billing: Billing
) -> InvalidResponse:
    """Return the failure of a body that is JSON and no answer; what it says was used is kept."""
    error = InvalidResponse(f"{message}: {glimpse(dumps(payload))}")
    return _with_facts(error, payload, usage, billing)


def _with_facts(
    error: InvalidResponse, payload: Mapping[str, Any], usage: Usage, billing: Billing
) -> InvalidResponse:
    is_known = usage.input_tokens is not None and usage.output_tokens is not None
    fault = replace(
        error.fault,
        model=text_or_none(payload.get("model")),
        usage=usage if is_known else None,
        billing=billing,
    )
    return InvalidResponse(fault.message, fault=fault)


def _message(fields: Mapping[str, Any]) -> str | None:
    """Return the message; behind a router's own stands what the provider said."""
    message = text_or_none(fields.get("message")) or text_or_none(fields.get("detail"))
    details = [text_or_none(as_dict(fields.get("metadata")).get("raw")), *_quotas(fields)]
    found = [text for text in (message, *details) if text]
    return ": ".join(found) or None


def _quotas(fields: Mapping[str, Any]) -> list[str | None]:
    """Return the names of the quotas that were used up: Gemini's tell a day's from a minute's."""
    violations = (
        violation
        for detail in as_dicts(fields.get("details"))
        for violation in as_dicts(detail.get("violations"))
    )
    return [text_or_none(violation.get("quotaId")) for violation in violations]


def _error_type(fields: Mapping[str, Any]) -> str | None:
    code = _name(fields.get("code"))
    if code and not code.isdigit():
        return code
    status = _name(fields.get("status"))  # Google's word, such as RESOURCE_EXHAUSTED
    return _name(fields.get("type")) or (status if status and status.isupper() else None)


def _status(fields: Mapping[str, Any]) -> int | None:
    for key in _STATUS_KEYS:
        value = fields.get(key)
        text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
        if len(text) == 3 and text.isdecimal() and 400 <= int(text) < 600:
            return int(text)
    return None


def _wait_s(fields: Mapping[str, Any], now: float) -> float | None:
    """Return the wait that an error asks for, from any of the places where it may stand."""
    metadata = as_dict(fields.get("metadata"))
    headers = {
        str(name).lower(): str(value) for name, value in as_dict(metadata.get("headers")).items()
    }
    waits = (
        *(duration(detail.get("retryDelay")) for detail in as_dicts(fields.get("details"))),
        duration(headers.get("retry-after")),
        *(duration(each.get("retry_after_seconds")) for each in (fields, metadata)),
        *(duration(each.get("retry_after")) for each in (fields, metadata)),
        seconds_until_reset(headers, now),
    )
    found = [wait for wait in waits if wait is not None]
    return min(found[0], MAX_WAIT_S) if found else None


def _name(value: object) -> str | None:
    return (text_or_none(value) or "")[:MAX_NAME_CHARACTERS] or None
