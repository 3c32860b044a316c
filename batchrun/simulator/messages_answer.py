"""Writes answers of the messages format: whole, and as a stream of events."""

from __future__ import annotations

from base64 import b64encode
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.simulator.answers import Ending
from batchrun.simulator.streams import cut_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrun.simulator.answers import Answer
    from batchrun.simulator.dialect import Reply
    from batchrun.simulator.dice import Dice

_STOP_REASONS = {
    Ending.COMPLETE: "end_turn",
    Ending.MAX_TOKENS: "max_tokens",
    Ending.STOP: "stop_sequence",
    Ending.TOOL_USE: "tool_use",
}
_PING = {"type": "ping"}


def message(reply: Reply) -> dict[str, Any]:
    """Return the whole `message`."""
    (answer,) = reply.answers
    return _message(
        reply,
        _content(answer),
        _STOP_REASONS[answer.ending],
        answer.stop,
        usage=_usage(reply) | _output_usage(reply),
    )


def events(reply: Reply, dice: Dice) -> list[bytes]:
    """Return the same message as server-sent events."""
    return [event(data) for data in _events(reply, dice)]


def event(data: dict[str, Any]) -> bytes:
    """Return one server-sent event, named by its type."""
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), orjson.dumps(data))


def _events(reply: Reply, dice: Dice) -> Iterator[dict[str, Any]]:
    (answer,) = reply.answers
    # How much will come is not known yet; what stands here is overridden by `message_delta`.
    begun = _message(reply, [], None, None, usage=_usage(reply) | {"output_tokens": 1})
    yield {"type": "message_start", "message": begun}
    yield _PING
    for place, block in enumerate(_content(answer)):
        start, deltas = _pieces(block, dice)
        yield {"type": "content_block_start", "index": place, "content_block": start}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": place, "delta": delta}
        yield {"type": "content_block_stop", "index": place}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": _STOP_REASONS[answer.ending], "stop_sequence": answer.stop},
        "usage": _cumulative_usage(reply),
    }
    yield {"type": "message_stop"}


def _pieces(block: dict[str, Any], dice: Dice) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a content block as it starts, and the deltas that complete it."""
    kind = block["type"]
    if kind == "text":
        texts = cut_text(block["text"], dice)
        return block | {"text": ""}, [{"type": "text_delta", "text": text} for text in texts]
    if kind == "thinking":
        thoughts = cut_text(block["thinking"], dice)
        deltas = [{"type": "thinking_delta", "thinking": thought} for thought in thoughts]
        signed = {"type": "signature_delta", "signature": block["signature"]}
        return block | {"thinking": "", "signature": ""}, [*deltas, signed]
    if kind == "tool_use":
        parts = ["", *cut_text(orjson.dumps(block["input"]).decode(), dice)]
        return block | {"input": {}}, [
            {"type": "input_json_delta", "partial_json": part} for part in parts
        ]
    return block, []


def _message(
    reply: Reply,
    content: list[dict[str, Any]],
    stop_reason: str | None,
    stop: str | None,
    usage: dict[str, Any],
) -> dict[str, Any]:
    return {
        "id": reply.answer_id,
        "type": "message",
        "role": "assistant",
        "model": reply.call.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": stop,
        "usage": usage,
    }


def _content(answer: Answer) -> list[dict[str, Any]]:
    """Return the content blocks: thoughts, text, calls of tools."""
    blocks: list[dict[str, Any]] = []
    if answer.thoughts:
        signature = b64encode(blake2b(answer.thoughts.encode()).digest()).decode()
        blocks.append({"type": "thinking", "thinking": answer.thoughts, "signature": signature})
    if answer.redacted:
        blocks.append({"type": "redacted_thinking", "data": answer.redacted})
    if answer.text:
        blocks.append({"type": "text", "text": answer.text})
    blocks += [
        {
            "type": "tool_use",
            "id": f"toolu_sim_{use.number:024x}",
            "name": use.name,
            "input": use.arguments,
        }
        for use in answer.uses
    ]
    return blocks


def _usage(reply: Reply) -> dict[str, Any]:
    """Return what is known before anything is said: the input."""
    used = reply.input
    return {
        "input_tokens": used.uncached,
        "cache_creation_input_tokens": used.written_5m + used.written_1h,
        "cache_read_input_tokens": used.read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": used.written_5m,
            "ephemeral_1h_input_tokens": used.written_1h,
        },
        "output_tokens": 0,
        "service_tier": reply.call.wishes.service_tier or "standard",
    }


def _output_usage(reply: Reply) -> dict[str, Any]:
    usage: dict[str, Any] = {"output_tokens": reply.output_tokens}
    if reply.call.wishes.thinking:
        usage["output_tokens_details"] = {"thinking_tokens": reply.thinking_tokens}
    return usage


def _cumulative_usage(reply: Reply) -> dict[str, Any]:
    """Return the usage that ends a stream: all counts, but neither lifetimes nor tier."""
    used = reply.input
    return {
        "input_tokens": used.uncached,
        "cache_creation_input_tokens": used.written_5m + used.written_1h,
        "cache_read_input_tokens": used.read,
    } | _output_usage(reply)
