"""Reads JSON of any server defensively: answers, and errors in every known shape."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.errors import BatchrunError, ProviderFault
from batchrun.formats.limit_headers import MAX_WAIT_S, duration, seconds_until_reset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.records import Billing, Usage


# A larger number is not a count of tokens, and sums of a column must fit in 64 bits.
MAX_COUNT = 10**12
# The smallest integer above 64 bits has 20 digits; Python reads up to 4,300 digits as an integer.
_LONG_NUMBER = b"0" * 19
# Python refuses to read longer integers (`sys.int_info.default_max_str_digits`).
_MOST_DIGITS = 4_300
_DIGITS_AS_ZEROS = bytes(0x30 if chr(byte).isdigit() else byte for byte in range(128)) + bytes(
    range(128, 256)
)


class InvalidResponse(BatchrunError):
    """A body with a successful status that is not a completion, or an answer that failed.

    `fault` has the facts from the body. Its `http_status` is the one in the body.
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
        """The provider's type if the body reports an error, otherwise ours."""
        return self.fault.error_type


def too_large(what: str, most_bytes: int) -> InvalidResponse:
    """Return the error of an answer that is too large. It is not retried: the next one would cost again."""
    message = f"{what} is larger than {most_bytes // 2**20} MiB"
    fault = ProviderFault("response_too_large", message, should_retry=False, maybe_billed=True)
    return InvalidResponse(message, fault=fault)


def read_json(content: bytes) -> Any:  # noqa: ANN401 - JSON
    """Read a body as JSON.

    A paid answer is not rejected for small violations: NaN becomes null; half a surrogate pair and
    bytes that are not UTF-8 become a replacement character.

    Raises:
        InvalidResponse: when it is not JSON.
    """
    try:
        return loads(content)
    except ValueError:
        pass
    try:
        value = _lax_loads(content.decode("utf-8-sig", "replace"))
        # Encode again: only this finds half a surrogate pair.
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
    """Return the beginning of a body as readable text on one line."""
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
    # `type`, because a boolean is an int, too.
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
    """Return a value as JSON; None for null and for empty values."""
    return dumps(value).decode() if value else None


# An error page of a proxy may be long, and each failed attempt stores its message.
MAX_ERROR_CHARACTERS = 2_000
MAX_NAME_CHARACTERS = 200
# A timeout of the provider or of a proxy: the request may have been processed and billed.
BILLED_STATUSES = frozenset({408, 504, 522, 524})
_STATUS_KEYS = ("code", "status", "status_code", "statusCode", "http_status")


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The content of an error body.

    Attributes:
        error_type: the provider's type; None if it has none.
        message: its text, or the beginning of the body.
        request_id: the provider's id of the exchange.
        status: the HTTP status in the body, from 400 to 599.
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
    any of them as the only item of a list, and anything that is not JSON. A `code` is more specific
    than a `type` and is preferred; a number is a status.

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
    """Return the item of a list with one item, which Gemini uses for errors, else the value."""
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
    """Return the failure of an attempt with a successful status and an error in its body.

    Args:
        body: the error.
        unnamed: its type if the provider gives neither a name nor a status.
        began: whether parts of an answer had arrived, so that it may have been billed.
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
    """Return the failure of an answer that the provider aborted, with an `error` ending."""
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
    """Return the failure of a JSON body that is not an answer, with the usage that it reports."""
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
    """Return the message, followed by that of the provider behind a router."""
    message = text_or_none(fields.get("message")) or text_or_none(fields.get("detail"))
    details = [text_or_none(as_dict(fields.get("metadata")).get("raw")), *_quotas(fields)]
    found = [text for text in (message, *details) if text]
    return ": ".join(found) or None


def _quotas(fields: Mapping[str, Any]) -> list[str | None]:
    """Return the names of the exhausted quotas, which show whether they are daily (Gemini)."""
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
    """Return the wait that an error asks for, from any of its known places."""
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
