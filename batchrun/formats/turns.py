"""Going on with a conversation: the model has called tools, and is told what they gave.

This happens on the wire: the body of the first turn, which the fingerprint was taken over, gets the
assistant's message as it came (thinking blocks with their signatures have to come back unchanged)
and the results behind it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from batchrun.formats.parsing import dumps, loads
from batchrun.records import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from batchrun.records import Completion, FormatName, WireRequest

    Results = Sequence[Mapping[str, Any]]

# Of a chat message, what providers take back; `refusal`, `annotations` and the like they may not.
# DeepSeek, Moonshot, OpenRouter, LiteLLM and Gemini refuse or forget a turn without its reasoning.
_CHAT_KEYS = (
    "role",
    "content",
    "tool_calls",
    "function_call",
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "thinking_blocks",
    "extra_content",
)


def messages_turn(blocks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the assistant's message that goes back; the provider refuses empty text blocks."""
    kept = [block for block in blocks if block.get("type") != "text" or block.get("text")]
    return {"role": "assistant", "content": kept}


def chat_turn(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the assistant's message that goes back."""
    kept = {key: message[key] for key in _CHAT_KEYS if message.get(key) is not None}
    return {"role": "assistant", "content": None, **kept}


def turn(key: int, number: int, completion: Completion) -> Turn:
    """Return the record of an answer that calls tools, which have not run yet."""
    said = dumps(completion.turn).decode()
    return Turn(key, number, said, completion.tool_calls or "[]")


def with_calls(completion: Completion, turns: Sequence[Turn]) -> Completion:
    """Return the last answer of a conversation with all calls that were made, and what they gave."""
    if not turns:
        return completion
    lists = [turn.results or turn.calls for turn in turns]
    calls = [call for listed in lists for call in loads(listed)]
    last = loads(completion.tool_calls or "[]") if turns[-1].results else []
    return replace(completion, tool_calls=dumps([*calls, *last]).decode())


def continued(wire_format: FormatName, wire: WireRequest, turn: Turn) -> WireRequest:
    """Return the request that goes on after a turn whose tools have run.

    A `tool_choice` that makes the model call a tool held for the first turn: it would never end.
    """
    answer_with, free_choice = _WIRE[wire_format]
    body = loads(wire.body)
    results: Results = loads(turn.results or "[]")
    body["messages"] += [loads(turn.said), *answer_with(results)]
    if _is_forced(body.get("tool_choice")):
        body["tool_choice"] = free_choice(body["tool_choice"])
    return replace(wire, body=dumps(body))


def _messages_results(results: Results) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for result in results:
        block = {
            "type": "tool_result",
            "tool_use_id": result["id"],
            "content": result["output"],
        }
        blocks.append({**block, "is_error": True} if result.get("is_error") else block)
    return [{"role": "user", "content": blocks}]


def _chat_results(results: Results) -> list[dict[str, Any]]:
    """Return one message for each result; the format has no mark for errors, so the text says it."""
    return [
        {
            "role": "tool",
            "tool_call_id": result["id"],
            "content": ("Error: " if result.get("is_error") else "") + result["output"],
        }
        for result in results
    ]


def _is_forced(choice: object) -> bool:
    if isinstance(choice, dict):
        return choice.get("type") not in {"auto", "none"}
    return choice == "required"


def _free_messages_choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return `auto`, with what else the choice says about parallel calls."""
    return {**{key: value for key, value in choice.items() if key != "name"}, "type": "auto"}


def _free_chat_choice(_choice: object) -> str:
    return "auto"


_WIRE: dict[
    str, tuple[Callable[[Results], list[dict[str, Any]]], Callable[[Any], str | dict[str, Any]]]
] = {
    "messages": (_messages_results, _free_messages_choice),
    "chat": (_chat_results, _free_chat_choice),
}
