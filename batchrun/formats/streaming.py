"""Streamed answers: bytes in any chunks → the same `Completion` that a whole answer gives.

A stream that ends without its end marker (`message_stop`, `[DONE]`) is a failed attempt, however much
text it brought: a cut answer must not pass for a short one.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from batchrun.formats import chat, messages
from batchrun.formats.chat_stream import ChatAssembler
from batchrun.formats.faults import describe_error
from batchrun.formats.messages_stream import MessagesAssembler
from batchrun.formats.parsing import InvalidResponse, as_dict, glimpse, read_json, text_or_none
from batchrun.formats.sse import Decoder

if TYPE_CHECKING:
    from batchrun.formats.sse import Event
    from batchrun.records import Completion, FormatName, Usage

_DONE = b"[DONE]"
# A long answer comes in a million events of some hundred bytes, of which a few characters are kept;
# so events count by what is kept of a small one, and by their size where they are larger.
MAX_HELD_BYTES = 128 * 1024 * 1024
KEPT_BYTES = 64
ENVELOPE_BYTES = 512


class _Assembler(Protocol):
    """Puts the payloads of events together into the body of a whole answer."""

    is_complete: bool

    def add(self, payload: dict[str, Any]) -> None:
        """Take one payload."""

    def end(self) -> None:
        """Take `[DONE]`."""

    def head(self) -> dict[str, Any]:
        """Return the body's `model` and `usage`, as far as they have been told."""

    def body(self) -> dict[str, Any]:
        """Return the body."""


class StreamReader:
    """Reads one streamed answer.

    Use: `feed` every chunk until `is_complete` or the end of the stream, then `finish`.
    """

    def __init__(self, wire_format: FormatName) -> None:
        self._decoder = Decoder()
        in_messages = wire_format == "messages"
        self._parse = messages.parse if in_messages else chat.parse
        self._parse_usage = messages.parse_usage if in_messages else chat.parse_usage
        self._assembler: _Assembler = MessagesAssembler() if in_messages else ChatAssembler()
        self._start = b""
        self._held = 0

    @property
    def is_complete(self) -> bool:
        """Whether the end marker has come."""
        return self._assembler.is_complete

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; what follows the end marker is ignored.

        Raises:
            InvalidResponse: when an event is no JSON, too large, or reports an error.
        """
        if len(self._start) < 300:
            self._start += chunk[:300]
        for event in self._decoder.feed(chunk):
            if self.is_complete:
                return
            self._take(event)

    def finish(self) -> Completion:
        """Return the completion.

        Raises:
            InvalidResponse: when the stream ended before its end marker.
        """
        if not self.is_complete and (event := self._decoder.end()) is not None:
            self._take_end(event)
        if not self.is_complete:
            raise InvalidResponse(
                "the stream ended before its end marker, so the answer may be cut short; it began "
                f"with: {glimpse(self._start)}",
                "stream_cut",
            )
        return self._parse(self._assembler.body())

    def told(self) -> tuple[str | None, Usage | None]:
        """Return the model, and what was used, as far as the stream has told of them."""
        head = self._assembler.head()
        usage = self._parse_usage(head["usage"])
        is_known = usage.input_tokens is not None and usage.output_tokens is not None
        return text_or_none(head.get("model")), usage if is_known else None

    def _take_end(self, event: Event) -> None:
        """Take an event that lacks its empty line if it is the end marker: no more is missing."""
        is_whole = event.data.strip() == _DONE
        if not is_whole:
            with suppress(InvalidResponse):
                is_whole = as_dict(read_json(event.data)).get("type") == "message_stop"
        if is_whole:
            self._take(event)

    def _take(self, event: Event) -> None:
        self._held += KEPT_BYTES + max(0, len(event.data) - ENVELOPE_BYTES)
        if self._held > MAX_HELD_BYTES:
            raise InvalidResponse(
                f"the streamed answer is larger than {MAX_HELD_BYTES // 2**20} MiB",
                "response_too_large",
            )
        if event.data.strip() == _DONE:
            self._assembler.end()
            return
        payload = read_json(event.data)
        if not isinstance(payload, dict):
            raise InvalidResponse(f"a stream event is not a JSON object: {glimpse(event.data)}")
        if payload.get("error") or event.name == "error":
            error_type, message, _ = describe_error(event.data)
            raise InvalidResponse(message, error_type or "stream_error")
        self._assembler.add(payload)
