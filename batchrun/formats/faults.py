"""Error bodies, in every shape that providers and gateways give them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.formats.parsing import InvalidResponse, as_dict, glimpse, read_json, text_or_none

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ERROR_CHARACTERS = 2_000
MAX_NAME_CHARACTERS = 200


def describe_error(content: bytes) -> tuple[str | None, str, str | None]:
    """Read an error body of any known shape: (type, message, request id).

    Known shapes: Claude's `{"type":"error","error":{…},"request_id"}`, OpenAI's
    `{"error":{"message","type","code"}}`, gateways' `{"success":false,"error":{"code","message"},
    "trace_id"}`, `error` as a string, `detail` instead of it, any of them as the only item of a
    list, and anything that is not JSON. A `code` says more than a `type`, so it wins where both
    are there.
    """
    try:
        payload = read_json(content)
    except InvalidResponse:
        return None, glimpse(content), None
    if isinstance(payload, list) and len(payload) == 1:
        payload = payload[0]
    payload = as_dict(payload)
    error = payload.get("error")
    trace = _name(payload.get("request_id")) or _name(payload.get("trace_id"))
    if isinstance(error, str) and error:
        return None, error[:MAX_ERROR_CHARACTERS], trace
    fields = as_dict(error) or payload
    message = text_or_none(fields.get("message")) or text_or_none(fields.get("detail"))
    return _error_type(fields), (message or glimpse(content))[:MAX_ERROR_CHARACTERS], trace


def _error_type(fields: Mapping[str, Any]) -> str | None:
    code = _name(fields.get("code"))
    return code if code and not code.isdigit() else _name(fields.get("type"))


def _name(value: object) -> str | None:
    return (text_or_none(value) or "")[:MAX_NAME_CHARACTERS] or None
