"""A streamed answer of the messages format, put together into the body of a whole one.

Both kinds of answer are then read by the same parser. Event types and their order are those of the
Claude Messages streaming reference; unknown events, deltas and blocks are passed over or kept.
"""

from __future__ import annotations

from typing import Any

import orjson

from batchrun.formats.parsing import as_dict, as_text

# A delta's type → the field that carries the text, and the block's field that it extends.
_DELTAS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
    "input_json_delta": ("partial_json", "input"),
}


class MessagesAssembler:
    """Takes events in, gives a message body out."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._pieces: dict[tuple[int, str], list[str]] = {}
        self.is_complete = False

    def add(self, payload: dict[str, Any]) -> None:
        """Take the data of one event."""
        match payload.get("type"):
            case "message_start":
                self._message = as_dict(payload.get("message"))
                self._add_usage(self._message.get("usage"))
            case "content_block_start":
                self._blocks[_index(payload)] = dict(as_dict(payload.get("content_block")))
            case "content_block_delta":
                self._add_delta(_index(payload), as_dict(payload.get("delta")))
            case "message_delta":
                delta = as_dict(payload.get("delta"))
                self._message.update({k: v for k, v in delta.items() if v is not None})
                self._add_usage(payload.get("usage"))
            case "message_stop":
                self.is_complete = True

    def end(self) -> None:
        """Pass over `[DONE]`, which some gateways add; `message_stop` is what counts."""

    def head(self) -> dict[str, Any]:
        """Return the message's `model` and `usage`, as far as they have been told."""
        return {"model": self._message.get("model"), "usage": self._usage}

    def body(self) -> dict[str, Any]:
        """Return the message as it would have come in one piece."""
        for (index, field), pieces in self._pieces.items():
            block = self._blocks.setdefault(index, {"type": "text"})
            text = "".join(pieces)
            if field == "input":
                block[field] = _tool_input(text, block)
            else:
                block[field] = as_text(block.get(field)) + text
        blocks = [self._blocks[index] for index in sorted(self._blocks)]
        return {**self._message, "content": blocks, "usage": self._usage}

    def _add_delta(self, index: int, delta: dict[str, Any]) -> None:
        source, field = _DELTAS.get(str(delta.get("type")), (None, ""))
        if source is not None:
            self._pieces.setdefault((index, field), []).append(as_text(delta.get(source)))

    def _add_usage(self, usage: object) -> None:
        # Later counts replace earlier ones field by field; some servers begin with zeros.
        self._usage.update({k: v for k, v in as_dict(usage).items() if v is not None})


def _index(payload: dict[str, Any]) -> int:
    index = payload.get("index")
    return index if isinstance(index, int) else 0


def _tool_input(text: str, block: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON
    if not text:
        return block.get("input") or {}
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # Cut by max_tokens: keep what there is, as chat does with its `arguments`.
        return text
