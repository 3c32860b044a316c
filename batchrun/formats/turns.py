"""Going on with a conversation: the model has called tools, and is told what they gave.

This happens on the wire: the body of the first turn, which the fingerprint was taken over, gets the
assistant's message as it came (thinking blocks with their signatures have to come back unchanged)
and the results behind it. A turn that the provider paused goes back alone.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from batchrun.formats.blocks import block_texts
from batchrun.formats.parsing import as_dicts, dumps, json_or_none, loads
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
    """Return the record of an answer that another request has to follow.

    It calls tools, which have not run yet; or it is a paused turn, in which there is nothing to run.
    """
    said = dumps(completion.turn).decode()
    if completion.tool_calls is None:
        return Turn(key, number, said, calls="[]", results="[]")
    return Turn(key, number, said, completion.tool_calls)


def with_turns(
    completion: Completion, turns: Sequence[Turn], *, is_json: bool = False
) -> Completion:
    """Return the last answer of a conversation with what its turns before it brought.

    It has the calls of all turns and what they gave, and what stood in the pieces of its own turn
    that the provider paused; but the text of an answer that is to be JSON is its last piece.
    """
    if not turns:
        return completion
    lists = [turn.results or turn.calls for turn in turns]
    calls = [call for listed in lists for call in loads(listed)]
    calls += loads(completion.tool_calls or "[]")
    joined = _unpaused(replace(completion, tool_calls=json_or_none(calls)), turns)
    return replace(joined, texts=completion.texts) if is_json else joined


def _unpaused(completion: Completion, turns: Sequence[Turn]) -> Completion:
    paused = list(takewhile(lambda turn: loads(turn.calls) == [], reversed(turns)))
    if not paused:
        return completion
    blocks = [block for turn in reversed(paused) for block in as_dicts(loads(turn.said)["content"])]
    before = block_texts(blocks)
    thoughts = [text for text in (before["reasoning"], completion.reasoning) if text]
    return replace(
        completion,
        texts=(before["texts"][0] + completion.texts[0], *completion.texts[1:]),
        reasoning="\n\n".join(thoughts) or None,
        citations=_joined(before["citations"], completion.citations),
        server_tools=_joined(before["server_tools"], completion.server_tools),
    )


def _joined(*lists: str | None) -> str | None:
    return json_or_none([item for listed in lists if listed for item in loads(listed)])


def continued(wire_format: FormatName, wire: WireRequest, turn: Turn) -> WireRequest:
    """Return the request that goes on after a turn whose tools have run, or that was paused.

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
    return [{"role": "user", "content": blocks}] if blocks else []


def _chat_results(results: Results) -> list[dict[str, Any]]:
    """Return one message for each result; the format has no mark for errors, so the text says it.

    A call without an id is the legacy `function_call`, which is answered by name.
    """
    messages = []
    for result in results:
        is_legacy = result["id"] is None
        answers = {"name": result["name"]} if is_legacy else {"tool_call_id": result["id"]}
        text = ("Error: " if result.get("is_error") else "") + result["output"]
        messages.append({"role": "function" if is_legacy else "tool", **answers, "content": text})
    return messages


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
