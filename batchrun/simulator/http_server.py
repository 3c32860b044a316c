"""HTTP/1.1 on loopback: bounded requests in, responses and event streams out, and a router.

Nothing here knows the formats. h11 reads requests, because they can come from anybody. Responses
are written directly: checking them with h11 took as long as all the rest of a request.
"""

from __future__ import annotations

import errno
import logging
import re
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio
import h11
from anyio.abc import SocketAttribute

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from anyio.abc import SocketStream, TaskStatus

    # What is pushed to the stack runs when the response was sent, or cannot be.
    Handler = Callable[["HttpCall", ExitStack], Awaitable["HttpReply"]]

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 32 * 1024 * 1024  # the limit of the Messages API

_LINGER_S = 1.0
# Out of descriptors or memory, or the client left first: all pass, and none concerns the others.
_PASSING_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED}
_ACCEPT_PAUSE_S = 0.05
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}
_STREAM_FRAMING = (
    "content-type: text/event-stream; charset=utf-8",
    "cache-control: no-cache",
    "transfer-encoding: chunked",
)
_LAST_CHUNK = b"0\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NOT_HTTP = (  # in the shape of both formats, because no path says which one it is
    b'{"type":"error","error":{"type":"invalid_request_error",'
    b'"message":"The request is not valid HTTP/1.1.","param":null,"code":null}}'
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpCall:
    """One request."""

    method: str
    path: str  # without the query
    headers: Mapping[bytes, bytes]  # lower-case names; of repeated ones the last
    body: bytes | None  # None when it was larger than `MAX_BODY_BYTES` and therefore not read


@dataclass(frozen=True, slots=True)
class TimedPart:
    """A part of a stream: the seconds to wait before it, and its bytes."""

    wait_s: float
    data: bytes


@dataclass(frozen=True, slots=True)
class HttpReply:
    """One response."""

    status: int
    body: bytes | tuple[TimedPart, ...]  # JSON, or an event stream
    headers: list[tuple[str, str]] = field(default_factory=list)  # without content type and length
    torn: bool = False  # the connection is closed without an end of the body


class Router(Generic[T]):
    """Finds what belongs to a path.

    Args:
        routes: by path. A segment in braces, as in "/batches/{id}", stands for any.
    """

    def __init__(self, routes: Mapping[str, T]) -> None:
        self._exact = routes
        patterns = {path: re.sub(r"{\w+}", "[^/]+", path) for path in routes if "{" in path}
        self._patterns = [(re.compile(text), routes[path]) for path, text in patterns.items()]

    def find(self, path: str) -> T | None:
        """Return what belongs to `path`; None for an unknown path."""
        matching = (found for pattern, found in self._patterns if pattern.fullmatch(path))
        return self._exact.get(path) or next(matching, None)


async def serve_http(
    handle: Handler, port: int, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve on 127.0.0.1 until cancelled.

    Args:
        handle: answers one request.
        port: 0 takes a free one.
        task_status: receives the base URL as soon as connections are accepted.
    """

    async def serve_connection(stream: SocketStream) -> None:
        # A client may vanish at any moment; crash tests do so on purpose.
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            async with stream:
                unread: bytes | None = b""
                while unread is not None:
                    unread = await _exchange(stream, unread, handle)

    listeners = await anyio.create_tcp_listener(local_host=LOOPBACK, local_port=port)
    (listener,) = listeners.listeners
    async with listener, anyio.create_task_group() as connections:
        bound = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django
        task_status.started(f"http://{LOOPBACK}:{bound}")
        while True:
            try:
                await listener.serve(serve_connection, connections)
            except OSError as error:
                if error.errno not in _PASSING_ERRORS:
                    raise
                log.warning("Cannot accept connections (%s): trying again", error)
                await anyio.sleep(_ACCEPT_PAUSE_S)


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
        await stream.send(_head(HttpReply(error.error_status_hint, _NOT_HTTP), closing=True))
        await stream.send(_NOT_HTTP)
        await _linger(stream)
        return None
    if request is None:
        return None
    closing = reader.their_state is not h11.DONE
    with ExitStack() as until_sent:
        reply = await handle(request, until_sent)
        closing |= reply.torn
        await _send(stream, reply, closing=closing, bodiless=request.method == "HEAD")
    if request.body is None:
        await _linger(stream)
    return None if closing else reader.trailing_data[0]


async def _read_request(reader: h11.Connection, stream: SocketStream) -> HttpCall | None:
    """Return the next request; None when the client is done."""
    head = await _next_event(reader, stream)
    if not isinstance(head, h11.Request):
        return None
    headers = {name.lower(): value for name, value in head.headers.raw_items()}
    return HttpCall(
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


async def _send(stream: SocketStream, reply: HttpReply, *, closing: bool, bodiless: bool) -> None:
    """Send a response: a whole one in one write, a stream whenever one of its parts is due."""
    pending = _head(reply, closing=closing)
    if isinstance(reply.body, bytes):
        await stream.send(pending if bodiless else pending + reply.body)
        return
    for part in reply.body:
        if part.wait_s:
            await stream.send(pending)
            await anyio.sleep(part.wait_s)
            pending = b""
        pending += b"%x\r\n%b\r\n" % (len(part.data), part.data)
    await stream.send(pending if reply.torn else pending + _LAST_CHUNK)


def _head(reply: HttpReply, *, closing: bool) -> bytes:
    """Return the status line and the headers."""
    whole = isinstance(reply.body, bytes)
    framing = ("content-type: application/json", f"content-length: {len(reply.body)}")
    head = [
        f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, '')}",
        *(framing if whole else _STREAM_FRAMING),
        *(f"{name}: {value}" for name, value in reply.headers),
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
