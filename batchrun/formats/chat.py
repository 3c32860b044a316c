"""The chat format: OpenAI-compatible Chat Completions, `POST /v1/chat/completions`.

Pure functions: a `Request` becomes URL, headers and body; a body becomes a `Completion`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.formats.images import chat_block, turns
from batchrun.formats.parsing import InvalidResponse, as_count, as_dict, as_text, text_or_none
from batchrun.formats.tools import chat_calls, chat_choice, chat_tools
from batchrun.formats.turns import chat_turn
from batchrun.records import Completion, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.records import AnswerSchema, Request

PATH = "/v1/chat/completions"
AUTH = "bearer"
THINKING = "-thinking"
REQUEST_ID_HEADERS = ("x-request-id", "request-id")


def headers(_request: Request) -> tuple[tuple[str, str], ...]:
    """Return the format's own headers, without credentials: it has none."""
    return ()


def body(request: Request) -> dict[str, Any]:
    """Return the JSON body. Key order is fixed: the fingerprint is taken over these bytes."""
    messages: list[dict[str, Any]] = []
    if request.system is not None:
        text = request.system if isinstance(request.system, str) else list(request.system)
        messages.append({"role": "system", "content": text})
    messages += turns(request, chat_block)
    parameters = request.parameters
    payload: dict[str, Any] = {"model": _model(request), "messages": messages}
    optional = (
        (request.max_tokens_key, parameters.max_tokens),
        ("temperature", parameters.temperature),
        ("top_p", parameters.top_p),
        ("stop", parameters.stop),
        ("n", parameters.n),
        ("seed", parameters.seed),
        ("presence_penalty", parameters.presence_penalty),
        ("frequency_penalty", parameters.frequency_penalty),
        ("user", parameters.user),
        ("service_tier", parameters.service_tier),
        ("logprobs", parameters.logprobs),
        ("top_logprobs", parameters.top_logprobs),
        ("tools", chat_tools(request.tools) or None),
        ("tool_choice", request.tool_choice and chat_choice(request.tool_choice)),
        ("parallel_tool_calls", request.parallel_tool_calls),
        ("response_format", _response_format(request.answer)),
    )
    payload.update((name, value) for name, value in optional if value is not None)
    payload.update(request.extra_body)
    return payload


def _response_format(answer: AnswerSchema | None) -> dict[str, Any] | None:
    if answer is None or answer.as_tool:
        return None
    if answer.schema is None:
        return {"type": "json_object"}
    named = {"name": "answer", "schema": answer.schema, "strict": True}
    return {"type": "json_schema", "json_schema": named}


def _model(request: Request) -> str:
    """Return the model's name; here thinking is turned on by a suffix of it."""
    thinks = request.parameters.thinking_tokens is not None
    return request.model.removesuffix(THINKING) + THINKING if thinks else request.model


def parse(payload: Mapping[str, Any]) -> Completion:
    """Read a whole (not streamed) answer.

    Raises:
        InvalidResponse: when it holds no choice with a message.
    """
    choices = payload.get("choices")
    typed = [as_dict(choice) for choice in choices] if isinstance(choices, list) else []
    answered = [choice for choice in typed if isinstance(choice.get("message"), dict)]
    if not answered:
        raise InvalidResponse("the answer has no choice with a message")
    # Servers may list choices in the order in which they finished.
    answered.sort(key=lambda choice: as_count(choice.get("index")) or 0)
    messages = [choice["message"] for choice in answered]
    calls = chat_calls(messages[0].get("tool_calls"))
    return Completion(
        texts=tuple(_text(message) for message in messages),
        stop_reason=text_or_none(answered[0].get("finish_reason")),
        model=text_or_none(payload.get("model")),
        response_id=text_or_none(payload.get("id")),
        usage=parse_usage(payload.get("usage")),
        reasoning=as_text(messages[0].get("reasoning_content"))
        or as_text(messages[0].get("reasoning"))
        or None,
        tool_calls=calls,
        turn=chat_turn(messages[0]) if calls else None,
    )


def _text(message: Mapping[str, Any]) -> str:
    """Return the text of a message, which may come in parts, or be the reason of a refusal."""
    content = message.get("content")
    if content is None:
        return as_text(message.get("refusal"))
    parts = content if isinstance(content, list) else []
    texts = [as_text(part.get("text")) for part in parts if isinstance(part, dict)]
    return "".join(texts) if parts else as_text(content)


def parse_usage(usage: object) -> Usage:
    """Read token counts; here `prompt_tokens` includes what the cache served.

    Gateways that serve Claude add `claude_cache_creation_*` for cache writes.
    """
    counts = as_dict(usage)
    prompt = as_dict(counts.get("prompt_tokens_details"))
    completion = as_dict(counts.get("completion_tokens_details"))
    write_1h = as_count(counts.get("claude_cache_creation_1_h_tokens"))
    write_5m = as_count(counts.get("claude_cache_creation_5_m_tokens"))
    write = as_count(prompt.get("cache_write_tokens"))
    if write is None and (write_5m is not None or write_1h is not None):
        write = (write_5m or 0) + (write_1h or 0)
    return Usage(
        input_tokens=as_count(counts.get("prompt_tokens")),
        output_tokens=as_count(counts.get("completion_tokens")),
        cache_read_tokens=as_count(prompt.get("cached_tokens")),
        cache_write_tokens=write,
        cache_write_1h_tokens=write_1h,
        reasoning_tokens=as_count(completion.get("reasoning_tokens")),
    )
