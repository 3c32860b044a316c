"""The two wire formats behind one set of functions: `encode`, `parse`, `fault`.

A format is a module with `PATH`, `key_header`, `headers`, `body`, `parse` and
`REQUEST_ID_HEADERS`. Nothing here does I/O.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.formats import chat, messages
from batchrun.formats.parsing import InvalidResponse, as_dict, glimpse, read_json, text_or_none
from batchrun.records import WireRequest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from batchrun.records import Completion, FormatName, Request

FORMATS: dict[str, ModuleType] = {"messages": messages, "chat": chat}

MAX_ERROR_CHARACTERS = 2_000
MAX_NAME_CHARACTERS = 200


def encode(request: Request) -> WireRequest:
    """Turn a request into URL, headers (without credentials) and body.

    An extra header takes the place of ours of the same name.
    """
    wire_format = FORMATS[request.format]
    headers = {
        "content-type": "application/json",
        "accept": "application/json",
        **dict(wire_format.headers(request)),
        **dict(request.extra_headers),
    }
    return WireRequest(
        url=request.base_url + wire_format.PATH,
        headers=tuple(headers.items()),
        body=orjson.dumps(wire_format.body(request)),
    )


def key_header(wire_format: FormatName, key: str) -> tuple[str, str]:
    """Return the header that carries the API key in a format."""
    header: tuple[str, str] = FORMATS[wire_format].key_header(key)
    return header


def fingerprint(request: Request, wire: WireRequest) -> bytes:
    """Return 16 bytes that identify what is asked: format, base URL and body.

    What cannot change the answer (credentials, extra headers, limits, outputs) is left out.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{request.format}\n{request.base_url}\n".encode())
    digest.update(wire.body)
    return digest.digest()


def parse(wire_format: FormatName, content: bytes) -> Completion:
    """Read the body of an answer with status 200.

    Raises:
        InvalidResponse: when it is not JSON, or no completion.
    """
    payload = read_json(content)
    if not isinstance(payload, dict):
        raise InvalidResponse(f"the body is not a JSON object: {glimpse(content)}")
    if payload.get("error"):
        error_type, message, _ = describe_error(content)
        raise InvalidResponse(f"an error under status 200: {error_type or 'error'}: {message}")
    completion: Completion = FORMATS[wire_format].parse(payload)
    return completion


def request_id(wire_format: FormatName, headers: Mapping[str, str]) -> str | None:
    """Return the provider's id of an exchange from the response headers."""
    names: tuple[str, ...] = FORMATS[wire_format].REQUEST_ID_HEADERS
    return next((headers[name] for name in names if name in headers), None)


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


__all__ = [
    "FORMATS",
    "InvalidResponse",
    "describe_error",
    "encode",
    "fingerprint",
    "key_header",
    "parse",
    "request_id",
]
