"""HTTP/1.1 over one socket: bounded requests in, responses out, in turn, until either side ends.

h11 reads, because what comes in is anybody's. What goes out is ours and written as it is: having it
checked and tracked by h11 took as long as all the rest of a request.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

import anyio
import h11

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import SocketStream

    from batchrun.simulator.streams import EventStream

    Handler = Callable[["HttpRequest"], Awaitable["HttpResponse"]]

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 32 * 1024 * 1024  # the limit of the Messages API

_LINGER_S = 1.0
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}
_STREAM_FRAMING = (
    "content-type: text/event-stream; charset=utf-8",
    "cache-control: no-cache",
    "transfer-encoding: chunked",
)
_LAST_CHUNK = b"0\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NOT_HTTP = (  # what both dialects can read, as the path that tells them apart is unknown
    b'{"type":"error","error":{"type":"invalid_request_error",'
    b'"message":"The request is not valid HTTP/1.1.","param":null,"code":null}}'
)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request.

    Attributes:
        method: as sent.
        path: without the query.
        headers: lower-case names; of repeated ones the last.
        body: None when it was larger than `MAX_BODY_BYTES` and therefore not read.
    """

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes | None


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """One response.

    Attributes:
        status: HTTP status.
        body: JSON; unless there are `events`.
        headers: without the content's type and length.
        events: server-sent events instead of JSON.
        afterwards: called, once each, when the response was sent or cannot be.
    """

    status: int
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    events: EventStream | None = None
    afterwards: list[Callable[[], None]] = field(default_factory=list)


async def serve_connection(stream: SocketStream, handle: Handler) -> None:
    """Answer requests on `stream` until the client leaves or breaks the protocol."""
    # A client may vanish at any moment, in crash tests on purpose: that is its right.
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        async with stream:
            unread: bytes | None = b""
            while unread is not None:
                unread = await _exchange(stream, unread, handle)


async def _exchange(stream: SocketStream, received: bytes, handle: Handler) -> bytes | None:
    """Answer one request, whose first bytes may be `received` already.

    Returns:
        What was received of the next request; None when there can be none.
    """
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    if received:  # to h11, no bytes are the end of the stream
        reader.receive_data(received)
    try:
        request = await _read_request(reader, stream)
    except h11.RemoteProtocolError as error:
        refusal = HttpResponse(error.error_status_hint, _NOT_HTTP)
        await _send_whole(stream, refusal, closing=True, bodiless=False)
        await _linger(stream)
        return None
    if request is None:
        return None
    closing = reader.their_state is not h11.DONE
    response = await handle(request)
    try:
        if response.events:
            await _send_events(stream, response, response.events, closing=closing)
            closing |= response.events.torn
        else:
            bodiless = request.method == "HEAD"
            await _send_whole(stream, response, closing=closing, bodiless=bodiless)
    finally:
        for call in response.afterwards:
            call()
    if request.body is None:
        await _linger(stream)
    return None if closing else reader.trailing_data[0]


async def _read_request(reader: h11.Connection, stream: SocketStream) -> HttpRequest | None:
    """Return the next request; None when the client is done."""
    head = await _next_event(reader, stream)
    if not isinstance(head, h11.Request):
        return None
    headers = {name.lower(): value for name, value in head.headers.raw_items()}
    return HttpRequest(
        method=head.method.decode("ascii"),
        path=head.target.partition(b"?")[0].decode("ascii"),
        headers=headers,
        body=await _read_body(reader, stream, int(headers.get(b"content-length", 0))),
    )


async def _read_body(reader: h11.Connection, stream: SocketStream, announced: int) -> bytes | None:
    """Return the body; None as soon as it is known to be too large."""
    if announced > MAX_BODY_BYTES:
        return None
    if reader.they_are_waiting_for_100_continue:
        await stream.send(_CONTINUE)
    chunks: list[bytes] = []
    size = 0
    while isinstance(event := await _next_event(reader, stream), h11.Data):
        chunks.append(event.data)
        size += len(event.data)
        if size > MAX_BODY_BYTES:
            return None
    return b"".join(chunks)


async def _next_event(reader: h11.Connection, stream: SocketStream) -> object:
    while (event := reader.next_event()) is h11.NEED_DATA:
        try:
            reader.receive_data(await stream.receive())
        except anyio.EndOfStream:
            reader.receive_data(b"")
    return event


async def _send_whole(
    stream: SocketStream, response: HttpResponse, *, closing: bool, bodiless: bool
) -> None:
    """Send a response in one write: two would be two packets and two turns of the loop.

    `closing` tells that no further request is read. `bodiless` tells the body's length and not the
    body, as HEAD wants it.
    """
    framing = ("content-type: application/json", f"content-length: {len(response.body)}")
    body = b"" if bodiless else response.body
    await stream.send(_head(response, framing, closing=closing) + body)


async def _send_events(
    stream: SocketStream, response: HttpResponse, events: EventStream, *, closing: bool
) -> None:
    """Send a response in chunks, each when its time has come; those without a wait in one write."""
    pending = _head(response, _STREAM_FRAMING, closing=closing)
    for burst in events.bursts:
        if burst.wait_s:
            await stream.send(pending)
            await anyio.sleep(burst.wait_s)
            pending = b""
        pending += b"%x\r\n%b\r\n" % (len(burst.data), burst.data)
    await stream.send(pending if events.torn else pending + _LAST_CHUNK)


def _head(response: HttpResponse, framing: tuple[str, ...], *, closing: bool) -> bytes:
    """Return the status line and the headers."""
    head = [
        f"HTTP/1.1 {response.status} {_REASONS.get(response.status, '')}",
        *framing,
        *(f"{name}: {value}" for name, value in response.headers),
    ]
    if closing:
        head.append("connection: close")
    return "\r\n".join((*head, "", "")).encode("ascii")


async def _linger(stream: SocketStream) -> None:
    """Let the client read the answer first: closing over unread input would reset the connection."""
    await stream.send_eof()
    with anyio.move_on_after(_LINGER_S), suppress(anyio.EndOfStream):
        while True:
            await stream.receive()
