"""How both formats speak of tools: definitions, and which of them to use."""

from __future__ import annotations

import re
from typing import Any

from batchrun.simulator.fields import encode, flag, invalid, mapping, one_of, required, text
from batchrun.simulator.schema_checks import check_schema
from batchrun.simulator.tokens import count_tokens
from batchrun.simulator.tools import Tool, Toolbox, Use

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_USES = {"auto": Use.AUTO, "any": Use.FORCED, "tool": Use.FORCED, "none": Use.NEVER}
_CHAT_USES = {"auto": Use.AUTO, "required": Use.FORCED, "none": Use.NEVER}


def _options(**fields: tuple[str, ...] | dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object: a tuple names the values of a field, a dict is its schema."""
    properties = {
        name: {"enum": list(field)} if isinstance(field, tuple) else field
        for name, field in fields.items()
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


# Tools whose arguments the vendor defines, by the beginning of their type.
_VENDOR_SCHEMAS = {
    "computer_": _options(action=("screenshot", "cursor_position")),
    "text_editor_": _options(command=("view",), path={"pattern": "^/tmp/[a-z]{4,8}\\.txt$"}),
    "bash_": _options(command=("ls -la", "pwd", "date -u", "uname -a")),
}
_VENDOR_PURPOSES = {
    "computer_": "screenshot screen click mouse keyboard desktop",
    "text_editor_": "file edit view document",
    "bash_": "shell command script directory terminal",
}


def messages_toolbox(fields: dict[str, Any]) -> Toolbox | None:
    """Return the tools of a messages request; None when it has none."""
    definitions = _definitions(fields)
    choice = mapping(fields, "tool_choice")
    if not definitions:
        _refuse_choice(choice.get("type") in {"any", "tool"})
        return None
    tools = tuple(_tool(tool, f"tools.{place}") for place, tool in enumerate(definitions))
    kind = one_of(choice, "type", _USES, "tool_choice.") if choice else "auto"
    only = text(choice, "name", "tool_choice.") if kind == "tool" else None
    single = flag(choice, "disable_parallel_tool_use", path="tool_choice.")
    return _toolbox(fields, tools, _USES[kind], only, parallel=not single)


def chat_toolbox(fields: dict[str, Any]) -> Toolbox | None:
    """Return the tools of a chat request; None when it has none."""
    definitions = _definitions(fields)
    choice = fields.get("tool_choice")
    if not definitions:
        _refuse_choice(choice == "required" or isinstance(choice, dict))
        return None
    tools = tuple(_function(tool, f"tools.{place}") for place, tool in enumerate(definitions))
    use, only = _chat_choice(choice)
    parallel = flag(fields, "parallel_tool_calls", default=True)
    return _toolbox(fields, tools, use, only, parallel=parallel)


def _definitions(fields: dict[str, Any]) -> list[dict[str, Any]]:
    definitions = fields.get("tools") or []
    if not isinstance(definitions, list):
        invalid("tools", "expected a list.")
    for place, tool in enumerate(definitions):
        if not isinstance(tool, dict):
            invalid(f"tools.{place}", "expected an object.")
    return definitions


def _refuse_choice(wanted: object) -> None:
    if wanted:
        invalid("tool_choice", "may only be set when there are tools.")


def _chat_choice(choice: object) -> tuple[Use, str | None]:
    if isinstance(choice, dict):
        one_of(choice, "type", ("function",), "tool_choice.")
        function = mapping(choice, "function", "tool_choice.")
        return Use.FORCED, text(function, "name", "tool_choice.function.")
    if choice is not None and (not isinstance(choice, str) or choice not in _CHAT_USES):
        invalid("tool_choice", "expected auto, required, none or a function.")
    return _CHAT_USES[str(choice or "auto")], None


def _toolbox(
    fields: dict[str, Any], tools: tuple[Tool, ...], use: Use, only: str | None, *, parallel: bool
) -> Toolbox:
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        invalid("tools", "tool names must differ.")
    if only is not None and only not in names:
        invalid("tool_choice", f"the tool '{only}' is not among the tools.")
    cost = count_tokens(encode(fields["tools"], "tools").decode())
    return Toolbox(tools, use, only, parallel, cost)


def _tool(tool: dict[str, Any], path: str) -> Tool:
    """Return a tool of the messages format: the user's own, or one that the vendor defines."""
    name = _tool_name(tool, path)
    kind = tool.get("type") or "custom"
    if not isinstance(kind, str):
        invalid(f"{path}.type", "expected a string.")
    description = _description(tool, path)
    if kind == "custom":
        schema = check_schema(required(tool, "input_schema", f"{path}."), f"{path}.input_schema")
        if schema.get("type") != "object":
            invalid(f"{path}.input_schema.type", "expected 'object'.")
        return Tool(name, description, schema)
    prefix = next(filter(kind.startswith, _VENDOR_SCHEMAS), "")
    return Tool(
        name,
        _VENDOR_PURPOSES.get(prefix, ""),
        _VENDOR_SCHEMAS.get(prefix, {"type": "object"}),
    )


def _function(tool: dict[str, Any], path: str) -> Tool:
    """Return a tool of the chat format."""
    one_of(tool, "type", ("function",), f"{path}.")
    function = required(tool, "function", f"{path}.")
    if not isinstance(function, dict):
        invalid(f"{path}.function", "expected an object.")
    place = f"{path}.function"
    schema = function.get("parameters") or {"type": "object"}
    return Tool(
        _tool_name(function, place),
        _description(function, place),
        check_schema(schema, f"{place}.parameters"),
    )


def _tool_name(tool: dict[str, Any], path: str) -> str:
    name = text(tool, "name", f"{path}.")
    if not _NAME.fullmatch(name):
        invalid(f"{path}.name", "expected up to 128 letters, digits, '_' and '-'.")
    return name


def _description(tool: dict[str, Any], path: str) -> str:
    description = tool.get("description")
    if description is not None and not isinstance(description, str):
        invalid(f"{path}.description", "expected a string.")
    return description or ""
