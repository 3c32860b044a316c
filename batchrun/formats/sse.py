r"""Server-sent events, decoded from bytes that may break anywhere.

Lines end in \n, \r or \r\n, mixed; a chunk may end inside a line end or inside a UTF-8 sequence.
Nothing else ends a line: U+2028 is text. After the WHATWG's event stream format, minus
what a completion never uses (`id`, `retry`, reconnection).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.formats.parsing import too_large

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_EVENT_BYTES = 32 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its name, empty when the server gave none, and its data."""

    name: str
    data: bytes


class Decoder:
    """Turns chunks of bytes into events; holds at most one unfinished event.

    Args:
        limit: the largest event accepted, in bytes.
    """

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._line = bytearray()
        self._held = 0
        self._data: list[bytes] = []
        self._name = ""
        self._after_return = False
        self._at_start = True

    @property
    def held(self) -> int:
        """How many bytes of an unfinished event there are."""
        return self._held + len(self._line)

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events that a chunk completes.

        Raises:
            InvalidResponse: when an event grows beyond the limit.
        """
        if self._after_return and chunk:
            # The \n of a \r\n that was split between two chunks.
            chunk = chunk.removeprefix(b"\n")
            self._after_return = False
        # bytes.splitlines knows just the three line ends; str.splitlines would know more.
        for piece in chunk.splitlines(keepends=True):
            line = piece.rstrip(b"\r\n")
            self._line += line
            if len(line) == len(piece):
                self._check_size()
                return
            event = self._end_line()
            if event is not None:
                yield event
        self._after_return = chunk.endswith(b"\r")

    def end(self) -> Event | None:
        """Return the event that the end of the stream left without its empty line, if any."""
        event = self._end_line() if self._line else None
        return event or self._end_event()

    def _check_size(self) -> None:
        if self._held + len(self._line) > self._limit:
            raise too_large("a stream event", self._limit)

    def _end_line(self) -> Event | None:
        line = bytes(self._line)
        self._line.clear()
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._end_event()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._held += len(value) + 1
            self._check_size()
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        return None

    def _end_event(self) -> Event | None:
        name, data = self._name, self._data
        self._name, self._data, self._held = "", [], 0
        return Event(name, b"\n".join(data)) if data else None
