"""The messages format: Claude Messages, `POST /v1/messages`.

Pure functions: a `Request` becomes URL, headers and body; a body becomes a `Completion`.
Facts are from the Claude Messages API reference.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from batchrun.formats.conflicts import messages_conflict
from batchrun.formats.content import block_texts, ending, stop_reason
from batchrun.formats.content_blocks import messages_block
from batchrun.formats.conversation import turns, turns_for_messages
from batchrun.formats.extra_body import merged
from batchrun.formats.message_batches import MESSAGE_BATCHES
from batchrun.formats.model_rules import (
    LEAST_BUDGET,
    claude_rules,
    takes_effort,
    thinking_budget,
)
from batchrun.formats.parsing import (
    as_count,
    as_dict,
    as_dicts,
    as_text,
    failed_choice,
    first_text,
    json_or_none,
    loads,
    text_or_none,
    unusable,
)
from batchrun.formats.schema_rules import CLAUDE_SCHEMAS
from batchrun.formats.tool_calls import (
    cache_mark,
    continue_messages,
    messages_calls,
    messages_choice,
    messages_tools,
    messages_turn,
)
from batchrun.formats.usage import billing, messages_usage, updated
from batchrun.formats.wire_format import ANY, POSITIVE, Capabilities, WireFormat
from batchrun.records import Completion, Ending

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.records import Request


DEFAULT_API_VERSION = "2023-06-01"


def headers(request: Request) -> tuple[tuple[str, str], ...]:
    """Return the format's own headers, without credentials."""
    return (("anthropic-version", request.api_version or DEFAULT_API_VERSION),)


def body(request: Request) -> dict[str, Any]:
    """Return the JSON body. Key order is fixed, because the fingerprint is a hash of these bytes."""
    parameters = request.parameters
    payload: dict[str, Any] = {"model": request.model, "max_tokens": parameters.max_tokens}
    if request.system is not None:
        payload["system"] = _system(request.system, request.cache_ttl)
    payload["messages"] = turns(request, messages_block)
    # A new key goes to the end, and is left out if it is None. Otherwise fingerprints of earlier runs
    # change, and all their requests are sent and paid again.
    optional = (
        ("temperature", parameters.temperature),
        ("top_p", parameters.top_p),
        ("top_k", parameters.top_k),
        ("stop_sequences", parameters.stop),
        ("metadata", {"user_id": parameters.user} if parameters.user is not None else None),
        ("service_tier", parameters.service_tier),
        ("thinking", _thinking(thinking_budget(request.model, parameters))),
        ("tools", messages_tools(request.tools) or None),
        ("tool_choice", messages_choice(request.tool_choice, request.parallel_tool_calls)),
        ("output_config", _output_config(request)),
    )
    payload.update((name, value) for name, value in optional if value is not None)
    return merged(payload, request.extra_body) if request.extra_body else payload


def _system(
    system: str | tuple[Mapping[str, Any], ...], cache_ttl: str | None
) -> str | list[Mapping[str, Any]]:
    blocks: list[Mapping[str, Any]] = (
        [{"type": "text", "text": system}] if isinstance(system, str) else list(system)
    )
    if cache_ttl is None:
        return system if isinstance(system, str) else blocks
    if not blocks[-1]["text"].strip():  # the provider refuses a mark on an empty block
        return blocks
    return [*blocks[:-1], {**blocks[-1], "cache_control": cache_mark(cache_ttl)}]


def _output_config(request: Request) -> dict[str, Any] | None:
    config: dict[str, Any] = {}
    answer, effort = request.answer, request.parameters.effort
    if answer is not None and not answer.as_tool:
        config["format"] = {"type": "json_schema", "schema": answer.schema}
    if effort is not None and takes_effort(request.model):
        config["effort"] = effort
    return config or None


def _thinking(tokens: int | None) -> dict[str, Any] | None:
    return None if tokens is None else {"type": "enabled", "budget_tokens": tokens}


def parse(payload: Mapping[str, Any]) -> Completion:
    """Read a whole (not streamed) answer.

    Raises:
        InvalidResponse: if it is not a message, or is a failed one.
    """
    counts = as_dict(payload.get("usage"))
    usage, bill = messages_usage(counts), billing(payload, counts)
    content = payload.get("content")
    if isinstance(content, str) and payload.get("stop_reason"):  # some compatible servers send text
        content = [{"type": "text", "text": content}]
    elif content is None and payload.get("stop_reason"):  # or nothing, such as for a refusal
        content = []
    if not isinstance(content, list):
        raise unusable(payload, "the answer has no content blocks", usage, bill)
    blocks = as_dicts(content)
    reason = stop_reason(payload.get("stop_reason"))
    calls = messages_calls(blocks)
    refusal = _refusal(payload)
    ended = ending(reason, refusal=refusal, calls=calls)
    if ended is Ending.ERROR:
        raise failed_choice(payload, {}, reason, usage, bill)
    return Completion(
        stop_reason=reason,
        model=text_or_none(payload.get("model")),
        response_id=text_or_none(payload.get("id")),
        usage=usage,
        tool_calls=json_or_none(calls),
        turn=messages_turn(blocks) if calls or ended is Ending.PAUSED else None,
        ending=ended,
        refusal=refusal,
        stop_sequence=text_or_none(payload.get("stop_sequence")),
        billing=bill,
        **block_texts(blocks),
    )


def _refusal(payload: Mapping[str, Any]) -> str | None:
    """Return the provider's explanation of a refusal, which newer versions of the API send."""
    details = as_dict(payload.get("stop_details"))
    return first_text(details.get("explanation")) if details.get("type") == "refusal" else None


# Type of a delta → its field, the block's field that it extends, the block's type if unknown.
_DELTAS = {
    "text_delta": ("text", "text", "text"),
    "thinking_delta": ("thinking", "thinking", "thinking"),
    "signature_delta": ("signature", "signature", "thinking"),
    "input_json_delta": ("partial_json", "input", "tool_use"),
}


class MessagesAssembler:
    """Assembles events into a message body."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._pieces: dict[tuple[int, str], list[str]] = {}
        self.is_ended = False

    @property
    def is_whole(self) -> bool:
        """Whether there is a stop reason."""
        return stop_reason(self._message.get("stop_reason")) is not None

    @property
    def choices(self) -> int:
        """The number of choices that have begun; a message is one."""
        return int(self.has_begun)

    @property
    def has_begun(self) -> bool:
        """Whether a part of an answer has arrived."""
        return bool(self._message or self._blocks)

    def add(self, payload: dict[str, Any]) -> None:
        """Take the data of one event."""
        match payload.get("type"):
            case "message_start":
                self._message = as_dict(payload.get("message"))
                updated(self._usage, as_dict(self._message.get("usage")))
            case "content_block_start":
                self._blocks[_index(payload)] = dict(as_dict(payload.get("content_block")))
            case "content_block_delta":
                self._add_delta(_index(payload), as_dict(payload.get("delta")))
            case "message_delta":
                self._end_message(payload)
            case "message_stop":
                self.is_ended = True

    def end(self) -> None:
        """Take `[DONE]`, which some gateways add or send in place of `message_stop`."""
        self.is_ended = True

    def head(self) -> dict[str, Any]:
        """Return the message so far, without its content."""
        return {**self._message, "usage": self._usage or None}

    def body(self) -> dict[str, Any]:
        """Return the message as in an answer that is not streamed."""
        for (index, field), pieces in self._pieces.items():
            block = self._blocks[index]
            text = "".join(pieces)
            if field == "input":
                block[field] = _tool_input(text, block)
            else:
                block[field] = as_text(block.get(field)) + text
        self._pieces.clear()
        blocks = [self._blocks[index] for index in sorted(self._blocks)]
        return {**self.head(), "content": blocks}

    def _end_message(self, payload: dict[str, Any]) -> None:
        rest = {k: v for k, v in payload.items() if k not in {"type", "delta", "usage"}}
        for source in (rest, as_dict(payload.get("delta"))):
            self._message.update({k: v for k, v in source.items() if v is not None})
        updated(self._usage, as_dict(payload.get("usage")))

    def _add_delta(self, index: int, delta: dict[str, Any]) -> None:
        kind = delta.get("type")
        known = _DELTAS.get(kind) if isinstance(kind, str) else None
        block = self._blocks.setdefault(index, {"type": known[2] if known else "text"})
        if known is not None:
            source, field, _ = known
            self._pieces.setdefault((index, field), []).append(as_text(delta.get(source)))
        elif kind == "citations_delta":
            if not isinstance(block.get("citations"), list):
                block["citations"] = []
            block["citations"].append(delta.get("citation"))
        else:
            self._add_unknown(index, delta)

    def _add_unknown(self, index: int, delta: dict[str, Any]) -> None:
        """Keep the fields of an unknown kind of delta under their own names."""
        for name, value in delta.items():
            if name != "type" and isinstance(value, str):
                self._pieces.setdefault((index, name), []).append(value)
            elif name != "type" and value is not None:
                self._blocks[index][name] = value


def _index(payload: dict[str, Any]) -> int:
    return as_count(payload.get("index")) or 0


def _tool_input(text: str, block: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON
    if not text:
        return block.get("input") or {}
    try:
        return loads(text)
    except ValueError:
        # Truncated by max_tokens: keep the text, as for `arguments` of the chat format.
        return text


MESSAGES = WireFormat(
    name="messages",
    title="Claude",
    path="/v1/messages",
    base_url="https://api.anthropic.com",
    key_env="ANTHROPIC_API_KEY",
    auth="x-api-key",
    example_model="claude-haiku-4-5-20251001",
    # Ranges of the Claude Messages API reference.
    capabilities=Capabilities(
        parameters={
            "max_tokens": POSITIVE,
            "temperature": (0, 1),
            "top_p": (0, 1),
            "top_k": (0, math.inf),
            "stop": ANY,
            "user": ANY,
            "service_tier": ANY,
            "thinking_tokens": (LEAST_BUDGET, math.inf),
            "effort": ANY,
        },
        blank_stops=False,
        efforts=("minimal", "low", "medium", "high", "xhigh", "max"),
        needs_max_tokens=True,
        thinking_within_max_tokens=True,
        api_version=True,
        system_beside_messages=True,
        cache_marks=True,
        vendor_tools=True,
        document_urls=True,
    ),
    request_id_headers=("request-id", "x-request-id"),
    stream_members=b',"stream":true}',
    sdk_adds_version=True,
    headers=headers,
    body=body,
    read_answer=parse,
    read_usage=messages_usage,
    assembler=MessagesAssembler,
    write_turns=turns_for_messages,
    continue_body=continue_messages,
    model_rules=claude_rules,
    conflict=messages_conflict,
    schema_rules=CLAUDE_SCHEMAS,
    batches=MESSAGE_BATCHES,
)
