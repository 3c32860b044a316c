"""Reads a request of the messages format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.simulator import fields as check
from batchrun.simulator.caching import marked_prefixes
from batchrun.simulator.calls import NO_WISHES, THINKING_SUFFIX, Call, Wishes, build_call
from batchrun.simulator.content import check_image_block, conversation, turn_of
from batchrun.simulator.schema_checks import check_schema
from batchrun.simulator.tool_fields import messages_toolbox
from batchrun.simulator.tools import Use

if TYPE_CHECKING:
    from batchrun.simulator.caching import Prefix
    from batchrun.simulator.content import Turn
    from batchrun.simulator.tools import Toolbox

_NO_SAMPLING_SINCE = "2026-10-21"
_SAMPLING = frozenset({"temperature", "top_p", "top_k"})
_UNSUPPORTED = ("mcp_servers", "container")
# Without any of these fields there is nothing to find out beyond the text that is asked for.
_WISHED = frozenset(
    {"stream", "tools", "tool_choice", "thinking", "output_config", "service_tier", *_UNSUPPORTED}
)
_LEAST_TOP_P = 0.95  # beside thinking
_ASKED_TIERS = {"auto": "standard", "standard_only": "standard"}


def parse_messages(fields: dict[str, Any], version: str) -> Call:
    """Return the checked request; `version` is what its `anthropic-version` header says."""
    model = check.model_name(fields)
    max_tokens = check.integer(fields, "max_tokens", needed=True) or 1
    turns = conversation(fields, ("user", "assistant"), check_image_block)
    _check_turns(turns, fields["messages"])
    if not _SAMPLING.isdisjoint(fields):
        _check_sampling(fields, version)
    has_system = bool(fields.get("system"))
    if has_system:
        turns.insert(0, turn_of("system", fields["system"], "system", check_image_block))
    prefixes = marked_prefixes(fields, turns, has_system=has_system)
    plain = not prefixes and _WISHED.isdisjoint(fields) and not model.endswith(THINKING_SUFFIX)
    wishes = NO_WISHES if plain else _wishes(fields, model, max_tokens, prefixes)
    stops = check.stop_texts(fields, "stop_sequences")
    return build_call(model, turns, max_tokens=max_tokens, stops=stops, wishes=wishes)


def _wishes(
    fields: dict[str, Any], model: str, max_tokens: int, prefixes: tuple[Prefix, ...]
) -> Wishes:
    check.refuse_unsupported(fields, _UNSUPPORTED)
    toolbox = messages_toolbox(fields)
    return Wishes(
        thinking=_thinking(fields, model, max_tokens, toolbox),
        toolbox=toolbox,
        schema=_schema(fields),
        stream=check.flag(fields, "stream"),
        service_tier=_service_tier(fields),
        prefixes=prefixes,
    )


def _check_sampling(fields: dict[str, Any], version: str) -> None:
    for name in sorted(_SAMPLING):
        if version >= _NO_SAMPLING_SINCE and fields.get(name) is not None:
            check.invalid(name, f"is not supported with anthropic-version {version}.")
    for name in ("temperature", "top_p"):
        check.check_range(fields, name, 0, 1)
    check.integer(fields, "top_k")


def _thinking(fields: dict[str, Any], model: str, max_tokens: int, toolbox: Toolbox | None) -> int:
    """Return the most tokens of thinking; 0 when there is none."""
    thinking = check.mapping(fields, "thinking")
    if not thinking:
        return max_tokens if model.endswith(THINKING_SUFFIX) else 0
    kind = check.one_of(thinking, "type", ("enabled", "disabled", "adaptive"), "thinking.")
    if kind == "disabled":
        return 0
    budget = max_tokens
    if kind == "enabled":
        budget = check.integer(thinking, "budget_tokens", needed=True, path="thinking.") or 1
        if budget >= max_tokens:
            check.invalid("max_tokens", "must be greater than `thinking.budget_tokens`.")
    _check_beside_thinking(fields, toolbox)
    return budget


def _check_beside_thinking(fields: dict[str, Any], toolbox: Toolbox | None) -> None:
    if fields.get("temperature") not in {None, 1}:
        check.invalid("temperature", "may only be set to 1 when thinking is enabled.")
    if fields.get("top_k") is not None:
        check.invalid("top_k", "must be unset when thinking is enabled.")
    if (fields.get("top_p") or 1) < _LEAST_TOP_P:
        check.invalid("top_p", f"must be at least {_LEAST_TOP_P} when thinking is enabled.")
    if toolbox and toolbox.use is Use.FORCED:
        check.invalid("thinking", "may not be enabled when tool_choice forces tool use.")


def _schema(fields: dict[str, Any]) -> dict[str, Any] | None:
    """Return the JSON Schema of `output_config.format`."""
    form = check.mapping(check.mapping(fields, "output_config"), "format", "output_config.")
    if not form:
        return None
    inside = "output_config.format."
    check.one_of(form, "type", ("json_schema",), inside)
    return check_schema(check.required(form, "schema", inside), f"{inside}schema")


def _service_tier(fields: dict[str, Any]) -> str | None:
    """Return the tier that served the request, as far as it follows from the one asked for."""
    if fields.get("service_tier") is None:
        return None
    asked = check.text(fields, "service_tier")
    return _ASKED_TIERS.get(asked, asked)


def _check_turns(turns: list[Turn], messages: list[dict[str, Any]]) -> None:
    """Refuse empty turns, results of calls that were not made, and prefills that cannot go on."""
    for place, message in enumerate(messages):
        content = message.get("content")
        if not content and (place < len(messages) - 1 or turns[-1].role == "user"):
            check.invalid(f"messages.{place}", "must have non-empty content")
        if turns[place].results:
            _check_results(message, messages[place - 1] if place else {}, f"messages.{place}")
    last = turns[-1]
    if last.role == "assistant" and last.text != last.text.rstrip():
        check.invalid("messages", "final assistant content cannot end with trailing whitespace")


def _check_results(message: dict[str, Any], before: dict[str, Any], path: str) -> None:
    """Refuse a tool result whose call is not in the message before."""
    content = before.get("content")
    blocks = content if isinstance(content, list) else []
    called = {block.get("id") for block in blocks if block.get("type") == "tool_use"}
    for place, block in enumerate(message["content"]):
        if block["type"] == "tool_result" and block["tool_use_id"] not in called:
            check.invalid(
                f"{path}.content.{place}",
                f"unexpected `tool_use_id`: no `tool_use` {block['tool_use_id']!r} in the message before.",
            )
