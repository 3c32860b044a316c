"""The Claude Messages format: what requests look like, and how answers and errors are written."""

from __future__ import annotations

import math
from base64 import b64encode
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING

import orjson

from batchrun.simulator import calls
from batchrun.simulator import request_schema as rs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchrun.simulator.accounting import LimitStanding
    from batchrun.simulator.calls import Headers, Json
    from batchrun.simulator.draws import RandomDraws

_NO_SAMPLING_SINCE = b"2026-10-21"
_LEAST_TOP_P = 0.95  # beside thinking

_CONTENT = {"$ref": "#/$defs/content"}
_SOURCE = rs.by_type(
    base64=rs.record("media_type", "data", media_type=rs.MEDIA_TYPE, data=rs.BASE64),
    url=rs.record("url", url=rs.WEB_ADDRESS),
    file=rs.record("file_id", file_id=rs.TEXT),
)
_DOCUMENT_SOURCE = rs.by_type(
    base64=rs.record("media_type", "data", media_type=rs.one_of("application/pdf"), data=rs.BASE64),
    text=rs.record("media_type", "data", media_type=rs.one_of("text/plain"), data=rs.TEXT),
    url=rs.record("url", url=rs.WEB_ADDRESS),
    file=rs.record("file_id", file_id=rs.TEXT),
    content=rs.record("content", content={"type": ["string", "array"]}),
)
_BLOCK = rs.by_type(
    foreign="image_url",
    text=rs.record("text", text={"type": "string"}),
    image=rs.record("source", source=_SOURCE),
    document=rs.record("source", source=_DOCUMENT_SOURCE, title={"type": "string"}),
    tool_result=rs.record("tool_use_id", tool_use_id=rs.TEXT, content=_CONTENT),
)
_BLOCK["properties"]["cache_control"] = rs.CACHE_CONTROL
_NOT_EMPTY = {"required": ["content"], "properties": {"content": {"minLength": 1, "minItems": 1}}}
_MESSAGE = {
    **rs.record("role", role=rs.one_of("user", "assistant"), content=_CONTENT),
    **rs.when("role", "user", _NOT_EMPTY),
}
_OBJECT_SCHEMA = {
    **rs.JSON_SCHEMA,
    "required": ["type"],
    "properties": {"type": {"const": "object"}},
}
_TOOL = {
    **rs.record(
        "name",
        name=rs.TOOL_NAME,
        type=rs.TEXT,
        description={"type": "string"},
        cache_control=rs.CACHE_CONTROL,
    ),
    "if": {"properties": {"type": {"enum": ["custom", None]}}},
    "then": rs.record("input_schema", input_schema=_OBJECT_SCHEMA),
}
_CHOICE = rs.by_type(auto={}, any={}, none={}, tool=rs.record("name", name=rs.TEXT))
_REQUEST = rs.RequestSchema(
    {
        "$defs": {"content": {"type": ["string", "array", "null"], "items": _BLOCK}},
        **rs.record(
            "model",
            "max_tokens",
            "messages",
            model=rs.TEXT,
            max_tokens=rs.COUNT,
            messages=rs.list_of(_MESSAGE, 1),
            system=_CONTENT,
            temperature=rs.between(0, 1),
            top_p=rs.between(0, 1),
            top_k=rs.COUNT,
            stop_sequences=rs.STOPS,
            stream=rs.FLAG,
            service_tier=rs.TEXT,
            thinking=rs.by_type(
                enabled=rs.record("budget_tokens", budget_tokens=rs.COUNT), disabled={}, adaptive={}
            ),
            tools=rs.list_of(_TOOL),
            tool_choice=_CHOICE,
            output_config=rs.record(
                format=rs.by_type(json_schema=rs.record("schema", schema=rs.JSON_SCHEMA))
            ),
        ),
    },
    unsupported=("mcp_servers", "container"),
)

_DEMANDS = {"any": "required", "tool": "required"}
# Tools whose arguments the vendor defines, by the beginning of their type.
_VENDOR_TOOLS: dict[str, tuple[str, Json]] = {
    "computer_": ("screenshot screen mouse keyboard", {"action": {"const": "screenshot"}}),
    "text_editor_": ("file edit document", {"command": {"const": "view"}, "path": {"const": "/"}}),
    "bash_": ("shell command script terminal", {"command": {"enum": ["pwd", "date -u"]}}),
}
_BAD_REQUEST = (400, "invalid_request_error")
_ERRORS = {
    calls.Fault.CREDENTIALS: (401, "authentication_error"),
    calls.Fault.NOT_FOUND: (404, "not_found_error"),
    calls.Fault.METHOD: (405, "invalid_request_error"),
    calls.Fault.TOO_LARGE: (413, "request_too_large"),
    calls.Fault.RATE_LIMIT: (429, "rate_limit_error"),
    calls.Fault.SERVER_ERROR: (500, "api_error"),
    calls.Fault.OVERLOADED: (529, "overloaded_error"),
    calls.Fault.NO_CAPACITY: (529, "overloaded_error"),
}
# One bucket stands behind all three: the simulator does not limit input and output apart.
_LIMIT_NAMES = {"requests": ("requests",), "tokens": ("tokens", "input-tokens", "output-tokens")}
_STOP_REASONS = {
    calls.FinishCause.COMPLETE: "end_turn",
    calls.FinishCause.MAX_TOKENS: "max_tokens",
    calls.FinishCause.STOP: "stop_sequence",
    calls.FinishCause.TOOL_USE: "tool_use",
}


class SimulatedMessages(calls.SimulatedFormat):
    """POST /v1/messages."""

    request_id_header = "request-id"

    def parse(self, body: Json, headers: Mapping[bytes, bytes]) -> calls.SimulatedCall:
        """Return the checked request."""
        _REQUEST.check(body)
        _check_sampling(body, headers.get(b"anthropic-version", b""))
        prompt = rs.read_prompt(body, body.get("system"))
        if prompt.prefill != prompt.prefill.rstrip():
            rs.refuse("messages", "final assistant content cannot end with trailing whitespace")
        tools = _tools(body)
        form = (body.get("output_config") or {}).get("format") or {}
        tier = body.get("service_tier")
        return calls.SimulatedCall(
            model=body["model"],
            prompt=prompt,
            max_tokens=int(body["max_tokens"]),
            stops=rs.stop_texts(body.get("stop_sequences")),
            thinking=_thinking(body, tools),
            tools=tools,
            schema=form.get("schema"),
            stream=bool(body.get("stream")),
            service_tier="standard" if tier in {None, "auto", "standard_only"} else tier,
        )

    def completion(self, answer: calls.SimulatedAnswer) -> Json:
        """Return a `message`."""
        (choice,) = answer.choices
        return _message(answer, _input_usage(answer) | _output_usage(answer)) | {
            "content": _blocks(choice),
            "stop_reason": _STOP_REASONS[choice.finish],
            "stop_sequence": choice.stop,
        }

    def events(self, answer: calls.SimulatedAnswer, draws: RandomDraws) -> list[bytes]:
        """Return the events from `message_start` to `message_stop`."""
        return [self.event(data) for data in _events(answer, draws)]

    def event(self, data: Json) -> bytes:
        """Return an event that is named by its type."""
        return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), orjson.dumps(data))

    def error(self, refused: calls.RefusedError, request_id: str) -> tuple[int, Json]:
        """Return the status and the `error`."""
        status, error_type = _ERRORS.get(refused.fault, _BAD_REQUEST)
        message = f"{refused.param}: {refused.message}" if refused.param else refused.message
        detail = {"type": error_type, "message": message}
        return status, {"type": "error", "error": detail, "request_id": request_id}

    def limit_headers(self, standings: list[LimitStanding], now: float) -> Headers:
        """Return `anthropic-ratelimit-*`; resets as RFC 3339 times, in whole seconds."""
        headers: Headers = []
        for standing in standings:
            reset = _rfc3339(math.ceil(now + standing.reset_s))
            for name in _LIMIT_NAMES[standing.scope]:
                prefix = f"anthropic-ratelimit-{name}"
                headers += [
                    (f"{prefix}-limit", str(standing.limit)),
                    (f"{prefix}-remaining", str(standing.remaining)),
                    (f"{prefix}-reset", reset),
                ]
        return headers


def _check_sampling(body: Json, version: bytes) -> None:
    if version < _NO_SAMPLING_SINCE:
        return
    for name in ("temperature", "top_p", "top_k"):
        if body.get(name) is not None:
            rs.refuse(name, f"is not supported with anthropic-version {version.decode('latin-1')}.")


def _thinking(body: Json, tools: calls.ToolOffer | None) -> int:
    """Return the limit on tokens of thinking; 0 when there is none."""
    thinking, max_tokens = body.get("thinking"), int(body["max_tokens"])
    if not thinking:
        return max_tokens if body["model"].endswith(calls.THINKING_SUFFIX) else 0
    if thinking["type"] == "disabled":
        return 0
    budget = int(thinking.get("budget_tokens") or max_tokens)
    if thinking["type"] == "enabled" and budget >= max_tokens:
        rs.refuse("max_tokens", "must be greater than `thinking.budget_tokens`.")
    if body.get("temperature") not in {None, 1}:
        rs.refuse("temperature", "may only be set to 1 when thinking is enabled.")
    if body.get("top_k") is not None:
        rs.refuse("top_k", "must be unset when thinking is enabled.")
    if (body.get("top_p") or 1) < _LEAST_TOP_P:
        rs.refuse("top_p", f"must be at least {_LEAST_TOP_P} when thinking is enabled.")
    if tools and tools.demand is calls.ToolDemand.REQUIRED:
        rs.refuse("thinking", "may not be enabled when tool_choice forces tool use.")
    return budget


def _tools(body: Json) -> calls.ToolOffer | None:
    if not body.get("tools") and not body.get("tool_choice"):
        return None
    choice = body.get("tool_choice") or {"type": "auto"}
    return rs.tool_offer(
        map(_tool, body.get("tools") or ()),
        calls.ToolDemand(_DEMANDS.get(choice["type"], choice["type"])),
        choice["name"] if choice["type"] == "tool" else None,
        parallel=not choice.get("disable_parallel_tool_use"),
    )


def _tool(tool: Json) -> calls.ToolDefinition:
    """Return a tool: the user's own, or one that the vendor defines."""
    kind = tool.get("type") or "custom"
    if kind == "custom":
        return calls.ToolDefinition(
            tool["name"], tool.get("description") or "", tool["input_schema"]
        )
    prefix = next(filter(kind.startswith, _VENDOR_TOOLS), "")
    purpose, arguments = _VENDOR_TOOLS.get(prefix, ("", {}))
    return calls.ToolDefinition(tool["name"], purpose, rs.record(*arguments, **arguments))


def _message(answer: calls.SimulatedAnswer, usage: Json) -> Json:
    """Return a message without anything that is said."""
    return {
        "id": f"msg_sim_{answer.number:024x}",
        "type": "message",
        "role": "assistant",
        "model": answer.call.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _blocks(choice: calls.SimulatedChoice) -> list[Json]:
    """Return the content blocks: thoughts, text, calls of tools."""
    blocks: list[Json] = []
    if choice.thoughts:
        signature = b64encode(blake2b(choice.thoughts.encode()).digest()).decode()
        blocks.append({"type": "thinking", "thinking": choice.thoughts, "signature": signature})
    if choice.text:
        blocks.append({"type": "text", "text": choice.text})
    for use in choice.uses:
        block = {"type": "tool_use", "id": f"toolu_sim_{use.number:024x}", "name": use.name}
        blocks.append(block | {"input": orjson.loads(use.arguments)})
    return blocks


def _input_usage(answer: calls.SimulatedAnswer) -> Json:
    used = answer.input
    return {
        "input_tokens": used.uncached,
        "cache_creation_input_tokens": used.written_5m + used.written_1h,
        "cache_read_input_tokens": used.read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": used.written_5m,
            "ephemeral_1h_input_tokens": used.written_1h,
        },
        "service_tier": answer.call.service_tier,
    }


def _output_usage(answer: calls.SimulatedAnswer) -> Json:
    usage: Json = {"output_tokens": answer.output_tokens}
    if answer.call.thinking:
        usage["output_tokens_details"] = {"thinking_tokens": answer.thinking_tokens}
    return usage


def _events(answer: calls.SimulatedAnswer, draws: RandomDraws) -> Iterator[Json]:
    (choice,) = answer.choices
    usage = _input_usage(answer)
    # How much will come is not known yet: `message_delta` overrides this count.
    yield {"type": "message_start", "message": _message(answer, usage | {"output_tokens": 1})}
    yield {"type": "ping"}
    for place, block in enumerate(_blocks(choice)):
        start, deltas = _pieces(block, draws)
        yield {"type": "content_block_start", "index": place, "content_block": block | start}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": place, "delta": delta}
        yield {"type": "content_block_stop", "index": place}
    counts = {name: usage[name] for name in usage if name.endswith("_tokens")}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": _STOP_REASONS[choice.finish], "stop_sequence": choice.stop},
        "usage": counts | _output_usage(answer),
    }
    yield {"type": "message_stop"}


def _pieces(block: Json, draws: RandomDraws) -> tuple[Json, list[Json]]:
    """Return how a content block starts, and the deltas that complete it."""

    def deltas(kind: str, field: str, text: str) -> list[Json]:
        return [{"type": kind, field: piece} for piece in draws.pieces(text)]

    if block["type"] == "text":
        return {"text": ""}, deltas("text_delta", "text", block["text"])
    if block["type"] == "thinking":
        signed = {"type": "signature_delta", "signature": block["signature"]}
        thoughts = deltas("thinking_delta", "thinking", block["thinking"])
        return {"thinking": "", "signature": ""}, [*thoughts, signed]
    arguments = orjson.dumps(block["input"]).decode()
    opening = {"type": "input_json_delta", "partial_json": ""}
    return {"input": {}}, [opening, *deltas("input_json_delta", "partial_json", arguments)]


@lru_cache(maxsize=128)  # most requests of a second share it
def _rfc3339(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
