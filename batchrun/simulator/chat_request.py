"""Reads a request of the chat format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.simulator import fields as check
from batchrun.simulator.caching import long_prefixes, marked_prefixes
from batchrun.simulator.calls import ANY_JSON, NO_WISHES, THINKING_SUFFIX, Call, Wishes, build_call
from batchrun.simulator.content import check_image_url_block, conversation
from batchrun.simulator.schema_checks import check_schema
from batchrun.simulator.tool_fields import chat_toolbox

if TYPE_CHECKING:
    from batchrun.simulator.caching import Prefix
    from batchrun.simulator.content import Turn

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_FORMATS = ("text", "json_object", "json_schema")
_RANGES = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
_UNSUPPORTED = ("functions", "audio")
# Without any of these fields there is nothing to find out beyond the text that is asked for.
_WISHED = frozenset(
    {"stream", "stream_options", "tools", "tool_choice", "response_format", "service_tier"}
).union(_UNSUPPORTED, ("logprobs", "top_logprobs"))
_MOST_ALTERNATIVES = 20
_THINKING_TOKENS = 32_000  # where the request sets no bound


def parse_chat(fields: dict[str, Any]) -> Call:
    """Return the checked request."""
    model = check.model_name(fields)
    turns = conversation(fields, _ROLES, check_image_url_block)
    limits = [check.integer(fields, name) for name in ("max_completion_tokens", "max_tokens")]
    max_tokens = next(filter(None, limits), None)
    if not _RANGES.keys().isdisjoint(fields):
        _check_numbers(fields)
    _check_results(fields["messages"])
    prefixes = _prefixes(fields, turns)
    plain = not prefixes and _WISHED.isdisjoint(fields) and not model.endswith(THINKING_SUFFIX)
    return build_call(
        model,
        turns,
        max_tokens=max_tokens,
        stops=check.stop_texts(fields, "stop"),
        choices=check.choice_count(fields),
        wishes=NO_WISHES if plain else _wishes(fields, model, max_tokens, prefixes),
    )


def _wishes(
    fields: dict[str, Any], model: str, max_tokens: int | None, prefixes: tuple[Prefix, ...]
) -> Wishes:
    check.refuse_unsupported(fields, _UNSUPPORTED)
    stream = check.flag(fields, "stream")
    options = check.mapping(fields, "stream_options")
    if options and not stream:
        check.invalid("stream_options", "is only allowed when `stream` is true.")
    toolbox = chat_toolbox(fields)
    thinks = model.endswith(THINKING_SUFFIX)
    tier = check.text(fields, "service_tier") if fields.get("service_tier") else "auto"
    return Wishes(
        thinking=(max_tokens or _THINKING_TOKENS) if thinks else 0,
        toolbox=toolbox,
        schema=_schema(fields),
        stream=stream,
        include_usage=check.flag(options, "include_usage", path="stream_options."),
        service_tier=None if tier == "auto" else tier,
        prefixes=prefixes,
        logprobs=_alternatives(fields),
    )


def _alternatives(fields: dict[str, Any]) -> int | None:
    """Return how many alternatives are to stand beside each token; None without log probabilities."""
    wanted = check.flag(fields, "logprobs")
    check.check_range(fields, "top_logprobs", 0, _MOST_ALTERNATIVES)
    most = fields.get("top_logprobs")
    if most is not None and not wanted:
        check.invalid("top_logprobs", "is only allowed when `logprobs` is true.")
    return int(most or 0) if wanted else None


def _prefixes(fields: dict[str, Any], turns: list[Turn]) -> tuple[Prefix, ...]:
    """Return the beginnings that are marked, as gateways to Claude take it, or else long ones."""
    marked = marked_prefixes(fields, turns, has_system=False)
    return marked or long_prefixes(fields, sum(turn.tokens for turn in turns))


def _check_numbers(fields: dict[str, Any]) -> None:
    for name, (low, high) in _RANGES.items():
        check.check_range(fields, name, low, high)


def _schema(fields: dict[str, Any]) -> dict[str, Any] | None:
    """Return the JSON Schema of `response_format`; None when the answer is a text."""
    form = check.mapping(fields, "response_format")
    kind = check.one_of(form, "type", _FORMATS, "response_format.") if form else "text"
    if kind == "text":
        return None
    if kind == "json_object":
        return ANY_JSON
    described = check.required(form, "json_schema", "response_format.")
    if not isinstance(described, dict):
        check.invalid("response_format.json_schema", "expected an object.")
    check.text(described, "name", "response_format.json_schema.")
    schema = described.get("schema")
    path = "response_format.json_schema.schema"
    return ANY_JSON if schema is None else check_schema(schema, path)


def _check_results(messages: list[dict[str, Any]]) -> None:
    """Refuse a tool's result that answers no call."""
    called: set[object] = set()
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            calls = message.get("tool_calls") or []
            if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
                check.invalid(f"messages.{place}.tool_calls", "expected a list of calls.")
            called = {str(call.get("id")) for call in calls}
        elif message["role"] == "tool":
            path = f"messages.{place}."
            if check.text(message, "tool_call_id", path) not in called:
                check.invalid(f"{path}tool_call_id", "answers no call of the message before.")
