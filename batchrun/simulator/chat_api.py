"""The Chat Completions format of OpenAI-compatible servers: requests, answers, errors and limits."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING
from zlib import crc32

import orjson

from batchrun.simulator import calls
from batchrun.simulator import request_schema as rs
from batchrun.simulator.composition import ANY_OBJECT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchrun.simulator.accounting import LimitStanding
    from batchrun.simulator.calls import Headers, Json
    from batchrun.simulator.draws import RandomDraws

_THINKING_TOKENS = 32_000  # where the request sets no limit
_STEP_TOKENS = 1_024  # of beginnings that are cached without a mark
_STEP_BYTES = 4 * _STEP_TOKENS
_MOST_STEPS = 64

_BLOCK = rs.by_type(
    foreign="image",
    text=rs.record("text", text={"type": "string"}),
    image_url=rs.record("image_url", image_url=rs.record("url", url=rs.IMAGE_ADDRESS)),
    file=rs.record("file", file=rs.record(filename=rs.TEXT, file_data=rs.TEXT, file_id=rs.TEXT)),
)
_BLOCK["properties"]["cache_control"] = rs.CACHE_CONTROL
_MESSAGE = rs.record(
    "role",
    role=rs.one_of("system", "developer", "user", "assistant", "tool", "function"),
    content={"type": ["string", "array"], "items": _BLOCK},
    tool_calls=rs.list_of({"type": "object", "properties": {"id": rs.TEXT}}),
)
_MESSAGE["allOf"] = [
    rs.when("role", "tool", rs.record("tool_call_id", tool_call_id=rs.TEXT)),
    {"if": {"properties": {"role": {"const": "assistant"}}}, "else": {"required": ["content"]}},
]
_FUNCTION = rs.record(
    "name", name=rs.TOOL_NAME, description={"type": "string"}, parameters=rs.JSON_SCHEMA
)
_CHOICE = {
    "if": {"type": "string"},
    "then": rs.one_of("auto", "required", "none"),
    "else": rs.by_type(function=rs.record("function", function=rs.record("name", name=rs.TEXT))),
}
_REQUEST = rs.RequestSchema(
    rs.record(
        "model",
        "messages",
        model=rs.TEXT,
        messages=rs.list_of(_MESSAGE, 1),
        max_tokens=rs.COUNT,
        max_completion_tokens=rs.COUNT,
        n={"type": "integer", "minimum": 1, "maximum": 128},
        temperature=rs.between(0, 2),
        top_p=rs.between(0, 1),
        presence_penalty=rs.between(-2, 2),
        frequency_penalty=rs.between(-2, 2),
        stop=rs.STOPS,
        stream=rs.FLAG,
        stream_options=rs.record(include_usage=rs.FLAG),
        service_tier=rs.TEXT,
        logprobs=rs.FLAG,
        top_logprobs={"type": "integer", "minimum": 0, "maximum": 20},
        tools=rs.list_of(rs.by_type(function=rs.record("function", function=_FUNCTION))),
        tool_choice=_CHOICE,
        parallel_tool_calls=rs.FLAG,
        response_format=rs.by_type(
            text={},
            json_object={},
            json_schema=rs.record(
                "json_schema",
                json_schema=rs.record("name", name=rs.TEXT, schema=rs.JSON_SCHEMA),
            ),
        ),
    ),
    unsupported=("functions", "audio"),
)

_ERRORS: dict[calls.Fault, tuple[int, str, str | None]] = {
    calls.Fault.MISSING: (400, "invalid_request_error", "missing_required_parameter"),
    calls.Fault.INVALID: (400, "invalid_request_error", "invalid_value"),
    calls.Fault.NOT_IMPLEMENTED: (400, "invalid_request_error", "api_not_implemented"),
    calls.Fault.CREDENTIALS: (401, "invalid_request_error", "invalid_api_key"),
    calls.Fault.NOT_FOUND: (404, "invalid_request_error", "unknown_url"),
    calls.Fault.METHOD: (405, "invalid_request_error", "method_not_supported"),
    calls.Fault.TOO_LARGE: (413, "invalid_request_error", "request_too_large"),
    calls.Fault.RATE_LIMIT: (429, "requests", "rate_limit_exceeded"),
    calls.Fault.SERVER_ERROR: (500, "server_error", None),
    calls.Fault.OVERLOADED: (503, "server_error", "overloaded"),
    calls.Fault.NO_CAPACITY: (429, "requests", "resource_unavailable"),
}
_FINISH_REASONS = {
    calls.FinishCause.COMPLETE: "stop",
    calls.FinishCause.MAX_TOKENS: "length",
    calls.FinishCause.STOP: "stop",
    calls.FinishCause.TOOL_USE: "tool_calls",
}
_INDEX = re.compile(r"\.(\d+)")
_WORDS = re.compile(r"\S+\s*|\s+")  # a text is these, one after the other


class SimulatedChat(calls.SimulatedFormat):
    """POST /v1/chat/completions."""

    request_id_header = "x-request-id"
    retries_in_ms = True

    def parse(self, body: Json, headers: Mapping[bytes, bytes]) -> calls.SimulatedCall:
        """Return the checked request. The headers say nothing about it."""
        del headers
        _REQUEST.check(body)
        if body.get("stream_options") and not body.get("stream"):
            rs.refuse("stream_options", "is only allowed when `stream` is true.")
        if body.get("top_logprobs") is not None and not body.get("logprobs"):
            rs.refuse("top_logprobs", "is only allowed when `logprobs` is true.")
        prompt = rs.read_prompt(body)
        if not prompt.prefixes:
            prompt = replace(prompt, prefixes=tuple(_long_prefixes(body, prompt.tokens)))
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        max_tokens = None if limit is None else int(limit)
        thinks = body["model"].endswith(calls.THINKING_SUFFIX)
        tier = body.get("service_tier")
        return calls.SimulatedCall(
            model=body["model"],
            prompt=prompt,
            max_tokens=max_tokens,
            stops=rs.stop_texts(body.get("stop")),
            choices=int(body.get("n") or 1),
            thinking=(max_tokens or _THINKING_TOKENS) if thinks else 0,
            tools=_tools(body),
            schema=_schema(body.get("response_format") or {"type": "text"}),
            stream=bool(body.get("stream")),
            include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
            service_tier="default" if tier in {None, "auto"} else tier,
            logprobs=int(body.get("top_logprobs") or 0) if body.get("logprobs") else None,
        )

    def completion(self, answer: calls.SimulatedAnswer) -> Json:
        """Return a `chat.completion`."""
        choices = [
            {
                "index": place,
                "message": _message(choice),
                **_logprobs(answer, _WORDS.findall(choice.text)),
                "finish_reason": _FINISH_REASONS[choice.finish],
            }
            for place, choice in enumerate(answer.choices)
        ]
        tier = {"service_tier": answer.call.service_tier}
        return _envelope(answer, "chat.completion", choices, _usage(answer)) | tier

    def events(self, answer: calls.SimulatedAnswer, draws: RandomDraws) -> list[bytes]:
        """Return the chunks, and `[DONE]`."""
        kind = "chat.completion.chunk"
        chunks = [_envelope(answer, kind, [each], None) for each in _interleaved(answer, draws)]
        if answer.call.include_usage:
            chunks.append(_envelope(answer, kind, [], _usage(answer)))
        return [*map(self.event, chunks), b"data: [DONE]\n\n"]

    def event(self, data: Json) -> bytes:
        """Return an event; this format does not name them."""
        return b"data: %b\n\n" % orjson.dumps(data)

    def error(self, refused: calls.RefusedError, request_id: str) -> tuple[int, Json]:
        """Return the status and the `error`; a rate limit's type names what is limited."""
        del request_id  # only in a header
        status, error_type, code = _ERRORS[refused.fault]
        param = _INDEX.sub(r"[\1]", refused.param) if refused.param else None
        return status, {
            "error": {
                "message": f"Invalid '{param}': {refused.message}" if param else refused.message,
                "type": refused.scope if refused.fault is calls.Fault.RATE_LIMIT else error_type,
                "param": param,
                "code": code,
            }
        }

    def limit_headers(self, standings: list[LimitStanding], now: float) -> Headers:
        """Return `x-ratelimit-*`; resets as durations."""
        del now
        headers: Headers = []
        for standing in standings:
            headers += [
                (f"x-ratelimit-limit-{standing.scope}", str(standing.limit)),
                (f"x-ratelimit-remaining-{standing.scope}", str(standing.remaining)),
                (f"x-ratelimit-reset-{standing.scope}", _duration(standing.reset_s)),
            ]
        return headers


def _long_prefixes(body: Json, tokens: int) -> Iterator[calls.CachedPrefix]:
    """Yield the beginnings of a long chat, which servers cache without a mark, shortest first."""
    if tokens < _STEP_TOKENS:
        return
    said = orjson.dumps([body["model"], body.get("tools"), body["messages"]])
    running = blake2b(digest_size=16)
    for step in range(min(len(said) // _STEP_BYTES, tokens // _STEP_TOKENS, _MOST_STEPS)):
        running.update(said[step * _STEP_BYTES : (step + 1) * _STEP_BYTES])
        yield calls.CachedPrefix(running.digest(), (step + 1) * _STEP_TOKENS, "")


def _tools(body: Json) -> calls.ToolOffer | None:
    if not body.get("tools") and not body.get("tool_choice"):
        return None
    choice = body.get("tool_choice") or "auto"
    only = choice["function"]["name"] if isinstance(choice, dict) else None
    return rs.tool_offer(
        (_tool(tool["function"]) for tool in body.get("tools") or ()),
        calls.ToolDemand("required" if only else choice),
        only,
        parallel=body.get("parallel_tool_calls") is not False,
    )


def _tool(function: Json) -> calls.ToolDefinition:
    schema = function.get("parameters") or {"type": "object"}
    return calls.ToolDefinition(function["name"], function.get("description") or "", schema)


def _schema(form: Json) -> Json | None:
    """Return the JSON Schema of `response_format`; None when the answer is a text."""
    if form["type"] == "text":
        return None
    schema: Json | None = form.get("json_schema", {}).get("schema")
    return ANY_OBJECT if schema is None else schema


def _envelope(
    answer: calls.SimulatedAnswer, kind: str, choices: list[Json], usage: Json | None
) -> Json:
    return {
        "id": f"chatcmpl-sim-{answer.number:024x}",
        "object": kind,
        "created": int(answer.created),
        "model": answer.call.model,
        "system_fingerprint": None,
        "choices": choices,
        "usage": usage,
    }


def _message(choice: calls.SimulatedChoice) -> Json:
    message: Json = {"role": "assistant", "content": _text(choice)}
    if choice.thoughts:
        message["reasoning_content"] = choice.thoughts
    if choice.uses:
        message["tool_calls"] = [_tool_call(use, use.arguments) for use in choice.uses]
    return message


def _text(choice: calls.SimulatedChoice) -> str | None:
    """Return the content: null beside tool calls that nothing is said about."""
    return None if choice.uses and not choice.text else choice.text


def _tool_call(use: calls.SimulatedToolUse, arguments: str) -> Json:
    return {
        "id": f"call_sim_{use.number:024x}",
        "type": "function",
        "function": {"name": use.name, "arguments": arguments},
    }


def _interleaved(answer: calls.SimulatedAnswer, draws: RandomDraws) -> Iterator[Json]:
    """Yield the deltas of all choices, each in order, the choices mixed as they are drawn."""
    waiting = [_deltas(answer, place, draws) for place in range(len(answer.choices))]
    while waiting:
        drawn = draws.below(len(waiting))
        delta = next(waiting[drawn], None)
        if delta is None:
            del waiting[drawn]
        else:
            yield delta


def _deltas(answer: calls.SimulatedAnswer, place: int, draws: RandomDraws) -> Iterator[Json]:
    choice = answer.choices[place]

    def delta(said: Json, **more: object) -> Json:
        return {"delta": said, "logprobs": None, "finish_reason": None, "index": place, **more}

    yield delta({"content": _text(choice) and "", "role": "assistant"})
    for thought in draws.pieces(choice.thoughts):
        yield delta({"reasoning_content": thought})
    for text in draws.pieces(choice.text):
        yield delta({"content": text}, **_logprobs(answer, [text]))
    for number, use in enumerate(choice.uses):
        yield delta({"tool_calls": [{"index": number} | _tool_call(use, "")]})
        for part in draws.pieces(use.arguments):
            yield delta({"tool_calls": [{"index": number, "function": {"arguments": part}}]})
    yield delta({}, finish_reason=_FINISH_REASONS[choice.finish])


def _logprobs(answer: calls.SimulatedAnswer, tokens: list[str]) -> Json:
    """Return `logprobs` of these tokens, if asked for: made up, and always the same for a token."""
    most = answer.call.logprobs
    if most is None:
        return {}
    return {"logprobs": {"content": [_probable(token, most) for token in tokens], "refusal": None}}


def _probable(token: str, alternatives: int) -> Json:
    best = -(crc32(token.encode()) % 2_000) / 1_000
    texts = [token, *(f"{token}~{number}" for number in range(1, alternatives))]
    likely = [
        {"token": text, "logprob": best - rank, "bytes": list(text.encode())}
        for rank, text in enumerate(texts)
    ]
    return {**likely[0], "top_logprobs": likely[:alternatives]}


def _usage(answer: calls.SimulatedAnswer) -> Json:
    """Return the usage as gateways extend it; the first three counts are those that are billed."""
    used, kinds = answer.input, {"text_tokens": 0, "audio_tokens": 0}
    return {
        "prompt_tokens": used.total,
        "completion_tokens": answer.output_tokens,
        "total_tokens": used.total + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": used.read, **kinds, "image_tokens": 0},
        "completion_tokens_details": {**kinds, "reasoning_tokens": answer.thinking_tokens},
        "input_tokens": 0,
        "output_tokens": 0,
        "input_tokens_details": None,
        "claude_cache_creation_5_m_tokens": used.written_5m,
        "claude_cache_creation_1_h_tokens": used.written_1h,
    }


def _duration(seconds: float) -> str:
    """Return a duration as the vendor writes it: "12ms", "1.5s", "6m0s"."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes}m{rest / 1000:g}s" if minutes else f"{rest / 1000:g}s"
