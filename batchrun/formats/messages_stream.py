"""A streamed answer of the messages format, put together into the body of a whole one.

Both kinds of answer are then read by the same parser. Event types and their order are those of the
Claude Messages streaming reference; unknown events are passed over, unknown blocks and deltas kept.
"""

from __future__ import annotations

from typing import Any

from batchrun.formats.endings import stop_reason
from batchrun.formats.parsing import as_count, as_dict, as_text, loads
from batchrun.formats.usage import updated

# A delta's type → the block's field that it extends, and the block's type where it was not said.
_DELTAS = {
    "text_delta": ("text", "text", "text"),
    "thinking_delta": ("thinking", "thinking", "thinking"),
    "signature_delta": ("signature", "signature", "thinking"),
    "input_json_delta": ("partial_json", "input", "tool_use"),
}


class MessagesAssembler:
    """Takes events in, gives a message body out."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._pieces: dict[tuple[int, str], list[str]] = {}
        self.is_ended = False

    @property
    def is_whole(self) -> bool:
        """Whether there is a reason for the end."""
        return stop_reason(self._message.get("stop_reason")) is not None

    @property
    def choices(self) -> int:
        """How many choices have begun: a message is one."""
        return int(self.has_begun)

    @property
    def has_begun(self) -> bool:
        """Whether a part of an answer has come."""
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
        """Return the message without its content, as far as it has come."""
        return {**self._message, "usage": self._usage or None}

    def body(self) -> dict[str, Any]:
        """Return the message as it would have come in one piece."""
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
        """Keep what a delta of a kind to come brings, under the names that it has there."""
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
        # Cut by max_tokens: keep what there is, as chat does with its `arguments`.
        return text
