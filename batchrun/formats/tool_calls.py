"""Tools in both formats: definitions, the choice among them, and the calls that come back.

A tool is written once, as `name`, `description` and `input_schema`; a vendor's own tool (computer,
text editor, bash …) has a `type` and passes as it is, in the messages format alone.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from batchrun.formats.content import block_texts
from batchrun.formats.parsing import as_dict, as_dicts, dumps, json_or_none, loads
from batchrun.records import Tool, ToolChoice, Turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batchrun.records import AnswerSchema, FormatName


# The tool that stands for the answer where a server has no structured output of its own.
SCHEMA_TOOL = "answer"

_OWN_KEYS = {"name", "description", "input_schema"}
_MODES = {"auto": "auto", "any": "any", "required": "any", "none": "none"}


def read_tool(given: object, wire_format: FormatName) -> Tool:
    """Read a tool of the job file.

    Raises:
        ValueError: when it is none, or the format cannot express it.
    """
    if not isinstance(given, dict):
        raise ValueError(f"a tool must be a table, not {given!r:.80}")  # noqa: TRY004 - one type
    name = given.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"a tool needs a name: {given!r:.80}")
    if "type" in given:
        if wire_format != "messages":
            raise ValueError(
                f'{name}: tools with a type are the vendor\'s own; use format = "messages", '
                "or describe the tool by input_schema"
            )
        return Tool(name, vendor=given)
    unknown = sorted(set(given) - _OWN_KEYS)
    if unknown:
        raise ValueError(f"{name}: unknown key {unknown[0]}; a tool has {', '.join(_OWN_KEYS)}")
    schema, description = given.get("input_schema"), given.get("description")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise ValueError(f'{name}: input_schema must be a JSON schema of type "object"')
    if description is not None and not isinstance(description, str):
        raise ValueError(f"{name}: description must be text, not {description!r:.80}")
    return Tool(name, description, schema)


def read_choice(given: object, tools: Sequence[Tool]) -> ToolChoice:
    """Read `tool_choice`: "auto", "any", "none", or the name of a tool.

    Raises:
        ValueError: when it is none of these.
    """
    names = [tool.name for tool in tools]
    if not names:
        raise ValueError("there are no tools to choose from; add them as tools = […]")
    if isinstance(given, str) and given in _MODES:
        return ToolChoice(_MODES[given])
    if given in names:
        return ToolChoice("tool", str(given))
    raise ValueError(
        f'must be "auto", "any", "none" or one of {", ".join(names)}, not {given!r:.80}'
    )


def answer_tool(answer: AnswerSchema) -> Tool:
    """Return the tool whose input is the answer."""
    return Tool(SCHEMA_TOOL, "Give the answer.", answer.schema)


def messages_tools(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """Return definitions for the messages format."""
    return [
        dict(tool.vendor) if tool.vendor is not None else _described(tool, "input_schema")
        for tool in tools
    ]


def chat_tools(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """Return definitions for the chat format."""
    return [{"type": "function", "function": _described(tool, "parameters")} for tool in tools]


def messages_choice(choice: ToolChoice | None, parallel: bool | None) -> dict[str, Any] | None:
    """Return `tool_choice` for the messages format, which also says whether calls may be several."""
    if choice is None and parallel is None:
        return None
    choice = choice or ToolChoice("auto")
    found: dict[str, Any] = {"type": choice.mode}
    if choice.name is not None:
        found["name"] = choice.name
    return found if parallel is None else {**found, "disable_parallel_tool_use": not parallel}


def chat_choice(choice: ToolChoice) -> Any:  # noqa: ANN401 - a string or a table
    """Return `tool_choice` for the chat format."""
    if choice.name is not None:
        return {"type": "function", "function": {"name": choice.name}}
    return "required" if choice.mode == "any" else choice.mode


def messages_calls(blocks: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the calls among an answer's content blocks."""
    return [
        {"id": block.get("id"), "name": block.get("name"), "input": block.get("input")}
        for block in blocks
        if block.get("type") == "tool_use"
    ]


def chat_calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the calls of a message; the legacy `function_call` has no id."""
    calls = as_dicts(message.get("tool_calls"))
    legacy = as_dict(message.get("function_call"))
    if legacy and not calls:
        calls = [{"function": legacy}]
    return [_read_call(call) for call in calls]


def _read_call(call: Mapping[str, Any]) -> dict[str, Any]:
    call_id, custom = call.get("id") or None, as_dict(call.get("custom"))
    if custom:  # its input is text, whatever it looks like
        return {"id": call_id, "name": custom.get("name"), "input": custom.get("input")}
    function = as_dict(call.get("function")) or call
    given = function.get("arguments")
    arguments: Any = given
    if isinstance(given, str):
        # Arguments that max_tokens cut short are no JSON: then what there is stays text.
        with suppress(ValueError):
            arguments = loads(given or "{}")
    return {"id": call_id, "name": function.get("name"), "input": arguments}


def _described(tool: Tool, schema_key: str) -> dict[str, Any]:
    described: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        described["description"] = tool.description
    described[schema_key] = tool.input_schema
    return described


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
