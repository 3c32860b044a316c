"""How an answer ended: the stop reasons of both formats and of their dialects, in neutral words.

Sources: the API references of Claude and OpenAI, and what compatible servers send (Gemini, Mistral,
Zhipu, Cohere, Bedrock, DeepSeek, vLLM, TGI, OpenRouter).
"""

from __future__ import annotations

from typing import Any

from batchrun.formats.parsing import as_dict, text_or_none
from batchrun.records import Ending

_REASONS = {
    Ending.STOP: (
        "stop",
        "end_turn",
        "stop_sequence",
        "complete",
        "completed",
        "eos",
        "eos_token",
        "normal",
    ),
    Ending.LENGTH: (
        "length",
        "max_tokens",
        "max_output_tokens",
        "model_context_window_exceeded",
        "model_length",
        "error_limit",
    ),
    Ending.TOOL_CALLS: ("tool_calls", "tool_use", "tool_call", "function_call"),
    Ending.REFUSAL: ("refusal",),
    Ending.FILTERED: (
        "content_filter",
        "content_filtered",
        "guardrail_intervened",
        "safety",
        "image_safety",
        "recitation",
        "blocklist",
        "prohibited_content",
        "spii",
        "sensitive",
        "error_toxic",
    ),
    Ending.PAUSED: ("pause_turn",),
    Ending.ERROR: (
        "error",
        "abort",
        "aborted",
        "cancelled",
        "insufficient_system_resource",
        "network_error",
    ),
}
_ENDINGS = {reason: ending for ending, reasons in _REASONS.items() for reason in reasons}


def stop_reason(value: object) -> str | None:
    """Return a stop reason; some servers send an object with a type, or "null" until the end."""
    found = text_or_none(value) or text_or_none(as_dict(value).get("type"))
    return None if found in {"", "null"} else found


def ending(reason: str | None, *, refusal: str | None, calls: Any) -> Ending:  # noqa: ANN401 - there or not
    """Return how an answer ended.

    What it holds says more than a reason of `stop`: servers send that with refusals and with calls.
    """
    found = _ENDINGS.get((reason or "").lower(), Ending.UNKNOWN)
    if refusal and found in {Ending.STOP, Ending.LENGTH, Ending.UNKNOWN}:
        return Ending.REFUSAL
    if calls and found in {Ending.STOP, Ending.UNKNOWN}:
        return Ending.TOOL_CALLS
    return found
