"""The chat format: OpenAI-compatible Chat Completions, `POST /v1/chat/completions`.

Pure functions: a `Request` becomes URL, headers and body; a body becomes a `Completion`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.formats.content import reasoning_of, references, refusal_of, text_of
from batchrun.formats.endings import ending, stop_reason
from batchrun.formats.faults import failed_choice, unusable
from batchrun.formats.images import chat_block, turns
from batchrun.formats.parsing import (
    as_count,
    as_dict,
    as_dicts,
    first_text,
    json_or_none,
    text_or_none,
)
from batchrun.formats.tools import chat_calls, chat_choice, chat_tools
from batchrun.formats.turns import chat_turn
from batchrun.formats.usage import billing, chat_counts, chat_usage
from batchrun.records import Completion, Ending

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.records import AnswerSchema, Request

PATH = "/v1/chat/completions"
AUTH = "bearer"
THINKING = "-thinking"
_STOP_FIELDS = ("stop_sequence", "stop_reason", "matched_stop")
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
        InvalidResponse: when it holds no choice, or one that failed.
    """
    choices = [choice for choice in as_dicts(payload.get("choices")) if _is_answered(choice)]
    # Servers may list choices in the order in which they finished.
    choices.sort(key=lambda choice: as_count(choice.get("index")) or 0)
    counts = chat_counts(payload)
    usage, bill = chat_usage(counts), billing(payload, counts)
    if not choices:
        raise unusable(payload, "the answer has no choice with a message", usage, bill)
    answers = [_Answer(choice) for choice in choices]
    for answer in answers:
        if answer.ending is Ending.ERROR:
            raise failed_choice(payload, answer.choice, answer.stop_reason, usage, bill)
    first = answers[0]
    return Completion(
        texts=tuple(answer.text for answer in answers),
        stop_reason=first.stop_reason,
        model=text_or_none(payload.get("model")),
        response_id=text_or_none(payload.get("id")),
        usage=usage,
        reasoning=first.reasoning,
        tool_calls=json_or_none(first.calls),
        turn=chat_turn(first.message) if first.calls else None,
        ending=first.ending,
        refusal=first.refusal,
        citations=json_or_none(_citations(first.message, payload)),
        logprobs=json_or_none(first.choice.get("logprobs")),
        stop_sequence=_stop_sequence(first.choice),
        choices=json_or_none([answer.record() for answer in answers] if answers[1:] else None),
        server_tools=json_or_none(as_dicts(first.message.get("executed_tools"))),  # Groq
        billing=bill,
    )


def _is_answered(choice: Mapping[str, Any]) -> bool:
    """Whether a choice is an answer: Gemini sends one that it filtered without any message."""
    return isinstance(choice.get("message"), dict) or bool(
        choice.get("error") or stop_reason(choice.get("finish_reason"))
    )


class _Answer:
    """One choice, read."""

    def __init__(self, choice: Mapping[str, Any]) -> None:
        self.choice = choice
        self.message = as_dict(choice.get("message"))
        self.text = text_of(self.message)
        self.reasoning = reasoning_of(self.message)
        self.calls = chat_calls(self.message)
        self.refusal = refusal_of(self.message)
        self.stop_reason = stop_reason(choice.get("finish_reason"))
        found = ending(self.stop_reason, refusal=self.refusal, calls=self.calls)
        self.ending = Ending.ERROR if choice.get("error") else found

    def record(self) -> dict[str, Any]:
        """Return what `Completion.choices` says of it."""
        found = {
            "response": self.text,
            "reasoning": self.reasoning,
            "tool_calls": self.calls or None,
            "ending": self.ending,
            "stop_reason": self.stop_reason,
            "refusal": self.refusal,
        }
        logprobs = self.choice.get("logprobs")
        return {**found, "logprobs": logprobs} if logprobs else found


def _citations(message: Mapping[str, Any], payload: Mapping[str, Any]) -> list[Any]:
    """Return annotations, or what stands in for them at Mistral, LiteLLM, Perplexity and xAI."""
    extra = as_dict(message.get("provider_specific_fields"))
    found = (
        message.get("annotations")
        or references(message)
        or extra.get("citations")
        or payload.get("search_results")
        or payload.get("citations")
    )
    return found if isinstance(found, list) else []


def _stop_sequence(choice: Mapping[str, Any]) -> str | None:
    """Return the stop sequence that was reached, where the server says so (vLLM, SGLang)."""
    return first_text(*(choice.get(name) for name in _STOP_FIELDS if name in choice))
