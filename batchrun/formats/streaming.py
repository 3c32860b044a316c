"""Streamed answers: bytes in any chunks → the same `Completion` as from a whole answer.

A stream is complete when every choice has a finish reason (a message has a stop reason) and the body
ended cleanly. The end marker (`message_stop`, `[DONE]`) ends it earlier. Anything else is a failed
attempt, however much text arrived: a truncated answer must not be taken for a short one. If a complete answer
has neither marker nor end, it is accepted after some time without events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from batchrun.formats.parsing import (
    InvalidResponse,
    as_dict,
    dumps,
    glimpse,
    only_item,
    read_error,
    read_json,
    reported,
    reports_error,
    text_or_none,
    too_large,
)
from batchrun.formats.usage import billing
from batchrun.records import changed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchrun.errors import ProviderFault
    from batchrun.records import Completion, Usage


_DONE = b"[DONE]"
# A long answer can have a million events of a few hundred bytes, of which a few characters are kept.
# A small event therefore counts as what is kept of it, a larger one by its size.
MAX_HELD_BYTES = 128 * 1024 * 1024
KEPT_BYTES = 64
ENVELOPE_BYTES = 512
# Largest whole answer that is read although its content type is that of a stream.
MAX_PLAIN_BYTES = 32 * 1024 * 1024
GLIMPSE_BYTES = 300
# The end marker and, in the chat format, the usage follow the last finish reason within milliseconds.
# If a server sends neither and keeps the connection open, the client waits this long, and longer for
# the usage than for the marker.
QUIET_S = 2.0
QUIET_WITHOUT_USAGE_S = 10.0


class StreamAssembler(Protocol):
    """Assembles the payloads of events into the body of a whole answer."""

    is_ended: bool

    @property
    def is_whole(self) -> bool:
        """Whether every choice has a finish reason."""

    @property
    def choices(self) -> int:
        """The number of choices that have begun."""

    @property
    def has_begun(self) -> bool:
        """Whether a part of an answer has arrived."""

    def add(self, payload: dict[str, Any]) -> None:
        """Take one payload."""

    def end(self) -> None:
        """Take `[DONE]`."""

    def head(self) -> dict[str, Any]:
        """Return the body so far, without its content."""

    def body(self) -> dict[str, Any]:
        """Return the body."""


class StreamReader:
    """Reads one streamed answer.

    Call `feed` with every chunk until `is_ended` or the end of the stream, then `finish`.

    Args:
        assembler: assembles the events.
        read_answer: reads the assembled body.
        read_usage: reads its usage object.
        keep_raw: whether the completion keeps the assembled body.
        choices: number of choices that were asked for.
    """

    def __init__(
        self,
        assembler: StreamAssembler,
        read_answer: Callable[[Mapping[str, Any]], Completion],
        read_usage: Callable[[object], Usage],
        *,
        keep_raw: bool = False,
        choices: int = 1,
    ) -> None:
        self._decoder = Decoder()
        self._assembler = assembler
        self._read_answer = read_answer
        self._read_usage = read_usage
        self._keep_raw = keep_raw
        self._start = bytearray()
        self._choices = choices
        self._held = 0
        self.events = 0

    @property
    def held(self) -> int:
        """Approximate number of bytes that are kept in memory."""
        return self._held + self._decoder.held + len(self._start)

    @property
    def is_ended(self) -> bool:
        """Whether the end marker has arrived: nothing after it belongs to the answer."""
        return self._assembler.is_ended

    @property
    def quiet_s(self) -> float | None:
        """Seconds to wait for a further event; None while a part of the answer is missing."""
        assembler = self._assembler
        if not assembler.is_whole or assembler.choices < self._choices or self._decoder.held:
            return None
        return QUIET_S if as_dict(assembler.head().get("usage")) else QUIET_WITHOUT_USAGE_S

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; those after the end marker are ignored.

        Raises:
            InvalidResponse: if an event is not JSON, is too large, or reports an error.
        """
        if len(self._start) < GLIMPSE_BYTES or self._is_plain():
            self._start += chunk
        for event in self._decoder.feed(chunk):
            if self.is_ended:
                return
            self._take(event)

    def finish(self) -> Completion:
        """Return the completion, after the body has ended or the end marker has arrived.

        Raises:
            InvalidResponse: if the answer is incomplete or failed.
        """
        # Some servers answer a streamed request with plain JSON, under the content type of a stream.
        if self._is_plain():
            return read_whole_answer(self._read_answer, bytes(self._start), keep_raw=self._keep_raw)
        if not self.is_ended and (event := self._decoder.end()) is not None:
            self._take_last(event)
        if not self._assembler.is_whole:
            raise InvalidResponse(
                "the stream ended without a reason for its end, so the answer may be cut short; it "
                f"began with: {glimpse(bytes(self._start))}",
                "stream_cut",
            )
        body = self._assembler.body()
        completion = self._read_answer(body)
        return changed(completion, raw=dumps(body)) if self._keep_raw else completion

    def with_facts(self, fault: ProviderFault) -> ProviderFault:
        """Return a fault with the model and the usage that the stream reported earlier: it is billed."""
        if fault.usage is not None:
            return fault
        head = self._assembler.head()
        counts = as_dict(head.get("usage"))
        usage = self._read_usage(counts)
        is_known = usage.input_tokens is not None and usage.output_tokens is not None
        return replace(
            fault,
            model=fault.model or text_or_none(head.get("model")),
            usage=usage if is_known else None,
            billing=billing(head, counts),
        )

    def _is_plain(self) -> bool:
        """Return whether this looks like a JSON body, although its content type is that of a stream."""
        if self.events or len(self._start) > MAX_PLAIN_BYTES:
            return False
        return bytes(self._start[:GLIMPSE_BYTES]).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")

    def _take_last(self, event: Event) -> None:
        """Take a last event that lacks only its empty line."""
        try:
            is_complete = event.data.strip() == _DONE or bool(read_json(event.data))
        except InvalidResponse:
            is_complete = False
        if not is_complete:
            raise InvalidResponse(
                f"the stream ended within an event: {glimpse(event.data)}", "stream_cut"
            )
        self._take(event)

    def _take(self, event: Event) -> None:
        self.events += 1
        self._held += KEPT_BYTES + max(0, len(event.data) - ENVELOPE_BYTES)
        if self._held > MAX_HELD_BYTES:
            raise too_large("the streamed answer", MAX_HELD_BYTES)
        if event.data.strip() == _DONE:
            self._assembler.end()
            return
        payload = only_item(read_json(event.data))
        if not isinstance(payload, dict):
            raise InvalidResponse(f"a stream event is not a JSON object: {glimpse(event.data)}")
        if event.name == "error" or reports_error(payload):
            error = read_error(payload, event.data)
            raise reported(error, unnamed="stream_error", began=self._assembler.has_begun)
        self._assembler.add(payload)


def read_whole_answer(
    read_answer: Callable[[Mapping[str, Any]], Completion], content: bytes, *, keep_raw: bool
) -> Completion:
    """Read the body of a whole answer.

    Raises:
        InvalidResponse: if it is not JSON, not a completion, or reports an error.
    """
    payload = only_item(read_json(content))
    if not isinstance(payload, dict):
        raise InvalidResponse(f"the body is not a JSON object: {glimpse(content)}")
    if reports_error(payload):
        raise reported(read_error(payload, content))
    completion = read_answer(payload)
    return changed(completion, raw=content) if keep_raw else completion


MAX_EVENT_BYTES = 32 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its name (empty if the server sent none) and its data."""

    name: str
    data: bytes


class Decoder:
    """Splits chunks of bytes into events; keeps at most one unfinished event.

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
        """The size of the unfinished event in bytes."""
        return self._held + len(self._line)

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events that a chunk completes.

        Raises:
            InvalidResponse: if an event is larger than the limit.
        """
        if self._after_return and chunk:
            # The \n of a \r\n that was split between two chunks.
            chunk = chunk.removeprefix(b"\n")
            self._after_return = False
        # bytes.splitlines has only the three line ends of the standard; str.splitlines has more.
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
        """Return the event that has no empty line at the end of the stream, if any."""
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
