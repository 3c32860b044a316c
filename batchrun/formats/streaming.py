"""Streamed answers: bytes in any chunks → the same `Completion` that a whole answer gives.

A stream that ends without its end marker (`message_stop`, `[DONE]`) is a failed attempt, however much
text it brought: a cut answer must not pass for a short one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from batchrun.formats import chat, messages
from batchrun.formats.chat_stream import ChatAssembler
from batchrun.formats.faults import describe_error
from batchrun.formats.messages_stream import MessagesAssembler
from batchrun.formats.parsing import InvalidResponse, glimpse, read_json
from batchrun.formats.sse import Decoder

if TYPE_CHECKING:
    from batchrun.formats.sse import Event
    from batchrun.records import Completion, FormatName

_DONE = b"[DONE]"


class _Assembler(Protocol):
    """Puts the payloads of events together into the body of a whole answer."""

    is_complete: bool

    def add(self, payload: dict[str, Any]) -> None:
        """Take one payload."""

    def end(self) -> None:
        """Take `[DONE]`."""

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
        self._assembler: _Assembler = MessagesAssembler() if in_messages else ChatAssembler()
        self._start = b""

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
        if not self.is_complete:
            raise InvalidResponse(
                "the stream ended before its end marker, so the answer may be cut short; it began "
                f"with: {glimpse(self._start)}",
                "stream_cut",
            )
        return self._parse(self._assembler.body())

    def _take(self, event: Event) -> None:
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
