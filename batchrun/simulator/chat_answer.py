"""Writes answers of the chat format: whole, and as a stream of chunks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from zlib import crc32

import orjson

from batchrun.simulator.answers import Ending
from batchrun.simulator.streams import cut_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrun.simulator.answers import Answer
    from batchrun.simulator.dialect import Reply
    from batchrun.simulator.dice import Dice
    from batchrun.simulator.tools import ToolUse

_FINISH_REASONS = {
    Ending.COMPLETE: "stop",
    Ending.MAX_TOKENS: "length",
    Ending.STOP: "stop",
    Ending.TOOL_USE: "tool_calls",
}
_DONE = b"data: [DONE]\n\n"
_WORDS = re.compile(r"\S+\s*|\s+")  # a text is these, one after the other


def completion(reply: Reply) -> dict[str, Any]:
    """Return the whole `chat.completion`."""
    return {
        "id": reply.answer_id,
        "model": reply.call.model,
        "object": "chat.completion",
        "created": int(reply.now),
        "choices": [
            {
                "index": place,
                "message": _message(answer),
                **_logprobs(reply, _WORDS.findall(answer.text)),
                "finish_reason": _FINISH_REASONS[answer.ending],
            }
            for place, answer in enumerate(reply.answers)
        ],
        "usage": _usage(reply),
        "service_tier": reply.call.wishes.service_tier or "default",
    }


def events(reply: Reply, dice: Dice) -> list[bytes]:
    """Return the same completion as server-sent events."""
    chunks = [event(_chunk(reply, [choice])) for choice in _interleaved(reply, dice)]
    if reply.call.wishes.include_usage:
        chunks.append(event(_chunk(reply, [], _usage(reply))))
    return [*chunks, _DONE]


def event(data: dict[str, Any]) -> bytes:
    """Return one server-sent event; this format does not name them."""
    return b"data: %b\n\n" % orjson.dumps(data)


def _interleaved(reply: Reply, dice: Dice) -> Iterator[dict[str, Any]]:
    """Yield the deltas of all choices, each in order, the choices mixed as they are drawn."""
    waiting = [_deltas(reply, place, answer, dice) for place, answer in enumerate(reply.answers)]
    while waiting:
        drawn = dice.below(len(waiting))
        choice = next(waiting[drawn], None)
        if choice is None:
            del waiting[drawn]
        else:
            yield choice


def _deltas(reply: Reply, place: int, answer: Answer, dice: Dice) -> Iterator[dict[str, Any]]:
    def choice(
        delta: dict[str, Any], finish_reason: str | None = None, **more: object
    ) -> dict[str, Any]:
        fixed = {"logprobs": None, "finish_reason": finish_reason, "index": place}
        return {"delta": delta, **fixed, **more}

    yield choice({"content": _text(answer) and "", "role": "assistant"})
    for thought in cut_text(answer.thoughts, dice):
        yield choice({"reasoning_content": thought})
    for text in cut_text(answer.text, dice):
        yield choice({"content": text}, **_logprobs(reply, [text]))
    for number, use in enumerate(answer.uses):
        for part in _tool_call_parts(number, use, dice):
            yield choice({"tool_calls": [part]})
    yield choice({}, _FINISH_REASONS[answer.ending])


def _logprobs(reply: Reply, tokens: list[str]) -> dict[str, Any]:
    """Return `logprobs` of these tokens, where the request asks for them: made up, always the same."""
    most = reply.call.wishes.logprobs
    if most is None:
        return {}
    return {"logprobs": {"content": [_probable(token, most) for token in tokens], "refusal": None}}


def _probable(token: str, alternatives: int) -> dict[str, Any]:
    best = -(crc32(token.encode()) % 2_000) / 1_000
    drawn = [token, *(f"{token}~{n}" for n in range(1, alternatives))][:alternatives]
    top = [_token(text, best - n) for n, text in enumerate(drawn)]
    return {**_token(token, best), "top_logprobs": top}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _tool_call_parts(number: int, use: ToolUse, dice: Dice) -> Iterator[dict[str, Any]]:
    """Yield a call of a tool: its name first, then its arguments in pieces."""
    yield {"index": number} | _tool_call(use, "")
    for part in cut_text(use.json, dice):
        yield {"index": number, "function": {"arguments": part}}


def _message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": _text(answer)}
    if answer.thoughts:
        message["reasoning_content"] = answer.thoughts
    if answer.uses:
        message["tool_calls"] = [_tool_call(use, use.json) for use in answer.uses]
    return message


def _text(answer: Answer) -> str | None:
    """Return the content: null beside tool calls that nothing is said about."""
    return None if answer.uses and not answer.text else answer.text


def _tool_call(use: ToolUse, arguments: str) -> dict[str, Any]:
    return {
        "id": f"call_sim_{use.number:024x}",
        "type": "function",
        "function": {"name": use.name, "arguments": arguments},
    }


def _chunk(
    reply: Reply, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "id": reply.answer_id,
        "object": "chat.completion.chunk",
        "created": int(reply.now),
        "model": reply.call.model,
        "system_fingerprint": None,
        "choices": choices,
        "usage": usage,
    }


def _usage(reply: Reply) -> dict[str, Any]:
    """Return the usage with all that gateways add; those who bill by it read the first three."""
    used = reply.input
    return {
        "prompt_tokens": used.total,
        "completion_tokens": reply.output_tokens,
        "total_tokens": used.total + reply.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": used.read,
            "text_tokens": 0,
            "audio_tokens": 0,
            "image_tokens": 0,
        },
        "completion_tokens_details": {
            "text_tokens": 0,
            "audio_tokens": 0,
            "reasoning_tokens": reply.thinking_tokens,
        },
        "input_tokens": 0,
        "output_tokens": 0,
        "input_tokens_details": None,
        "claude_cache_creation_5_m_tokens": used.written_5m,
        "claude_cache_creation_1_h_tokens": used.written_1h,
    }
