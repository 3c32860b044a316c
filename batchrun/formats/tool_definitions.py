"""Tools of the job file: in the shape of either vendor, or a vendor's own tools.

A tool is described by `name`, `description` and `input_schema`, as in the messages format, or as a
`function` with `parameters`, as in the chat format. Any other `type` is a tool of a vendor's own and is sent
unchanged.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from batchrun import formats
from batchrun.errors import quoted, short
from batchrun.formats.tool_calls import CACHE_TTLS, cache_mark
from batchrun.records import Tool, ToolChoice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchrun.formats import WireFormat

_KEYS = ("name", "description", "input_schema", "strict", "cache", "cache_control")
_MODES = {"auto": "auto", "any": "any", "required": "any", "none": "none"}
# Claude's own tools have the date of their version at the end.
_DATED = re.compile(r"\w+_20\d{6}\Z")


def read_cache(given: object, wire_format: WireFormat) -> str | None:
    """Read `cache`: true, false, "5m" or "1h".

    Raises:
        ValueError: if it is none of these, or the format has no marks for caching.
    """
    if given is None or given is False:
        return None
    if given is not True and given not in CACHE_TTLS:
        raise ValueError(f'cache must be true, false, "5m" or "1h", not {quoted(given)}')
    if not wire_format.capabilities.cache_marks:
        other = formats.use_another(lambda each: each.capabilities.cache_marks)
        raise ValueError(
            f"the {wire_format.name} format cannot mark what to cache, and its servers cache "
            f"automatically; remove cache, or {other}"
        )
    return CACHE_TTLS[0] if given is True else str(given)


def read_tool(given: object, wire_format: WireFormat) -> Tool:
    """Read a tool of the job file.

    Raises:
        ValueError: if it is not a tool, or the format cannot express it.
    """
    if not isinstance(given, dict):
        raise ValueError(f"a tool must be a table, not {quoted(given)}")  # noqa: TRY004 - one type
    described = _described(given)
    if described is None:
        return _vendor_tool(given, wire_format)
    name = described.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"a tool needs a name: {quoted(given)}")
    unknown = sorted(set(described) - set(_KEYS))
    if unknown:
        raise ValueError(
            f"{short(name)}: unknown key {short(unknown[0])}; a tool has {', '.join(_KEYS[:5])}"
        )
    schema, description = described.get("input_schema"), described.get("description")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise ValueError(f'{short(name)}: input_schema must be a JSON schema of type "object"')
    if description is not None and not isinstance(description, str):
        raise ValueError(f"{short(name)}: description must be text, not {quoted(description)}")
    strict = described.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise ValueError(f"{short(name)}: strict must be true or false, not {quoted(strict)}")
    return Tool(
        name, description, schema, strict=strict, cache_ttl=_cache_of(described, wire_format)
    )


def _cache_of(described: Mapping[str, Any], wire_format: WireFormat) -> str | None:
    mark = described.get("cache_control")
    if "cache" in described or not isinstance(mark, dict):
        return read_cache(described.get("cache"), wire_format)
    return read_cache(mark.get("ttl", True), wire_format)


def _described(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a tool with a schema in the shape of the messages format; None for any other tool."""
    kind, function = given.get("type"), given.get("function")
    rest = {key: value for key, value in given.items() if key not in {"type", "function"}}
    if kind in {None, "function"} and isinstance(function, dict):
        rest |= function
    elif kind not in {None, "function"} and not (kind == "custom" and "input_schema" in given):
        return None
    if "parameters" in rest and "input_schema" not in rest:
        rest["input_schema"] = rest.pop("parameters")
    return rest


def _vendor_tool(given: Mapping[str, Any], wire_format: WireFormat) -> Tool:
    """Return a tool of a vendor's own, which may have no name, such as `mcp_toolset`."""
    kind = given.get("type")
    if not isinstance(kind, str):
        raise ValueError(f"the type of a tool must be text, not {quoted(kind)}")  # noqa: TRY004 - one type
    name = str(given.get("name") or kind)
    if _DATED.match(kind) and not wire_format.capabilities.vendor_tools:
        other = formats.use_another(lambda each: each.capabilities.vendor_tools)
        raise ValueError(
            f"{name}: tools with this type are the vendor's own; {other}, "
            "or describe the tool by input_schema"
        )
    plain = {key: value for key, value in given.items() if key != "cache"}
    if (ttl := read_cache(given.get("cache"), wire_format)) is not None:
        plain["cache_control"] = cache_mark(ttl)
    return Tool(name, vendor=plain)


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
        f'must be "auto", "any", "none" or one of {short(", ".join(names), 300)}, not {quoted(given)}'
    )
