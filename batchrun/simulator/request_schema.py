"""Reads request bodies: their shape is checked against a JSON Schema, and the rest by small functions.

A format describes its requests as a schema, in the terms below. So the refusals and their paths are defined
in one place, and later code can rely on the shape.
"""

from __future__ import annotations

import binascii
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import jsonschema_rs
import orjson

from batchrun.simulator.calls import (
    CachedPrefix,
    Fault,
    PromptText,
    RefusedError,
    ToolDefinition,
    ToolDemand,
    ToolOffer,
    count_tokens,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchrun.simulator.calls import Json

_MESSAGE_TOKENS = 3  # what a role and its delimiters cost
_IMAGE_TOKENS = 1_500  # about one megapixel
_FILE_TOKENS = 2_300  # one page of a PDF
_LEAST_CACHED = 64  # tokens; the vendors' minimum is 1,024, which few simulated runs would reach
_MOST_MARKS = 4
_MEDIA_TYPES = ["image/jpeg", "image/png", "image/gif", "image/webp"]
_IMAGE_ADDRESS = "web address or base64 data URL of an image"

# Terms for the schemas of the formats.

TEXT: Json = {"type": "string", "minLength": 1}
COUNT: Json = {"type": "integer", "minimum": 1}
FLAG: Json = {"type": "boolean"}
WEB_ADDRESS: Json = {"type": "string", "pattern": "^https?://"}
BASE64: Json = {"type": "string", "format": "base64"}
IMAGE_ADDRESS: Json = {"type": "string", "format": _IMAGE_ADDRESS}
MEDIA_TYPE: Json = {"enum": _MEDIA_TYPES}
JSON_SCHEMA: Json = {"type": "object", "$ref": "https://json-schema.org/draft/2020-12/schema"}
TOOL_NAME: Json = {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,128}$"}
STOPS: Json = {"type": ["string", "array"], "minLength": 1, "maxItems": 4, "items": TEXT}


def one_of(*values: str) -> Json:
    """Describe a field that has one of these values."""
    return {"enum": list(values)}


def between(low: float, high: float) -> Json:
    """Describe a number from `low` to `high`."""
    return {"type": "number", "minimum": low, "maximum": high}


def list_of(items: Json, least: int = 0) -> Json:
    """Describe a list of at least `least` items."""
    return {"type": "array", "items": items, "minItems": least}


def record(*required: str, **properties: Json) -> Json:
    """Describe an object. A field that is not required may also be null."""
    described = {
        name: schema if name in required else {"if": {"not": {"type": "null"}}, "then": schema}
        for name, schema in properties.items()
    }
    return {"type": "object", "required": list(required), "properties": described}


def when(name: str, value: str, then: Json) -> Json:
    """Describe objects whose field `name` is `value`; others are not restricted."""
    return {"if": {"required": [name], "properties": {name: {"const": value}}}, "then": then}


def by_type(*, foreign: str | None = None, **variants: Json) -> Json:
    """Describe objects by their `type`, which is one of those named here.

    With `foreign`, a type of the other format, all types but that one are accepted.
    """
    known = one_of(*variants) if foreign is None else TEXT | {"not": {"const": foreign}}
    cases = [when("type", name, schema) for name, schema in variants.items()]
    return record("type", type=known) | {"allOf": cases}


CACHE_CONTROL = record("type", type=one_of("ephemeral"), ttl=one_of("5m", "1h"))


class RequestSchema:
    """The schema of the requests of one format. It is compiled when it is first needed.

    Args:
        schema: schema of the body.
        unsupported: fields of the format that the simulator does not support.
    """

    def __init__(self, schema: Json, unsupported: tuple[str, ...]) -> None:
        self._schema = schema
        self._unsupported = unsupported

    @cached_property
    def _validator(self) -> jsonschema_rs.Draft202012Validator:
        formats = {"base64": _is_base64, _IMAGE_ADDRESS: _is_image_address}
        return jsonschema_rs.Draft202012Validator(
            self._schema, formats=formats, validate_formats=True, mask="this value"
        )

    def check(self, body: Json) -> None:
        """Refuse a body whose shape is wrong."""
        try:
            self._validator.validate(body)
        except jsonschema_rs.ValidationError as error:
            path = ".".join(map(str, error.instance_path))
            if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Required):
                path = f"{path}.{error.kind.property}".removeprefix(".")
                raise RefusedError(Fault.MISSING, "Field required", path) from None
            refuse(path, error.message)
        for name in self._unsupported:
            if body.get(name):
                message = f"The simulator does not support `{name}`. Remove it."
                raise RefusedError(Fault.NOT_IMPLEMENTED, message, name)


def refuse(param: str, message: str) -> NoReturn:
    """Refuse a field."""
    raise RefusedError(Fault.INVALID, message, param)


def _is_base64(text: str) -> bool:
    try:
        return bool(binascii.a2b_base64(text, strict_mode=True))
    except ValueError:  # also raised for characters beyond ASCII
        return False


def _is_image_address(text: str) -> bool:
    if text.startswith(("https://", "http://")):
        return True
    head, _, data = text.partition(",")
    return head in {f"data:{kind};base64" for kind in _MEDIA_TYPES} and _is_base64(data)


def stop_texts(stops: str | list[str] | None) -> tuple[str, ...]:
    """Return the stop sequences, which may be one or a list."""
    return (stops,) if isinstance(stops, str) else tuple(stops or ())


def tool_offer(
    tools: Iterable[ToolDefinition], demand: ToolDemand, only: str | None, *, parallel: bool
) -> ToolOffer | None:
    """Return the tools that a request offers; None without tools."""
    offered = tuple(tools)
    names = {tool.name for tool in offered}
    if len(names) < len(offered):
        refuse("tools", "tool names must differ.")
    if not names and demand is ToolDemand.REQUIRED:
        refuse("tool_choice", "may only be set when there are tools.")
    if only is not None and only not in names:
        refuse("tool_choice", f"the tool '{only}' is not among the tools.")
    return ToolOffer(offered, demand, only, parallel) if offered else None


class _PromptPart(NamedTuple):
    """A part of a prompt, in order: a tool, a text or a content block."""

    role: str
    content: object
    tokens: int
    mark: Json | None


class _ReadMessage:
    """What one message says."""

    __slots__ = ("called", "images", "parts", "results", "role", "text")

    def __init__(self, message: Json) -> None:
        self.role: str = message["role"]
        self.images = 0
        self.parts: list[_PromptPart] = []
        calls = message.get("tool_calls") or []
        self.called = {call.get("id") for call in calls}
        self.results: dict[str, str] = {}  # id of a call → what it returned
        self.text = self._read(message.get("content") or "")
        if self.role == "tool":
            self.results[message["tool_call_id"]], self.text = self.text, ""
        if calls:
            self.parts.append(_PromptPart(self.role, calls, _json_tokens(calls), None))

    def _read(self, content: str | list[Json]) -> str:
        """Add the parts of a message's content, and return its texts."""
        if isinstance(content, str):
            tokens = count_tokens(content) + _MESSAGE_TOKENS
            self.parts.append(_PromptPart(self.role, content, tokens, None))
            return content
        texts: list[str] = []
        overhead = _MESSAGE_TOKENS
        for block in content:
            tokens = overhead + self._read_block(block, texts)
            self.parts.append(_PromptPart(self.role, block, tokens, block.get("cache_control")))
            overhead = 0
        return "\n".join(filter(None, texts))

    def _read_block(self, block: Json, texts: list[str]) -> int:
        """Read one block, and return its tokens."""
        match block["type"]:
            case "text":
                texts.append(block["text"])
                return count_tokens(block["text"])
            case "image" | "image_url":
                self.images += 1
                return _IMAGE_TOKENS
            case "document" | "file" if (tokens := _file_tokens(block)) is not None:
                return tokens
            case "tool_use":
                self.called.add(block.get("id"))
            case "tool_result":
                inner = _ReadMessage({"role": self.role, "content": block.get("content")})
                self.results[block["tool_use_id"]] = inner.text
                self.images += inner.images
                return sum(part.tokens for part in inner.parts)
        return _json_tokens(block)


def _file_tokens(block: Json) -> int | None:
    """Return the tokens of a document as a file; None of one that is text."""
    source = block.get("source") or {}
    return None if source.get("type") in {"text", "content"} else _FILE_TOKENS


def read_prompt(body: Json, system: object = None) -> PromptText:
    """Return the conversation of a checked request; `system` is text or blocks before it."""
    messages = [_ReadMessage({"role": "system", "content": system})] if system else []
    messages += map(_ReadMessage, body["messages"])
    parts = [_tool_part(tool) for tool in body.get("tools") or ()]
    instructions: list[str] = []
    question, images = "", 0
    called: set[object] = set()
    for message in messages:
        parts += message.parts
        images += message.images
        if message.role == "user":
            question = message.text
        elif message.role == "assistant":
            called = message.called
        elif message.role in {"system", "developer"}:
            instructions.append(message.text)
        if unknown := message.results.keys() - called:
            refuse("messages", f"no call {min(unknown)!r} in the answer before the tool's result.")
    return PromptText(
        system="\n\n".join(instructions),
        question=question,
        prefill=messages[-1].text if messages[-1].role == "assistant" else "",
        results=_last_results(messages) if messages[-1].results else (),
        images=images,
        tokens=sum([part.tokens for part in parts]),
        prefixes=_marked_prefixes(body["model"], parts),
    )


def _last_results(messages: list[_ReadMessage]) -> tuple[str, ...]:
    """Return the tool results that end the conversation: in one user message, or a message each."""
    results: list[str] = []
    for message in reversed(messages):
        if not message.results:
            break
        results[:0] = message.results.values()
    return tuple(results)


def _tool_part(tool: Json) -> _PromptPart:
    return _PromptPart("tool", tool, _json_tokens(tool), tool.get("cache_control"))


def _json_tokens(value: object) -> int:
    return count_tokens(orjson.dumps(value).decode())


def _marked_prefixes(model: str, parts: list[_PromptPart]) -> tuple[CachedPrefix, ...]:
    """Return the prefixes that end at a `cache_control` and are long enough, shortest first."""
    marked = [part for part in parts if part.mark]
    if len(marked) > _MOST_MARKS:
        refuse("cache_control", f"expected at most {_MOST_MARKS} marks, got {len(marked)}.")
    if not marked:
        return ()
    found: list[CachedPrefix] = []
    running, tokens = blake2b(model.encode(), digest_size=16), 0
    for part in parts:
        content: Any = part.content
        if part.mark:  # moving a mark does not change what was said before it
            content = {name: value for name, value in content.items() if name != "cache_control"}
        running.update(part.role.encode() + orjson.dumps(content))
        tokens += part.tokens
        if part.mark and tokens >= _LEAST_CACHED:
            found.append(CachedPrefix(running.digest(), tokens, part.mark.get("ttl") or "5m"))
    return tuple(found)
