"""The messages format: Claude Messages, `POST /v1/messages`.

Pure functions: a `Request` becomes URL, headers and body; a body becomes a `Completion`.
Facts are from the Claude Messages API reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.formats.blocks import block_texts
from batchrun.formats.endings import ending, stop_reason
from batchrun.formats.faults import failed_choice, unusable
from batchrun.formats.images import messages_block, turns
from batchrun.formats.parsing import (
    as_dict,
    as_dicts,
    first_text,
    json_or_none,
    text_or_none,
)
from batchrun.formats.tools import messages_calls, messages_choice, messages_tools
from batchrun.formats.turns import messages_turn
from batchrun.formats.usage import billing, messages_usage
from batchrun.records import Completion, Ending

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
        InvalidResponse: when it is no message, or one that failed.
    """
    counts = as_dict(payload.get("usage"))
    usage, bill = messages_usage(counts), billing(payload, counts)
    content = payload.get("content")
    if isinstance(content, str) and payload.get("stop_reason"):  # so compatible servers write text
        content = [{"type": "text", "text": content}]
    elif content is None and payload.get("stop_reason"):  # and no text at all: a refusal, say
        content = []
    if not isinstance(content, list):
        raise unusable(payload, "the answer has no content blocks", usage, bill)
    blocks = as_dicts(content)
    reason = stop_reason(payload.get("stop_reason"))
    calls = messages_calls(blocks)
    refusal = _refusal(payload)
    ended = ending(reason, refusal=refusal, calls=calls)
    if ended is Ending.ERROR:
        raise failed_choice(payload, {}, reason, usage, bill)
    return Completion(
        stop_reason=reason,
        model=text_or_none(payload.get("model")),
        response_id=text_or_none(payload.get("id")),
        usage=usage,
        tool_calls=json_or_none(calls),
        turn=messages_turn(blocks) if calls or ended is Ending.PAUSED else None,
        ending=ended,
        refusal=refusal,
        stop_sequence=text_or_none(payload.get("stop_sequence")),
        billing=bill,
        **block_texts(blocks),
    )


def _refusal(payload: Mapping[str, Any]) -> str | None:
    """Return the provider's words for a refusal, which newer versions of the API send."""
    details = as_dict(payload.get("stop_details"))
    return first_text(details.get("explanation")) if details.get("type") == "refusal" else None
