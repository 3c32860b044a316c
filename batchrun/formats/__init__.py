"""The two wire formats behind one set of functions: `encode`, `parse`, `fault`.

A format is a module with `PATH`, `AUTH`, `headers`, `body`, `parse` and
`REQUEST_ID_HEADERS`. Nothing here does I/O.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from batchrun.formats import chat, messages
from batchrun.formats.limit_headers import limit_state, seconds_until_reset
from batchrun.formats.parsing import BILLED_STATUSES, InvalidResponse, describe_error
from batchrun.formats.streaming import StreamReader, whole
from batchrun.formats.tool_calls import SCHEMA_TOOL, answer_tool, continued, turn, with_turns
from batchrun.records import ToolChoice, WireRequest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from batchrun.records import Completion, FormatName, Request

FORMATS: dict[str, ModuleType] = {"messages": messages, "chat": chat}

# What makes a provider stream, put behind the rest of the body: it does not change the answer.
_STREAM = {
    "messages": b',"stream":true}',
    "chat": b',"stream":true,"stream_options":{"include_usage":true}}',
}


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
    if request.answer is not None and request.answer.as_tool:
        choice = ToolChoice("tool", SCHEMA_TOOL)
        request = replace(request, tools=(answer_tool(request.answer),), tool_choice=choice)
    body = orjson.dumps(wire_format.body(request))
    if request.stream:
        body = body.removesuffix(b"}") + _STREAM[request.format]
    url = request.base_url + wire_format.PATH
    return WireRequest(url, tuple(headers.items()), body, request.stream)


def choices_asked(wire: WireRequest) -> int:
    """Return how many choices a request asks for (`n` of the chat format)."""
    if b'"n":' not in wire.body:
        return 1
    asked = orjson.loads(wire.body).get("n")
    return asked if isinstance(asked, int) else 1


def key_header(wire_format: FormatName, key: str, auth: str | None = None) -> tuple[str, str]:
    """Return the header that carries the API key: the format's own, or the one that is chosen."""
    if (auth or FORMATS[wire_format].AUTH) == "bearer":
        return "authorization", f"Bearer {key}"
    return "x-api-key", key


def fingerprint(request: Request, wire: WireRequest) -> bytes:
    """Return 16 bytes that identify what is asked: format, provider and body.

    What cannot change the answer (the port of a server on this machine, credentials, extra headers,
    streaming, limits, outputs) is left out.
    """
    body = wire.body
    if request.stream:
        body = body.removesuffix(_STREAM[request.format]) + b"}"
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{request.format}\n{request.provider}\n".encode())
    digest.update(body)
    return digest.digest()


def parse(wire_format: FormatName, content: bytes, *, keep_raw: bool = False) -> Completion:
    """Read the body of an answer with a status of success.

    Raises:
        InvalidResponse: when it is not JSON, no completion, or reports an error.
    """
    return whole(FORMATS[wire_format].parse, content, keep_raw=keep_raw)


def request_id(wire_format: FormatName, headers: Mapping[str, str]) -> str | None:
    """Return the provider's id of an exchange from the response headers."""
    names: tuple[str, ...] = FORMATS[wire_format].REQUEST_ID_HEADERS
    return next((headers[name] for name in names if name in headers), None)


__all__ = [
    "BILLED_STATUSES",
    "FORMATS",
    "SCHEMA_TOOL",
    "InvalidResponse",
    "StreamReader",
    "choices_asked",
    "continued",
    "describe_error",
    "encode",
    "fingerprint",
    "key_header",
    "limit_state",
    "parse",
    "request_id",
    "seconds_until_reset",
    "turn",
    "with_turns",
]
