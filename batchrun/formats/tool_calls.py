"""Tools in both formats: definitions, tool choice, calls and their results.

A job defines a tool once, by `name`, `description` and `input_schema`. A tool of the vendor (computer,
text editor, bash …) has a `type` and is sent unchanged, in the messages format only.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from batchrun.formats.content import BlockTexts, block_texts, reasoning_of, text_of
from batchrun.formats.parsing import as_dict, as_dicts, dumps, json_or_none, loads
from batchrun.records import Tool, ToolChoice, Turn, changed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from batchrun.records import AnswerSchema, Completion

    Results = Sequence[Mapping[str, Any]]


# The tool whose input is the answer, for servers without structured output.
SCHEMA_TOOL = "answer"
# How long something stays in the cache.
CACHE_TTLS = ("5m", "1h")


def cache_mark(ttl: str) -> dict[str, Any]:
    """Return the value of `cache_control`."""
    return {"type": "ephemeral"} if ttl == CACHE_TTLS[0] else {"type": "ephemeral", "ttl": ttl}


def with_cache_mark(turn: Mapping[str, Any], ttl: str) -> dict[str, Any]:
    """Return a text turn with a mark: everything up to its end is cached."""
    block = {"type": "text", "text": turn["content"], "cache_control": cache_mark(ttl)}
    return {**turn, "content": [block]}


def answer_tool(answer: AnswerSchema) -> Tool:
    """Return the tool whose input is the answer."""
    return Tool(SCHEMA_TOOL, "Give the answer.", answer.schema)


def messages_tools(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """Return definitions for the messages format."""
    return [
        dict(tool.vendor)
        if tool.vendor is not None
        else {**_described(tool, "input_schema"), **_marked(tool)}
        for tool in tools
    ]


def _marked(tool: Tool) -> dict[str, Any]:
    return {} if tool.cache_ttl is None else {"cache_control": cache_mark(tool.cache_ttl)}


def chat_tools(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """Return definitions for the chat format."""
    return [
        dict(tool.vendor)
        if tool.vendor is not None
        else {"type": "function", "function": _described(tool, "parameters")}
        for tool in tools
    ]


def messages_choice(choice: ToolChoice | None, parallel: bool | None) -> dict[str, Any] | None:
    """Return `tool_choice` for the messages format; it says whether calls may be parallel, too."""
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
        # Arguments cut by max_tokens are not JSON and stay text.
        with suppress(ValueError):
            arguments = loads(given or "{}")
    return {"id": call_id, "name": function.get("name"), "input": arguments}


def _described(tool: Tool, schema_key: str) -> dict[str, Any]:
    described: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        described["description"] = tool.description
    described[schema_key] = tool.input_schema
    return described if tool.strict is None else {**described, "strict": tool.strict}


# Fields of a chat message that providers accept back; others, such as `annotations`, they may not.
# DeepSeek, Moonshot, OpenRouter, LiteLLM and Gemini need the reasoning of a turn.
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
    """Return the assistant's message to send back; the provider refuses empty text blocks."""
    kept = [block for block in blocks if block.get("type") != "text" or block.get("text")]
    return {"role": "assistant", "content": kept}


def chat_turn(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the assistant's message to send back."""
    kept = {key: message[key] for key in _CHAT_KEYS if message.get(key) is not None}
    return {"role": "assistant", "content": None, **kept}


def turn(key: int, number: int, completion: Completion) -> Turn:
    """Return the record of an answer that needs another request.

    It calls tools, which have not run yet, or it is a paused turn without tools to run.
    """
    message = dict(completion.turn or {})
    if completion.citations is not None and _is_chat(message):
        message["citations"] = loads(completion.citations)  # kept for the results only
    said = dumps(message).decode()
    if completion.tool_calls is None:
        return Turn(key, number, said, calls="[]", results="[]")
    return Turn(key, number, said, completion.tool_calls)


def with_turns(
    completion: Completion, turns: Sequence[Turn], *, is_json: bool = False
) -> Completion:
    """Return the last answer of a conversation, completed from its earlier turns.

    It has the reasoning, the citations and the tool calls of all turns. Its text includes the earlier
    parts of its own turn, if the provider paused that. Text that the model wrote before a call is the
    `text` of the call. The text of a JSON answer is that of the last part only.
    """
    if not turns:
        return completion
    said = [_content(loads(turn.said)) for turn in turns]
    pairs = zip(turns, said, strict=True)
    calls = [call for turn, content in pairs for call in _calls_with_text(turn, content)]
    calls += loads(completion.tool_calls or "[]")
    thoughts = [content["reasoning"] for content in said] + [completion.reasoning]
    own = ""  # the parts of the last turn that the provider paused
    for turn, content in zip(turns, said, strict=True):
        own = own + content["texts"][0] if turn.calls == "[]" else ""
    first = completion.texts[0] if is_json else own + completion.texts[0]
    return changed(
        completion,
        tool_calls=json_or_none(calls),
        texts=(first, *completion.texts[1:]),
        reasoning="\n\n".join(filter(None, thoughts)) or None,
        citations=_joined(*(content["citations"] for content in said), completion.citations),
        server_tools=_joined(
            *(content["server_tools"] for content in said), completion.server_tools
        ),
    )


def _is_chat(said: Mapping[str, Any]) -> bool:
    return "tool_calls" in said or "function_call" in said


def _content(said: Mapping[str, Any]) -> BlockTexts:
    """Return the content of an assistant's message without its calls."""
    if not _is_chat(said):
        return block_texts(as_dicts(said["content"]))
    return {
        "texts": (text_of(said),),
        "reasoning": reasoning_of(said),
        "citations": json_or_none(said.get("citations")),
        "server_tools": None,
    }


def _calls_with_text(turn: Turn, content: BlockTexts) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = loads(turn.results or turn.calls)
    if calls and content["texts"][0]:
        calls[0] = {**calls[0], "text": content["texts"][0]}
    return calls


def _joined(*lists: str | None) -> str | None:
    return json_or_none([item for listed in lists if listed for item in loads(listed)])


def continue_messages(
    body: dict[str, Any], said: Mapping[str, Any], results: Results
) -> dict[str, Any]:
    """Return the body of the messages format that follows a turn."""
    return _continued(body, [said, *_messages_results(results)], _free_messages_choice)


def continue_chat(
    body: dict[str, Any], said: Mapping[str, Any], results: Results
) -> dict[str, Any]:
    """Return the body of the chat format that follows a turn."""
    said = {name: value for name, value in said.items() if name in _CHAT_KEYS}
    return _continued(body, [said, *_chat_results(results)], _free_chat_choice)


def _continued(
    body: dict[str, Any],
    added: Sequence[Mapping[str, Any]],
    free_choice: Callable[[Any], str | dict[str, Any]],
) -> dict[str, Any]:
    """Return a body with further messages.

    A `tool_choice` that forces a call applies to the first turn only: otherwise the conversation
    would never end.
    """
    body["messages"] += added
    if _is_forced(body.get("tool_choice")):
        body["tool_choice"] = free_choice(body["tool_choice"])
    return body


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
    """Return one message for each result; an error is marked in its text.

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
    """Return `auto` with the other settings of the choice, such as parallel calls."""
    return {**{key: value for key, value in choice.items() if key != "name"}, "type": "auto"}


def _free_chat_choice(_choice: object) -> str:
    return "auto"
