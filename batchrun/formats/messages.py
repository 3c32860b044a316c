"""The messages format: Claude Messages, `POST /v1/messages`.

Pure functions: a `Request` becomes URL, headers and body; a body becomes a `Completion`.
Facts are from the Claude Messages API reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.formats.images import messages_block, turns
from batchrun.formats.parsing import InvalidResponse, as_count, as_dict, as_text, text_or_none
from batchrun.formats.tools import messages_calls, messages_choice, messages_tools
from batchrun.formats.turns import messages_turn
from batchrun.records import Completion, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.records import AnswerSchema, Request

PATH = "/v1/messages"
AUTH = "x-api-key"
DEFAULT_API_VERSION = "2023-06-01"
REQUEST_ID_HEADERS = ("request-id", "x-request-id")


def headers(request: Request) -> tuple[tuple[str, str], ...]:
    """Return the format's own headers, without credentials."""
    return (("anthropic-version", request.api_version or DEFAULT_API_VERSION),)


def body(request: Request) -> dict[str, Any]:
    """Return the JSON body. Key order is fixed: the fingerprint is taken over these bytes."""
    parameters = request.parameters
    payload: dict[str, Any] = {"model": request.model, "max_tokens": parameters.max_tokens}
    if request.system is not None:
        payload["system"] = _system(request.system, request.cache_ttl)
    payload["messages"] = turns(request, messages_block)
    optional = (
        ("temperature", parameters.temperature),
        ("top_p", parameters.top_p),
        ("top_k", parameters.top_k),
        ("stop_sequences", parameters.stop),
        ("metadata", {"user_id": parameters.user} if parameters.user is not None else None),
        ("service_tier", parameters.service_tier),
        ("thinking", _thinking(parameters.thinking_tokens)),
        ("tools", messages_tools(request.tools) or None),
        ("tool_choice", messages_choice(request.tool_choice, request.parallel_tool_calls)),
        ("output_config", _output_config(request.answer)),
    )
    payload.update((name, value) for name, value in optional if value is not None)
    payload.update(request.extra_body)
    return payload


def _system(
    system: str | tuple[Mapping[str, Any], ...], cache_ttl: str | None
) -> str | list[Mapping[str, Any]]:
    blocks: list[Mapping[str, Any]] = (
        [{"type": "text", "text": system}] if isinstance(system, str) else list(system)
    )
    if cache_ttl is None:
        return system if isinstance(system, str) else blocks
    mark = {"type": "ephemeral"} if cache_ttl == "5m" else {"type": "ephemeral", "ttl": cache_ttl}
    return [*blocks[:-1], {**blocks[-1], "cache_control": mark}]


def _output_config(answer: AnswerSchema | None) -> dict[str, Any] | None:
    if answer is None or answer.as_tool:
        return None
    return {"format": {"type": "json_schema", "schema": answer.schema}}


def _thinking(tokens: int | None) -> dict[str, Any] | None:
    return None if tokens is None else {"type": "enabled", "budget_tokens": tokens}


def parse(payload: Mapping[str, Any]) -> Completion:
    """Read a whole (not streamed) answer.

    Raises:
        InvalidResponse: when it is no message.
    """
    blocks = payload.get("content")
    if not isinstance(blocks, list):
        raise InvalidResponse("the answer has no content blocks")
    typed = [block for block in blocks if isinstance(block, dict)]
    texts = [as_text(block.get("text")) for block in typed if block.get("type") == "text"]
    thoughts = [thought for block in typed if (thought := _thought(block)) is not None]
    calls = messages_calls(typed)
    return Completion(
        texts=("".join(texts),),
        stop_reason=text_or_none(payload.get("stop_reason")),
        model=text_or_none(payload.get("model")),
        response_id=text_or_none(payload.get("id")),
        usage=parse_usage(payload.get("usage")),
        reasoning="\n\n".join(thoughts) or None,
        tool_calls=calls,
        turn=messages_turn(typed) if calls else None,
    )


def _thought(block: Mapping[str, Any]) -> str | None:
    """Return what a thinking block says; a redacted one is encrypted and only said to be there."""
    if block.get("type") == "thinking":
        return as_text(block.get("thinking"))
    return "[redacted]" if block.get("type") == "redacted_thinking" else None


def parse_usage(usage: object) -> Usage:
    """Turn exclusive token counts into the inclusive ones of `Usage`.

    Here `input_tokens` leaves out what was read from or written to the cache.
    """
    counts = as_dict(usage)
    read = as_count(counts.get("cache_read_input_tokens"))
    write = as_count(counts.get("cache_creation_input_tokens"))
    uncached = as_count(counts.get("input_tokens"))
    details = as_dict(counts.get("output_tokens_details"))
    created = as_dict(counts.get("cache_creation"))
    write_5m = as_count(created.get("ephemeral_5m_input_tokens"))
    write_1h = as_count(created.get("ephemeral_1h_input_tokens"))
    if write is None and (write_5m is not None or write_1h is not None):
        write = (write_5m or 0) + (write_1h or 0)
    return Usage(
        input_tokens=None if uncached is None else uncached + (read or 0) + (write or 0),
        output_tokens=as_count(counts.get("output_tokens")),
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=write_1h,
        reasoning_tokens=as_count(details.get("thinking_tokens")),
    )
